package reader_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// insertWhole adds an execution that every read finds something of, and a flow of
// the same UUID with one member.
func insertWhole(t *testing.T, pool *pgxpool.Pool) ffstream.ExecutionID {
	t.Helper()
	id := newID()
	insertCore(t, pool, id, with(rowOf("terminal/unowned/not_applicable/running/attempt_terminal"), "result", bytea("done"),
		"raw_fields", map[string]any{"namespace": "ns-a", "tags": map[string]any{"a.b": "c"}}))
	insertAttempt(t, pool, id, 0, "success", 7)
	member := ffstream.NewExecutionID(ffstream.FlowPartition(id.UUID(), ffstream.Partitions), newID().UUID())
	insertCore(t, pool, member, with(rowOf(live), "flow_id", id.UUID()))
	return id
}

// checkWhole reads what insertWhole added in every way.
func checkWhole(t *testing.T, db reader.DB, id ffstream.ExecutionID, want ffstream.ExecutionInfo) {
	t.Helper()
	r := reader.New(db)
	for name, ok := range everyRead(t, r, id) {
		if !ok {
			t.Errorf("%s finds nothing", name)
		}
	}
	if got := mustInfo(t, r, id); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestExecModes: every way in which pgx sends statements, and those for poolers
// that keep no session (Exec, and simple) leave no prepared statement behind.
func TestExecModes(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		ctx, id := context.Background(), insertWhole(t, pool)
		want := mustInfo(t, reader.New(pool), id)
		for _, mode := range []pgx.QueryExecMode{
			pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
		} {
			cfg := pool.Config().ConnConfig.Copy()
			cfg.DefaultQueryExecMode = mode
			conn, err := pgx.ConnectConfig(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			checkWhole(t, conn, id, want)
			var prepared int
			if err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_prepared_statements", pgx.QueryExecModeSimpleProtocol).Scan(&prepared); err != nil {
				t.Fatal(err)
			}
			if want := mode == pgx.QueryExecModeCacheStatement; (prepared > 0) != want {
				t.Errorf("%s: %d prepared statements", mode, prepared)
			}
			if err := conn.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestInTransaction: a read sees what its transaction wrote, takes no lock but
// that against a change of the tables' shape, and leaves the transaction usable
// whatever it finds.
func TestInTransaction(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		ctx, whole, odd := context.Background(), insertWhole(t, pool), newID()
		insertCore(t, pool, odd, rowOf("odd/unowned/eligible_now/waiting/pending"))
		tx, err := pool.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback(ctx) }()
		r := reader.New(tx)
		everyRead(t, r, newID())
		if _, _, err := r.ExecutionState(ctx, odd); err == nil {
			t.Error("an odd literal is read")
		}
		checkWhole(t, tx, whole, mustInfo(t, reader.New(pool), whole))
		var modes string
		if err := tx.QueryRow(ctx, `SELECT string_agg(DISTINCT mode, ' ') FROM pg_locks WHERE pid = pg_backend_pid() AND locktype <> 'virtualxid'`).Scan(&modes); err != nil {
			t.Fatal(err)
		}
		if modes != "AccessShareLock" {
			t.Errorf("locks held: %s", modes)
		}
		if _, err := tx.Exec(ctx, `UPDATE ff_exec_core SET priority = 77 WHERE partition_key = $1 AND execution_id = $2`, whole.PartitionKey(), whole.UUID()); err != nil {
			t.Fatal(err)
		}
		if inside, outside := mustInfo(t, r, whole).Priority, mustInfo(t, reader.New(pool), whole).Priority; inside != 77 || outside == 77 {
			t.Errorf("priority is %d inside and %d outside", inside, outside)
		}
	})
}

// TestSelectOnly: a role that may select from the two tables can read all.
func TestSelectOnly(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		ctx, id := context.Background(), insertWhole(t, pool)
		conn := connectAs(t, pool, "GRANT SELECT ON ff_exec_core, ff_attempt TO %s")
		checkWhole(t, conn, id, mustInfo(t, reader.New(pool), id))
		if _, err := conn.Exec(ctx, "UPDATE ff_exec_core SET priority = 1"); err == nil {
			t.Error("the role may write")
		}
	})
}

// connectAs connects as a new role that has got one grant. The role and the
// connection end with the test.
func connectAs(t *testing.T, pool *pgxpool.Pool, grant string) *pgx.Conn {
	t.Helper()
	ctx := context.Background()
	role := "reader_" + strings.ReplaceAll(newID().UUID().String(), "-", "")
	for _, sql := range []string{"CREATE ROLE " + role + " LOGIN", fmt.Sprintf(grant, role)} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := pool.Exec(ctx, "DROP OWNED BY "+role+"; DROP ROLE "+role, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(pool.Config().ConnString())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(role)
	conn, err := pgx.Connect(ctx, u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	return conn
}

// TestHotStandby reads everything from a replica.
func TestHotStandby(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	primary, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = primary.Close() }()
	for _, version := range []migrations.EngineVersion{migrations.Engine011, migrations.EngineNewest} {
		name := fmt.Sprintf("engine%d", version)
		if err := exec(ctx, primary.URL("postgres"), "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
		if err := migrations.EngineSchema(ctx, primary.URL(name), version); err != nil {
			t.Fatal(err)
		}
	}
	standby, err := primary.Standby(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = standby.Close() }()
	for _, version := range []migrations.EngineVersion{migrations.Engine011, migrations.EngineNewest} {
		name := fmt.Sprintf("engine%d", version)
		writes, reads := connectPool(t, primary.URL(name)), connectPool(t, standby.URL(name))
		id := insertWhole(t, writes)
		var end string
		if err := writes.QueryRow(ctx, "SELECT pg_current_wal_lsn()::text").Scan(&end); err != nil {
			t.Fatal(err)
		}
		for there := false; !there; {
			if err := reads.QueryRow(ctx, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", end).Scan(&there); err != nil {
				t.Fatal(err)
			}
		}
		var recovering bool
		if err := reads.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&recovering); err != nil || !recovering {
			t.Fatal(recovering, err)
		}
		checkWhole(t, reads, id, mustInfo(t, reader.New(writes), id))
	}
}

func connectPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func exec(ctx context.Context, url, sql string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql)
	return err
}
