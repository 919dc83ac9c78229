package e2e

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ffstream/ffstream/docs"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// tailed is what of an event's body the filters of tail go by.
type tailed struct {
	Type string
	Data struct {
		From, To string
		Terminal bool
		Tags     map[string]string
	}
}

// TestTail: tail prints what the stream holds, each event as the schema says; with
// filters, what they say of the bodies; and it refuses filters that say nothing.
func TestTail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	for i, story := range engine.StoriesOf(engine.Newest) {
		x := engine.Exec{Partition: int16(i % 256), ID: uuid.New(), Lane: "default"}
		if i%2 == 0 {
			x.Tags = map[string]string{"team.name": "a,b=c", "team.number": strconv.Itoa(i % 4)}
		}
		w.play(&engine.Engine{Version: engine.Newest}, &story, x)
	}
	w.exec("TRUNCATE ff_exec_core, ff_attempt") // of which filters say nothing
	w.caughtUp(p)
	p.stop()
	all := w.tail()
	if stored := w.stored(); len(all) != len(stored) || len(all) < 2 {
		t.Errorf("tail prints %d events, the stream holds %d", len(all), len(stored))
	}
	events := make([]tailed, len(all))
	for i, line := range all {
		valid(t, []byte(line))
		if err := json.Unmarshal([]byte(line), &events[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		flags []string
		wants func(e *tailed) bool
	}{
		{[]string{"--state", "completed"}, func(e *tailed) bool { return e.Data.To == "completed" }},
		{[]string{"--terminal"}, func(e *tailed) bool { return e.Data.Terminal }},
		{[]string{"--step", "active:completed", "--step", ":suspended"}, func(e *tailed) bool {
			return e.Data.From == "active" && e.Data.To == "completed" || e.Data.To == "suspended"
		}},
		{[]string{"--step", "suspended:"}, func(e *tailed) bool { return e.Data.From == "suspended" }},
		{[]string{"--tag", "team.name=a,b=c", "--tag", "team.number=2"}, func(e *tailed) bool {
			return e.Data.Tags["team.name"] == "a,b=c" && e.Data.Tags["team.number"] == "2"
		}},
		{[]string{"--terminal", "--tag", "team.name=a,b=c"}, func(e *tailed) bool { return e.Data.Terminal && e.Data.Tags["team.name"] != "" }},
	} {
		var want []string
		for i := range events {
			if e := &events[i]; e.Data.To != "" && c.wants(e) {
				want = append(want, all[i])
			}
		}
		if got := w.tail(c.flags...); !slices.Equal(got, want) || len(want) == 0 || len(want) == len(all) {
			t.Errorf("tail %q prints %d of %d events, want %d", c.flags, len(got), len(all), len(want))
		}
	}
	for flags, want := range map[[2]string]string{
		{"--step", "active"}: "want FROM:TO", {"--step", ":"}: "of which one may be empty", {"--step", "running:"}: "each one of", {"--step", "purged:"}: "nothing comes from purged",
		{"--tag", "team.name"}: "want KEY=VALUE", {"--tag", "=a"}: "want KEY=VALUE", {"--state", "done"}: "want one of",
	} {
		if p := start(t, w.env(), "tail", flags[0], flags[1]); p.code() != 2 || !strings.Contains(p.output(), want) {
			t.Errorf("tail %q ends with %d: %s", flags, p.code(), p.output())
		}
	}
}

// tail is what tail prints of all that the stream holds.
func (w *world) tail(flags ...string) []string {
	w.t.Helper()
	p, code := asks(w.t, w.env(), append([]string{"tail", "--json", "--follow=false"}, flags...)...)
	if code != 0 {
		w.t.Fatalf("tail %q ends with %d: %s", flags, code, p.output())
	}
	return strings.FieldsFunc(p.output(), func(r rune) bool { return r == '\n' })
}

// eventSchema is the schema that the documents ship; every event of every test is
// held against it.
var eventSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(docs.EventSchema()))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("event.v1.schema.json", document); err != nil {
		return nil, err
	}
	return c.Compile("event.v1.schema.json")
})

// valid holds a body against the schema.
func valid(t testing.TB, body []byte) {
	t.Helper()
	schema, err := eventSchema()
	if err != nil {
		t.Fatal(err)
	}
	event, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(event); err != nil {
		t.Errorf("%s: %v", body, err)
	}
}
