package repl_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestOpenWithoutSlot: Open says what is there and makes nothing.
func TestOpenWithoutSlot(t *testing.T) {
	t.Parallel()
	db := database(t)
	before := scalar[string](t, db, "SELECT pg_current_wal_flush_lsn()::text")
	s := open(t, config(t, db))
	if s.Slot() != (repl.Slot{}) {
		t.Errorf("slot %+v, want none", s.Slot())
	}
	sys := s.System()
	system := scalar[string](t, db, "SELECT system_identifier::text FROM pg_control_system()")
	version := scalar[string](t, db, "SHOW server_version")
	if fmt.Sprint(sys.ID) != system || sys.Version != version || sys.Database != db.Name || sys.Timeline != 1 {
		t.Errorf("system %+v, want %s, version %s, database %s", sys, system, version, db.Name)
	}
	if lsn, err := ffstream.ParseLSN(before); err != nil || sys.End < lsn {
		t.Errorf("end of WAL %s, want %s or more (%v)", sys.End, before, err)
	}
	err := s.Start(testContext(t))
	if !errors.Is(err, repl.ErrSlotLost) || !strings.Contains(err.Error(), db.Slot()) {
		t.Errorf("start without a slot: %v", err)
	}
	if n := scalar[int](t, db, "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", db.Slot()); n != 0 {
		t.Error("open or start made the slot")
	}
	// Nothing of the caller's configuration is changed.
	cfg := config(t, db)
	open(t, cfg)
	if len(cfg.Conn.RuntimeParams) != 0 {
		t.Errorf("open left %v in the caller's configuration", cfg.Conn.RuntimeParams)
	}
}

func TestOpenFindsSlot(t *testing.T) {
	t.Parallel()
	db := database(t)
	s := open(t, config(t, db))
	if err := s.CreateSlot(testContext(t)); err != nil {
		t.Fatal(err)
	}
	made := s.Slot()
	if confirmed := scalar[string](t, db, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", db.Slot()); !made.Exists || made.Confirmed.String() != confirmed {
		t.Errorf("made %+v, and the server says %s", made, confirmed)
	}
	if again := open(t, config(t, db)); again.Slot() != made {
		t.Errorf("found %+v, want %+v", again.Slot(), made)
	}
	// It is not ours alone before Start, and another of its name cannot be made.
	var pg *pgconn.PgError
	if err := open(t, config(t, db)).CreateSlot(testContext(t)); !errors.As(err, &pg) || pg.Code != "42710" {
		t.Errorf("create it again: %v", err)
	}
}

// TestOpenRefuses holds the faults that Open sees, what they are called, and
// what the text says about mending them.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	db, other := database(t), database(t)
	role := db.Name + "_role"
	for _, sql := range []string{
		"CREATE ROLE " + role + " LOGIN PASSWORD 'right'",
		"DO $$ BEGIN CREATE ROLE scram_users; EXCEPTION WHEN duplicate_object OR unique_violation THEN END $$",
		"CREATE ROLE " + role + "_scram LOGIN REPLICATION PASSWORD 'right' IN ROLE scram_users",
		"SELECT pg_create_logical_replication_slot('" + db.Slot() + "_plugin', 'test_decoding')",
		"SELECT pg_create_physical_replication_slot('" + db.Slot() + "_physical')",
	} {
		exec(t, db, sql)
	}
	exec(t, other, "SELECT pg_create_logical_replication_slot($1, 'pgoutput')", db.Slot()+"_other")
	t.Cleanup(func() {
		exec(t, db, "SELECT pg_drop_replication_slot($1)", db.Slot()+"_physical")
		exec(t, db, "DROP ROLE "+role+", "+role+"_scram")
	})

	for name, tc := range map[string]struct {
		change func(*repl.Config)
		kind   error
		text   string
	}{
		"plugin":         {func(c *repl.Config) { c.Slot += "_plugin" }, repl.ErrSlotForeign, "test_decoding"},
		"physical":       {func(c *repl.Config) { c.Slot += "_physical" }, repl.ErrSlotForeign, "physical"},
		"other database": {func(c *repl.Config) { c.Slot += "_other" }, repl.ErrSlotForeign, other.Name},
		"role":           {func(c *repl.Config) { c.Conn.User = role }, repl.ErrNotPermitted, `ALTER ROLE "` + role + `" REPLICATION`},
		"password":       {func(c *repl.Config) { c.Conn.User, c.Conn.Password = role+"_scram", "wrong-secret" }, repl.ErrAuthentication, role},
		"database":       {func(c *repl.Config) { c.Conn.Database += "_none" }, repl.ErrDatabaseMissing, db.Name + "_none"},
		"host":           {func(c *repl.Config) { c.Conn.Host = "nowhere.invalid" }, repl.ErrUnknownHost, "nowhere.invalid"},
	} {
		cfg := config(t, db)
		tc.change(&cfg)
		s, err := repl.Open(testContext(t), cfg)
		if !errors.Is(err, tc.kind) || s != nil {
			t.Errorf("%s: %v, want %v", name, err, tc.kind)
			continue
		}
		if text := err.Error(); !strings.Contains(text, tc.text) || strings.Contains(text, "secret") || strings.Contains(text, "\n") {
			t.Errorf("%s: %q, want it to name %s on one line and to keep the password", name, text, tc.text)
		}
	}
	waitFor(t, db, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'ffstream/' || $1 || '%'", db.Slot())
}

// TestOpenRefusesServers needs servers of its own: one without logical
// decoding, its standby, and one that gives a slot little WAL to keep.
func TestOpenRefusesServers(t *testing.T) {
	t.Parallel()
	var last *testenv.Postgres
	connect := func(settings map[string]string) (repl.Config, *pgx.Conn) {
		ctx := testContext(t)
		server, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: settings})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		})
		last = server
		cfg, err := pgconn.ParseConfig(server.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.Connect(ctx, server.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) }) // before its server
		return repl.Config{Conn: cfg, Slot: "s", Publication: "ffstream"}, conn
	}
	refuse := func(cfg repl.Config, kind error, text string) {
		t.Helper()
		if s, err := repl.Open(testContext(t), cfg); !errors.Is(err, kind) || s != nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %v that names %s", err, kind, text)
		}
	}
	cfg, _ := connect(map[string]string{"wal_level": "replica", "max_replication_slots": "4"})
	refuse(cfg, repl.ErrWALLevel, "replica")

	// A standby is waited for, whatever its settings and its slots are.
	standby, err := last.Standby(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = standby.Close() })
	if cfg.Conn, err = pgconn.ParseConfig(standby.URL("postgres")); err != nil {
		t.Fatal(err)
	}
	refuse(cfg, repl.ErrRecovery, "promote it")

	cfg, conn := connect(map[string]string{"max_slot_wal_keep_size": "'1MB'", "min_wal_size": "'32MB'", "max_wal_size": "'32MB'"})
	s := open(t, cfg)
	if err := s.CreateSlot(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for _, sql := range []string{"CREATE TABLE x ()", "SELECT pg_switch_wal()", "CREATE TABLE y ()", "SELECT pg_switch_wal()", "CREATE TABLE z ()", "CHECKPOINT"} {
		if _, err := conn.Exec(testContext(t), sql); err != nil {
			t.Fatal(err)
		}
	}
	if again := open(t, cfg); again.Slot().Invalidated != "wal_removed" {
		t.Errorf("an invalidated slot: %+v", again.Slot())
	}
	if err := s.Start(testContext(t)); !errors.Is(err, repl.ErrSlotLost) {
		t.Errorf("start from an invalidated slot: %v", err)
	}
}

func TestStartOfBusySlot(t *testing.T) {
	t.Parallel()
	db := database(t)
	first := run(t, start(t, config(t, db)), 1)
	second := open(t, config(t, db))
	if err := second.Start(testContext(t)); !errors.Is(err, repl.ErrSlotBusy) {
		t.Errorf("start while another holds the slot: %v", err)
	}
	first.stop(t)
	waitFor(t, db, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = $1", db.Slot())
	// The connection that was refused is good for another try.
	if err := second.Start(testContext(t)); err != nil {
		t.Errorf("start after the other ended: %v", err)
	}
}

// TestMissingPublication: the server looks for it at the first change.
func TestMissingPublication(t *testing.T) {
	t.Parallel()
	db := database(t)
	cfg := config(t, db)
	cfg.Publication = `no "such" one's`
	r := run(t, start(t, cfg), 1)
	exec(t, db, "INSERT INTO t VALUES (1)")
	if err := r.failure(t); !errors.Is(err, repl.ErrPublicationMissing) || !strings.Contains(err.Error(), cfg.Publication) || !strings.Contains(err.Error(), "ffstream migrate") {
		t.Errorf("run without a publication: %v", err)
	}
	closeAtOnce(t, r.Stream)
}
