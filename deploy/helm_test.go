package deploy_test

import (
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const chartPath = "helm/ffstream"

var update = flag.Bool("update", false, "rewrite the golden files")

func loadChart(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(chartPath)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// template renders the chart as helm template does; values that the schema refuses
// are an error.
func template(c *chart.Chart, text string) (map[string]string, error) {
	values, err := chartutil.ReadValues([]byte(text))
	if err != nil {
		return nil, err
	}
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "stream", Namespace: "engine", IsInstall: true, Revision: 1}, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// valueSets are what the golden files are of.
var valueSets = map[string]string{
	"default": "",
	"small": `
replicas: 1
podDisruptionBudget: false
networkPolicy: {enabled: false}
scrapeAnnotations: false
`,
	"full": `
replicas: 3
image: {tag: v1.2.3}
imagePullSecrets: [{name: pull}]
databaseURL: postgresql://svc@db.example/engine
databaseSecret: {name: db, key: pass, caKey: ca.pem}
natsURL: tls://nats.example:4222
natsSecret: nats
config: {FFSTREAM_NATS_CREDS_FILE: /run/secrets/ffstream/nats/nats.creds, FFSTREAM_STREAM_REPLICAS: 3, FFSTREAM_CONFIRM_HOLDBACK: 5m, FFSTREAM_READY_MAX_LAG: 1073741824, FFSTREAM_HTTP_PPROF: false}
networkPolicy: {enabled: true, databasePort: 6432, natsPort: 4443}
podAnnotations: {team: streams}
nodeSelector: {disk: ssd}
tolerations: [{key: dedicated, operator: Exists}]
`,
}

// TestHelm: the chart renders what the golden files have, each object is Kubernetes'
// own, and what it sets the program takes.
func TestHelm(t *testing.T) {
	t.Parallel()
	for name, values := range valueSets {
		files, err := template(loadChart(t), values)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		objects, text := map[string]any{}, ""
		for _, path := range slices.Sorted(maps.Keys(files)) {
			body := strings.TrimSpace(files[path])
			if body == "" || strings.HasSuffix(path, ".tpl") {
				continue
			}
			text += "---\n# " + path + "\n" + body + "\n"
			var head struct{ APIVersion, Kind string }
			if err := yaml.Unmarshal([]byte(body), &head); err != nil {
				t.Fatalf("%s: %s: %v\n%s", name, path, err, body)
			}
			objects[head.Kind] = decode(t, head.APIVersion+" "+head.Kind, []byte(body))
		}
		golden := filepath.Join("testdata", "helm", name+".yaml")
		if *update {
			if err := os.WriteFile(golden, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if want := read(t, golden); want != text {
			t.Errorf("%s is not what the chart renders: read the difference and run: cd deploy && go test . -run TestHelm -update\n%s", golden, text)
		}
		d := objects["Deployment"].(*appsv1.Deployment)
		checkContainer(t, &d.Spec.Template.Spec.Containers[0], &d.Spec.Template.Spec, objects["ConfigMap"].(*corev1.ConfigMap))
		for label, value := range d.Spec.Selector.MatchLabels {
			if d.Spec.Template.Labels[label] != value || objects["Service"].(*corev1.Service).Spec.Selector[label] != value {
				t.Errorf("%s: %s=%s does not select the pods", name, label, value)
			}
		}
	}
}

// TestHelmRefuses: the schema knows what would not work.
func TestHelmRefuses(t *testing.T) {
	t.Parallel()
	for values, says := range map[string]string{
		"replicas: 0": "replicas",
		"databaseURL: postgres://svc:secret@db/engine":                              "databaseURL",
		"databaseURL: postgres://db/engine?user=svc&password=secret":                "databaseURL",
		"databaseURL: postgres://db/engine?user=svc&p%61ssword=secret":              "databaseURL",
		"databaseURL: postgres://db/engine?%70assword=secret":                       "databaseURL",
		"natsURL: nats://svc:secret@nats:4222":                                      "natsURL",
		"config: {FFSTREAM_NATS_CREDS_FILE: /run/secrets/ffstream/nats/nats.creds}": "natsSecret",
		"config: {DATABASE_URL: x}":                                                 "config",
		"config: {FFSTREAM_STREAMS: x}":                                             "config",
		"config: {FFSTREAM_STREAM: [x]}":                                            "config",
		"resource: {}":                                                              "resource",
		"networkPolicy: {enabled: true, databasePort: 0}":                           "databasePort",
		"goMemoryLimit: 208M":                                                       "goMemoryLimit",
		"image: {repository: ffstream, pullPolicy: Seldom}":                         "pullPolicy",
	} {
		if _, err := template(loadChart(t), values); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", values, err)
		}
	}
}

// TestHelmTakes: what looks like a secret and is none is no reason to refuse.
func TestHelmTakes(t *testing.T) {
	t.Parallel()
	for _, values := range []string{
		"databaseURL: postgres://svc@db/engine?options=-c%20statement_timeout%3D0&sslmode=verify-full",
		"databaseURL: postgres://s%3Av@db/the%20engine",
		"config: {FFSTREAM_NATS_CA_FILE: /etc/ssl/certs/nats.pem}",
		"{natsSecret: nats, config: {FFSTREAM_NATS_CREDS_FILE: /run/secrets/ffstream/nats/nats.creds}}",
	} {
		if _, err := template(loadChart(t), values); err != nil {
			t.Errorf("%s: %v", values, err)
		}
	}
}

// TestHelmConfig: config takes each variable of run but those that the chart sets and
// those without a use in it.
func TestHelmConfig(t *testing.T) {
	t.Parallel()
	var schema struct {
		Properties struct {
			Config struct{ Properties map[string]any }
		}
	}
	if err := yaml.Unmarshal(loadChart(t).Schema, &schema); err != nil {
		t.Fatal(err)
	}
	files, err := template(loadChart(t), "")
	if err != nil {
		t.Fatal(err)
	}
	set := files["ffstream/templates/configmap.yaml"] + files["ffstream/templates/deployment.yaml"]
	for name := range variables(t, "run") {
		// No file is mounted for the one, and the root is read-only for the other.
		useless := name == "FFSTREAM_CONFIG" || strings.HasPrefix(name, "FFSTREAM_NATS_EMBEDDED_")
		_, takes := schema.Properties.Config.Properties[name]
		if want := !useless && !regexp.MustCompile(`\b`+name+`\b`).MatchString(set); takes != want {
			t.Errorf("config takes %s: %v, want %v", name, takes, want)
		}
		delete(schema.Properties.Config.Properties, name)
	}
	for name := range schema.Properties.Config.Properties {
		t.Errorf("config takes %s, which ffstream run does not", name)
	}
}

// TestHelmLint is helm lint.
func TestHelmLint(t *testing.T) {
	t.Parallel()
	for _, m := range lint.All(chartPath, nil, "engine", true).Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
}
