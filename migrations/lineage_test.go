package migrations_test

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

func lineage(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	line, err := migrations.Lineage(t.Context(), conn, config())
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// TestLineage: what migrate changes on a publication that serves follows it
// without a break, and what anybody else changes begins anew, and so does what
// migrate mends.
func TestLineage(t *testing.T) {
	t.Parallel()
	conn := connect(t, testenv.DB(t, testenv.Schema{Version: migrations.Engine011}).URL)
	if line := lineage(t, conn); line != nil {
		t.Errorf("no publication has editions %v", line)
	}
	cfg := config()
	cfg.Identity = false
	migrate := func() []string {
		t.Helper()
		apply(t, conn, cfg, steps(t, migrations.Plan, conn, cfg))
		return lineage(t, conn)
	}
	first := migrate()
	if len(first) != 1 {
		t.Fatalf("a new publication has editions %v", first)
	}
	if again := migrate(); !slices.Equal(again, first) {
		t.Errorf("editions %v, and nothing was changed since %v", again, first)
	}
	run(t, conn, "ALTER TABLE ff_exec_core ADD COLUMN started_at_ms BIGINT")
	upgraded := migrate()
	if len(upgraded) != 2 || upgraded[0] != first[0] || upgraded[1] == first[0] {
		t.Errorf("editions %v, want another behind %v", upgraded, first)
	}
	seen := upgraded
	for _, sql := range []string{
		"ALTER PUBLICATION ffstream SET (publish = 'insert'); ALTER PUBLICATION ffstream SET (publish = 'insert, update, delete, truncate')",
		"ALTER PUBLICATION ffstream DROP TABLE ff_attempt; ALTER PUBLICATION ffstream ADD TABLE ff_attempt",
		"ALTER PUBLICATION ffstream DROP TABLE ff_exec_core",
		"DROP PUBLICATION ffstream",
	} {
		run(t, conn, sql)
		if line := lineage(t, conn); slices.ContainsFunc(line, func(e string) bool { return slices.Contains(seen, e) }) {
			t.Errorf("%s: editions %v go on from %v", sql, line, seen)
		}
		line := migrate()
		if slices.ContainsFunc(line, func(e string) bool { return slices.Contains(upgraded, e) }) {
			t.Errorf("%s, and mended: editions %v go on from %v", sql, line, upgraded)
		}
		seen = append(seen, line...)
	}
}
