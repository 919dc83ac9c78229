package migrations_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

func TestMain(m *testing.M) {
	code := testenv.Main(m.Run)
	if err := testenv.Leaks(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// versions are the shapes that every promise holds for.
var versions = map[string]migrations.EngineVersion{"0.11": migrations.Engine011, "newest": migrations.EngineNewest}

// eachVersion runs a test on a database of each shape, both in parallel.
func eachVersion(t *testing.T, prepared bool, test func(*testing.T, migrations.EngineVersion, *pgx.Conn)) {
	t.Helper()
	t.Parallel()
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, version, connect(t, testenv.DB(t, testenv.Schema{Version: version, Prepared: prepared}).URL))
		})
	}
}

// connect opens a connection that ends before the database is dropped.
func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// run executes SQL without arguments, several statements if need be.
func run(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// lines returns a query's only column.
func lines(t testing.TB, conn *pgx.Conn, sql string, args ...any) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// catalogSQL is everything that migrate could change, by name: relations with
// their replica identity, columns, indexes, publications with their lists.
const catalogSQL = `
WITH ours AS (SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
SELECT format('relation %I.%I %s %s', nspname, relname, relkind, relreplident) FROM ours
UNION ALL SELECT format('column %I.%I %s %s %s %s %s', nspname, relname, attnum, attname, format_type(atttypid, atttypmod), attnotnull, attisdropped)
	FROM ours JOIN pg_attribute a ON a.attrelid = ours.oid WHERE attnum > 0
UNION ALL SELECT format('index %s valid %s identity %s', pg_get_indexdef(indexrelid), indisvalid, indisreplident)
	FROM ours JOIN pg_index i ON i.indexrelid = ours.oid
UNION ALL SELECT format('publication %I %s %s %s %s %s %s', pubname, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot) FROM pg_publication
UNION ALL SELECT format('published %I %s %s %s', pubname, prrelid::regclass, prattrs, pg_get_expr(prqual, prrelid))
	FROM pg_publication_rel JOIN pg_publication p ON p.oid = prpubid
ORDER BY 1`

// catalog is a snapshot to compare with another.
func catalog(t testing.TB, conn *pgx.Conn) []string {
	t.Helper()
	return lines(t, conn, catalogSQL)
}

// same fails with the first lines in which two snapshots differ.
func same(t testing.TB, what string, want, got []string) {
	t.Helper()
	missing, extra := subtract(want, got), subtract(got, want)
	if len(missing)+len(extra) > 0 {
		t.Errorf("%s: %d lines are missing, %d too many:\n- %s\n+ %s", what, len(missing), len(extra),
			strings.Join(missing[:min(3, len(missing))], "\n- "), strings.Join(extra[:min(3, len(extra))], "\n+ "))
	}
}

func subtract(a, b []string) []string {
	count := map[string]int{}
	for _, line := range b {
		count[line]++
	}
	var rest []string
	for _, line := range a {
		if count[line]--; count[line] < 0 {
			rest = append(rest, line)
		}
	}
	return rest
}

// config is what most tests prepare a source with.
func config() migrations.Config {
	return migrations.Config{Publication: "ffstream", Identity: true, LockTimeout: time.Minute}
}

// steps is a plan that must not fail.
func steps(t testing.TB, plan func(context.Context, migrations.Querier, migrations.Config) ([]migrations.Step, error), conn *pgx.Conn, cfg migrations.Config) []migrations.Step {
	t.Helper()
	all, err := plan(t.Context(), conn, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// apply runs steps without a look at how they come along.
func apply(t testing.TB, conn *pgx.Conn, cfg migrations.Config, all []migrations.Step) {
	t.Helper()
	if err := migrations.Apply(t.Context(), conn, cfg, all, func(migrations.Progress) {}); err != nil {
		t.Fatal(err)
	}
}

// prepare does what ffstream migrate does, and looks at it as ffstream run does.
func prepare(t testing.TB, conn *pgx.Conn, cfg migrations.Config) {
	t.Helper()
	apply(t, conn, cfg, steps(t, migrations.Plan, conn, cfg))
	if rest := steps(t, migrations.Plan, conn, cfg); len(rest) > 0 {
		t.Errorf("%d statements are missing after Apply, the first is %s", len(rest), rest[0].SQL)
	}
	if err := migrations.Check(t.Context(), conn, cfg); err != nil {
		t.Errorf("after Apply: %v", err)
	}
}

// unprepare does what ffstream migrate --down does.
func unprepare(t testing.TB, conn *pgx.Conn, cfg migrations.Config) {
	t.Helper()
	apply(t, conn, cfg, steps(t, migrations.PlanDown, conn, cfg))
	if rest := steps(t, migrations.PlanDown, conn, cfg); len(rest) > 0 {
		t.Errorf("%d things are left after Down, the first: %s", len(rest), rest[0].SQL)
	}
}

// small gives a database with the engine's tables of four leaves each, in a
// schema that may have any name, and a connection that finds them.
func small(t testing.TB, schema string) *pgx.Conn {
	t.Helper()
	text, err := os.ReadFile("engine/00001_v0_11.sql")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("-- +goose StatementBegin"))
	text, _, _ = bytes.Cut(text, []byte("-- +goose StatementEnd"))
	sql := strings.NewReplacer("0..255", "0..3", "MODULUS 256", "MODULUS 4").Replace(string(text))
	db := testenv.DB(t, testenv.Schema{})
	conn := connect(t, db.URL)
	if schema != "public" {
		name := pgx.Identifier{schema}.Sanitize()
		run(t, conn, "CREATE SCHEMA "+name)
		run(t, conn, "ALTER DATABASE "+db.Name+" SET search_path = "+name)
		run(t, conn, "SET search_path = "+name)
	}
	run(t, conn, sql)
	return conn
}

// another opens one more connection to a connection's database.
func another(t testing.TB, conn *pgx.Conn) *pgx.Conn {
	t.Helper()
	return connect(t, conn.Config().ConnString())
}

// await runs a query until it is true.
func await(t testing.TB, conn *pgx.Conn, what, sql string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		var ok bool
		if err := conn.QueryRow(ctx, sql, args...).Scan(&ok); err != nil {
			t.Fatalf("wait for %s: %v", what, err)
		}
		if ok {
			return
		}
	}
}
