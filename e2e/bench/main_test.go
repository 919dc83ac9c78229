package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// program is ffstream, built by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(testenv.Main(func() int { return withBinary(m) })) }

func withBinary(m *testing.M) int {
	if os.Getenv("FFSTREAM_BENCH") == "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "ffstream-bench-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "ffstream")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/ffstream").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build ffstream: %v: %s\n", err, out)
		return 1
	}
	return m.Run()
}

// setting reads a number from the environment.
func setting(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%s: want a number", name, text)
	}
	return n
}

// gate skips what is no test.
func gate(t testing.TB) {
	t.Helper()
	if os.Getenv("FFSTREAM_BENCH") == "" {
		t.Skip("make bench runs it")
	}
}

// source is a prepared database on a server of its own, whose files are not
// synced: what is measured is reading.
type source struct {
	t    testing.TB
	pg   *testenv.Postgres
	pool *pgxpool.Pool
	url  string
	runs int
}

func newSource(t testing.TB, statements ...string) *source {
	t.Helper()
	ctx := context.Background()
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{"max_wal_size": "16GB", "checkpoint_timeout": "1h", "autovacuum": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	s := &source{t: t, pg: pg, url: pg.URL("postgres")}
	if err := migrations.EngineSchema(ctx, s.url, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	if s.pool, err = pgxpool.New(ctx, s.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	cmd := exec.Command(program, "migrate")
	cmd.Env = append(os.Environ(), "FFSTREAM_DATABASE_URL="+s.url)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("migrate: %v: %s", err, out)
	}
	for _, sql := range statements {
		s.exec(sql)
	}
	return s
}

func (s *source) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.pool.Exec(context.Background(), sql, args...); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
}

func (s *source) text(sql string, args ...any) string {
	s.t.Helper()
	var v string
	if err := s.pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// backlog is a log that waits in a slot.
type backlog struct {
	source  *source
	end     string // LSN behind its last commit
	changes int
	tx      int
	events  int
}

// origin is the slot that every consumer's is a copy of.
const origin = "origin"

// write fills the log behind a new origin.
func (s *source) write(executions int) *backlog {
	s.t.Helper()
	s.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", origin)
	sum, err := engine.Backlog(context.Background(), s.pool, engine.Newest, executions, 2)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.backlog(sum.CoreRows+sum.AttemptRows, sum.Transactions, sum.Transitions)
}

// backlog notes where the log ends. What is written behind it lets a reader that
// stops at an LSN see that it is there.
func (s *source) backlog(changes, tx, events int) *backlog {
	s.t.Helper()
	b := &backlog{source: s, changes: changes, tx: tx, events: events, end: s.text("SELECT pg_current_wal_insert_lsn()::text")}
	s.exec("SELECT pg_logical_emit_message(false, 'bench', 'end')")
	s.exec("SELECT pg_switch_wal()")
	return b
}

// slot copies the origin; the copy is dropped at the end.
func (s *source) slot() (name string, drop func()) {
	s.t.Helper()
	s.runs++
	name = "run_" + strconv.Itoa(s.runs)
	s.exec("SELECT pg_copy_logical_replication_slot($1, $2)", origin, name)
	return name, func() {
		await(s.t, "the slot to be free", func() bool {
			return s.text("SELECT (NOT active)::text FROM pg_replication_slots WHERE slot_name = $1", name) == "true"
		})
		s.exec("SELECT pg_drop_replication_slot($1)", name)
	}
}

// await polls until ok.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// broker is where a run publishes.
type broker struct {
	servers []*testenv.NATSProcess
	js      jetstream.JetStream
}

func newBroker(t testing.TB, servers []*testenv.NATSProcess) *broker {
	t.Helper()
	b := &broker{servers: servers}
	nc, err := nats.Connect(b.url(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if b.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	await(t, "JetStream", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := b.js.CreateStream(ctx, jetstream.StreamConfig{Name: "READY", Subjects: []string{"ready"}, Replicas: len(servers)})
		return err == nil
	})
	return b
}

func (b *broker) url() string {
	urls := make([]string, len(b.servers))
	for i, s := range b.servers {
		urls[i] = s.URL()
	}
	return strings.Join(urls, ",")
}

// stream makes the stream that ffstream would make for a slot of its own.
func (b *broker) stream(t testing.TB, name string) jetstream.Stream {
	t.Helper()
	s, err := b.js.CreateStream(context.Background(), jetstream.StreamConfig{
		Name: name, Subjects: []string{name + ".>"}, Storage: jetstream.FileStorage, Replicas: len(b.servers),
		MaxAge: 7 * 24 * time.Hour, Duplicates: 2 * time.Minute, AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
