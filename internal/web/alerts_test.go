package web

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// TestAlerts: each rule is about metrics and label values that are exported, and
// its runbook section exists.
func TestAlerts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	metric, label := regexp.MustCompile(`ffstream_[a-z_]+`), regexp.MustCompile(`(ffstream_[a-z_]+)\{([a-z]+)(?:!=|=~|=)"([^"]+)"`)
	known := Names()
	n := 0
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			n++
			used := metric.FindAllString(rule.Expr, -1)
			if len(used) == 0 || rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" {
				t.Errorf("%s is incomplete", rule.Alert)
			}
			for _, name := range used {
				if !slices.Contains(known, name) {
					t.Errorf("%s is about %s, which is not exported", rule.Alert, name)
				}
			}
			for _, m := range label.FindAllStringSubmatch(rule.Expr, -1) {
				for value := range strings.SplitSeq(m[3], "|") {
					if !hasLabel(m[1], m[2], value) {
						t.Errorf("%s: %s has no %s %s", rule.Alert, m[1], m[2], value)
					}
				}
			}
			_, anchor, _ := strings.Cut(rule.Annotations["runbook"], "docs/operations.md#")
			if heading := strings.ReplaceAll(anchor, "-", " "); anchor == "" || !strings.Contains(strings.ToLower(string(guide)), "\n## "+heading+"\n") {
				t.Errorf("%s: no section %q in docs/operations.md", rule.Alert, heading)
			}
		}
	}
	if n < 5 {
		t.Errorf("%d rules", n)
	}
}

func hasLabel(name, label, value string) bool {
	for i := range table {
		if m := &table[i]; m.name == name && m.label == label {
			s := working(time.Unix(0, 0))
			_, ok := m.values(&s, time.Unix(0, 0))[value]
			return ok
		}
	}
	return false
}
