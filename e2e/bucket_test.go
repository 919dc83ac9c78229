package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// kept is one message of a state bucket, in the order in which they were stored.
type kept struct {
	key      string
	value    []byte // nil: the key is deleted
	sequence uint64 // in the stream, up to which the bucket is said to have everything
	position string // of the event that it tells of; empty: of none, or a TRUNCATE
}

// heard is one event as far as a bucket tells it. Its sequence is its place in the stream.
type heard struct {
	key, id, position string // no key: of no execution
	state             string // empty for a row that cannot be understood
	truncated         bool   // of all executions
}

// standing is what a state bucket is found to be, held against the stream: how many
// of its messages are in each way not as they should be, and where the first is.
type standing struct {
	stale   int // an execution is told as it was before what the bucket says that it has
	missing int // an execution is not told at all of which it says that it has everything
	early   int // an execution is told of what the stream does not have
	altered int // a value is not what its event says
	first   string
}

func (s *standing) exact() bool { return s.first == "" }

func (s *standing) String() string {
	return fmt.Sprintf("stale %d, missing %d, early %d, altered %d: %s", s.stale, s.missing, s.early, s.altered, s.first)
}

// replay goes through a bucket as it was after each of its messages, which is all that
// a reader could ever have seen.
type replay struct {
	standing
	events []heard
	places map[string]uint64 // sequence by position
	told   map[string]uint64 // sequence of the event that a key tells of
	passed uint64            // the bucket says that it has everything up to here
	n      int               // of the message
}

// checkBucket holds a bucket's messages against the events of the stream, up to its
// end.
func checkBucket(log []kept, events []heard) standing {
	r := replay{events: events, places: map[string]uint64{}, told: map[string]uint64{}}
	for i := range events {
		r.places[events[i].position] = uint64(i + 1)
	}
	for i := range log {
		r.n = i + 1
		r.message(&log[i])
	}
	if end := uint64(len(events)); r.passed < end { // what it has not got to is as good as missing
		r.found(&r.missing, fmt.Sprintf("it ends at sequence %d of %d", r.passed, end))
		r.pass(end)
	}
	return r.standing
}

func (r *replay) found(count *int, what string) {
	*count++
	if r.first == "" {
		r.first = fmt.Sprintf("message %d: %s", r.n, what)
	}
}

func (r *replay) message(m *kept) {
	switch {
	case strings.HasPrefix(m.key, "_"): // it tells of no execution
	case m.value == nil:
		r.deletion(m)
	default:
		r.value(m)
	}
	if m.sequence > uint64(len(r.events)) {
		r.found(&r.early, fmt.Sprintf("it says that it has everything up to %d of %d", m.sequence, len(r.events)))
		return
	}
	if m.sequence < r.passed {
		r.found(&r.stale, fmt.Sprintf("it says that it has everything up to %d, and said %d before", m.sequence, r.passed))
		return
	}
	r.pass(m.sequence)
}

// pass looks whether everything is told that stands before a sequence.
func (r *replay) pass(to uint64) {
	for ; r.passed < to; r.passed++ {
		e := &r.events[r.passed]
		at, known := r.told[e.key]
		switch sequence := r.passed + 1; {
		case e.truncated:
			for key, at := range r.told {
				if was := &r.events[at-1]; at < sequence && was.state != "purged" && !was.truncated {
					r.found(&r.stale, fmt.Sprintf("everything up to %d, and %s is told as of %d, before the TRUNCATE of %d", to, key, at, sequence))
				}
			}
		case e.key == "":
		case !known && e.state != "purged": // of one that it never told there is nothing to delete
			r.found(&r.missing, fmt.Sprintf("everything up to %d, and nothing tells of %s, which is of %d", to, e.key, sequence))
		case known && at < sequence:
			r.found(&r.stale, fmt.Sprintf("everything up to %d, and %s is told as of %d and not of %d", to, e.key, at, sequence))
		}
	}
}

func (r *replay) value(m *kept) {
	var v struct {
		Execution string `json:"execution_id"`
		State     *string
		Corrupt   string
		Position  string
		Sequence  uint64
		ID        string `json:"event_id"`
	}
	if err := json.Unmarshal(m.value, &v); err != nil {
		r.found(&r.altered, fmt.Sprintf("%s: %v: %s", m.key, err, m.value))
		return
	}
	if v.Sequence == 0 || v.Sequence > uint64(len(r.events)) {
		r.found(&r.early, fmt.Sprintf("%s is told as of %d, and the stream ends with %d", m.key, v.Sequence, len(r.events)))
		return
	}
	e, state := &r.events[v.Sequence-1], ""
	if v.State != nil {
		state = *v.State
	}
	if e.key != m.key || keyOf(v.Execution) != m.key || e.state != state || (state == "") != (v.Corrupt != "") || e.id != v.ID || e.position != v.Position || e.position != m.position {
		r.found(&r.altered, fmt.Sprintf("%s at %s: %s, and event %d is %+v", m.key, m.position, m.value, v.Sequence, *e))
		return
	}
	r.tell(m.key, v.Sequence)
}

// deletion takes in a key that was deleted: by its event, or by the next TRUNCATE.
func (r *replay) deletion(m *kept) {
	sequence, found := r.places[m.position]
	if m.position == "" {
		for sequence = m.sequence + 1; sequence <= uint64(len(r.events)) && !r.events[sequence-1].truncated; sequence++ {
		}
		found = sequence <= uint64(len(r.events))
	} else if found = found && r.events[sequence-1].state == "purged" && r.events[sequence-1].key == m.key; !found {
		r.found(&r.altered, fmt.Sprintf("%s is deleted at %s, where it was not", m.key, m.position))
		return
	}
	if !found {
		r.found(&r.early, m.key+" is deleted, and there was no TRUNCATE")
		return
	}
	r.tell(m.key, sequence)
}

func (r *replay) tell(key string, sequence uint64) {
	if sequence < r.told[key] {
		r.found(&r.stale, fmt.Sprintf("%s was told as of %d, and is told as of %d", key, r.told[key], sequence))
		return
	}
	r.told[key] = sequence
}

// keyOf is the key of {fp:1}:uuid.
func keyOf(execution string) string {
	partition, id, _ := strings.Cut(strings.TrimPrefix(execution, "{fp:"), "}:")
	return partition + "." + id
}

// hears gives what a state bucket has to tell of a stream that has all its messages.
func (w *world) hears(all []message) []heard {
	w.t.Helper()
	events := make([]heard, len(all))
	for i, m := range all {
		e := parsed(w.t, m)
		h := &events[i]
		h.id, h.position, h.truncated = m.header.Get("Nats-Msg-Id"), m.header.Get("Ffstream-Position"), e.Type == "ffstream.table.truncated.v1"
		if e.Data.ExecutionID != "" {
			h.key, h.state = keyOf(e.Data.ExecutionID), e.Data.To
		}
	}
	return events
}

// keepAll makes the state bucket of a stream before the service does: one that forgets
// no message, so that all that it ever said is there at the end.
func (w *world) keepAll(bucket string, replicas int) {
	w.t.Helper()
	await(w.t, "the state bucket to be made", func() (bool, string) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := w.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: bucket, History: 64, Storage: jetstream.FileStorage, Replicas: replicas, Metadata: map[string]string{"ffstream.stream": w.stream},
		})
		if err != nil {
			return false, err.Error()
		}
		stream, err := w.js.Stream(ctx, "KV_"+bucket)
		if err == nil {
			c := stream.CachedInfo().Config
			c.MaxMsgsPerSubject = 1_000_000 // more than a bucket may be made with
			_, err = w.js.UpdateStream(ctx, c)
		}
		return err == nil, fmt.Sprint(err)
	})
}

// keeps waits until a state bucket has the whole stream, holds all that it ever said
// against that, and gives what it found and the number of its messages.
func (a *arena) keeps(bucket string, all []message) (standing, int) {
	t := a.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	end := strconv.Itoa(len(all))
	var stream jetstream.Stream
	await(t, "the state bucket to have the whole stream", func() (bool, string) {
		var last *jetstream.RawStreamMsg
		var err error
		if stream, err = a.js.Stream(ctx, "KV_"+bucket); err == nil {
			last, err = stream.GetMsg(ctx, stream.CachedInfo().State.LastSeq)
		}
		if err != nil {
			return false, err.Error()
		}
		at := last.Header.Get("Ffstream-Sequence")
		return at == end, at + " of " + end + ": " + mustJSON(a.report()) + lastLines(a.service.output(), 5)
	})
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	a.must(err)
	messages, err := consumer.Messages()
	a.must(err)
	defer messages.Stop()
	var log []kept
	for range stream.CachedInfo().State.Msgs {
		m, err := messages.Next(jetstream.NextContext(ctx))
		a.must(err)
		k := kept{key: strings.TrimPrefix(m.Subject(), "$KV."+bucket+"."), position: m.Headers().Get("Ffstream-Position")}
		if m.Headers().Get("KV-Operation") == "" {
			k.value = bytes.Clone(m.Data())
		}
		k.sequence, err = strconv.ParseUint(m.Headers().Get("Ffstream-Sequence"), 10, 64)
		a.must(err)
		log = append(log, k)
	}
	s := checkBucket(log, a.hears(all))
	if !s.exact() {
		t.Errorf("of %d messages in the state bucket: %s", len(log), &s)
	}
	return s, len(log)
}

// TestBucketChecker: what is done to a state bucket that was exact is found, under its
// name and at its place.
func TestBucketChecker(t *testing.T) {
	t.Parallel()
	execution := func(n int) string { return fmt.Sprintf("{fp:%d}:u", n) }
	var events []heard
	for i, e := range []struct {
		of    int // 0: of none
		state string
	}{{1, "waiting"}, {2, "waiting"}, {1, "active"}, {0, ""}, {3, ""}, {2, "purged"}} {
		h := heard{id: fmt.Sprintf("7-%d", i), position: fmt.Sprintf("%d/0", i), state: e.state}
		if e.of > 0 {
			h.key = keyOf(execution(e.of))
		}
		events = append(events, h)
	}
	put := func(of int, event int, state string, sequence uint64) kept {
		e, text := events[event-1], fmt.Sprintf("%q", state)
		corrupt := ""
		if state == "" {
			text, corrupt = "null", `,"corrupt":"lifecycle_phase"`
		}
		return kept{keyOf(execution(of)), fmt.Appendf(nil, `{"execution_id":%q,"state":%s,"position":%q,"sequence":%d,"event_id":%q%s}`, execution(of), text, e.position, event, e.id, corrupt), sequence, e.position}
	}
	exact := []kept{
		{"_building", []byte("{}"), 0, ""}, put(1, 1, "waiting", 1), put(2, 2, "waiting", 2), put(1, 3, "active", 3), {"_position", []byte("{}"), 4, ""},
		put(3, 5, "", 5), {keyOf(execution(2)), nil, 6, events[5].position},
	}
	with := func(from, to int, by ...kept) []kept {
		return append(append(append([]kept(nil), exact[:from]...), by...), exact[to:]...)
	}
	truncated := append(append([]heard(nil), events...), heard{id: "7-6", position: "6/0", truncated: true})
	for _, c := range []struct {
		name   string
		log    []kept
		events []heard
		want   standing
		first  string
	}{
		{"exact", exact, events, standing{}, ""},
		{"several events together", with(1, 4, put(2, 2, "waiting", 0), put(1, 3, "active", 3)), events, standing{}, ""},
		{"a truncation", append(with(7, 7), kept{keyOf(execution(1)), nil, 6, ""}, kept{keyOf(execution(3)), nil, 6, ""}, kept{"_position", []byte("{}"), 7, ""}), truncated, standing{}, ""},
		{"a key left by a truncation", append(with(7, 7), kept{keyOf(execution(1)), nil, 6, ""}, kept{"_position", []byte("{}"), 7, ""}), truncated, standing{stale: 1}, "message 9: everything up to 7, and 3.u is told as of 5"},
		{"stale at the end", with(3, 4, kept{"_position", []byte("{}"), 3, ""}), events, standing{stale: 1}, "message 4: everything up to 3, and 1.u is told as of 1 and not of 3"},
		{"stale for a while", with(3, 5, kept{"_position", []byte("{}"), 4, ""}, put(1, 3, "active", 4)), events, standing{stale: 1}, "message 4: everything up to 4, and 1.u"},
		{"gone back", with(5, 5, put(1, 1, "waiting", 4)), events, standing{stale: 1}, "message 6: 1.u was told as of 3, and is told as of 1"},
		{"said to be behind again", with(5, 5, put(1, 3, "active", 3)), events, standing{stale: 1}, "message 6: it says that it has everything up to 3, and said 4"},
		{"missing", with(5, 6), events, standing{missing: 1}, "message 6: everything up to 6, and nothing tells of 3.u"},
		{"missing for a while", with(1, 3, put(2, 2, "waiting", 2), put(1, 1, "waiting", 2)), events, standing{missing: 1}, "message 2: everything up to 2, and nothing tells of 1.u"},
		{"not deleted", with(6, 7, kept{"_position", []byte("{}"), 6, ""}), events, standing{stale: 1}, "message 7: everything up to 6, and 2.u is told as of 2"},
		{"deleted too soon", with(3, 3, kept{keyOf(execution(1)), nil, 2, events[0].position}), events, standing{altered: 1}, "message 4: 1.u is deleted at 0/0, where it was not"},
		{"too new", exact, events[:5], standing{altered: 1, early: 1}, "message 7: 2.u is deleted"},
		{"a value that is too new", with(6, 7), events[:4], standing{early: 2}, "message 6: 3.u is told as of 5, and the stream ends with 4"},
		{"another state", with(3, 4, put(1, 3, "suspended", 3)), events, standing{altered: 1, stale: 1}, "message 4: 1.u at 2/0"},
		{"another's", with(3, 4, put(3, 3, "active", 3)), events, standing{altered: 1, stale: 1}, "message 4: 3.u at 2/0"},
		{"not at its end", exact[:5], events, standing{missing: 2, stale: 1}, "message 5: it ends at sequence 4 of 6"},
		{"empty", nil, events, standing{missing: 5}, "message 0: it ends at sequence 0 of 6"},
	} {
		s := checkBucket(c.log, c.events)
		if !strings.HasPrefix(s.first, c.first) || (s.first == "") != (c.first == "") {
			t.Errorf("%s: the first difference is %q, want %q", c.name, s.first, c.first)
		}
		if s.first = ""; s != c.want {
			t.Errorf("%s: %s, want %s", c.name, &s, &c.want)
		}
	}
}
