package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

var versions = []struct {
	name   string
	engine engine.Version
	schema migrations.EngineVersion
}{{"0.11", engine.V011, migrations.Engine011}, {"newest", engine.Newest, migrations.EngineNewest}}

// TestStories plays every life story, one after the other, and holds the events
// against the oracle, field by field, and against the story itself.
func TestStories(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, v.schema)
			o := newOracle(w)
			p := w.run()
			var want []string
			for i, story := range engine.StoriesOf(v.engine) {
				x := engine.Exec{Partition: int16(i % 256), ID: uuid.New(), Lane: "default", Namespace: "ns a", Tags: map[string]string{"cairn.instance_id": "i-1"}}
				want = append(want, w.play(&engine.Engine{Version: v.engine}, &story, x)...)
			}
			w.caughtUp(p)
			o.compare()
			for i, e := range o.want {
				data := e.body["data"].(map[string]any)
				from, _ := data["from"].(string)
				if got := data["execution_id"].(string) + " " + from + " -> " + data["to"].(string); got != want[i] {
					t.Fatalf("event %d is %q, the story says %q", i, got, want[i])
				}
			}
			if len(o.want) != len(want) {
				t.Errorf("%d events, the stories have %d", len(o.want), len(want))
			}
			p.stop()
		})
	}
}

// play plays a story and gives its transitions.
func (w *world) play(e *engine.Engine, story *engine.Story, x engine.Exec) (want []string) {
	w.t.Helper()
	ctx := context.Background()
	for i := range story.Steps {
		step := &story.Steps[i]
		err := pgx.BeginFunc(ctx, w.db.Pool, func(tx pgx.Tx) error { return step.Do(ctx, e, tx, x) })
		if err != nil {
			w.t.Fatalf("%s, step %d %s: %v", story.Name, i, step.Op, err)
		}
		if step.Event {
			want = append(want, x.String()+" "+string(step.From)+" -> "+string(step.State))
		}
	}
	return want
}

// setting reads a size from the environment.
func setting(t testing.TB, name string, otherwise int) int {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestKill kills the service at random moments while writers go on, and starts it
// again. FFSTREAM_E2E_EXECUTIONS and FFSTREAM_E2E_SEED make it longer and repeat
// it.
func TestKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	seed := uint64(setting(t, "FFSTREAM_E2E_SEED", int(time.Now().UnixNano()&0xffffff)))
	executions := setting(t, "FFSTREAM_E2E_EXECUTIONS", 1000)
	t.Logf("FFSTREAM_E2E_SEED=%d FFSTREAM_E2E_EXECUTIONS=%d", seed, executions)
	rng := rand.New(rand.NewPCG(seed, 1))
	type outcome struct {
		sum engine.Summary
		err error
	}
	played := make(chan outcome, 1)
	p := w.run()
	go func() {
		sum, err := engine.Run(context.Background(), w.db.Pool, engine.WorkloadConfig{
			Version: engine.Newest, Writers: 8, Executions: executions, Seed: seed, Heartbeats: 1,
			Lanes: []string{"default", "lane.with dots"}, Namespaces: []string{"ns-a", "", "ns*b"},
		})
		played <- outcome{sum, err}
	}()
	kills := 0
	for done := false; !done; {
		select {
		case end := <-played:
			if end.err != nil {
				t.Fatal(end.err)
			}
			done = true
			t.Logf("%d kills, %d transactions, %d transitions", kills, end.sum.Transactions, end.sum.Transitions)
		case <-time.After(time.Duration(rng.IntN(400)) * time.Millisecond):
			// The moment is any: connecting, catching up, publishing, idle.
			p.kill()
			p = start(t, w.env(), "run")
			kills++
		}
	}
	if kills == 0 {
		t.Error("the workload ended before the first kill")
	}
	w.awaitActive(p)
	w.caughtUp(p)
	o.compare()
	p.stop()
}

// TestOneTransaction: several executions in one transaction, rows in both
// orders, savepoints rolled back, deletions, and a partition key that moves.
func TestOneTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	p := w.run()
	ctx := context.Background()
	e := &engine.Engine{Version: engine.Newest}
	xs := make([]engine.Exec, 5)
	for i := range xs {
		xs[i] = engine.Exec{Partition: int16(40 + i), ID: uuid.New(), Lane: "default", Namespace: "ns-a"}
	}
	all := func(f func(tx pgx.Tx, x engine.Exec) error) {
		t.Helper()
		err := pgx.BeginFunc(ctx, w.db.Pool, func(tx pgx.Tx) error {
			for _, x := range xs {
				if err := f(tx, x); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	all(func(tx pgx.Tx, x engine.Exec) error {
		return e.Create(ctx, tx, engine.NewExecution{Exec: x, Lane: x.Lane, Namespace: x.Namespace, Kind: "task"})
	})
	all(func(tx pgx.Tx, x engine.Exec) error { return e.Promote(ctx, tx, x) })
	all(func(tx pgx.Tx, x engine.Exec) error { return e.Claim(ctx, tx, x) })
	// Suspend writes the core row first, complete the attempt.
	all(func(tx pgx.Tx, x engine.Exec) error {
		if x.Partition%2 == 0 {
			return e.Suspend(ctx, tx, x)
		}
		return e.Complete(ctx, tx, x, nil)
	})
	all(func(tx pgx.Tx, x engine.Exec) error {
		nested, err := tx.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := nested.Exec(ctx, "DELETE FROM ff_exec_core WHERE execution_id = $1", x.ID); err != nil {
			return err
		}
		return nested.Rollback(ctx)
	})
	w.exec("UPDATE ff_exec_core SET partition_key = 99 WHERE execution_id = $1", xs[0].ID)
	w.exec("UPDATE ff_exec_core SET partition_key = 98, lifecycle_phase = 'active' WHERE execution_id = $1", xs[2].ID)
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'nonsense' WHERE execution_id = $1", xs[3].ID)
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'runnable' WHERE execution_id = $1", xs[3].ID)
	w.exec("DELETE FROM ff_exec_core WHERE partition_key IN (98, 99, 41)")
	w.caughtUp(p)
	o.compare()
	moves := 0
	for _, want := range o.want {
		if want.body["type"] == "ffstream.execution.corrupt.v1" || want.body["data"].(map[string]any)["to"] == "purged" {
			moves++
		}
	}
	if moves != 4 {
		t.Errorf("%d corrupt and purged events, want 1 and 3", moves)
	}
	p.stop()
}

// TestTruncate: everything is gone at once, and one event says so.
func TestTruncate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	x := engine.Exec{Partition: 1, ID: uuid.New(), Namespace: "ns-a"}
	w.play(&engine.Engine{Version: engine.Newest}, &engine.StoriesOf(engine.Newest)[0], x)
	w.exec("TRUNCATE ff_exec_core, ff_attempt")
	w.caughtUp(p)
	got := w.stored()
	if last := got[len(got)-1]; last.subject != w.prefix+".truncated" {
		t.Errorf("the last message is %s: %s", last.subject, last.body)
	}
	p.stop()
}

// TestLargeTransaction stores one transaction of many executions, in order.
// FFSTREAM_E2E_ROWS makes it larger.
func TestLargeTransaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	rows := setting(t, "FFSTREAM_E2E_ROWS", 5000)
	var o *oracle // which keeps every row in memory: too much for a million
	if rows <= 300_000 {
		o = newOracle(w)
	}
	p := w.run()
	w.exec(`INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms, raw_fields)
		SELECT n % 256, gen_random_uuid(), 'default', 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending', n,
			jsonb_build_object('namespace', 'ns-' || n % 7, 'execution_kind', 'task', 'tags', jsonb_build_object('app.n', n::text)) FROM generate_series(1, $1) n`, rows)
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'cancelled', eligibility_state = 'cancelled', public_state = 'cancelled', cancelled_by = 'cancel_flow'")
	w.caughtUp(p)
	if o != nil {
		o.compare()
	}
	w.endsWith(2*rows, fmt.Sprintf("/%04X", rows-1))
	p.stop()
	usage := p.cmd.ProcessState.SysUsage().(*syscall.Rusage)
	t.Logf("%d rows in one transaction: peak RSS %d MiB", rows, usage.Maxrss>>10)
}

// endsWith checks the number of messages and the index of the last.
func (w *world) endsWith(messages int, index string) {
	w.t.Helper()
	ctx := context.Background()
	stream, err := w.js.Stream(ctx, w.stream)
	if err != nil {
		w.t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != uint64(messages) {
		w.t.Errorf("%d messages are stored, want %d", n, messages)
	}
	last, err := stream.GetMsg(ctx, stream.CachedInfo().State.LastSeq)
	if err != nil {
		w.t.Fatal(err)
	}
	if position := last.Header.Get("Ffstream-Position"); !strings.HasSuffix(position, index) {
		w.t.Errorf("the last message stands at %s, want an index of %s", position, index)
	}
}

// TestNothingPublished: what changes no state makes no event, and still the slot
// is confirmed to the end.
func TestNothingPublished(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.Engine011)
	o := newOracle(w)
	p := w.run()
	e := &engine.Engine{Version: engine.V011}
	x := engine.Exec{Partition: 7, ID: uuid.New(), Lane: "default", Namespace: "ns-a", Tags: map[string]string{}}
	story := engine.StoriesOf(engine.V011)[0]
	story.Steps = story.Steps[:3] // created, promoted, claimed
	w.play(e, &story, x)
	w.caughtUp(p)
	before := len(w.stored())
	ctx := context.Background()
	for _, f := range []func(tx pgx.Tx) error{
		func(tx pgx.Tx) error { return e.Renew(ctx, tx, x) },
		func(tx pgx.Tx) error { return e.Progress(ctx, tx, x, 10, "a little") },
		func(tx pgx.Tx) error { return e.AttachFlow(ctx, tx, x, uuid.New()) },
		func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE ff_exec_core SET priority = 9 WHERE execution_id = $1", x.ID)
			return err
		},
		func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE ff_exec_core SET raw_fields = jsonb_set(raw_fields, '{tags,app.a}', '\"b\"') WHERE execution_id = $1", x.ID)
			return err
		},
	} {
		if err := pgx.BeginFunc(ctx, w.db.Pool, f); err != nil {
			t.Fatal(err)
		}
	}
	// The engine's upgrade adds a column and rewrites every started row, while
	// the service runs.
	if err := migrations.EngineSchema(ctx, w.db.URL, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	w.caughtUp(p)
	if after := len(w.stored()); after != before {
		t.Errorf("%d events came of what changes no state", after-before)
	}
	o.compare()
	p.stop()
}

// TestTOAST: large raw_fields are not sent with each update; namespace and tags
// are looked up.
func TestTOAST(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	p := w.run()
	tags := map[string]string{}
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 400 {
		tags["app.k"+strconv.Itoa(i)] = strconv.FormatUint(rng.Uint64(), 36)
	}
	for i, story := range engine.StoriesOf(engine.Newest) {
		x := engine.Exec{Partition: int16(i), ID: uuid.New(), Lane: "default", Namespace: "ns-t", Tags: tags}
		if story.Name == "trimmed" {
			continue // a row that is gone at the look-up has no namespace
		}
		w.play(&engine.Engine{Version: engine.Newest}, &story, x)
		if i == 8 {
			break
		}
	}
	w.caughtUp(p)
	o.compare()
	p.stop()
}

// TestOversized: an event above the broker's max_payload loses fields and says
// so; a namespace that makes no subject is cut there; what follows is unharmed.
func TestOversized(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	e := &engine.Engine{Version: engine.Newest}
	story := &engine.StoriesOf(engine.Newest)[0]
	w.play(e, story, engine.Exec{Partition: 1, ID: uuid.New(), Namespace: "ns-a", Tags: map[string]string{"app.big": strings.Repeat("x", 2<<20)}})
	w.play(e, story, engine.Exec{Partition: 2, ID: uuid.New(), Namespace: strings.Repeat("n ", 3000)})
	w.play(e, story, engine.Exec{Partition: 3, ID: uuid.New(), Namespace: "ns-a"})
	w.caughtUp(p)
	got := w.stored()
	if len(got) != 9 {
		t.Fatalf("%d messages are stored, want 9", len(got))
	}
	for i, m := range got {
		var body struct {
			Data struct {
				Truncated bool
				Namespace string
				Tags      map[string]string
			}
		}
		if err := json.Unmarshal(m.body, &body); err != nil {
			t.Fatal(err)
		}
		if body.Data.Truncated != (i < 3) || i < 3 && len(body.Data.Tags) != 0 || body.Data.Namespace == "" {
			t.Errorf("message %d: truncated %t, %d tags, namespace of %d bytes", i, body.Data.Truncated, len(body.Data.Tags), len(body.Data.Namespace))
		}
	}
	p.stop()
}
