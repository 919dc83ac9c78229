package ffstream_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
)

// example is the body that the design gives, with a whole uuid.
const example = `{"specversion":"1.0",
  "id":"7406114242318563021-00000000016B3748-0000",
  "source":"/ffstream/ffstream",
  "type":"ffstream.execution.transitioned.v1",
  "subject":"{fp:86}:0190f5c2-5d3e-7c41-9a52-3f1d2b7e8a90",
  "time":"2026-11-23T01:02:03.456789Z",
  "datacontenttype":"application/json",
  "data":{
    "execution_id":"{fp:86}:0190f5c2-5d3e-7c41-9a52-3f1d2b7e8a90","partition":86,"flow_id":null,
    "namespace":"ns-a","lane_id":"default","execution_kind":"task","priority":0,
    "from":"active","to":"completed","terminal":true,
    "state_vector":{"lifecycle_phase":"terminal","ownership_state":"unowned","eligibility_state":"not_applicable",
      "blocking_reason":"none","terminal_outcome":"success","attempt_state":"attempt_terminal","public_state":"completed"},
    "stored_public_state":"active","consistent":false,
    "current_attempt_index":0,
    "attempt":{"index":0,"worker_id":"w1","worker_instance_id":"w1-0","lease_epoch":1,"lease_expires_at_ms":null,
      "started_at_ms":1732320000000,"terminal_at_ms":1732320001000,"outcome":"success"},
    "created_at_ms":1732319999000,"started_at_ms":1732320000000,"terminal_at_ms":1732320001000,
    "blocking_detail":"","cancellation_reason":null,"cancelled_by":null,"tags":{"cairn.instance_id":"i-1"},
    "tx":{"xid":733,"commit_lsn":"0/16B3748","index":0,"last":true}}}`

func exampleEvent() ffstream.Event {
	return ffstream.Event{
		ID:     ffstream.EventID{System: 7406114242318563021, Position: ffstream.Position{Commit: 0x16B3748}},
		Type:   ffstream.TypeTransitioned,
		Source: "/ffstream/ffstream",
		Time:   time.Date(2026, 11, 23, 1, 2, 3, 456789000, time.UTC),

		ExecutionID: ffstream.NewExecutionID(86, uuid.MustParse("0190f5c2-5d3e-7c41-9a52-3f1d2b7e8a90")),
		Namespace:   "ns-a", LaneID: "default", ExecutionKind: "task",
		From: ffstream.StateActive, To: ffstream.StateCompleted,
		StateVector: ffstream.StateVector{
			LifecyclePhase: ffstream.PhaseTerminal, OwnershipState: ffstream.OwnershipUnowned,
			EligibilityState: ffstream.EligibilityNotApplicable, BlockingReason: ffstream.BlockingNone,
			TerminalOutcome: ffstream.OutcomeSuccess, AttemptState: ffstream.AttemptStateTerminal, PublicState: ffstream.StateCompleted,
		},
		StoredPublicState: ffstream.StateActive,
		Attempt: ffstream.Some(ffstream.Attempt{
			WorkerID: ffstream.Some("w1"), WorkerInstanceID: ffstream.Some("w1-0"), LeaseEpoch: 1,
			StartedAtMs: ffstream.Some[int64](1732320000000), TerminalAtMs: ffstream.Some[int64](1732320001000), Outcome: ffstream.Some("success"),
		}),
		CreatedAtMs: ffstream.Some[int64](1732319999000), StartedAtMs: ffstream.Some[int64](1732320000000), TerminalAtMs: ffstream.Some[int64](1732320001000),
		Tags: []ffstream.Tag{{Key: "cairn.instance_id", Value: "i-1"}},
		Tx:   ffstream.Tx{Xid: 733, Last: true},
	}
}

func compact(t testing.TB, text string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestExample holds the body that other programs rely on, byte for byte.
func TestExample(t *testing.T) {
	t.Parallel()
	e := exampleEvent()
	want := compact(t, example)
	if got := string(e.AppendJSON([]byte("before"))); got != "before"+want {
		t.Errorf("encoded\n%s, want\n%s", got, want)
	}
	if body, err := json.Marshal(&e); err != nil || string(body) != want {
		t.Errorf("json.Marshal gives\n%s (%v), want\n%s", body, err, want)
	}
	got, err := ffstream.ParseEvent([]byte(example))
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("parsed\n%+v (%v), want\n%+v", got, err, e)
	}
	var again ffstream.Event
	if err := json.Unmarshal([]byte(example), &again); err != nil || !reflect.DeepEqual(again, e) {
		t.Errorf("json.Unmarshal gives\n%+v (%v), want\n%+v", again, err, e)
	}
	if !e.Terminal() || e.Position() != e.ID.Position {
		t.Errorf("terminal %t, position %s", e.Terminal(), e.Position())
	}
}

// TestOtherBodies: what the example does not show.
func TestOtherBodies(t *testing.T) {
	t.Parallel()
	const head = `{"specversion":"1.0","id":"1-0000000000000010-10000","source":"/ffstream/s","type":"`
	const clock = `"time":"2026-11-23T01:02:03.000000Z","datacontenttype":"application/json","data":{`
	const tail = `"tx":{"xid":4294967295,"commit_lsn":"0/10","index":65536,"last":false}}}`
	const subject = `"subject":"{fp:7}:` + hyphenated + `",`
	const row = `"execution_id":"{fp:7}:` + hyphenated + `","partition":7,`
	base := ffstream.Event{
		ID:     ffstream.EventID{System: 1, Position: ffstream.Position{Commit: 0x10, Index: 0x10000}},
		Source: "/ffstream/s", Tx: ffstream.Tx{Xid: 4294967295},
		Time: time.Date(2026, 11, 23, 2, 2, 3, 999, time.FixedZone("CET", 3600)),
	}
	withRow := base
	withRow.ExecutionID = ffstream.NewExecutionID(7, uuid.MustParse(hyphenated))

	corrupt := withRow
	corrupt.Type, corrupt.LaneID = ffstream.TypeCorrupt, "default"
	corrupt.Corrupt = ffstream.Corruption{Column: "attempt_state", Literal: `in"it`}
	truncated := base
	truncated.Type = ffstream.TypeTruncated
	gap := base
	gap.Type = ffstream.TypeGap
	gap.Gap = &ffstream.Gap{Reason: ffstream.GapSlotMoved, Detail: `a "b"`, After: ffstream.Some(ffstream.Position{Commit: 1, Index: 2}), AfterSequence: 7, ResumesAt: 0x20}
	first := gap
	first.Gap = &ffstream.Gap{Reason: ffstream.GapStreamMissing, ResumesAt: 1}
	purged := withRow
	purged.Type, purged.To, purged.Candidate, purged.EvidenceMissing = ffstream.TypeTransitioned, ffstream.StatePurged, true, true
	purged.FlowID = ffstream.Some(uuid.MustParse(hyphenated))
	purged.CancellationReason, purged.CancelledBy = ffstream.Some(""), ffstream.Some("worker")
	purged.Priority = -2147483648

	for _, tc := range []struct {
		e    ffstream.Event
		want string
	}{
		{corrupt, head + ffstream.TypeCorrupt + `",` + subject + clock + row + `"lane_id":"default","column":"attempt_state","literal":"in\"it",` + tail},
		{truncated, head + ffstream.TypeTruncated + `",` + clock + `"table":"ff_exec_core",` + tail},
		{gap, head + ffstream.TypeGap + `",` + clock + `"reason":"slot_moved","detail":"a \"b\"","after":"0000000000000001/0002","after_sequence":7,"resumes_at":"0/20"}}`},
		{first, head + ffstream.TypeGap + `",` + clock + `"reason":"stream_missing","detail":"","after":null,"after_sequence":0,"resumes_at":"0/1"}}`},
		{purged, head + ffstream.TypeTransitioned + `",` + subject + clock + row + `"flow_id":"` + hyphenated + `","namespace":"","lane_id":"","execution_kind":"",` +
			`"priority":-2147483648,"from":null,"to":"purged","terminal":false,"state_vector":{"lifecycle_phase":null,"ownership_state":null,` +
			`"eligibility_state":null,"blocking_reason":null,"terminal_outcome":null,"attempt_state":null,"public_state":null},` +
			`"stored_public_state":null,"consistent":false,"evidence_missing":true,"candidate":true,"current_attempt_index":0,"attempt":null,` +
			`"created_at_ms":null,"started_at_ms":null,"terminal_at_ms":null,"blocking_detail":"","cancellation_reason":"","cancelled_by":"worker","tags":{},` + tail},
	} {
		if got := string(tc.e.AppendJSON(nil)); got != tc.want {
			t.Errorf("encoded\n%s, want\n%s", got, tc.want)
		}
		if again, err := ffstream.ParseEvent([]byte(tc.want)); err != nil || !reflect.DeepEqual(again.Gap, tc.e.Gap) {
			t.Errorf("%s: read as %+v, %v", tc.want, again.Gap, err)
		}
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	id := ffstream.NewExecutionID(65535, uuid.MustParse(hyphenated))
	for _, tc := range []struct {
		e    ffstream.Event
		want string
	}{
		{ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: id, Namespace: "ns-a", LaneID: "default", To: ffstream.StateCompleted},
			"ff.exec.65535.ns-a.default.completed"},
		{ffstream.Event{Type: ffstream.TypeTransitioned, To: ffstream.StatePurged}, "ff.exec.0.%.%.purged"},
		{ffstream.Event{Type: ffstream.TypeTransitioned, Namespace: "a.b", LaneID: "> *", To: ffstream.StateWaitingChildren},
			"ff.exec.0.a%2Eb.%3E%20%2A.waiting_children"},
		{ffstream.Event{Type: ffstream.TypeCorrupt, ExecutionID: id, LaneID: "default"}, "ff.corrupt.65535"},
		{ffstream.Event{Type: ffstream.TypeTruncated}, "ff.truncated"},
		{ffstream.Event{Type: ffstream.TypeGap}, "ff.gap"},
	} {
		if got := tc.e.Subject(ffstream.DefaultSubjectPrefix); got != tc.want {
			t.Errorf("%s, want %s", got, tc.want)
		}
		other := string(tc.e.AppendSubject([]byte("x"), "my.own"))
		if want := "xmy.own" + strings.TrimPrefix(tc.want, "ff"); other != want {
			t.Errorf("%s, want %s", other, want)
		}
	}
}

// TestParseEventTolerates: a subscriber survives what a later release adds.
func TestParseEventTolerates(t *testing.T) {
	t.Parallel()
	text := compact(t, example)
	replaced := func(old, replacement string) string {
		if strings.Count(text, old) != 1 {
			t.Fatalf("%s is not once in the example", old)
		}
		return strings.Replace(text, old, replacement, 1)
	}
	for name, tc := range map[string]struct {
		body   string
		change func(*ffstream.Event)
	}{
		// In tags a name is no field but data.
		"unknown fields": {strings.NewReplacer(`"tags":{"`, `"tags":{"`, `{"`, `{"later":[{"id":1}],"`).Replace(text), func(*ffstream.Event) {}},
		"unknown states": {replaced(`"to":"completed","terminal":true`, `"to":"hibernating","terminal":false`),
			func(e *ffstream.Event) { e.To = "hibernating" }},
		"unknown word in the vector": {replaced(`"blocking_reason":"none"`, `"blocking_reason":"waiting_for_godot"`),
			func(e *ffstream.Event) { e.StateVector.BlockingReason = "waiting_for_godot" }},
		"unknown outcome": {replaced(`"outcome":"success"`, `"outcome":"draw"`),
			func(e *ffstream.Event) { e.Attempt.V.Outcome = ffstream.Some("draw") }},
		"unknown type":    {replaced(`transitioned.v1`, `pondered.v1`), func(e *ffstream.Event) { e.Type = "ffstream.execution.pondered.v1" }},
		"missing attempt": {replaced(text[strings.Index(text, `"attempt":`):strings.Index(text, `"created_at_ms"`)], ""), func(e *ffstream.Event) { e.Attempt = ffstream.Opt[ffstream.Attempt]{} }},
		"time in another zone": {replaced("01:02:03.456789Z", "02:02:03.456789+01:00"),
			func(e *ffstream.Event) { e.Time = e.Time.In(time.FixedZone("", 3600)) }},
		"other spelling of the id": {replaced(`"execution_id":"{fp:86}`, `"execution_id":"{fp:086}`), func(e *ffstream.Event) {
			id, err := ffstream.ParseExecutionID("{fp:086}:" + e.ExecutionID.UUID().String())
			if err != nil {
				t.Fatal(err)
			}
			e.ExecutionID = id
		}},
	} {
		want := exampleEvent()
		tc.change(&want)
		got, err := ffstream.ParseEvent([]byte(tc.body))
		if err != nil || !got.Time.Equal(want.Time) {
			t.Errorf("%s: at %s, %v", name, got.Time, err)
		}
		got.Time = want.Time
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: parsed\n%+v, want\n%+v", name, got, want)
		}
	}
}

func TestParseEventRefuses(t *testing.T) {
	t.Parallel()
	text := compact(t, example)
	var syntax *json.SyntaxError
	for name, tc := range map[string]struct {
		body string
		kind any // what errors.As or errors.Is finds; nil: any error
	}{
		"empty":               {"", &syntax},
		"half":                {text[:len(text)/2], &syntax},
		"more behind it":      {text + "{}", &syntax},
		"null":                {"null", nil},
		"no specversion":      {strings.Replace(text, `"specversion":"1.0",`, "", 1), nil},
		"another specversion": {strings.Replace(text, `"1.0"`, `"2.0"`, 1), nil},
		"no id":               {strings.Replace(text, "7406114242318563021-00000000016B3748-0000", "", 1), nil},
		"id of another kind":  {strings.Replace(text, "7406114242318563021-00000000016B3748-0000", hyphenated, 1), nil},
		"execution id":        {strings.Replace(text, `"execution_id":"{fp:86}:`, `"execution_id":"`, 1), ffstream.ErrMissingTag},
		"partition":           {strings.Replace(text, `"execution_id":"{fp:86}:`, `"execution_id":"{fp:x}:`, 1), ffstream.ErrInvalidPartitionIndex},
		"uuid":                {strings.Replace(text, `"execution_id":"{fp:86}:0`, `"execution_id":"{fp:86}:g`, 1), ffstream.ErrInvalidUUID},
		"flow id":             {strings.Replace(text, `"flow_id":null`, `"flow_id":"x"`, 1), nil},
		"time":                {strings.Replace(text, "2026-11-23T", "yesterday ", 1), nil},
		"number":              {strings.Replace(text, `"xid":733`, `"xid":-1`, 1), nil},
	} {
		kept := exampleEvent()
		err := kept.UnmarshalJSON([]byte(tc.body))
		if err == nil || !strings.HasPrefix(err.Error(), "parse event") || !reflect.DeepEqual(kept, exampleEvent()) {
			t.Errorf("%s: %v, and left %+v", name, err, kept)
		}
		switch kind := tc.kind.(type) {
		case error:
			if !errors.Is(err, kind) {
				t.Errorf("%s: %v, want %v", name, err, kind)
			}
		case **json.SyntaxError:
			if !errors.As(err, kind) {
				t.Errorf("%s: %v, want a syntax error", name, err)
			}
		}
	}
}

func TestEncodeAllocatesNothing(t *testing.T) {
	e := exampleEvent()
	corrupt, truncated := e, e
	corrupt.Type, truncated.Type = ffstream.TypeCorrupt, ffstream.TypeTruncated
	e.FlowID, e.CancelledBy, e.Namespace = ffstream.Some(uuid.MustParse(hyphenated)), ffstream.Some("\n\xff\"é"), "a.b"
	b := make([]byte, 0, 4096)
	for _, e := range []*ffstream.Event{&e, &corrupt, &truncated} {
		if n := testing.AllocsPerRun(100, func() {
			b = e.AppendJSON(b[:0])
			b = e.AppendSubject(b[:0], ffstream.DefaultSubjectPrefix)
			b = e.ID.AppendText(b[:0])
			b = e.ID.Position.AppendText(b[:0])
		}); n != 0 {
			t.Errorf("%s: %v allocations", e.Type, n)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e := exampleEvent()
	buf := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkAppendSubject(b *testing.B) {
	e := exampleEvent()
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendSubject(buf[:0], ffstream.DefaultSubjectPrefix)
	}
}

func BenchmarkParseEvent(b *testing.B) {
	e := exampleEvent()
	body := e.AppendJSON(nil)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ffstream.ParseEvent(body); err != nil {
			b.Fatal(err)
		}
	}
}
