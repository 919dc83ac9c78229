package ffstream_test

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
)

// texts are strings with what JSON must escape or must not touch.
func texts() *rapid.Generator[string] {
	special := []rune{'"', '\\', '/', '\n', '\r', '\t', '\b', 0, 0x1F, 0x7F, '<', '&', 'é', '\u2028', utf8.RuneError, '😀', 'a', ' '}
	return rapid.OneOf(rapid.String(), rapid.StringOf(rapid.SampledFrom(special)))
}

// anyBytes are strings that may not be UTF-8.
func anyBytes() *rapid.Generator[string] {
	return rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) })
}

// drawer draws an event's parts, its strings from text.
type drawer struct {
	t    *rapid.T
	text *rapid.Generator[string]
}

func (d drawer) str(name string) string { return d.text.Draw(d.t, name) }

func opt[T any](d drawer, g *rapid.Generator[T], name string) ffstream.Opt[T] {
	if !rapid.Bool().Draw(d.t, name+" present") {
		return ffstream.Opt[T]{}
	}
	return ffstream.Some(g.Draw(d.t, name))
}

func (d drawer) millis(name string) ffstream.Opt[int64] { return opt(d, rapid.Int64(), name) }

func (d drawer) id(name string) uuid.UUID {
	return uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(d.t, name))
}

func (d drawer) event() ffstream.Event {
	const year10000 = 253402300800 * 1_000_000 // the first microsecond that RFC 3339 cannot write
	e := ffstream.Event{
		ID:     ffstream.EventID{System: rapid.Uint64().Draw(d.t, "system"), Position: drawPosition(d.t)},
		Type:   rapid.SampledFrom([]string{ffstream.TypeTransitioned, ffstream.TypeCorrupt, ffstream.TypeTruncated, ffstream.TypeSnapshotted, ffstream.TypeBackfill}).Draw(d.t, "type"),
		Source: d.str("source"),
		Time:   time.UnixMicro(rapid.Int64Range(0, year10000-1).Draw(d.t, "time")).UTC(),
		Tx:     ffstream.Tx{Xid: rapid.Uint32().Draw(d.t, "xid"), Last: rapid.Bool().Draw(d.t, "last")},
	}
	if e.Type == ffstream.TypeTruncated {
		return e
	}
	if e.Type == ffstream.TypeBackfill {
		e.Backfill = &ffstream.Backfill{
			Run: d.str("run"), Status: d.str("status"), After: opt(d, rapid.Custom(func(t *rapid.T) ffstream.ExecutionID {
				return ffstream.NewExecutionID(rapid.Uint16().Draw(t, "partition"), drawer{t, d.text}.id("after"))
			}), "after"),
			Chunks: rapid.Uint64().Draw(d.t, "chunks"), Executions: rapid.Uint64().Draw(d.t, "executions"),
			Published: rapid.Uint64().Draw(d.t, "published"), Superseded: rapid.Uint64().Draw(d.t, "superseded"),
		}
		return e
	}
	if e.Type == ffstream.TypeSnapshotted || e.Type == ffstream.TypeCorrupt && rapid.Bool().Draw(d.t, "read") {
		e.Snapshot = &ffstream.Snapshot{Run: d.str("run")}
		if rapid.Bool().Draw(d.t, "repair") {
			e.Snapshot.Repair, e.Snapshot.Known = true, ffstream.PublicState(d.str("known"))
		}
	}
	e.ExecutionID = ffstream.NewExecutionID(rapid.Uint16().Draw(d.t, "partition"), d.id("execution"))
	e.LaneID = d.str("lane")
	if e.Type == ffstream.TypeCorrupt {
		e.Corrupt = ffstream.Corruption{Column: d.str("column"), Literal: d.str("literal")}
		return e
	}
	e.FlowID = opt(d, rapid.Custom(func(t *rapid.T) uuid.UUID { return drawer{t, d.text}.id("id") }), "flow")
	e.Namespace, e.ExecutionKind, e.BlockingDetail = d.str("namespace"), d.str("kind"), d.str("detail")
	e.Priority = rapid.Int32().Draw(d.t, "priority")
	e.From, e.To, e.StoredPublicState = ffstream.PublicState(d.str("from")), ffstream.PublicState(d.str("to")), ffstream.PublicState(d.str("stored"))
	e.StateVector = ffstream.StateVector{
		LifecyclePhase: ffstream.LifecyclePhase(d.str("phase")), OwnershipState: ffstream.OwnershipState(d.str("ownership")),
		EligibilityState: ffstream.EligibilityState(d.str("eligibility")), BlockingReason: ffstream.BlockingReason(d.str("blocking")),
		TerminalOutcome: ffstream.TerminalOutcome(d.str("outcome")), AttemptState: ffstream.AttemptState(d.str("attempt state")),
		PublicState: ffstream.PublicState(d.str("public state")),
	}
	e.Consistent, e.EvidenceMissing, e.Candidate = rapid.Bool().Draw(d.t, "consistent"), rapid.Bool().Draw(d.t, "missing"), rapid.Bool().Draw(d.t, "candidate")
	e.CurrentAttemptIndex = rapid.Uint32().Draw(d.t, "current")
	e.Attempt = opt(d, rapid.Custom(func(t *rapid.T) ffstream.Attempt { return drawer{t, d.text}.attempt() }), "attempt")
	e.CreatedAtMs, e.StartedAtMs, e.TerminalAtMs = d.millis("created"), d.millis("started"), d.millis("terminal")
	e.CancellationReason, e.CancelledBy = opt(d, d.text, "reason"), opt(d, d.text, "by")
	tags := rapid.MapOfN(d.text, d.text, 0, 5).Draw(d.t, "tags")
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		e.Tags = append(e.Tags, ffstream.Tag{Key: key, Value: tags[key]})
	}
	return e
}

func (d drawer) attempt() ffstream.Attempt {
	return ffstream.Attempt{
		Index: rapid.Uint32().Draw(d.t, "index"), LeaseEpoch: rapid.Int64().Draw(d.t, "epoch"),
		WorkerID: opt(d, d.text, "worker"), WorkerInstanceID: opt(d, d.text, "instance"), Outcome: opt(d, d.text, "outcome"),
		LeaseExpiresAtMs: d.millis("expires"), StartedAtMs: d.millis("started"), TerminalAtMs: d.millis("terminal"),
	}
}

// TestEventsRoundTrip: nothing of an event is lost on its way through JSON.
func TestEventsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := drawer{t, texts()}.event()
		body := e.AppendJSON(nil)
		got, err := ffstream.ParseEvent(body)
		if err != nil || !reflect.DeepEqual(got, e) {
			t.Fatalf("%s\nis read as\n%+v (%v), want\n%+v", body, got, err, e)
		}
		checkEnvelope(t, &e, body)
	})
}

// checkEnvelope looks at what stands in the body twice, or for others than
// ParseEvent.
func checkEnvelope(t *rapid.T, e *ffstream.Event, body []byte) {
	var w struct {
		ID, Subject     string
		DataContentType string
		Data            struct {
			Partition uint16
			Terminal  bool
			Tx        struct {
				CommitLSN string `json:"commit_lsn"`
				Index     uint32
			}
		}
	}
	if err := json.Unmarshal(body, &w); err != nil {
		t.Fatal(err)
	}
	subject := ""
	if !e.ExecutionID.IsZero() {
		subject = e.ExecutionID.String()
	}
	if w.ID != e.ID.String() || w.Subject != subject || w.DataContentType != "application/json" {
		t.Fatalf("%s: id, subject or datacontenttype", body)
	}
	terminal := (e.Type == ffstream.TypeTransitioned || e.Type == ffstream.TypeSnapshotted) && e.To.Terminal()
	if w.Data.Partition != e.ExecutionID.Partition() || w.Data.Terminal != terminal ||
		w.Data.Tx.CommitLSN != e.ID.Position.Commit.String() || w.Data.Tx.Index != e.ID.Position.Index {
		t.Fatalf("%s: partition, terminal or tx", body)
	}
}

// TestEncodeIsValidJSON: bytes that are no text cannot break a body. Each one
// that is not UTF-8 arrives as U+FFFD.
func TestEncodeIsValidJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		e := drawer{t, anyBytes()}.event()
		body := e.AppendJSON(nil)
		if !json.Valid(body) || !utf8.Valid(body) {
			t.Fatalf("%q is no JSON text", body)
		}
		got, err := ffstream.ParseEvent(body)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range [][2]string{{got.Source, e.Source}, {got.LaneID, e.LaneID}, {got.Corrupt.Literal, e.Corrupt.Literal}, {string(got.To), string(e.To)}} {
			if want := string([]rune(s[1])); s[0] != want {
				t.Fatalf("%q is read as %q, want %q", s[1], s[0], want)
			}
		}
	})
}

// FuzzParseEvent: no input makes it panic, both ways of reading agree, and what it
// takes is written as an event that reads the same.
func FuzzParseEvent(f *testing.F) {
	e := exampleEvent()
	e.Snapshot, e.Backfill = &ffstream.Snapshot{Run: "r", Repair: true}, &ffstream.Backfill{Run: "r", Status: ffstream.BackfillRunning}
	for _, kind := range []string{ffstream.TypeTransitioned, ffstream.TypeCorrupt, ffstream.TypeTruncated, ffstream.TypeSnapshotted, ffstream.TypeBackfill} {
		e.Type = kind
		f.Add(e.AppendJSON(nil))
	}
	f.Add([]byte(`{"specversion":"1.0","id":"1-0000000000000000-0000","data":{"flow_id":"` + hyphenated + `","tags":{"\ud800":"\u0000"}}}`))
	f.Add([]byte(strings.Replace(example, "{fp:86}:", "{fp:+086}:urn:uuid:", 2)))
	e = exampleEvent()
	e.Type, e.Gap = ffstream.TypeGap, &ffstream.Gap{Reason: ffstream.GapSlotMoved, Detail: "\"\n\x00é\xff", After: ffstream.Some(ffstream.Position{Commit: 1}), ResumesAt: 2}
	f.Add(e.AppendJSON(nil))
	e.Type = ffstream.TypeTransitioned
	for e.Truncate() {
		f.Add(e.AppendJSON(nil))
	}
	f.Add([]byte(`{"data":{"later":[-1.5E+3,{"a\u00e9":null}],"attempt":{"index":1},"attempt":{"lease_epoch":2}},"specversion":"1.0","id":"1-0000000000000000-0000","ID":"2-0000000000000000-0000"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		same(t, body)
		read, err := ffstream.ParseEvent(body)
		if err != nil {
			return
		}
		if y := read.Time.UTC().Year(); y < 0 || y > 9999 {
			return // at the ends a zone can move it out of what RFC 3339 can write
		}
		written := read.AppendJSON(nil)
		if !json.Valid(written) {
			t.Fatalf("%q is no JSON", written)
		}
		// Spelling and what the type does not have are gone after the first time.
		again, err := ffstream.ParseEvent(written)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if twice := again.AppendJSON(nil); string(twice) != string(written) {
			t.Fatalf("%s\nis written again as\n%s", written, twice)
		}
		if again.ID != read.ID || again.Type != read.Type || !again.Time.Equal(read.Time.Truncate(time.Microsecond)) {
			t.Fatalf("%s\nis not\n%s", written, body)
		}
	})
}
