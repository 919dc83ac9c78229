package deploy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

const composePath = "compose.yaml"

func compose(t *testing.T) *types.Project {
	t.Helper()
	file, err := filepath.Abs(composePath)
	if err != nil {
		t.Fatal(err)
	}
	// Compose's own loader: the schema, references and the model's consistency.
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: filepath.Dir(file), ConfigFiles: []types.ConfigFile{{Filename: file}}, Environment: types.Mapping{},
	}, func(o *loader.Options) { o.SetProjectName("ffstream", true) })
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestCompose: Compose takes the file, what it mounts and builds from is there, and it
// publishes on loopback alone.
func TestCompose(t *testing.T) {
	t.Parallel()
	p := compose(t)
	for _, name := range []string{"postgres", "nats", "migrate", "ffstream", "prometheus", "grafana"} {
		s, err := p.GetService(name)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil || !v.ReadOnly {
				t.Errorf("%s mounts %s, read-only %t: %v", name, v.Source, v.ReadOnly, err)
			}
		}
		if s.Build != nil {
			if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
				t.Error(err)
			}
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes port %s on %q", name, port.Published, port.HostIP)
			}
		}
		if !strings.Contains(s.Image, ":") {
			t.Errorf("%s runs %s of no version", name, s.Image)
		}
	}
	if !slices.Contains([]string(p.Services["postgres"].Command), "wal_level=logical") {
		t.Error("Postgres logs too little for a slot")
	}
	for _, name := range []string{"migrate", "ffstream"} {
		s := p.Services[name]
		if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") {
			t.Errorf("%s may write or keeps capabilities", name)
		}
		checkService(t, name, s)
	}
	for name, dep := range map[string]string{"migrate": types.ServiceConditionCompletedSuccessfully, "nats": types.ServiceConditionHealthy} {
		if got := p.Services["ffstream"].DependsOn[name].Condition; got != dep {
			t.Errorf("ffstream waits for %s until %q, want %q", name, got, dep)
		}
	}
}

// checkService holds a service that runs ffstream against its command line.
func checkService(t *testing.T, where string, s types.ServiceConfig) {
	t.Helper()
	command := s.Command[0]
	var names []string
	for name := range s.Environment {
		if strings.HasPrefix(name, "FFSTREAM_") {
			names = append(names, name)
		}
	}
	checkVariables(t, where, strings.Join(names, " "), command)
	reference := section(t, command)
	for _, flag := range s.Command[1:] {
		if !strings.Contains(reference, "| `"+flag+"` |") {
			t.Errorf("%s has %s, which ffstream %s does not take", where, flag, command)
		}
	}
}

// section is what the reference says of one command.
func section(t *testing.T, command string) string {
	t.Helper()
	_, rest, found := strings.Cut(read(t, "../docs/configuration.md"), "\n## ffstream "+command+"\n")
	if !found {
		t.Fatalf("there is no command %s", command)
	}
	text, _, _ := strings.Cut(rest, "\n## ")
	return text
}

// TestPorts: what scrapes, exposes and publishes names the port that is listened on.
func TestPorts(t *testing.T) {
	t.Parallel()
	p := compose(t)
	s := p.Services["ffstream"]
	_, port, _ := strings.Cut(*s.Environment["FFSTREAM_HTTP_ADDR"], ":")
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || uint32(n) != s.Ports[0].Target {
		t.Errorf("ffstream listens on %s and port %d is published", port, s.Ports[0].Target)
	}
	for _, path := range []string{"docker/Dockerfile", "docker/release.Dockerfile"} {
		for _, want := range []string{"FFSTREAM_HTTP_ADDR=:" + port + " ", "EXPOSE " + port + "\n", "\nUSER 65532:65532\n", `ENTRYPOINT ["/ffstream"]`} {
			if !strings.Contains(read(t, path), want) {
				t.Errorf("%s lacks %q", path, want)
			}
		}
		checkVariables(t, path, read(t, path), "run")
	}
	var prometheus struct {
		Global        map[string]string `yaml:"global"`
		RuleFiles     []string          `yaml:"rule_files"`
		ScrapeConfigs []struct {
			JobName       string `yaml:"job_name"`
			StaticConfigs []struct {
				Targets []string `yaml:"targets"`
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "prometheus/prometheus.yml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&prometheus); err != nil {
		t.Fatal(err)
	}
	if got := prometheus.ScrapeConfigs[0].StaticConfigs[0].Targets; !slices.Equal(got, []string{"ffstream:" + port}) {
		t.Errorf("Prometheus scrapes %v", got)
	}
	mounted := func(service, target string) bool {
		return slices.ContainsFunc(p.Services[service].Volumes, func(v types.ServiceVolumeConfig) bool { return v.Target == target })
	}
	for _, file := range prometheus.RuleFiles {
		if !mounted("prometheus", file) {
			t.Errorf("Prometheus reads %s, which is not mounted", file)
		}
	}
	if home := *p.Services["grafana"].Environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]; !mounted("grafana", home) ||
		!strings.Contains(read(t, "grafana/provisioning/dashboards/ffstream.yaml"), filepath.Dir(home)+"}") {
		t.Errorf("Grafana opens %s, which is not provisioned", home)
	}
	if config := p.Services["nats"].Command[1]; !mounted("nats", config) {
		t.Errorf("NATS reads %s, which is not mounted", config)
	}
}

// TestDockerfile: what the build stamps exists in the program, and what it compiles with
// is new enough for go.mod.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text := read(t, "docker/Dockerfile")
	stamped := regexp.MustCompile(`-X main\.([a-z]+)=`).FindStringSubmatch(text)
	if stamped == nil || !strings.Contains(read(t, "../cmd/ffstream/version.go"), "\nvar "+stamped[1]+" string\n") {
		t.Errorf("the build stamps %v, which the program does not have", stamped)
	}
	image := regexp.MustCompile(`golang:([0-9]+\.[0-9]+)`).FindStringSubmatch(text)
	if image == nil || !strings.Contains(read(t, "../go.mod"), "\ngo "+image[1]+".") {
		t.Errorf("the build compiles with %v, not with the version of go.mod", image)
	}
	for _, line := range []string{"ARG TARGETOS\n", "ARG TARGETARCH\n", "CGO_ENABLED=0"} {
		if !strings.Contains(text, line) {
			t.Errorf("docker/Dockerfile lacks %q", line)
		}
	}
}
