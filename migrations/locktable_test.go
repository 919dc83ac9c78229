package migrations_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/migrations"
)

// TestLockCost compares the count with what a statement over all partitions holds, by
// pg_locks, before and after a plan and after the way down.
func TestLockCost(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, _ migrations.EngineVersion, conn *pgx.Conn) {
		other := another(t, conn)
		held := func() (n int) {
			t.Helper()
			run(t, conn, `BEGIN; SELECT count(*) FROM ff_exec_core`)
			defer run(t, conn, `ROLLBACK`)
			if err := other.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE pid = $1`, int64(conn.PgConn().PID())).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		cost := func(plan []migrations.Step) migrations.LockCost {
			t.Helper()
			c, err := migrations.ReadLockCost(t.Context(), conn, plan)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		expect := func(what string, got, want migrations.LockCost) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %+v, want %+v", what, got, want)
			}
		}
		bare := held()
		if conn.PgConn().ParameterStatus("server_version") < "16" && bare != 1538 {
			t.Errorf("a statement over all partitions holds %d locks, and the documents say 1538", bare)
		}
		expect("before", cost(nil), migrations.LockCost{Before: bare, After: bare})
		expect("plan", cost(steps(t, migrations.Plan, conn, config())), migrations.LockCost{Before: bare, After: bare + 256})
		prepare(t, conn, config())
		prepared := held()
		if prepared != bare+256 {
			t.Errorf("with the indexes a statement over all partitions holds %d locks, and %d without", prepared, bare)
		}
		expect("prepared", cost(steps(t, migrations.Plan, conn, config())), migrations.LockCost{Before: prepared, After: prepared})
		expect("down", cost(steps(t, migrations.PlanDown, conn, config())), migrations.LockCost{Before: prepared, After: bare})
		unprepare(t, conn, config())
		expect("after the way down", cost(nil), migrations.LockCost{Before: bare, After: bare})
	})
}

// TestLockCostOfRepair: an index that an interrupted build left invalid is locked too,
// and the one that replaces it costs nothing more.
func TestLockCostOfRepair(t *testing.T) {
	t.Parallel()
	conn := small(t, "public")
	prepare(t, conn, config())
	before, err := migrations.ReadLockCost(t.Context(), conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, conn, `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ff_exec_core_p1_ffstream_identity'::regclass`)
	plan := steps(t, migrations.Plan, conn, config())
	got, err := migrations.ReadLockCost(t.Context(), conn, plan)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan) == 0 || got != before {
		t.Errorf("%d statements: %+v, want %+v", len(plan), got, before)
	}
}

func TestLockTable(t *testing.T) {
	t.Parallel()
	for perTransaction, small := range map[int64]bool{64: true, 255: true, 256: false, 512: false} {
		table := migrations.LockTable{PerTransaction: perTransaction, Connections: 100, Prepared: 2}
		if table.Small() != small || table.Slots() != perTransaction*102 {
			t.Errorf("%v: small is %v", table, table.Small())
		}
	}
}
