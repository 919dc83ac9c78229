package migrations_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ffstream/ffstream/migrations"
)

const settingsSQL = `SELECT current_setting('lock_timeout') || ' ' || current_setting('statement_timeout')
	UNION ALL SELECT 'advisory lock' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()`

// TestSession: the connection's settings are its own again, however Apply ends.
func TestSession(t *testing.T) {
	t.Parallel()
	conn := small(t, "public")
	run(t, conn, `SET lock_timeout = '77s'; SET statement_timeout = '88s'`)
	before := lines(t, conn, settingsSQL)
	plan := steps(t, migrations.Plan, conn, config())
	// Meanwhile they are Apply's: the statement before each call has ended.
	look := another(t, conn)
	err := migrations.Apply(t.Context(), conn, config(), plan[:3], func(p migrations.Progress) {
		same(t, "turn", []string{"1"}, lines(t, look, `SELECT count(*)::text FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`))
		if got := lines(t, conn, settingsSQL); got[0] != "1min 0" {
			t.Errorf("settings at work are %v", got)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "settings", before, lines(t, conn, settingsSQL))
	// After a statement that fails, and after ctx ended between two attempts.
	plan = steps(t, migrations.Plan, conn, config())
	run(t, look, `CREATE TABLE ff_exec_core_p1_ffstream_identity (x int)`)
	if err := migrations.Apply(t.Context(), conn, config(), plan, func(migrations.Progress) {}); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("got %v, want the statement's error", err)
	}
	same(t, "settings after an error", before, lines(t, conn, settingsSQL))
	run(t, look, `DROP TABLE ff_exec_core_p1_ffstream_identity; BEGIN; LOCK TABLE ff_exec_core_p1`)
	ctx, cancel := context.WithCancel(t.Context())
	cfg := config()
	cfg.LockTimeout = time.Millisecond
	err = migrations.Apply(ctx, conn, cfg, plan, func(p migrations.Progress) {
		if p.Retry != nil {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the context's error", err)
	}
	same(t, "settings after the context", before, lines(t, conn, settingsSQL))
}

// TestStatementTimeout: one of the database's, which a large index would not be
// built within, does not count.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	look := small(t, "public")
	conn := another(t, look)
	writer := another(t, look)
	run(t, conn, `SET statement_timeout = '100ms'`)
	plan := steps(t, migrations.Plan, conn, config())
	run(t, writer, `BEGIN; LOCK TABLE ff_exec_core_p0 IN ROW EXCLUSIVE MODE`)
	done := make(chan error, 1)
	go func() { done <- migrations.Apply(t.Context(), conn, config(), plan, func(migrations.Progress) {}) }()
	await(t, look, "a build that outlasts it", `SELECT count(*) > 0 FROM pg_stat_activity
		WHERE pid = $1 AND query LIKE 'CREATE UNIQUE INDEX%' AND clock_timestamp() - query_start > '300ms'`, conn.PgConn().PID())
	run(t, writer, `COMMIT`)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestStale applies plans that were made before somebody else was at work.
func TestStale(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		first bool   // all is prepared before the plan is made
		harm  string // what the plan finds
		plan  func(context.Context, migrations.Querier, migrations.Config) ([]migrations.Step, error)
	}{
		"all done since":            {false, ``, migrations.Plan},
		"an index was being built":  {true, `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ff_exec_core_p0_ffstream_identity'::regclass`, migrations.Plan},
		"an index was not yet used": {true, `ALTER TABLE ff_exec_core_p0 REPLICA IDENTITY DEFAULT`, migrations.PlanDown},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := small(t, "public")
			if test.first {
				prepare(t, conn, config())
			}
			run(t, conn, test.harm)
			plan := steps(t, test.plan, conn, config())
			prepare(t, conn, config())
			before := catalog(t, conn)
			err := migrations.Apply(t.Context(), conn, config(), plan, func(p migrations.Progress) { t.Errorf("%s is run", p.Step.SQL) })
			if !errors.Is(err, migrations.ErrStale) {
				t.Errorf("got %v, want ErrStale", err)
			}
			same(t, "catalog", before, catalog(t, conn))
		})
	}
}

// TestTwoAtOnce: the second of two waits until the first has ended.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	first := small(t, "public")
	second := another(t, first)
	cfg := config()
	cfg.LockTimeout = 10 * time.Millisecond
	stale := steps(t, migrations.Plan, second, cfg)
	waits, done := make(chan struct{}), make(chan error, 1)
	wait := sync.OnceFunc(func() { close(waits) })
	err := migrations.Apply(t.Context(), first, cfg, stale, func(p migrations.Progress) {
		if p.Done != 1 || p.Retry != nil { // in the middle
			return
		}
		go func() {
			done <- migrations.Apply(t.Context(), second, cfg, stale, func(p migrations.Progress) {
				if p.Retry != nil {
					wait()
				}
			})
		}()
		<-waits
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, migrations.ErrStale) {
		t.Errorf("the second got %v, want ErrStale", err)
	}
	prepare(t, second, cfg)
}
