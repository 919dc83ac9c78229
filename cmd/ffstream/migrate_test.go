package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// TestMigrateLocks: migrate names what its indexes cost in locks, warns where the lock
// table is small, and goes on.
func TestMigrateLocks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	small, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{
		"max_locks_per_transaction": "64", "max_connections": "150", "shared_buffers": "32MB",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = small.Close() })
	if err := migrations.EngineSchema(ctx, small.URL("postgres"), migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}

	const cost, table = "a statement over all partitions of ff_exec_core holds ", "the shared lock table has room for "
	const remedy = "ALTER SYSTEM SET max_locks_per_transaction = 256"
	migrate := func(printsCost, warns bool, args ...string) string {
		t.Helper()
		var out, stderr bytes.Buffer
		if code := execute(append([]string{"migrate", "--database-url=" + small.URL("postgres")}, args...), terminal{out: &out, err: &stderr}); code != exitOK {
			t.Fatalf("%s: exit %d: %s%s", args, code, out.String(), stderr.String())
		}
		if strings.Contains(out.String(), cost) != printsCost || strings.Contains(out.String(), table) != printsCost ||
			printsCost && !strings.Contains(out.String(), "with the new indexes (+17%)\n") {
			t.Errorf("%s: the cost is to be printed: %v: %.400s", args, printsCost, out.String())
		}
		if strings.Contains(stderr.String(), remedy+"; then restart Postgres") != warns || !warns && stderr.Len() > 0 {
			t.Errorf("%s: the warning is to be printed: %v: %s", args, warns, stderr.String())
		}
		return out.String()
	}
	exec := func(sql string) {
		t.Helper()
		conn, err := pgx.Connect(ctx, small.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close(ctx) }()
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}

	migrate(false, false, "--dry-run", "--replica-identity=none") // adds no index
	migrate(true, true)
	migrate(false, false) // has nothing left to add
	migrate(false, false, "--down", "--dry-run")
	migrate(false, false, "--down")
	migrate(true, true, "--dry-run")
	exec(remedy)
	if err := errors.Join(small.Stop("fast"), small.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	for sql := range strings.SplitAfterSeq(migrate(true, false, "--dry-run"), ";\n") { // the comments are SQL's
		exec(sql)
	}
	migrate(false, false)
}
