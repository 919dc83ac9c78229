package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// TestRecordedEngine replays what FlowFabric 0.11.0 did through Postgres into two
// services: one that runs without interruption and one that is killed again and again.
// In both, the sequence of states of each execution is the one that the engine's
// operations and outboxes imply, but for recordedExceptions. Stream, point reads
// and state bucket agree at the end, and both streams have the same events.
func TestRecordedEngine(t *testing.T) {
	t.Parallel()
	recorded := readRecording(t)
	model := newRecordedModel(t, recorded)
	t.Logf("%d transactions, changes of executions by operation: %v", len(recorded.transactions), model.explains)
	want := model.sequences(t, recordedExceptions)

	w := newWorld(t, migrations.Engine011)
	steady, killed := newFollower(w), newFollower(w.beside("_killed"))
	steady.start()
	killed.start()
	recorded.replay(w, 750, killed.killOnceStored)
	t.Logf("%d kills", killed.kills)
	killed.w.awaitActive(killed.service)

	first := steady.check("uninterrupted", want)
	second := killed.check("killed", want)
	sameEvents(t, first, second)
	steady.service.stop()
	killed.service.stop()
}

// beside is a second slot, stream and state bucket for the same database.
func (w *world) beside(suffix string) *world {
	w.t.Helper()
	other := *w
	other.slot, other.stream, other.prefix = w.slot+suffix, w.stream+suffix, w.prefix+suffix
	w.t.Cleanup(func() {
		ctx := context.Background()
		if err := other.js.DeleteStream(ctx, other.stream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			w.t.Errorf("delete stream: %v", err)
		}
		if err := other.js.DeleteKeyValue(ctx, other.bucket()); err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
			w.t.Errorf("delete bucket: %v", err)
		}
	})
	return &other
}

// follower is a service that follows the replay.
type follower struct {
	w       *world
	states  string // bucket
	service *process
	kills   int
	stored  uint64 // messages in the stream at the last kill
}

func newFollower(w *world) *follower {
	f := &follower{w: w, states: w.stream + "_states"}
	w.t.Cleanup(func() {
		if err := w.js.DeleteKeyValue(context.Background(), f.states); err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
			w.t.Errorf("delete bucket: %v", err)
		}
	})
	return f
}

// start starts the service and waits until it follows.
func (f *follower) start() {
	f.w.t.Helper()
	f.service = f.w.run("--state-bucket=" + f.states)
}

// killOnceStored kills the service as soon as the stream has more than at the last kill,
// and starts it again.
func (f *follower) killOnceStored() {
	f.w.t.Helper()
	await(f.w.t, "the stream to have more", func() (bool, string) {
		select {
		case <-f.service.done:
			f.w.t.Fatalf("the service ended: %s", f.service.output())
		default:
		}
		stored := f.w.messages()
		if stored <= f.stored {
			return false, f.service.output()
		}
		f.service.kill()
		return true, ""
	})
	f.stored = f.w.messages()
	f.kills++
	f.service = start(f.w.t, f.w.env(), "run", "--state-bucket="+f.states)
}

// recordedEvent is an event as far as these tests compare it; it is read without the
// package that wrote it.
type recordedEvent struct {
	ID, Type string
	Data     struct {
		ExecutionID string `json:"execution_id"`
		From        *string
		To          string
		Candidate   bool
	}
}

// from is the state before the event, empty for null.
func (e *recordedEvent) from() string {
	if e.Data.From == nil {
		return ""
	}
	return *e.Data.From
}

// check waits until the service has published everything, checks its stream, its state
// bucket and the point reads against the sequences, and returns the events.
func (f *follower) check(name string, want map[string][]string) []recordedEvent {
	t := f.w.t
	t.Helper()
	f.w.caughtUp(f.service)
	var events []recordedEvent
	f.w.each(func(m message) {
		var e recordedEvent
		f.w.must(json.Unmarshal(m.body, &e))
		if e.Type != "ffstream.execution.transitioned.v1" || strings.HasPrefix(m.subject, f.w.prefix+".corrupt.") {
			t.Errorf("%s: %s on %s: %s", name, e.Type, m.subject, m.body)
		}
		if id := m.header.Get("Nats-Msg-Id"); id != e.ID {
			t.Errorf("%s: message id %s of event %s", name, id, e.ID)
		}
		events = append(events, e)
	})
	got, last := sequencesOf(t, name, events)
	f.agree(name, got, want)
	f.sameAsReads(name, last)
	f.sameAsBucket(name, last)
	p, code := asks(t, f.w.env(), "verify", "--timeout=2m")
	if code != 0 || !strings.Contains(p.output(), fmt.Sprintf("%d executions and ", len(want))) || !strings.Contains(p.output(), "0 missing, 0 surplus, 0 differing") {
		t.Errorf("%s: verify ends with %d: %s", name, code, p.output())
	} else {
		t.Logf("%s: verify: %s", name, strings.TrimSpace(p.output()))
	}
	return events
}

// sequencesOf returns the states of each execution in the stream's order, and its last
// event. A candidate that enters the state which the execution has is no transition.
func sequencesOf(t testing.TB, name string, events []recordedEvent) (got map[string][]string, last map[string]recordedEvent) {
	t.Helper()
	got, last = map[string][]string{}, map[string]recordedEvent{}
	candidates, same, unknown := 0, 0, 0
	for _, e := range events {
		id := e.Data.ExecutionID
		previous, known := last[id]
		last[id] = e
		if known && e.Data.From == nil {
			unknown++
		}
		if e.Data.From != nil && e.from() != previous.Data.To {
			t.Errorf("%s: event %s of %s is from %q, its previous event is to %q", name, e.ID, id, e.from(), previous.Data.To)
		}
		if e.Data.Candidate {
			candidates++
			if known && e.Data.To == previous.Data.To {
				same++
				continue
			}
		}
		got[id] = append(got[id], e.Data.To)
	}
	t.Logf("%s: %d events; %d of them (%.2f %%) have from null and are no creation", name, len(events), unknown, 100*float64(unknown)/float64(max(len(events), 1)))
	t.Logf("%s: %d candidates, %d of them no transition", name, candidates, same)
	return got, last
}

// agree compares the sequences.
func (f *follower) agree(name string, got, want map[string][]string) {
	t := f.w.t
	t.Helper()
	agree := 0
	for _, id := range slices.Sorted(maps.Keys(want)) {
		if slices.Equal(got[id], want[id]) {
			agree++
			continue
		}
		t.Errorf("%s: %s:\n got %s\nwant %s", name, id, strings.Join(got[id], ", "), strings.Join(want[id], ", "))
	}
	for id := range got {
		if want[id] == nil {
			t.Errorf("%s: the stream has %s, which the recording does not have", name, id)
		}
	}
	t.Logf("%s: %d of %d executions agree with operations and outboxes, %d of them by an exception", name, agree, len(want), len(recordedExceptions))
}

// sameAsReads compares the last events with point reads.
func (f *follower) sameAsReads(name string, last map[string]recordedEvent) {
	t := f.w.t
	t.Helper()
	var ids []ffstream.ExecutionID
	for _, text := range slices.Sorted(maps.Keys(last)) {
		id, err := ffstream.ParseExecutionID(text)
		f.w.must(err)
		ids = append(ids, id)
	}
	answers, err := reader.New(f.w.db.Pool).ExecutionStates(t.Context(), ids)
	f.w.must(err)
	for _, a := range answers {
		if e := last[a.ExecutionID.String()]; a.Err != nil || string(a.Value) != e.Data.To || !a.Found {
			t.Errorf("%s: %s is %q by a point read (found %t, error %v), %q by event %s", name, a.ExecutionID, a.Value, a.Found, a.Err, e.Data.To, e.ID)
		}
	}
}

// sameAsBucket waits until the state bucket has the complete stream and compares it with
// the last events.
func (f *follower) sameAsBucket(name string, last map[string]recordedEvent) {
	t := f.w.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	end := fmt.Sprint(f.w.messages())
	await(t, "the state bucket to have the complete stream", func() (bool, string) {
		stream, err := f.w.js.Stream(ctx, "KV_"+f.states)
		f.w.must(err)
		m, err := stream.GetMsg(ctx, stream.CachedInfo().State.LastSeq)
		f.w.must(err)
		at := m.Header.Get("Ffstream-Sequence")
		return at == end, at + " of " + end + "; " + f.service.output()
	})
	bucket, err := f.w.js.KeyValue(ctx, f.states)
	f.w.must(err)
	entries, err := bucket.WatchAll(ctx, jetstream.IgnoreDeletes())
	f.w.must(err)
	defer func() { _ = entries.Stop() }()
	n := 0
	for entry := range entries.Updates() {
		if entry == nil { // all that the bucket had
			break
		}
		if strings.HasPrefix(entry.Key(), "_") {
			continue
		}
		var v struct {
			ExecutionID string `json:"execution_id"`
			State       *string
			EventID     string `json:"event_id"`
		}
		f.w.must(json.Unmarshal(entry.Value(), &v))
		n++
		if e := last[v.ExecutionID]; v.State == nil || *v.State != e.Data.To || v.EventID != e.ID {
			t.Errorf("%s: the bucket has %s, the last event is %+v", name, entry.Value(), e)
		}
	}
	if n != len(last) {
		t.Errorf("%s: the bucket has %d executions, the stream %d", name, n, len(last))
	}
}

// sameEvents compares the events of both services, which read the same WAL: they must be
// the same ones in the same order. The state before an event may be null in either; how
// often it is in one alone is logged.
func sameEvents(t testing.TB, first, second []recordedEvent) {
	t.Helper()
	first, second = common(t, "the uninterrupted service", first, second), common(t, "the killed service", second, first)
	lost, gained := 0, 0
	for i := range first {
		a, b := &first[i], &second[i]
		if a.ID != b.ID {
			t.Fatalf("the uninterrupted service published %s where the killed one published %s", a.ID, b.ID)
		}
		if a.Data.ExecutionID != b.Data.ExecutionID || a.Data.To != b.Data.To {
			t.Errorf("event %s is %s to %s without interruption, %s to %s of the killed service", a.ID, a.Data.ExecutionID, a.Data.To, b.Data.ExecutionID, b.Data.To)
		}
		switch {
		case a.from() == b.from():
		case b.from() == "":
			lost++
		case a.from() == "":
			gained++
		default:
			t.Errorf("event %s is from %q without interruption, from %q of the killed service", a.ID, a.from(), b.from())
		}
	}
	t.Logf("%d events of both services: from is null after a kill alone in %d, without interruption alone in %d", len(first), lost, gained)
}

// common returns the events of a service that another one published too. Any other is
// an error.
func common(t testing.TB, name string, events, other []recordedEvent) (both []recordedEvent) {
	t.Helper()
	ids := make(map[string]bool, len(other))
	for i := range other {
		ids[other[i].ID] = true
	}
	for i := range events {
		if e := &events[i]; ids[e.ID] {
			both = append(both, *e)
		} else {
			t.Errorf("%s alone published %s: %s from %q to %q, candidate %t", name, e.ID, e.Data.ExecutionID, e.from(), e.Data.To, e.Data.Candidate)
		}
	}
	return both
}
