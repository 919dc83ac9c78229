package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goreleaser/goreleaser/v2/pkg/config"
)

// TestRelease: goreleaser takes every key of its file, and what the file names is there.
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
	for _, f := range c.Archives[0].Files {
		if found, err := filepath.Glob(filepath.Join("..", f.Source)); err != nil || len(found) == 0 {
			t.Errorf("the archive takes %s, which is not there: %v", f.Source, err)
		}
	}
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
