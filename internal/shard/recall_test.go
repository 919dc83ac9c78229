package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/read"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// rows reads a database as a backfill does.
type rows struct{ db *testenv.Database }

func (r rows) Watermark(context.Context, string, string) error { return nil }

func (r rows) NextPartition(ctx context.Context, from int16) (int16, bool, error) {
	return read.NextPartition(ctx, r.db.Pool, from)
}

func (r rows) Chunk(ctx context.Context, c ChunkQuery) ([]ffstream.Event, ffstream.Opt[uuid.UUID], error) {
	return read.Chunk(ctx, r.db.Pool, read.ChunkQuery{Partition: c.Partition, After: c.After, Lanes: c.Lanes, Limit: c.Limit, Waiting: c.Waiting})
}

func (r rows) Listed(ctx context.Context, partition int16, ids []uuid.UUID, waiting func(xids []int64) error) ([]ffstream.Event, error) {
	return read.Listed(ctx, r.db.Pool, partition, ids, waiting)
}

func (r rows) Estimate(ctx context.Context) (uint64, error) { return read.Estimate(ctx, r.db.Pool) }

// behindGap is a backfill of a stream that told something, and then had a gap.
func behindGap(t *testing.T, db *testenv.Database, events []ffstream.Event) *backfiller {
	t.Helper()
	ctx := testContext(t)
	nc, cfg := broker(t, db.Name)
	stream, err := publish.Open(ctx, nc, cfg, true)
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for i := range events {
		e := &events[i]
		e.ID.Position.Index = uint32(i)
		if _, err := js.Publish(ctx, e.Subject(cfg.Prefix), e.AppendJSON(nil)); err != nil {
			t.Fatal(err)
		}
	}
	s := New(nc, Config{Sink: cfg, Log: slog.New(slog.DiscardHandler), Backfill: &BackfillConfig{Source: rows{db}}})
	s.board.update(func(st *Status) { st.Acked = uint64(len(events)) })
	w := newWindow("mine")
	b := &backfiller{shard: s, cfg: s.cfg.Backfill, stream: stream, window: &w}
	if b.store, err = s.orders(ctx); err != nil {
		t.Fatal(err)
	}
	if b.gap, err = stream.LastGap(ctx); err != nil {
		t.Fatal(err)
	}
	if b.order, err = b.store.Place(ctx, backfill.Order{}); err != nil {
		t.Fatal(err)
	}
	b.report.Run = b.order.Run
	return b
}

func is(id ffstream.ExecutionID, state ffstream.PublicState) ffstream.Event {
	return ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: id, To: state, From: ffstream.StateWaiting}
}

var gap = ffstream.Event{Type: ffstream.TypeGap, Gap: &ffstream.Gap{Reason: ffstream.GapSlotMissing}}

// executions makes rows of a partition.
func executions(t *testing.T, db *testenv.Database, partition, n int) (ids []ffstream.ExecutionID) {
	t.Helper()
	_, err := db.Pool.Exec(t.Context(), fmt.Sprintf(`INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms)
		SELECT %d, gen_random_uuid(), 'default', 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending', n FROM generate_series(1, %d) n`, partition, n))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := db.Pool.Query(t.Context(), "SELECT execution_id FROM ff_exec_core WHERE partition_key = $1", partition)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id [16]byte
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, ffstream.NewExecutionID(uint16(partition), id))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return ids
}

// TestRecallCrowded: a partition of more executions than memory has room for is gone
// through in parts, of each of which no more is held, and every execution is told once:
// those that differ as repaired, those that are gone as purged.
func TestRecallCrowded(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	const held = 40
	ids := append(executions(t, db, 86, 300), executions(t, db, 87, 30)...)
	var events []ffstream.Event
	want := map[ffstream.ExecutionID]string{}
	for i, id := range ids {
		want[id] = "waiting"
		switch i % 10 {
		case 1:
			events, want[id] = append(events, is(id, ffstream.StateActive)), "active, repaired"
		case 2: // nothing was told of it
		default:
			events = append(events, is(id, ffstream.StateWaiting))
		}
	}
	for range 100 {
		id := ffstream.NewExecutionID(86, uuid.New())
		events, want[id] = append(events, is(id, ffstream.StateWaiting)), "waiting, gone"
	}
	b := behindGap(t, db, append(events, gap))
	b.cfg.Told = held
	got := map[ffstream.ExecutionID]string{}
	for parts := 0; ; parts++ {
		q, more, err := b.next(ctx, b.at.After)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			if parts < len(want)/held {
				t.Errorf("%d executions were gone through in %d parts", len(want), parts)
			}
			break
		}
		if err := b.recall(ctx, &q); err != nil {
			t.Fatal(err)
		}
		if n := len(b.told.states.Sorted()); n > held {
			t.Errorf("%d executions are held, want %d at most", n, held)
		}
		b.window.lows <- low{b.number, uint64(len(events))}
		var chunk []ffstream.Event
		if chunk, b.at.After, err = b.fill(ctx, q); err != nil {
			t.Fatal(err)
		}
		select {
		case <-b.window.lows:
		default:
		}
		for i := range chunk {
			e := &chunk[i]
			if _, twice := got[e.ExecutionID]; twice {
				t.Errorf("%s is told twice", e.ExecutionID)
			}
			switch s := e.Snapshot; {
			case e.To == ffstream.StatePurged:
				got[e.ExecutionID] = string(s.Known) + ", gone"
			case s.Repair:
				got[e.ExecutionID] = string(s.Known) + ", repaired"
			default:
				got[e.ExecutionID] = string(e.To)
			}
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d are told, want %d", len(got), len(want))
	}
	for id, text := range want {
		if got[id] != text {
			t.Errorf("%s is told as %q, want %q", id, got[id], text)
		}
	}
}

// TestReciteHeeds: who reads what was told for long looks whether it should go on.
func TestReciteHeeds(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	var events []ffstream.Event
	for range 600 {
		events = append(events, is(ffstream.NewExecutionID(86, uuid.New()), ffstream.StateWaiting))
	}
	b := behindGap(t, db, append(events, gap))
	pace := time.NewTicker(10 * time.Millisecond) // of a stream that takes seconds to read
	defer pace.Stop()
	n := 0
	err := b.recite(ctx, []string{b.shard.cfg.Sink.Prefix + ".exec.86.>"}, uint64(len(events)), func(*ffstream.Event, uint64) {
		if n++; n == 1 {
			if _, err := b.store.Ask(ctx, backfill.Pause); err != nil {
				t.Error(err)
			}
		}
		<-pace.C
	})
	if !errors.Is(err, errWish) || n == len(events) {
		t.Errorf("%d of %d events are read though the run is to be paused: %v", n, len(events), err)
	}
	if _, report, _, err := b.store.Current(ctx); err != nil || report.State != backfill.Waiting || report.Updated.IsZero() {
		t.Errorf("meanwhile it is told: %+v (%v)", report, err)
	}
}

// TestListed: what has come to be as the stream told is no repair, and what is gone, as
// it told, is nothing.
func TestListed(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	ids := executions(t, db, 7, 3)
	gone, unknown, told := ffstream.NewExecutionID(7, uuid.New()), ffstream.NewExecutionID(7, uuid.New()), ffstream.NewExecutionID(7, uuid.New())
	b := behindGap(t, db, nil)
	got, err := b.listed(ctx, []backfill.Listed{
		{ID: ids[0], Known: "waiting"}, {ID: ids[1], Known: "active"}, {ID: ids[2]},
		{ID: gone, Known: "waiting"}, {ID: unknown}, {ID: told, Known: "purged"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[ffstream.ExecutionID]string{ids[0]: "false  waiting", ids[1]: "true active waiting", ids[2]: "true  waiting", gone: "true waiting purged"}
	for i := range got {
		e := &got[i]
		if text := fmt.Sprint(e.Snapshot.Repair, " ", e.Snapshot.Known, " ", e.To); text != want[e.ExecutionID] {
			t.Errorf("%s is %s, want %s", e.ExecutionID, text, want[e.ExecutionID])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d of %d are told", len(got), len(want))
	}
}

// TestUnread: behind a gap those partitions are looked at of which the stream tells, and
// all that the engine uses, though no row is there.
func TestUnread(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	executions(t, db, 4, 1)
	corrupt := ffstream.Event{Type: ffstream.TypeCorrupt, ExecutionID: ffstream.NewExecutionID(65535, uuid.New())}
	b := behindGap(t, db, []ffstream.Event{is(ffstream.NewExecutionID(300, uuid.New()), ffstream.StateWaiting), corrupt, is(ffstream.NewExecutionID(7, uuid.New()), ffstream.StateWaiting), gap})
	visited := func() (keys []int16) {
		t.Helper()
		var err error
		if b.visit, err = b.unread(ctx); err != nil {
			t.Fatal(err)
		}
		for after := (ffstream.Opt[ffstream.ExecutionID]{}); ; {
			q, more, err := b.next(ctx, after)
			if err != nil {
				t.Fatal(err)
			}
			if !more {
				return keys
			}
			keys = append(keys, q.Partition)
			after = ffstream.Some(ffstream.NewExecutionID(uint16(q.Partition), lastUUID))
		}
	}
	keys := visited()
	if len(keys) != 258 || keys[0] != -1 || keys[1] != 0 || keys[256] != 255 || keys[257] != 300 || !slices.IsSorted(keys) {
		t.Errorf("behind a gap %v are visited", keys)
	}
	b.order.Filter.Lanes = []string{"default"}
	if keys := visited(); keys[0] != 4 {
		t.Errorf("for a lane %v are visited", keys)
	}
}
