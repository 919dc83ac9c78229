package doctor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// TestLiterals: a literal that no rule knows is found in every column that the rule
// reads, and the sample is bounded. The remedy is another release, or the engine's
// business: here the row is put right.
func TestLiterals(t *testing.T) {
	t.Parallel()
	ctx, db := t.Context(), testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	conn := mustConnect(t, db.URL)
	defer func() { _ = conn.Close(ctx) }()
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	check := func() Finding { return find(t, Source(ctx, conn, Config{}), "literals") }
	if f := check(); f.Severity != OK || !strings.Contains(f.Found, "0 rows") {
		t.Errorf("no rows: %+v", f)
	}
	e, x := &engine.Engine{Version: engine.Newest}, engine.Exec{Partition: 77, ID: uuid.New(), Lane: "default", Namespace: "ns"}
	steps := []func(context.Context, engine.Tx, engine.Exec) error{
		func(ctx context.Context, tx engine.Tx, x engine.Exec) error {
			return e.Create(ctx, tx, engine.NewExecution{Exec: x, Namespace: x.Namespace})
		},
		e.Promote, e.Claim,
		func(ctx context.Context, tx engine.Tx, x engine.Exec) error { return e.Complete(ctx, tx, x, nil) },
	}
	for _, f := range steps {
		if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return f(ctx, tx, x) }); err != nil {
			t.Fatal(err)
		}
	}
	if f := check(); f.Severity != OK || !strings.Contains(f.Found, "1 rows") {
		t.Errorf("a sound row: %+v", f)
	}
	for _, c := range []struct{ table, column string }{
		{"ff_exec_core", "lifecycle_phase"}, {"ff_exec_core", "ownership_state"}, {"ff_exec_core", "eligibility_state"}, {"ff_exec_core", "public_state"},
		{"ff_exec_core", "attempt_state"}, {"ff_attempt", "outcome"},
	} {
		var was string
		if err := conn.QueryRow(ctx, "SELECT "+c.column+" FROM "+c.table).Scan(&was); err != nil {
			t.Fatal(err)
		}
		exec("UPDATE "+c.table+" SET "+c.column+" = $1", "levitating")
		if f := check(); f.Severity != Warning || f.Why == "" || !strings.Contains(f.Found, c.column+": 'levitating'") || !strings.Contains(f.Found, x.String()) {
			t.Errorf("%s: %+v", c.column, f)
		}
		exec("UPDATE "+c.table+" SET "+c.column+" = $1", was)
	}
	exec(`INSERT INTO ff_exec_core SELECT (jsonb_populate_record(c, jsonb_build_object('execution_id', gen_random_uuid()))).* FROM ff_exec_core c, generate_series(1, $1::int)`, 3*sampleShare)
	if f := check(); f.Severity != OK || !strings.Contains(f.Found, fmt.Sprintf("%d rows", sampleShare)) {
		t.Errorf("%d rows of one partition: %+v", 3*sampleShare+1, f)
	}
}

// TestEngineSchema: the version is told by columns, and by the ledger where there is
// one. What the engine's migrations left half-way is not for this program to mend.
func TestEngineSchema(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for _, c := range []struct {
		version  migrations.EngineVersion
		ledger   string
		severity Severity
		says     string
	}{
		{0, "", Fault, "not on the search_path"},
		{migrations.Engine011, "", OK, "older than 0.12"},
		{migrations.Engine011, "(14, true)", OK, "latest migration is 14"},
		{migrations.EngineNewest, "", OK, "0.12 or newer"},
		{migrations.EngineNewest, "(1, true), (22, true)", OK, "latest migration is 22"},
		{migrations.EngineNewest, "(22, true), (23, true)", Warning, "latest migration is 23"},
		{migrations.EngineNewest, "(21, true), (22, false)", Warning, "latest migration is 21"},
	} {
		db := testenv.DB(t, testenv.Schema{Version: c.version})
		conn := mustConnect(t, db.URL)
		if c.ledger != "" {
			if _, err := conn.Exec(ctx, "CREATE TABLE _sqlx_migrations (version bigint, success boolean)"); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Exec(ctx, "INSERT INTO _sqlx_migrations VALUES "+c.ledger); err != nil {
				t.Fatal(err)
			}
		}
		if f := find(t, Source(ctx, conn, Config{}), "engine-schema"); f.Severity != c.severity || !strings.Contains(f.Found, c.says) || (f.Why == "") != (c.severity == OK) {
			t.Errorf("%d %s: %+v", c.version, c.ledger, f)
		}
		if err := conn.Close(ctx); err != nil {
			t.Error(err)
		}
	}
}

// TestForecast: the log that a slot may still keep is held against what the server
// writes while it is looked at, and the remedy gives it room.
func TestForecast(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{"max_slot_wal_keep_size": "'128MB'", "shared_buffers": "32MB"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Close() })
	conn := mustConnect(t, pg.URL("postgres"))
	defer func() { _ = conn.Close(ctx) }()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec("SELECT pg_create_logical_replication_slot('ffstream', 'pgoutput')")
	exec("SELECT pg_stat_reset_shared('wal')")
	check := func() Finding { return find(t, Source(ctx, conn, Config{Slot: "ffstream"}), "slot-wal") }
	writing, stop := context.WithCancel(ctx)
	written := make(chan error, 1)
	writer := mustConnect(t, pg.URL("postgres"))
	defer func() { _ = writer.Close(ctx) }()
	go func() { // some 200 KB a second: 128 MB last for minutes
		for writing.Err() == nil {
			if _, err := writer.Exec(ctx, "SELECT pg_logical_emit_message(false, 'load', repeat('x', 20000)), pg_sleep(0.1)"); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	before := check()
	for began := time.Now(); !strings.Contains(before.Found, "were nothing confirmed") || strings.Contains(before.Found, "(0 now"); before = check() {
		if time.Since(began) > time.Minute { // a second in which the writer did nothing tells nothing
			break
		}
	}
	stop()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if before.Severity != Warning || len(before.Remedy) == 0 || !strings.Contains(before.Found, "were nothing confirmed") || strings.Contains(before.Found, "(0 now") {
		t.Fatalf("before: %+v", before)
	}
	for _, sql := range before.Remedy {
		exec(sql)
	}
	if after := check(); after.Severity != OK {
		t.Errorf("after the remedy: %+v", after)
	}
}
