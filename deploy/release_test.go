package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goreleaser/fileglob"
	"github.com/goreleaser/goreleaser/v2/pkg/config"
)

// TestRelease: goreleaser takes every key of its file, what the file names is there,
// and the archive has what a user of the binary needs of deploy/.
func TestRelease(t *testing.T) {
	t.Parallel()
	c, err := config.Load("../.goreleaser.yaml")
	if err != nil {
		t.Fatal(err)
	}
	b := c.Builds[0]
	if _, err := os.Stat(filepath.Join("..", b.Main, "main.go")); err != nil {
		t.Error(err)
	}
	if !slices.Contains(b.Env, "CGO_ENABLED=0") || !slices.Contains(b.Flags, "-trimpath") {
		t.Errorf("the binary is not static or not reproducible: %v %v", b.Env, b.Flags)
	}
	stamped := regexp.MustCompile(`-X main\.([a-z]+)=v\{\{ \.Version \}\}`).FindStringSubmatch(strings.Join(b.Ldflags, " "))
	if stamped == nil || !strings.Contains(read(t, "../cmd/ffstream/version.go"), "\nvar "+stamped[1]+" string\n") {
		t.Errorf("the release stamps %v, which the program does not have", stamped)
	}
	checkArchive(t, c.Archives[0].Files)
	if len(c.SBOMs) != 1 || c.SBOMs[0].Cmd != "syft" || c.Checksum.Algorithm != "sha256" {
		t.Errorf("bills of materials %+v, checksums %s", c.SBOMs, c.Checksum.Algorithm)
	}
	if len(c.DockersV2) != 1 {
		t.Fatalf("%d images", len(c.DockersV2))
	}
	image := c.DockersV2[0]
	if !strings.Contains(read(t, filepath.Join("..", image.Dockerfile)), "COPY $TARGETPLATFORM/"+b.Binary+" ") {
		t.Errorf("%s does not take the binary of its platform", image.Dockerfile)
	}
	for _, platform := range image.Platforms {
		os, arch, _ := strings.Cut(platform, "/")
		if !slices.Contains(b.Goos, os) || !slices.Contains(b.Goarch, arch) {
			t.Errorf("no binary is built for %s", platform)
		}
	}
	if len(image.Platforms) != 2 || len(image.Images) != 1 {
		t.Errorf("the image is %v for %v", image.Images, image.Platforms)
	}
}

// notArchived are files of deploy/ that a user of the binary has no use for.
var notArchived = regexp.MustCompile(strings.Join([]string{
	`^deploy/[a-z_]+_test\.go$`, `^deploy/go\.(mod|sum)$`, `^deploy/testdata/`, `^deploy/prometheus/alerts_test\.yml$`, // they test these files
	`^deploy/docker/`, `^deploy/compose\.yaml$`, `^deploy/grafana/provisioning/`, `^deploy/prometheus/prometheus\.yml$`, // they build from source, or are of what does
}, "|"))

// checkArchive holds what the archive takes against what there is in deploy/.
func checkArchive(t *testing.T, files []config.File) {
	t.Helper()
	taken := map[string]bool{}
	for _, f := range files {
		found, err := fileglob.Glob(f.Source, fileglob.WithFs(os.DirFS("..")))
		if err != nil || len(found) == 0 {
			t.Errorf("the archive takes %s, which is not there: %v", f.Source, err)
		}
		for _, path := range found {
			taken[path] = true
		}
	}
	err := filepath.WalkDir(".", func(path string, entry os.DirEntry, err error) error {
		path = "deploy/" + filepath.ToSlash(path)
		if err == nil && !entry.IsDir() && taken[path] == notArchived.MatchString(path) {
			t.Errorf("the archive takes %s: %v, want %v", path, taken[path], !taken[path])
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
