package deploy_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
	"github.com/ffstream/ffstream/internal/shard"
	"github.com/ffstream/ffstream/internal/web"
)

// exported gives the labels of each metric that a service in which everything is known
// serves, and each label's values.
func exported(t *testing.T) map[string]map[string][]string {
	t.Helper()
	now := time.Now()
	status := shard.Status{
		Role: shard.RoleActive, Heartbeat: shard.Heartbeat{Sent: now, Count: 1}, Normalizer: normalize.Stats{Corrupt: map[string]uint64{"attempt_state": 1}},
		Probed: shard.Probed{At: now, WALRate: 1, SlotHealth: shard.SlotHealth{Exists: true, WALStatus: "reserved", SafeWAL: ffstream.Some(int64(1))}},
	}
	status.Backfill.Total, status.States.Bucket = 1, "states"
	status.Window.Events, status.Window.Bytes = 1, 1
	w := httptest.NewRecorder()
	web.Handler(web.Config{Status: func() shard.Status { return status }, Version: "v1"}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]map[string][]string{}
	for name, f := range families {
		found[name] = map[string][]string{"job": nil, "instance": nil} // the scrape's own
		for _, m := range f.Metric {
			for _, l := range m.Label {
				found[name][l.GetName()] = append(found[name][l.GetName()], l.GetValue())
			}
		}
	}
	for _, name := range web.Names() {
		if found[name] == nil {
			t.Fatalf("%s is not served", name)
		}
	}
	return found
}

// checkQuery parses a query and holds its metrics, labels and label values against what
// is served. It returns the metrics.
func checkQuery(t *testing.T, where, query string, served map[string]map[string][]string) (names []string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		t.Errorf("%s: %s: %v", where, query, err)
		return nil
	}
	var grouping []string
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.AggregateExpr:
			grouping = append(grouping, n.Grouping...)
		case *parser.VectorSelector:
			names = append(names, n.Name)
			known, ok := served[n.Name]
			if !ok {
				t.Errorf("%s is about %s, which is not served", where, n.Name)
			}
			for _, m := range n.LabelMatchers {
				checkMatcher(t, where, n.Name, m, known)
			}
		}
		return nil
	})
	for _, label := range grouping {
		if !slices.ContainsFunc(names, func(name string) bool { _, ok := served[name][label]; return ok }) {
			t.Errorf("%s groups by %s, which none of %v has", where, label, names)
		}
	}
	if len(names) == 0 {
		t.Errorf("%s is about no metric", where)
	}
	return names
}

func checkMatcher(t *testing.T, where, name string, m *labels.Matcher, known map[string][]string) {
	t.Helper()
	if m.Name == model.MetricNameLabel || m.Name == "job" || m.Name == "instance" {
		return
	}
	values, ok := known[m.Name]
	if !ok {
		t.Errorf("%s: %s has no label %s", where, name, m.Name)
		return
	}
	for value := range strings.SplitSeq(m.Value, "|") {
		if !slices.Contains(values, value) {
			t.Errorf("%s: %s has no %s %s", where, name, m.Name, value)
		}
	}
}

// TestDashboard: each query of the dashboard is one, about what is served, and each legend
// names a label that the query leaves.
func TestDashboard(t *testing.T) {
	t.Parallel()
	var board struct {
		UID    string
		Panels []struct {
			ID                 int
			Title, Description string
			GridPos            struct{ X, Y, W, H int }
			Targets            []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "grafana/dashboard.json")), &board); err != nil {
		t.Fatal(err)
	}
	served := exported(t)
	// Grafana puts these in.
	variables := strings.NewReplacer("$__rate_interval", "1m", "$job", "ffstream")
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Description == "" || len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q lacks something: %+v", p.Title, p)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			names := checkQuery(t, p.Title, variables.Replace(target.Expr), served)
			for _, part := range strings.Split(target.LegendFormat, "{{")[1:] {
				label, _, _ := strings.Cut(part, "}}")
				if !slices.ContainsFunc(names, func(name string) bool { _, ok := served[name][label]; return ok }) {
					t.Errorf("%s: the legend names %s, which none of %v has", p.Title, label, names)
				}
			}
		}
	}
	if len(board.Panels) < 10 {
		t.Errorf("%d panels", len(board.Panels))
	}
}
