package e2e

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ffstream/ffstream/docs"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// TestTail: tail prints what the stream holds, and each event is as the schema
// says.
func TestTail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	for i, story := range engine.StoriesOf(engine.Newest) {
		w.play(&engine.Engine{Version: engine.Newest}, &story, engine.Exec{Partition: int16(i % 256), ID: uuid.New(), Lane: "default"})
	}
	w.caughtUp(p)
	p.stop()
	tail := start(t, w.env(), "tail", "--json", "--follow=false")
	if code := tail.code(); code != 0 {
		t.Fatalf("tail ends with %d: %s", code, tail.output())
	}
	lines := strings.Split(strings.TrimSpace(tail.output()), "\n")
	if stored := w.stored(); len(lines) != len(stored) || len(lines) < 2 {
		t.Errorf("tail prints %d events, the stream holds %d", len(lines), len(stored))
	}
	completed := 0
	for _, line := range lines {
		valid(t, []byte(line))
		var e struct{ Data struct{ To string } }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Data.To == "completed" {
			completed++
		}
	}
	tail = start(t, w.env(), "tail", "--json", "--follow=false", "--state", "completed")
	if code := tail.code(); code != 0 || strings.Count(tail.output(), "\n") != completed {
		t.Errorf("tail of completions ends with %d and prints %d, want %d", code, strings.Count(tail.output(), "\n"), completed)
	}
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
