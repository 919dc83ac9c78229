package docs_test

import (
	"bytes"
	"encoding/json"
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

func compile(t *testing.T) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	if err := c.AddResource("event.v1.schema.json", parse(t, docs.EventSchema())); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("event.v1.schema.json")
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
	schema := compile(t)
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

// TestOnlyAdded: a document of v1 that was released says nothing that this one
// denies. released lists the fields of the first.
func TestOnlyAdded(t *testing.T) {
	t.Parallel()
	released := map[string]string{
		"transitioned": "execution_id partition flow_id namespace lane_id execution_kind priority from to terminal state_vector " +
			"stored_public_state consistent current_attempt_index attempt created_at_ms started_at_ms terminal_at_ms " +
			"blocking_detail cancellation_reason cancelled_by tags tx",
		"corrupt":         "execution_id partition lane_id column literal tx",
		"table_truncated": "table tx",
		"gap":             "reason detail after after_sequence resumes_at",
		"state_vector":    "lifecycle_phase ownership_state eligibility_state blocking_reason terminal_outcome attempt_state public_state",
		"attempt":         "index worker_id worker_instance_id lease_epoch lease_expires_at_ms started_at_ms terminal_at_ms outcome",
		"tx":              "xid commit_lsn index last",
	}
	var now struct {
		Defs map[string]struct {
			Required   []string
			Properties map[string]json.RawMessage
		} `json:"$defs"`
	}
	if err := json.Unmarshal([]byte(docs.EventSchema()), &now); err != nil {
		t.Fatal(err)
	}
	for name, fields := range released {
		required := " " + strings.Join(now.Defs[name].Required, " ") + " "
		for _, field := range strings.Fields(fields) {
			if now.Defs[name].Properties[field] == nil || !strings.Contains(required, " "+field+" ") {
				t.Errorf("%s: %s was always there and is so no more", name, field)
			}
		}
	}
}

// TestAsyncAPI: the document is JSON of version 3 and names every subject.
func TestAsyncAPI(t *testing.T) {
	t.Parallel()
	doc := parse(t, docs.AsyncAPI()).(map[string]any)
	if v, _ := doc["asyncapi"].(string); !strings.HasPrefix(v, "3.") {
		t.Errorf("version %q", v)
	}
	for _, e := range events() {
		kind := strings.Split(e.Subject(ffstream.DefaultSubjectPrefix), ".")[1]
		if !strings.Contains(docs.AsyncAPI(), `"address": "ff.`+kind) {
			t.Errorf("no channel for %s", kind)
		}
	}
}
