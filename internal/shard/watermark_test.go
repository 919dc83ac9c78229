package shard

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

func message(w *window, kind string, number uint64) *pgoutput.LogicalMessage {
	return &pgoutput.LogicalMessage{LSN: 0x100, Prefix: []byte(WatermarkPrefix("s")), Content: []byte(w.watermark(kind, number))}
}

// TestWindow: a window has what the stream told between its watermarks and nothing
// else, and is void where it cannot tell.
func TestWindow(t *testing.T) {
	t.Parallel()
	w := newWindow("mine")
	id := func(n byte) ffstream.ExecutionID { return ffstream.NewExecutionID(7, uuid.UUID{n}) }
	w.see(&ffstream.Event{ExecutionID: id(1)})
	w.begin(1)
	w.see(&ffstream.Event{ExecutionID: id(2)})
	if w.supersedes(id(1)) || !w.supersedes(id(2)) || !w.open {
		t.Error("the window does not have what was told in it, or has what was told before")
	}
	w.begin(2)
	if w.supersedes(id(2)) {
		t.Error("the next window has what was told in the one before")
	}
	w.see(&ffstream.Event{Type: ffstream.TypeTruncated})
	if w.open {
		t.Error("a window over a TRUNCATE is not void")
	}
	w.begin(3)
	for n := range maxTouched + 1 {
		w.see(&ffstream.Event{ExecutionID: ffstream.NewExecutionID(7, uuid.UUID{1, byte(n), byte(n >> 8), byte(n >> 16)})})
	}
	if w.open {
		t.Error("a window grows without bound")
	}
}

// TestWatermarks: a session knows its own, for this slot.
func TestWatermarks(t *testing.T) {
	t.Parallel()
	w, other := newWindow("mine"), newWindow("theirs")
	if kind, n, ok := w.parse(message(&w, highWatermark, 12), "s"); !ok || kind != highWatermark || n != 12 {
		t.Errorf("its own is %q %d %v", kind, n, ok)
	}
	for name, m := range map[string]*pgoutput.LogicalMessage{
		"another session's": message(&other, highWatermark, 12),
		"another prefix":    {Prefix: []byte("x"), Content: []byte("high 1 mine")},
		"a heartbeat":       {Prefix: []byte(HeartbeatPrefix("s")), Content: []byte("1 mine")},
		"no number":         {Prefix: []byte(WatermarkPrefix("s")), Content: []byte("high one mine")},
		"empty":             {Prefix: []byte(WatermarkPrefix("s"))},
	} {
		if _, _, ok := w.parse(m, "s"); ok {
			t.Errorf("%s is taken for its own", name)
		}
	}
}

// TestStrangeWatermark: while events that have aged out are counted off, snapshots
// among them cannot be told: that is a gap, and never a guess.
func TestStrangeWatermark(t *testing.T) {
	t.Parallel()
	other := newWindow("theirs")
	ss := &session{shard: New(nil, Config{Source: repl.Config{Slot: "s"}, Log: slog.New(slog.DiscardHandler)}), journal: &journal{}, window: newWindow("mine"), extra: 1}
	if err := ss.mark(t.Context(), message(&other, lowWatermark, 1)); err != nil {
		t.Errorf("a low watermark: %v", err)
	}
	if err := ss.mark(t.Context(), message(&other, highWatermark, 1)); !errors.Is(err, ErrGap) {
		t.Errorf("a high watermark while events are counted off: %v", err)
	}
	ss.extra = 0
	if err := ss.mark(t.Context(), message(&other, highWatermark, 1)); err != nil {
		t.Errorf("a high watermark later: %v", err)
	}
}

// TestFollowing: partitions are read in the order of their keys, which are signed.
func TestFollowing(t *testing.T) {
	t.Parallel()
	var got []int16
	partitions := []uint16{300, 7, 65535, 7}
	for from := -1 << 15; ; {
		key, more := following(partitions, from)
		if !more {
			break
		}
		got = append(got, key)
		from = int(key) + 1
	}
	if len(got) != 3 || got[0] != -1 || got[1] != 7 || got[2] != 300 {
		t.Errorf("read in the order %v", got)
	}
}

// TestThrottle: a run reads as many executions a second as it may, and makes up for
// no more than a second.
func TestThrottle(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	b := &backfiller{per: 1000, free: now}
	for range 10 {
		b.throttle(now, 40)
	}
	if got := b.free.Sub(now); got != 400*time.Millisecond {
		t.Errorf("400 executions of 1000 a second take %s", got)
	}
	now = now.Add(time.Hour)
	for range 30 {
		b.throttle(now, 100)
	}
	if got := b.free.Sub(now); got != 2*time.Second {
		t.Errorf("3000 behind an hour without any take %s, want 2s more", got)
	}
	b = &backfiller{free: now}
	if b.throttle(now, 1_000_000); b.free != now {
		t.Error("any number is not any number")
	}
}

// TestGiveWay: a backfill gives way to a stream that is behind, and not to what it
// publishes itself while the database is at rest.
func TestGiveWay(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	beats := Config{Heartbeat: func(context.Context, string, string) error { return nil }, HeartbeatInterval: 10 * time.Second}
	for name, c := range map[string]struct {
		cfg  Config
		set  func(*Status)
		busy bool
	}{
		"at the beginning": {set: func(*Status) {}},
		"at rest, with a chunk in flight": {set: func(b *Status) {
			b.CommitTime, b.InFlight, b.Received, b.ServerEnd = ago(time.Hour), 900, 1000, 5000
		}},
		"far from the log's end":  {set: func(b *Status) { b.Received, b.ServerEnd = 1, 1+giveWayBytes+1 }, busy: true},
		"as far as it may be":     {set: func(b *Status) { b.Received, b.ServerEnd = 1, 1+giveWayBytes }},
		"a slow heartbeat":        {cfg: beats, set: func(b *Status) { b.Heartbeat.Sent, b.Heartbeat.Delay = ago(time.Second), 3*time.Second }, busy: true},
		"a heartbeat":             {cfg: beats, set: func(b *Status) { b.Heartbeat.Sent, b.Heartbeat.Delay = ago(11*time.Second), time.Second }},
		"a heartbeat that is due": {cfg: beats, set: func(b *Status) { b.Heartbeat.Sent = ago(13 * time.Second) }, busy: true},
		"none that can be written": {cfg: beats, set: func(b *Status) {
			b.Heartbeat.Sent, b.Heartbeat.Error = ago(time.Hour), "permission denied"
		}},
	} {
		s := New(nil, c.cfg)
		s.board.update(c.set)
		if why := s.busy(now); (why != "") != c.busy {
			t.Errorf("%s: a backfill gives way to %q", name, why)
		}
	}
}

// TestUncounted: while events that have aged out are counted off, a transaction of
// which the WAL alone does not decide whether it made one is a gap.
func TestUncounted(t *testing.T) {
	t.Parallel()
	columns := []string{
		"partition_key", "execution_id", "lane_id", "attempt_index", "lifecycle_phase", "ownership_state", "eligibility_state", "public_state",
		"attempt_state", "priority", "created_at_ms", "raw_fields", "blocking_reason", "cancellation_reason", "cancelled_by", "terminal_at_ms", "flow_id", "started_at_ms",
	}
	row := []string{"1", uuid.NewString(), "default", "0", "terminal", "unowned", "not_applicable", "running", "attempt_terminal", "0", "1", "{}"}
	relation := pgoutput.Relation{ID: 1, Namespace: "public", Name: "ff_exec_core", ReplicaIdentity: 'd'}
	var values []pgoutput.Value
	for i, name := range columns {
		relation.Columns = append(relation.Columns, pgoutput.Column{Name: name})
		v := pgoutput.Value{Kind: pgoutput.ValueNull}
		if i < len(row) {
			v = pgoutput.Value{Kind: pgoutput.ValueText, Data: []byte(row[i])}
		}
		values = append(values, v)
	}
	for _, extra := range []uint64{2, 1} { // also the last one that is counted off
		ss := &session{
			shard: New(nil, Config{Source: repl.Config{Slot: "s"}, Log: slog.New(slog.DiscardHandler)}), journal: &journal{}, window: newWindow("mine"), extra: extra,
			norm: normalize.New(normalize.Config{Identity: true, Lookup: noAttempts{}}), events: map[ffstream.PublicState]uint64{},
		}
		for _, err := range []error{
			ss.norm.Relation(&relation),
			ss.norm.Begin(&pgoutput.Begin{FinalLSN: 0x100, Xid: 1}),
			ss.norm.Row(&pgoutput.Message{Kind: pgoutput.KindUpdate, RelationID: 1, New: values}),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		err := ss.commit(t.Context(), &pgoutput.Commit{CommitLSN: 0x100, EndLSN: 0x108})
		if !errors.Is(err, ErrGap) || !strings.Contains(err.Error(), "memory of recent states") {
			t.Errorf("an update that may have made an event, with %d to count off: %v", extra, err)
		}
	}
}

// noAttempts looks up executions without attempts.
type noAttempts struct{ normalize.Lookup }

func (noAttempts) Attempts(int16, uuid.UUID, int32, ffstream.Opt[int64]) (normalize.LookedUpAttempts, bool, error) {
	return normalize.LookedUpAttempts{}, true, nil
}
