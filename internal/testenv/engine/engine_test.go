package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run)) }

var schemas = map[engine.Version]migrations.EngineVersion{
	engine.V011: migrations.Engine011, engine.Newest: migrations.EngineNewest,
}

// openDB gives a database whose sessions plan each statement for its partition:
// a generic plan opens all 256 leaves of a table.
func openDB(t *testing.T, v engine.Version) *testenv.Database {
	t.Helper()
	db := testenv.DB(t, testenv.Schema{Version: schemas[v]})
	if _, err := db.Pool.Exec(context.Background(), "ALTER DATABASE "+db.Name+" SET plan_cache_mode = force_custom_plan"); err != nil {
		t.Fatal(err)
	}
	db.Pool.Reset()
	return db
}

// effective is the rule in SQL, written from the engine's documentation and not
// from ffstream's own code.
const effective = `
WITH c AS (
  SELECT c.*, a.outcome AS here, a.attempt_index IS NOT NULL AS exists_here,
    (SELECT b.outcome FROM ff_attempt b WHERE b.partition_key = $1 AND b.execution_id = $2
      AND b.attempt_index < c.attempt_index ORDER BY b.attempt_index DESC LIMIT 1) AS below,
    (SELECT b.outcome FROM ff_attempt b WHERE b.partition_key = $1 AND b.execution_id = $2 AND b.attempt_index < c.attempt_index
      AND b.terminal_at_ms = c.terminal_at_ms AND b.outcome IN ('success', 'failed', 'failure', 'cancelled', 'expired', 'skipped')
      ORDER BY b.attempt_index DESC LIMIT 1) AS ended,
    '{"success":"completed","failed":"failed","failure":"failed","cancelled":"cancelled","expired":"expired","skipped":"skipped"}'::jsonb AS m
  FROM ff_exec_core c LEFT JOIN ff_attempt a USING (partition_key, execution_id, attempt_index)
  WHERE c.partition_key = $1 AND c.execution_id = $2)
SELECT CASE
  WHEN lifecycle_phase = 'suspended' THEN 'suspended'
  WHEN lifecycle_phase = 'active' THEN 'active'
  WHEN lifecycle_phase = 'submitted' THEN 'waiting'
  WHEN lifecycle_phase = 'runnable' AND public_state = 'resumable' AND ownership_state = 'released' THEN 'resumable'
  WHEN lifecycle_phase = 'runnable' THEN CASE eligibility_state
    WHEN 'not_eligible_until_time' THEN 'delayed' WHEN 'blocked_by_dependencies' THEN 'waiting_children' ELSE 'waiting' END
  WHEN lifecycle_phase = 'cancelled' OR attempt_state = 'cancelled' THEN 'cancelled'
  WHEN attempt_state = 'terminal_failed' THEN 'failed'
  WHEN m ? here THEN m->>here
  WHEN public_state = 'skipped' THEN 'skipped'
  WHEN NOT exists_here AND m ? below THEN m->>below
  WHEN m ? ended THEN m->>ended
  WHEN cancellation_reason = 'suspension_timeout_cancel'
    OR cancellation_reason LIKE 'suspension\_timeout\_%' AND public_state = 'cancelled' AND cancelled_by IS NOT NULL THEN 'cancelled'
  WHEN cancellation_reason LIKE 'suspension\_timeout\_%' THEN 'expired'
  WHEN raw_fields->>'last_failure_message' IN ('attempt_timeout', 'execution_deadline') THEN 'expired'
  WHEN public_state IN ('completed', 'failed', 'cancelled', 'expired', 'skipped') THEN public_state
  WHEN cancelled_by IS NOT NULL THEN 'cancelled'
  ELSE 'failed?' END,
  ARRAY[lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state], attempt_index
FROM c`

// row is what a step left.
type row struct {
	state   string
	tuple   []string // lifecycle, ownership, eligibility, public, attempt
	pointer int
}

func readRow(t *testing.T, pool *pgxpool.Pool, x engine.Exec) *row {
	t.Helper()
	var r row
	err := pool.QueryRow(context.Background(), effective, x.Partition, x.ID).Scan(&r.state, &r.tuple, &r.pointer)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return &r
}

// before is the effective state before a step; empty is none.
func before(r *row) string {
	if r == nil {
		return ""
	}
	return r.state
}

// TestStories plays every story at every version and holds each step's row
// against what the story says.
func TestStories(t *testing.T) {
	for _, v := range []engine.Version{engine.V011, engine.Newest} {
		t.Run(v.String(), func(t *testing.T) {
			db := openDB(t, v)
			for i, story := range engine.StoriesOf(v) {
				x := engine.Exec{Partition: int16(i), ID: uuid.New(), Namespace: "ns-a"}
				t.Run(story.Name, func(t *testing.T) { playStory(t, db.Pool, v, &story, x) })
			}
		})
	}
}

func playStory(t *testing.T, pool *pgxpool.Pool, v engine.Version, story *engine.Story, x engine.Exec) {
	e := &engine.Engine{Version: v}
	ctx := context.Background()
	var old *row
	for i := range story.Steps {
		step := &story.Steps[i]
		var attempts map[int]string
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
			if err := step.Do(ctx, e, tx, x); err != nil {
				return err
			}
			attempts, err = written(ctx, tx, x)
			return err
		})
		if err != nil {
			t.Fatalf("step %d %s: %v", i, step.Op, err)
		}
		now := readRow(t, pool, x)
		check(t, fmt.Sprintf("step %d %s", i, step.Op), v, step, old, now)
		if now != nil && step.Event {
			if got, want := shown(attempts, now.pointer), describe(step.Attempt[v]); got != want {
				t.Errorf("step %d %s: attempt %s, the story says %s", i, step.Op, got, want)
			}
		}
		old = now
	}
}

func check(t *testing.T, name string, v engine.Version, step *engine.Step, old, now *row) {
	t.Helper()
	from := before(old)
	if now == nil {
		if step.State != ffstream.StatePurged || !step.Event || string(step.From) != from {
			t.Errorf("%s: row is gone, was %q; the story says %+v", name, from, step)
		}
		return
	}
	if now.state != string(step.State) {
		t.Errorf("%s: effective state %s, the story says %s", name, now.state, step.State)
	}
	vector := step.Vector
	want := []string{vector[0], vector[1], vector[2], step.Stored[v], vector[3]}
	if fmt.Sprint(now.tuple) != fmt.Sprint(want) || now.pointer != step.Pointer {
		t.Errorf("%s: row %v %d, the story says %v %d", name, now.tuple, now.pointer, want, step.Pointer)
	}
	event := from != now.state
	if event != step.Event || event && from != string(step.From) {
		t.Errorf("%s: event %t from %q, the story says %t from %q", name, event, from, step.Event, step.From)
	}
}

// written gives the attempts that this transaction wrote.
func written(ctx context.Context, tx pgx.Tx, x engine.Exec) (map[int]string, error) {
	rows, err := tx.Query(ctx, `SELECT attempt_index, COALESCE(outcome, ''), lease_epoch, lease_expires_at_ms IS NOT NULL
		FROM ff_attempt WHERE partition_key = $1 AND execution_id = $2 AND xmin = pg_current_xact_id()::xid`, x.Partition, x.ID)
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	var a engine.Attempt
	_, err = pgx.ForEachRow(rows, []any{&a.Index, &a.Outcome, &a.Epoch, &a.Leased}, func() error {
		found[a.Index] = describe(&a)
		return nil
	})
	return found, err
}

func shown(attempts map[int]string, pointer int) string {
	for i := pointer; i >= 0; i-- {
		if a, ok := attempts[i]; ok {
			return a
		}
	}
	return describe(nil)
}

func describe(a *engine.Attempt) string {
	if a == nil {
		return "none"
	}
	return fmt.Sprintf("%+v", *a)
}

// TestRun writes a mix and holds the last transition of each execution against
// its row.
func TestRun(t *testing.T) {
	for _, v := range []engine.Version{engine.V011, engine.Newest} {
		t.Run(v.String(), func(t *testing.T) {
			db := openDB(t, v)
			var mu sync.Mutex
			last := map[string]engine.Transition{}
			seen := 0
			cfg := engine.WorkloadConfig{Version: v, Writers: 4, Executions: 600, Seed: 7, Heartbeats: 2,
				Lanes: []string{"default", "bulk"}, Namespaces: []string{"ns-a", "ns b"},
				OnTransition: func(tr engine.Transition) {
					mu.Lock()
					defer mu.Unlock()
					last[tr.Exec.String()] = tr
					seen++
				}}
			sum, err := engine.Run(context.Background(), db.Pool, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if sum.Executions != 600 || sum.Transitions != seen || len(last) != 600 || sum.RolledBack == 0 {
				t.Errorf("summary %+v, %d transitions of %d executions seen", sum, seen, len(last))
			}
			states := 0
			for _, n := range sum.ByState {
				states += n
			}
			if states != sum.Transitions || sum.CoreRows < sum.Transitions || sum.AttemptRows == 0 {
				t.Errorf("summary %+v does not add up", sum)
			}
			for id, tr := range last {
				got := "purged"
				if r := readRow(t, db.Pool, tr.Exec); r != nil {
					got = r.state
				}
				if got != string(tr.To) {
					t.Errorf("%s is %s, the last transition said %s", id, got, tr.To)
				}
			}
		})
	}
}

// TestRunRepeats: the seed decides what is written.
func TestRunRepeats(t *testing.T) {
	db := openDB(t, engine.Newest)
	var sums []string
	for range 2 {
		sum, err := engine.Run(context.Background(), db.Pool, engine.WorkloadConfig{Version: engine.Newest, Writers: 2, Executions: 90, Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, fmt.Sprintf("%+v", sum))
		if _, err := db.Pool.Exec(context.Background(), "TRUNCATE ff_exec_core, ff_attempt"); err != nil {
			t.Fatal(err)
		}
	}
	if sums[0] != sums[1] {
		t.Errorf("first %s, then %s", sums[0], sums[1])
	}
}

// TestRunEnds: without a number of executions the context ends it, and that is
// no error.
func TestRunEnds(t *testing.T) {
	db := openDB(t, engine.Newest)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cfg := engine.WorkloadConfig{Version: engine.Newest, Rate: 500, OnTransition: func(engine.Transition) { cancel() }}
	if sum, err := engine.Run(ctx, db.Pool, cfg); err != nil || sum.Transitions == 0 {
		t.Errorf("got %+v, %v", sum, err)
	}
}

func TestBacklog(t *testing.T) {
	for _, v := range []engine.Version{engine.V011, engine.Newest} {
		db := openDB(t, v)
		sum, err := engine.Backlog(context.Background(), db.Pool, v, 50, 2)
		if err != nil {
			t.Fatal(err)
		}
		if sum.Executions != 50 || sum.Transactions != 350 || sum.CoreRows != 200 || sum.AttemptRows != 250 || sum.Transitions != 150 {
			t.Errorf("summary %+v", sum)
		}
		var done int
		if err := db.Pool.QueryRow(context.Background(), `SELECT count(*) FROM ff_exec_core JOIN ff_attempt
			USING (partition_key, execution_id, attempt_index) WHERE lifecycle_phase = 'terminal' AND outcome = 'success'`).Scan(&done); err != nil || done != 50 {
			t.Errorf("%d completed, %v", done, err)
		}
	}
}

// TestRefused: what the engine would not do is an error and leaves nothing.
func TestRefused(t *testing.T) {
	db := openDB(t, engine.V011)
	e := &engine.Engine{}
	x := engine.Exec{Partition: 7, ID: uuid.New()}
	ctx := context.Background()
	if err := e.Create(ctx, db.Pool, engine.NewExecution{Exec: x}); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"claim of a submitted execution": e.Claim(ctx, db.Pool, x),
		"trim at v0.11":                  e.TrimRetention(ctx, db.Pool, x),
		"completion without an attempt":  e.Complete(ctx, db.Pool, x, nil),
	} {
		if !errors.Is(err, engine.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", name, err)
		}
	}
}
