package doctor

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// TestFailover: only a slot that could be synchronised and is not is a warning.
func TestFailover(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                 string
		version, standbys    int
		exists, synchronised bool
		severity             Severity
	}{
		{"no standby", 17, 0, true, false, OK},
		{"before 17", 16, 1, true, false, OK},
		{"before the first run", 17, 1, false, false, OK},
		{"synchronised", 17, 1, true, true, OK},
		{"not synchronised", 17, 1, true, false, Warning},
		{"not synchronised, by a newer one", 18, 2, true, false, Warning},
	} {
		f := judgeFailover(c.version, c.standbys, c.exists, c.synchronised, "s", "d")
		if f.Severity != c.severity || (f.Why == "") != (c.severity == OK) {
			t.Errorf("%s: %+v", c.name, f)
		}
		if c.severity != OK && (len(f.Run) != 1 || f.Run[0] != `psql 'dbname=d replication=database' -c 'ALTER_REPLICATION_SLOT "s" (FAILOVER true)'`) {
			t.Errorf("%s: %q", c.name, f.Run)
		}
	}
	for _, name := range []string{"d", "my data", `it's`, `a\b`, `"$HOME"`, "x=y", `\'; true`} {
		command := judgeFailover(17, 1, true, false, "s", name).Run[0]
		out, err := exec.CommandContext(t.Context(), "sh", "-c", `psql() { printf %s "$1"; }; `+command).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
		if cfg, err := pgconn.ParseConfig(string(out)); err != nil || cfg.Database != name || cfg.RuntimeParams["replication"] != "database" {
			t.Errorf("%s: %s connects to %+v (%v)", command, out, cfg, err)
		}
	}
	db := testenv.DB(t, testenv.Schema{})
	conn := mustConnect(t, db.URL)
	defer func() { _ = conn.Close(t.Context()) }()
	if f := find(t, Source(t.Context(), conn, Config{Slot: "none"}), "failover"); f.Severity != OK {
		t.Errorf("a server of the tests: %+v", f)
	}
}

// TestUnseen: a check that had no time is reported.
func TestUnseen(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{})
	conn := mustConnect(t, db.URL)
	defer func() { _ = conn.Close(context.Background()) }()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	all := Source(over, conn, Config{Config: migrations.Config{Publication: "ffstream"}, Slot: "none"})
	if len(all) != len(checks) {
		t.Errorf("%d findings of %d checks", len(all), len(checks))
	}
	for _, f := range all {
		if f.ID == "" || f.Severity != Fault || !strings.Contains(f.Why, "--timeout") {
			t.Errorf("%+v", f)
		}
	}
}

// TestCutOff: a look that a lock held up is repeated, and what held it up is said.
func TestCutOff(t *testing.T) {
	t.Parallel()
	ctx, db := t.Context(), testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest, Prepared: true})
	conn, other := mustConnect(t, db.URL), mustConnect(t, db.URL)
	defer func() { _, _ = conn.Close(context.Background()), other.Close(context.Background()) }()
	cfg := Config{Config: migrations.Config{Publication: "ffstream", Identity: true}, Slot: "none"}
	lock := func(sql string) {
		t.Helper()
		if _, err := other.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	lock("BEGIN; LOCK TABLE pg_catalog.pg_publication")
	f := find(t, Source(ctx, conn, cfg), "source")
	if f.Severity != Fault || !strings.Contains(f.Found, "lock timeout") || !strings.Contains(f.Why, "no lock is held") {
		t.Errorf("while the catalog is locked: %+v", f)
	}
	looks := 0
	f = inspect(ctx, conn, cfg, check{"late", func(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error) {
		if looks++; looks == 2 {
			lock("ROLLBACK")
		}
		return source(ctx, tx, cfg)
	}})
	if f.ID != "late" || f.Severity != OK || looks != 2 {
		t.Errorf("after %d looks: %+v", looks, f)
	}
}
