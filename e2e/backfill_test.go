package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// split takes what backfills added out of a stream.
func split(t testing.TB, all []message) (transitions, added []message) {
	t.Helper()
	for _, m := range all {
		e := parsed(t, m)
		if e.Type == "ffstream.backfill.v1" || e.Data.Op == "snapshot" {
			added = append(added, m)
		} else {
			transitions = append(transitions, m)
		}
	}
	return transitions, added
}

// told is what these tests look at in an event; it is read without the package
// that wrote it.
type told struct {
	Type string
	Time time.Time
	Data struct {
		ExecutionID string `json:"execution_id"`
		Op, Run, To string
		From        *string
		Repair      bool
		Known       *string
		Status      string
		Executions  int
		Published   int
		Superseded  int
		Lane        string `json:"lane_id"`
		Namespace   string
	}
}

func parsed(t testing.TB, m message) told {
	t.Helper()
	var e told
	if err := json.Unmarshal(m.body, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// snapshots looks at what backfills added, in its place: no snapshot contradicts
// the transitions around it, and no run tells an execution twice.
type snapshots struct {
	t     testing.TB
	at, n int
	state map[string]string   // as told last; absent: not known
	fresh map[string]bool     // by a snapshot
	seen  map[string]struct{} // of the run, or of any
	run   string
	told  map[string]struct{} // ever
}

func newSnapshots(t testing.TB) *snapshots {
	return &snapshots{t: t, state: map[string]string{}, fresh: map[string]bool{}, seen: map[string]struct{}{}, told: map[string]struct{}{}}
}

func (s *snapshots) message(m message) {
	s.t.Helper()
	s.at++
	e := parsed(s.t, m)
	id, d := e.Data.ExecutionID, &e.Data
	if id != "" {
		s.told[id] = struct{}{}
	}
	switch e.Type {
	case "ffstream.table.truncated.v1":
		clear(s.state)
		clear(s.fresh)
	case "ffstream.execution.corrupt.v1":
		delete(s.state, id)
		delete(s.fresh, id)
	case "ffstream.execution.snapshotted.v1":
		s.n++
		if d.Run != s.run { // one ends before the next begins
			s.run = d.Run
			clear(s.seen)
		}
		if was, known := s.state[id]; known && was != d.To && !d.Repair {
			s.t.Fatalf("message %d: execution %s was told to be %s, and a snapshot says %s: %s", s.at, id, was, d.To, m.body)
		}
		if _, twice := s.seen[id]; twice {
			s.t.Fatalf("message %d: run %s tells of %s twice", s.at, d.Run, id)
		}
		s.seen[id] = struct{}{}
		s.state[id], s.fresh[id] = d.To, true
	case "ffstream.execution.transitioned.v1":
		if s.fresh[id] && d.From != nil && *d.From != s.state[id] {
			s.t.Fatalf("message %d: a snapshot said that %s is %s, and the next transition says that it was %s", s.at, id, s.state[id], *d.From)
		}
		s.state[id] = d.To
		delete(s.fresh, id)
	}
}

// complete checks that everything which exists was told of.
func (s *snapshots) complete(w *world) {
	s.t.Helper()
	rows, err := w.db.Pool.Query(context.Background(), "SELECT '{fp:' || partition_key || '}:' || execution_id FROM ff_exec_core")
	w.must(err)
	defer rows.Close()
	for rows.Next() {
		var id string
		w.must(rows.Scan(&id))
		if _, told := s.told[id]; !told {
			s.t.Fatalf("nothing tells of execution %s", id)
		}
	}
	w.must(rows.Err())
}

// snapshotted checks all of a stream, and returns the number of snapshots.
func (w *world) snapshotted(all []message) int {
	w.t.Helper()
	s := newSnapshots(w.t)
	for _, m := range all {
		s.message(m)
	}
	s.complete(w)
	return s.n
}

// backfilled waits until the latest backfill has ended, and gives its report.
func (w *world) backfilled(p *process) (r progress) {
	w.t.Helper()
	await(w.t, "the backfill to end", func() (bool, string) {
		var text string
		r, text = w.backfillStatus()
		if p != nil {
			text += p.output()
		}
		return r.State == "completed" || r.State == "cancelled", text
	})
	return r
}

type progress struct {
	Run, State, Waiting, Error                string
	Executions, Published, Superseded, Chunks int
}

func (w *world) backfillStatus() (progress, string) {
	w.t.Helper()
	s, code := asks(w.t, w.env(), "backfill", "status", "--json")
	if code != 0 {
		w.t.Fatalf("status: %s", s.output())
	}
	var answer struct{ Report progress }
	if err := json.Unmarshal([]byte(s.output()), &answer); err != nil {
		w.t.Fatalf("%v: %s", err, s.output())
	}
	return answer.Report, s.output()
}

// populate makes executions that exist before anything follows them, in every
// state that the stories reach.
func (w *world) populate(bulk int) {
	w.t.Helper()
	for _, story := range engine.StoriesOf(engine.Newest) {
		w.play(&engine.Engine{Version: engine.Newest}, &story, engine.Exec{Partition: int16(len(story.Name) % 256), ID: uuid.New()})
	}
	w.exec(fmt.Sprintf(insertBulk, bulk))
}

// TestBackfill: a service that starts late tells every execution's state once,
// and transitions from there on.
func TestBackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	w.populate(3000)
	o.forget()
	p := start(t, w.with(map[string]string{"FFSTREAM_BACKFILL": "initial"}), "run")
	w.awaitActive(p)
	r := w.backfilled(p)
	if r.State != "completed" || r.Executions != r.Published || r.Executions < 3000 {
		t.Errorf("%+v", r)
	}
	w.populate(10)
	w.caughtUp(p)
	all := w.stored()
	transitions, added := split(t, all)
	o.compareWith(transitions)
	if n := w.snapshotted(all); n > r.Published || n < 3000 {
		t.Errorf("%d snapshots, and %d were published", n, r.Published)
	}
	last := parsed(t, added[len(added)-1])
	if last.Type != "ffstream.backfill.v1" || last.Data.Status != "completed" || last.Data.Published != r.Published {
		t.Errorf("the last word is %s", added[len(added)-1].body)
	}
	w.sameAsRead(r.Run)
	p.stop()
}

// sameAsRead orders a backfill while nothing goes on, and holds what it tells
// against point reads.
func (w *world) sameAsRead(before string) {
	t := w.t
	t.Helper()
	w.orders("backfill")
	r := w.backfilled(nil)
	if r.Run == before || r.Superseded != 0 || r.Published != r.Executions {
		t.Errorf("a second backfill: %+v", r)
	}
	_, added := split(t, w.stored())
	read, n := reader.New(w.db.Pool), 0
	for _, m := range added {
		e, err := ffstream.ParseEvent(m.body)
		w.must(err)
		if e.Snapshot == nil || e.Snapshot.Run != r.Run {
			continue
		}
		n++
		if e.LaneID == "bulk" && n%100 != 0 { // all alike
			continue
		}
		if e.Type == ffstream.TypeCorrupt {
			_, _, err := read.ExecutionState(t.Context(), e.ExecutionID)
			var corrupt *ffstream.CorruptionError
			if !errors.As(err, &corrupt) || corrupt.Column != e.Corrupt.Column {
				t.Errorf("%s, and a read says %v", m.body, err)
			}
			continue
		}
		full, found, err := read.DescribeExecution(t.Context(), e.ExecutionID)
		w.must(err)
		info := full.Info
		want := ffstream.Event{
			ID: e.ID, Type: e.Type, Source: e.Source, Time: e.Time, ExecutionID: e.ExecutionID, FlowID: info.FlowID,
			Namespace: info.Namespace, LaneID: info.LaneID, ExecutionKind: info.ExecutionKind, Priority: info.Priority,
			To: info.PublicState, StateVector: info.StateVector, StoredPublicState: info.StoredPublicState, Consistent: info.Consistent,
			EvidenceMissing: info.EvidenceMissing, CurrentAttemptIndex: info.CurrentAttemptIndex, Attempt: full.CurrentAttempt,
			CreatedAtMs: ffstream.Some(info.CreatedAtMs), StartedAtMs: info.StartedAtMs, TerminalAtMs: info.CompletedAtMs, BlockingDetail: info.BlockingDetail,
			CancellationReason: full.CancellationReason, CancelledBy: full.CancelledBy, Tags: full.Tags, Snapshot: e.Snapshot, Tx: e.Tx,
		}
		if !found || !reflect.DeepEqual(e, want) {
			t.Fatalf("the backfill tells\n%+v\nand a read\n%+v", e, want)
		}
	}
	if n != r.Published {
		t.Errorf("%d snapshots, and %d were published", n, r.Published)
	}
}

// orders runs the program with what must succeed, and gives its output.
func (w *world) orders(args ...string) string {
	w.t.Helper()
	p, code := asks(w.t, w.env(), args...)
	if code != 0 {
		w.t.Fatalf("%s: %s", args, p.output())
	}
	return p.output()
}

// TestBackfillRace: executions that change all the time are told of by the one or
// the other, and never wrongly.
func TestBackfillRace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	w.exec(fmt.Sprintf(insertBulk, 1500))
	o.forget()
	p := w.run()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for n := range 3 {
		wg.Go(func() {
			for i := n; ctx.Err() == nil; i++ {
				pause(ctx, 5*time.Millisecond) // a backfill gives way to a stream that cannot keep up
				// One in two updates is no transition, and one in four ends in nothing.
				sql := fmt.Sprintf(`UPDATE ff_exec_core SET lifecycle_phase = CASE lifecycle_phase WHEN 'active' THEN 'suspended' ELSE 'active' END
					WHERE partition_key IN (%d, %d)`, i*7%256, i*13%256)
				switch i % 4 {
				case 1, 2:
					sql = fmt.Sprintf("UPDATE ff_exec_core SET priority = priority + 1 WHERE partition_key = %d", i*5%256)
				case 3:
					sql = "BEGIN; " + sql + "; ROLLBACK"
				}
				if _, err := w.db.Pool.Exec(ctx, sql); err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), "40P01") {
					t.Error(err)
				}
			}
		})
	}
	superseded := 0
	for range 3 {
		w.orders("backfill", "--rate", "1000000")
		r := w.backfilled(p)
		superseded += r.Superseded
		if r.Published+r.Superseded != 1500 {
			t.Errorf("%+v", r)
		}
	}
	stop()
	wg.Wait()
	w.caughtUp(p)
	all := w.stored()
	transitions, _ := split(t, all)
	o.compareWith(transitions)
	n := w.snapshotted(all)
	if superseded == 0 || n == 0 {
		t.Errorf("%d snapshots, %d superseded: the race was none", n, superseded)
	}
	t.Logf("%d transitions, %d snapshots, %d superseded", len(transitions), n, superseded)
}

// TestBackfillUnseen: a commit waits for a standby that is away. Its event is in
// the stream, and no read sees it: a backfill waits too, and says for whom.
func TestBackfillUnseen(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{
		"synchronous_standby_names": "'away'", "synchronous_commit": "local",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Close() })
	w := newWorld(t, 0)
	w.db = &testenv.Database{Name: "postgres", URL: pg.URL("postgres")}
	w.slot = "unseen"
	w.must(migrations.EngineSchema(ctx, w.db.URL, migrations.EngineNewest))
	w.orders("migrate")
	if w.db.Pool, err = pgxpool.New(ctx, w.db.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.db.Pool.Close)
	w.exec(fmt.Sprintf(insertBulk, 500))
	p := w.run()
	conn, err := pgx.Connect(ctx, w.db.URL)
	w.must(err)
	pid := int64(conn.PgConn().PID())
	committed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, "BEGIN; SET LOCAL synchronous_commit = on; UPDATE ff_exec_core SET lifecycle_phase = 'active' WHERE partition_key < 100; COMMIT")
		committed <- errors.Join(err, conn.Close(ctx))
	}()
	await(t, "the event of what nobody sees", func() (bool, string) { return w.messages() > 0, p.output() })
	is := func(state, waiting string) {
		t.Helper()
		await(t, "the backfill to be "+state, func() (bool, string) {
			r, text := w.backfillStatus()
			if r.State == "completed" {
				t.Fatal("the backfill did not wait")
			}
			return r.State == state && strings.Contains(r.Waiting, waiting), text
		})
	}
	const changing = "transactions that are changing executions"
	w.orders("backfill")
	is("waiting", changing)
	w.orders("backfill", "pause") // nothing else ends the wait
	is("paused", "")
	w.orders("backfill", "resume")
	is("waiting", changing)
	w.orders("backfill", "cancel")
	is("cancelled", "")
	w.orders("backfill")
	is("waiting", changing)
	w.exec("SELECT pg_cancel_backend($1)", pid) // the standby is given up
	r := w.backfilled(p)
	w.must(<-committed)
	if r.Executions != 500 {
		t.Errorf("%+v", r)
	}
	if n := w.snapshotted(w.stored()); n != r.Published || n != 500 {
		t.Errorf("%d snapshots: %+v", n, r)
	}
	p.stop()
	late := newWorld(t, 0)
	late.db, late.slot = w.db, "late"
	unseenBeginning(late)
}

// unseenBeginning: a transaction makes executions and commits right before the place
// where the slot begins, so no event tells of it, and waits for a standby that is
// away, so no read does. An initial backfill waits for it.
func unseenBeginning(w *world) {
	t, ctx := w.t, w.t.Context()
	t.Helper()
	open := func(sql string) (*pgx.Conn, int) {
		conn, err := pgx.Connect(ctx, w.db.URL)
		w.must(err)
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		_, err = conn.Exec(ctx, sql)
		w.must(err)
		var xid int
		w.must(conn.QueryRow(ctx, "SELECT coalesce(pg_current_xact_id_if_assigned()::text, '0')::bigint").Scan(&xid))
		return conn, xid
	}
	yes := func(what, sql string, args ...any) {
		t.Helper()
		await(t, what, func() (yes bool, text string) {
			w.must(w.db.Pool.QueryRow(ctx, sql, args...).Scan(&yes))
			return yes, ""
		})
	}
	awaited := func(xid int) {
		t.Helper()
		yes("the slot's creation to wait", "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid' AND transactionid::text::bigint = $1)", xid)
	}
	const begin = "BEGIN; SELECT pg_current_xact_id()"
	first, xid := open(begin)
	p := start(t, w.with(map[string]string{"FFSTREAM_BACKFILL": "initial"}), "run")
	awaited(xid)
	second, xid := open(begin)
	_, err := first.Exec(ctx, "COMMIT")
	w.must(err)
	awaited(xid)
	unseen, _ := open("SET synchronous_commit = on")
	committed := make(chan error, 1)
	go func() {
		_, err := unseen.Exec(ctx, fmt.Sprintf(insertBulk, 7))
		committed <- err
	}()
	pid := int64(unseen.PgConn().PID())
	yes("the commit to wait", "SELECT coalesce(wait_event = 'SyncRep', false) FROM pg_stat_activity WHERE pid = $1", pid)
	_, err = second.Exec(ctx, "COMMIT")
	w.must(err)
	w.awaitActive(p)
	await(t, "the backfill to wait", func() (bool, string) {
		r, text := w.backfillStatus()
		return r.State == "completed" || r.State == "waiting" && strings.Contains(r.Waiting, "transactions"), text
	})
	w.exec("SELECT pg_cancel_backend($1)", pid)
	w.must(<-committed)
	if r := w.backfilled(p); r.Executions != 507 {
		t.Errorf("the initial backfill: %+v", r)
	}
	if found := w.differences(0); len(found) > 0 {
		t.Errorf("after the initial backfill: %v", found)
	}
	p.stop()
}
