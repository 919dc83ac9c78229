package deploy_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"go.yaml.in/yaml/v3"
)

const rulesPath = "prometheus/alerts.yml"

// alertTests is promtool's format of rule tests, as far as alerts_test.yml uses it.
type alertTests struct {
	RuleFiles          []string       `yaml:"rule_files"`
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`
	Tests              []alertTest    `yaml:"tests"`
}

type alertTest struct {
	Name        string         `yaml:"name"`
	Interval    model.Duration `yaml:"interval"`
	InputSeries []struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	} `yaml:"input_series"`
	AlertRuleTest []struct {
		EvalTime  model.Duration `yaml:"eval_time"`
		Alertname string         `yaml:"alertname"`
		ExpAlerts []struct {
			Labels      map[string]string `yaml:"exp_labels"`
			Annotations map[string]string `yaml:"exp_annotations"`
		} `yaml:"exp_alerts"`
	} `yaml:"alert_rule_test"`
}

// TestAlertRules runs Prometheus's own rule engine over the series of alerts_test.yml:
// each alert fires when it says so, with those labels and annotations, and not before.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	var file alertTests
	decoder := yaml.NewDecoder(strings.NewReader(read(t, "prometheus/alerts_test.yml")))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	fired := map[string]bool{}
	for _, test := range file.Tests {
		t.Run(test.Name, func(t *testing.T) {
			for _, name := range runAlertTest(t, &test, time.Duration(file.EvaluationInterval)) {
				fired[name] = true
			}
		})
	}
	served := exported(t)
	for _, g := range load(t, nil) {
		for _, r := range g.Rules() {
			checkQuery(t, r.Name(), r.Query().String(), served)
			if !fired[r.Name()] {
				t.Errorf("no test lets %s fire", r.Name())
			}
		}
	}
}

// load reads the rules as Prometheus does, over a store or none.
func load(t *testing.T, store *promqltest.LazyLoader) map[string]*rules.Group {
	t.Helper()
	options := &rules.ManagerOptions{
		Context: t.Context(), NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
		Logger: slog.New(slog.DiscardHandler), Parser: parser.NewParser(parser.Options{}),
	}
	if store != nil {
		options.QueryFunc, options.AppendableV2 = rules.EngineQueryFunc(store.QueryEngine(), store.Storage()), store.Storage()
	}
	groups, errs := rules.NewManager(options).LoadGroups(time.Minute, labels.EmptyLabels(), "", nil, false, rulesPath)
	for _, err := range errs {
		t.Fatal(err)
	}
	return groups
}

// runAlertTest evaluates the rules minute by minute and returns which alerts fired as
// they should.
func runAlertTest(t *testing.T, test *alertTest, step time.Duration) (fired []string) {
	t.Helper()
	var series strings.Builder
	fmt.Fprintf(&series, "load %s\n", test.Interval)
	for _, s := range test.InputSeries {
		fmt.Fprintf(&series, "  %s %s\n", s.Series, s.Values)
	}
	store, err := promqltest.NewLazyLoader(series.String(), promqltest.LazyLoaderOpts{Parser: parser.NewParser(parser.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	store.SubqueryInterval = step
	groups := load(t, store)
	last := time.Duration(0)
	for _, c := range test.AlertRuleTest {
		last = max(last, time.Duration(c.EvalTime))
	}
	for at := time.Duration(0); at <= last; at += step {
		now := time.Unix(0, 0).UTC().Add(at)
		store.WithSamplesTill(now, func(err error) {
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range groups {
				g.Eval(store.Context(), now)
			}
		})
		for _, c := range test.AlertRuleTest {
			if time.Duration(c.EvalTime) != at {
				continue
			}
			var want []string
			for _, e := range c.ExpAlerts {
				e.Labels["alertname"] = c.Alertname
				want = append(want, fmt.Sprint(labels.FromMap(e.Labels), labels.FromMap(e.Annotations)))
				fired = append(fired, c.Alertname)
			}
			got := firing(t, groups, c.Alertname)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%s after %s:\n%q, want\n%q", c.Alertname, at, got, want)
			}
		}
	}
	return fired
}

// firing lists an alert's firing instances in order.
func firing(t *testing.T, groups map[string]*rules.Group, name string) (got []string) {
	t.Helper()
	found := false
	for _, g := range groups {
		for _, r := range g.Rules() {
			a, ok := r.(*rules.AlertingRule)
			if r.LastError() != nil {
				t.Fatalf("evaluate %s: %v", r.Name(), r.LastError())
			}
			if !ok || a.Name() != name {
				continue
			}
			found = true
			for _, active := range a.ActiveAlerts() {
				if active.State == rules.StateFiring {
					got = append(got, fmt.Sprint(active.Labels, active.Annotations))
				}
			}
		}
	}
	if !found {
		t.Fatalf("there is no alert %s", name)
	}
	slices.Sort(got)
	return got
}
