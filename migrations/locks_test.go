package migrations_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/migrations"
)

const (
	invalidSQL = `SELECT count(*) = $1 FROM pg_index WHERE NOT indisvalid`
	waitingSQL = `SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('ff_exec_core_p1_ffstream_identity') AND NOT indisvalid)
		AND EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)`
	goneSQL = `SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $1`
)

// TestInterrupted ends Apply while an index is being built: what the build
// leaves is invalid, and the next run drops and rebuilds it.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	look := small(t, "public")
	writer, migrating := another(t, look), another(t, look)
	run(t, writer, `BEGIN; LOCK TABLE ff_exec_core_p1 IN ROW EXCLUSIVE MODE`) // what a writer holds
	ctx, cancel := context.WithCancel(t.Context())
	plan := steps(t, migrations.Plan, look, config())
	done := make(chan error, 1)
	go func() {
		done <- migrations.Apply(ctx, migrating, config(), plan, func(migrations.Progress) {})
	}()
	await(t, look, "a build that waits for the writer", waitingSQL, migrating.PgConn().PID())
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("Apply ended with %v, want the context's error", err)
	}
	await(t, look, "the server to notice", goneSQL, migrating.PgConn().PID())
	await(t, look, "what the build leaves", invalidSQL, 1)

	rest := steps(t, migrations.Plan, look, config())
	var got []string
	for _, step := range rest {
		verb, _, _ := strings.Cut(step.SQL, " INDEX ")
		got = append(got, strings.Join(strings.Fields(verb)[:1], ""))
	}
	if want := []string{"DROP", "CREATE", "ALTER", "CREATE", "ALTER", "CREATE", "ALTER"}; !slices.Equal(got, want) {
		t.Errorf("what is left is %v, want %v", got, want)
	}
	if err := migrations.Check(t.Context(), look, config()); !errors.Is(err, migrations.ErrIdentity) || !strings.Contains(err.Error(), "3 of the 4 leaves") {
		t.Errorf("half done: got %v, want ErrIdentity for 3 of the 4 leaves", err)
	}
	run(t, writer, `COMMIT`)
	prepare(t, look, config())
}

// TestLocks holds what an application or its operator may hold, and lets go when
// Apply says for the second time that it waits.
func TestLocks(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		hold string
		down bool // the way down waits for it too
	}{
		"a writer":             {`LOCK TABLE ff_exec_core_p1 IN ROW EXCLUSIVE MODE`, true},
		"a reader":             {`SELECT FROM ff_exec_core`, true},
		"a schema change":      {`LOCK TABLE ff_exec_core_p1 IN ACCESS EXCLUSIVE MODE`, true},
		"a change of the root": {`LOCK TABLE ff_exec_core IN ACCESS EXCLUSIVE MODE`, true},
		"a long snapshot":      {`SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT FROM ff_lane_registry`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := small(t, "public")
			holder := another(t, conn)
			before := catalog(t, conn)
			cfg := config()
			cfg.LockTimeout = 50 * time.Millisecond
			run(t, holder, `BEGIN; `+test.hold)
			applyAgainst(t, conn, cfg, steps(t, migrations.Plan, conn, cfg), holder)
			if err := migrations.Check(t.Context(), conn, cfg); err != nil {
				t.Error(err)
			}
			if test.down {
				run(t, holder, `BEGIN; `+test.hold)
				applyAgainst(t, conn, cfg, steps(t, migrations.PlanDown, conn, cfg), holder)
				same(t, "catalog", before, catalog(t, conn))
			}
		})
	}
}

// applyAgainst runs steps while a transaction of holder is in the way, which
// ends at the second retry.
func applyAgainst(t *testing.T, conn *pgx.Conn, cfg migrations.Config, all []migrations.Step, holder *pgx.Conn) {
	t.Helper()
	retries, last := 0, -1
	apply := func(p migrations.Progress) {
		if p.Total != len(all) || p.Done < last || p.Done < len(all) && p.Step != all[p.Done] {
			t.Errorf("progress is %d of %d (%s) after %d, want the %d statements in order", p.Done, p.Total, p.Step.SQL, last, len(all))
		}
		last = p.Done
		if p.Retry == nil {
			return
		}
		if retries++; retries == 2 {
			run(t, holder, `COMMIT`)
		}
	}
	if err := migrations.Apply(t.Context(), conn, cfg, all, apply); err != nil {
		t.Fatal(err)
	}
	if retries < 2 {
		t.Errorf("tried again %d times, want 2", retries)
	}
	if last != len(all) {
		t.Errorf("the last progress is %d of %d", last, len(all))
	}
}
