package doctor

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run)) }

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

// answered is Stream, which waits for an answer as an operator would, again until every
// look had one.
func answered(ctx context.Context, nc *nats.Conn, cfg publish.Config) []Finding {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		all := Stream(ctx, nc, cfg)
		if ctx.Err() != nil || !slices.ContainsFunc(all, late) {
			return all
		}
	}
}

func late(f Finding) bool {
	text := f.Found + f.Why
	return strings.Contains(text, context.DeadlineExceeded.Error()) || strings.Contains(text, nats.ErrTimeout.Error())
}

// mustOpen opens a stream as the service does, which tries again where it had no answer.
func mustOpen(t *testing.T, nc *nats.Conn, cfg publish.Config) *publish.Stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := publish.Open(ctx, nc, cfg, true)
	for errors.Is(err, publish.ErrUnavailable) && ctx.Err() == nil {
		s, err = publish.Open(ctx, nc, cfg, true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func find(t *testing.T, all []Finding, id string) Finding {
	t.Helper()
	for _, f := range all {
		if f.ID == id {
			return f
		}
	}
	t.Fatalf("no finding %s in %v", id, all)
	return Finding{}
}

// TestRemedies provokes a finding, runs its remedy and sees it gone.
func TestRemedies(t *testing.T) {
	t.Parallel()
	ctx, db := t.Context(), testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	admin, err := pgx.Connect(ctx, db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(ctx) }()
	exec := func(sql string) {
		t.Helper()
		if _, err := admin.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	name := pgx.Identifier{db.Name + "_doctor"}.Sanitize()
	exec("CREATE ROLE " + name)
	t.Cleanup(func() {
		for _, sql := range []string{"DROP OWNED BY ", "DROP ROLE "} {
			if _, err := db.Pool.Exec(context.Background(), sql+name); err != nil {
				t.Errorf("drop the role: %v", err)
			}
		}
	})
	cfg := Config{Config: migrations.Config{Publication: "ffstream", Identity: true}, Slot: "no_such_slot"}
	exec("SET ROLE " + name) // which has no right yet
	if f := find(t, Source(ctx, admin, cfg), "locks"); !strings.HasPrefix(f.Found, "max_locks_per_transaction is ") {
		t.Errorf("the lock table, as a role without rights: %+v", f)
	}
	exec("RESET ROLE")
	for _, id := range []string{"role-replication", "grants", "source"} {
		check := func() Finding {
			if id != "source" {
				exec("SET ROLE " + name)
				defer exec("RESET ROLE")
			}
			return find(t, Source(ctx, admin, cfg), id)
		}
		before := check()
		if before.Severity != Fault || len(before.Remedy) == 0 {
			t.Fatalf("before: %+v", before)
		}
		for _, sql := range before.Remedy {
			exec(sql)
		}
		if after := check(); after.Severity != OK {
			t.Fatalf("after the remedy: %+v", after)
		}
	}
	// What migrate would change is no fault where the service starts without it.
	exec("ALTER PUBLICATION ffstream SET TABLE ff_exec_core, ff_attempt")
	if err := migrations.Check(ctx, admin, cfg.Config); err != nil {
		t.Fatal(err)
	}
	before := find(t, Source(ctx, admin, cfg), "source")
	if before.Severity != Warning || before.Command != "ffstream migrate" {
		t.Fatalf("a publication of all columns: %+v", before)
	}
	for _, sql := range before.Remedy {
		exec(sql)
	}
	if after := find(t, Source(ctx, admin, cfg), "source"); after.Severity != OK {
		t.Errorf("after the remedy: %+v", after)
	}
}

// TestServerRemedies provokes what concerns a whole server, runs the remedies,
// restarts it where they say so, and sees the findings gone.
func TestServerRemedies(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Close() })
	restart := func() {
		t.Helper()
		if err := errors.Join(pg.Stop("fast"), pg.Start(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	exec := func(sql string) {
		t.Helper()
		conn := mustConnect(t, pg.URL("postgres"))
		defer func() { _ = conn.Close(ctx) }()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	check := func(id string) Finding {
		t.Helper()
		conn := mustConnect(t, pg.URL("postgres"))
		defer func() { _ = conn.Close(ctx) }()
		return find(t, Source(ctx, conn, Config{Config: migrations.Config{Publication: "ffstream", Identity: true}, Slot: "ffstream"}), id)
	}
	for _, sql := range []string{
		"ALTER SYSTEM SET wal_level = 'replica'", "ALTER SYSTEM SET max_replication_slots = 1", "ALTER SYSTEM SET max_wal_senders = 0",
		"ALTER SYSTEM SET max_locks_per_transaction = 255", "ALTER SYSTEM SET wal_sender_timeout = '1s'", "ALTER SYSTEM SET max_slot_wal_keep_size = -1",
	} {
		exec(sql)
	}
	restart()
	exec("SELECT pg_create_physical_replication_slot('other')")
	for id, severity := range map[string]Severity{
		"wal-level": Fault, "replication-slots": Fault, "wal-senders": Fault, "locks": Warning, "wal-sender-timeout": Warning, "slot-keep-size": Warning,
	} {
		before := check(id)
		if before.Severity != severity || before.Why == "" || len(before.Remedy) == 0 {
			t.Fatalf("%s before: %+v", id, before)
		}
		for _, sql := range before.Remedy {
			exec(sql)
		}
		if before.Restart {
			restart()
		}
		if after := check(id); after.Severity != OK {
			t.Errorf("%s after the remedy: %+v", id, after)
		}
	}
	if f := check("slot"); f.Severity != OK || !strings.Contains(f.Found, "first run creates it") {
		t.Errorf("a slot that does not exist: %+v", f)
	}
	exec("SELECT pg_create_physical_replication_slot('ffstream', true)")
	if f := check("slot"); f.Severity != Fault || !strings.Contains(f.Why, "--slot") {
		t.Errorf("somebody else's slot: %+v", f)
	}
	exec("SELECT pg_drop_replication_slot('ffstream')")
	exec("SELECT pg_create_logical_replication_slot('ffstream', 'pgoutput')")
	if f := check("slot"); f.Severity != Warning || len(f.Run) == 0 {
		t.Errorf("a slot that nobody holds: %+v", f)
	}
	exec("ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'")
	exec("SELECT pg_reload_conf()")
	for _, id := range []string{"version", "pooler", "idle-slot-timeout", "clock"} {
		if f := check(id); f.Severity != OK {
			t.Errorf("%s: %+v", id, f)
		}
	}
	if f := check("slot-wal"); !strings.Contains(f.Found, "more are safe") {
		t.Errorf("the forecast: %+v", f)
	}
}

// TestSkew: only what the question's own time cannot explain is a difference.
func TestSkew(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for there, severity := range map[time.Duration]Severity{0: OK, 2 * time.Second: OK, -time.Second: OK, 4 * time.Second: Warning, -3 * time.Second: Warning} {
		if f := skew("x", now.Add(there), now, now.Add(time.Second)); f.Severity != severity {
			t.Errorf("%s: %+v", there, f)
		}
	}
}

// TestStream: the broker's side, from no stream over a sound one to one that
// cannot keep the promise.
func TestStream(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testenv.NewNATS(t, testenv.NATSConfig{})
	nc, js := mustJetStream(t, server.URL())
	cfg := publish.Config{Stream: "DOCTOR", Prefix: "doctor", SystemID: 7, Slot: "s", Replicas: 1, MaxAge: time.Hour}
	check := func() Finding { return find(t, answered(ctx, nc, cfg), "stream") }
	if f := check(); f.Severity != OK || !strings.Contains(f.Found, "first run creates it") {
		t.Errorf("no stream: %+v", f)
	}
	mustOpen(t, nc, cfg)
	if f := check(); f.Severity == Fault {
		t.Errorf("the service's own stream: %+v", f)
	}
	stream, err := js.Stream(ctx, cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	changed := stream.CachedInfo().Config
	changed.MaxMsgs, changed.Discard = 10, jetstream.DiscardOld
	changed.Subjects = []string{"other.>"}
	if _, err := js.UpdateStream(ctx, changed); err != nil {
		t.Fatal(err)
	}
	if f := check(); f.Severity != Fault || f.Why == "" {
		t.Errorf("a stream that takes no event: %+v", f)
	}
	if f := find(t, answered(ctx, nc, cfg), "jetstream"); f.Severity != OK {
		t.Errorf("the account: %+v", f)
	}
}

func mustConnect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
