package docs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/docs"
)

func parse(t *testing.T, text string) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func compile(t *testing.T, text string) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", parse(t, text)); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func events() []ffstream.Event {
	id := ffstream.NewExecutionID(86, uuid.MustParse("0190f5c2-8f4e-7cc0-9d3a-2f1d6a4b8e11"))
	some := ffstream.Some("text")
	return []ffstream.Event{
		{Type: ffstream.TypeTransitioned, Source: "/ffstream/s", ExecutionID: id, To: ffstream.StatePurged},
		{
			Type: ffstream.TypeTransitioned, Source: "/ffstream/s", ExecutionID: id, From: ffstream.StateActive, To: ffstream.StateCompleted,
			FlowID: ffstream.Some(id.UUID()), EvidenceMissing: true, Candidate: true, Truncated: true, CancelledBy: some, CancellationReason: some,
			Attempt: ffstream.Some(ffstream.Attempt{WorkerID: some, Outcome: some, StartedAtMs: ffstream.Some(int64(1))}),
			Tags:    []ffstream.Tag{{Key: "a.b", Value: "c"}}, CreatedAtMs: ffstream.Some(int64(1)),
		},
		{Type: ffstream.TypeCorrupt, Source: "/ffstream/s", ExecutionID: id, Truncated: true},
		{
			Type: ffstream.TypeSnapshotted, Source: "/ffstream/s", ExecutionID: id, To: ffstream.StateCompleted, EvidenceMissing: true, Truncated: true,
			Snapshot: &ffstream.Snapshot{Run: "r", Repair: true, Known: ffstream.StateActive},
		},
		{Type: ffstream.TypeCorrupt, Source: "/ffstream/s", ExecutionID: id, Snapshot: &ffstream.Snapshot{Run: "r", Repair: true}},
		{Type: ffstream.TypeBackfill, Source: "/ffstream/s", Backfill: &ffstream.Backfill{Run: "r", Status: ffstream.BackfillRunning, After: ffstream.Some(id)}},
		{Type: ffstream.TypeBackfill, Source: "/ffstream/s", Backfill: &ffstream.Backfill{Run: "r", Status: ffstream.BackfillCompleted}},
		{Type: ffstream.TypeTruncated, Source: "/ffstream/s"},
		{Type: ffstream.TypeGap, Source: "/ffstream/s", Gap: &ffstream.Gap{Reason: ffstream.GapSlotMoved, After: ffstream.Some(ffstream.Position{Commit: 1}), ResumesAt: 0x10}},
		{Type: ffstream.TypeGap, Source: "/ffstream/s", Gap: &ffstream.Gap{Reason: ffstream.GapStreamMissing, ResumesAt: 0x10}},
	}
}

// TestEvents: what the encoder writes is valid and fully described: no field is
// written that the schema does not name, and none it names is never written.
func TestEvents(t *testing.T) {
	t.Parallel()
	schema := compile(t, docs.EventSchema())
	defs := parse(t, docs.EventSchema()).(map[string]any)["$defs"].(map[string]any)
	written := map[string]map[string]bool{}
	names := map[string]string{ffstream.TypeTransitioned: "transitioned", ffstream.TypeCorrupt: "corrupt", ffstream.TypeTruncated: "table_truncated", ffstream.TypeGap: "gap",
		ffstream.TypeSnapshotted: "snapshotted", ffstream.TypeBackfill: "backfill"}
	for _, e := range events() {
		body := e.AppendJSON(nil)
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(v); err != nil {
			t.Errorf("%s: %v", body, err)
		}
		data := v.(map[string]any)["data"].(map[string]any)
		name := names[e.Type]
		if written[name] == nil {
			written[name] = map[string]bool{}
		}
		for field := range data {
			written[name][field] = true
		}
		for _, field := range []string{"tx", "reason"} {
			if _, ok := data[field]; !ok {
				continue
			}
			delete(data, field)
			if schema.Validate(v) == nil {
				t.Errorf("%s without %s is valid", e.Type, field)
			}
		}
	}
	for name, fields := range written {
		described := defs[name].(map[string]any)["properties"].(map[string]any)
		for field := range fields {
			if described[field] == nil {
				t.Errorf("%s: %s is written and not described", name, field)
			}
		}
		for field := range described {
			if !fields[field] {
				t.Errorf("%s: %s is described and never written", name, field)
			}
		}
	}
}

// TestOnlyAdded: what a document of v1 promised this one promises. Each schema of the
// released document is here with the same rules: no field is gone, no field that was
// always there may be absent, none has another type, format or set of values. New are
// only fields, and the branch of a new type of event.
func TestOnlyAdded(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/released.event.v1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, lost := range lacks("", parse(t, string(text)), parse(t, docs.EventSchema())) {
		t.Error(lost)
	}
	for _, broken := range []string{
		`{"properties": {"a": {"type": "string"}}}`,
		`{"properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]}`,
		`{"properties": {"a": {"type": ["string", "null"]}, "b": {}}, "required": ["a", "b"]}`,
		`{"properties": {"a": {"type": "string"}, "b": {}}, "required": ["a", "b"], "additionalProperties": false}`,
		`{"properties": {"a": {"type": "string"}, "b": {}}, "required": ["a", "b"], "allOf": [{}]}`,
	} {
		old := `{"properties": {"a": {"type": "string"}, "b": {}}, "required": ["a", "b"], "allOf": [{"then": {}}]}`
		if len(lacks("", parse(t, old), parse(t, broken))) == 0 {
			t.Errorf("%s is taken to keep what %s promised", broken, old)
		}
	}
}

// lacks lists what a schema promised and its successor does not.
func lacks(path string, old, now any) (all []string) {
	was, ok := old.(map[string]any)
	is, both := now.(map[string]any)
	if !ok || !both {
		if !reflect.DeepEqual(old, now) {
			all = append(all, fmt.Sprintf("%s was %v and is %v", path, old, now))
		}
		return all
	}
	for key, v := range was {
		at := path + "/" + key
		switch key {
		case "title", "description":
		case "required", "allOf":
			kept, _ := is[key].([]any)
			for _, one := range v.([]any) {
				if !slices.ContainsFunc(kept, func(other any) bool { return len(lacks(at, one, other)) == 0 }) {
					all = append(all, fmt.Sprintf("%s has no %v", at, one))
				}
			}
		default:
			all = append(all, lacks(at, v, is[key])...)
		}
	}
	for key := range is { // a rule for all, which an old body need not meet
		if _, ok := was[key]; !ok && slices.Contains([]string{"additionalProperties", "unevaluatedProperties", "enum", "const", "pattern", "not"}, key) {
			all = append(all, fmt.Sprintf("%s has %s, which it had not", path, key))
		}
	}
	return all
}

// TestAsyncAPI: each event has one channel that its subject fits and that says its
// type, its headers are as described, and every reference leads somewhere.
func TestAsyncAPI(t *testing.T) {
	t.Parallel()
	var doc struct {
		AsyncAPI string
		Channels map[string]struct {
			Address    string
			Parameters map[string]any
			Messages   map[string]struct {
				Ref string `json:"$ref"`
			}
		}
		Operations map[string]struct{ Action string }
		Components struct {
			Messages map[string]struct{ Name, ContentType string }
			Schemas  struct {
				Headers json.RawMessage
				Event   struct {
					Schema struct {
						Ref string `json:"$ref"`
					}
				}
			}
		}
	}
	if err := json.Unmarshal([]byte(docs.AsyncAPI()), &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.AsyncAPI, "3.") || len(doc.Operations) != len(doc.Channels) {
		t.Errorf("version %q, %d operations for %d channels", doc.AsyncAPI, len(doc.Operations), len(doc.Channels))
	}
	if file := doc.Components.Schemas.Event.Schema.Ref; file != "event.v1.schema.json" {
		t.Errorf("the body is described in %q", file)
	}
	document := parse(t, docs.AsyncAPI())
	for _, ref := range regexp.MustCompile(`"\$ref": "#/([^"]*)"`).FindAllStringSubmatch(docs.AsyncAPI(), -1) {
		at := document
		for step := range strings.SplitSeq(ref[1], "/") {
			at, _ = at.(map[string]any)[step]
		}
		if at == nil {
			t.Errorf("#/%s leads nowhere", ref[1])
		}
	}
	headers := compile(t, string(doc.Components.Schemas.Headers))
	parameter := regexp.MustCompile(`\\\{([a-z]+)\\\}`)
	used := map[string]bool{}
	for _, e := range events() {
		var fits []string
		for name, channel := range doc.Channels {
			address := regexp.MustCompile("^" + parameter.ReplaceAllString(regexp.QuoteMeta(channel.Address), "[A-Za-z0-9_%-]+") + "$")
			if !address.MatchString(e.Subject(ffstream.DefaultSubjectPrefix)) {
				continue
			}
			for _, message := range channel.Messages {
				described := doc.Components.Messages[message.Ref[strings.LastIndexByte(message.Ref, '/')+1:]]
				if described.Name == e.Type && described.ContentType == ffstream.ContentType {
					fits = append(fits, name)
				}
			}
		}
		if len(fits) != 1 {
			t.Errorf("%s on %s is on channels %v, want one", e.Type, e.Subject(ffstream.DefaultSubjectPrefix), fits)
		}
		used[e.Type] = true
		carried := map[string]any{"Nats-Msg-Id": e.ID.String(), ffstream.HeaderPosition: e.Position().String(), "Content-Type": ffstream.ContentType}
		if err := headers.Validate(carried); err != nil {
			t.Error(err)
		}
		for name := range carried {
			without := maps.Clone(carried)
			delete(without, name)
			if headers.Validate(without) == nil {
				t.Errorf("headers without %s are valid", name)
			}
		}
	}
	for name, message := range doc.Components.Messages {
		if !used[message.Name] {
			t.Errorf("message %s is of type %q, which nothing writes", name, message.Name)
		}
	}
	for name, channel := range doc.Channels {
		if got := len(parameter.FindAllString(regexp.QuoteMeta(channel.Address), -1)); got != len(channel.Parameters) {
			t.Errorf("channel %s describes %d parameters of %d", name, len(channel.Parameters), got)
		}
	}
}
