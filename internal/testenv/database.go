package testenv

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream/migrations"
)

// shared is the Postgres of one test binary: started when the first test needs
// it, or the one that FF_PG_TEST_URL names.
type shared struct {
	once      sync.Once
	err       error
	server    *Postgres // nil when the environment named one
	url       string
	mu        sync.Mutex        // guards templates; held while one is made
	templates map[string]string // by kind, the template database
	number    atomic.Int64
}

var pg shared

func (s *shared) start() error {
	s.once.Do(func() {
		s.templates = make(map[string]string)
		if s.url = os.Getenv("FF_PG_TEST_URL"); s.url != "" {
			return
		}
		if s.server, s.err = StartPostgres(context.Background(), PostgresConfig{}); s.err == nil {
			s.url = s.server.URL("postgres")
		}
	})
	return s.err
}

// Main runs a package's tests and removes what they shared. Call it from
// TestMain with m.Run.
func Main(run func() int) int {
	if text := os.Getenv(childVariable); text != "" {
		return serveNATS(text)
	}
	code := run()
	ctx := context.Background()
	if pg.url != "" && pg.err == nil {
		for _, name := range pg.templates {
			if err := pg.exec(ctx, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil && pg.server == nil {
				fmt.Fprintln(os.Stderr, "drop template:", err)
				code = max(code, 1)
			}
		}
	}
	if pg.server != nil {
		if err := pg.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "stop Postgres:", err)
			code = max(code, 1)
		}
	}
	if broker.server != nil {
		if err := broker.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "stop NATS:", err)
			code = max(code, 1)
		}
	}
	return code
}

func (s *shared) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, s.url)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("run %q: %w", sql, err)
	}
	return nil
}

func (s *shared) databaseURL(name string) string {
	u, err := url.Parse(s.url)
	if err != nil {
		return s.url // a keyword string: refused where it is used
	}
	u.Path = "/" + name
	return u.String()
}

// Database is one test's own.
type Database struct {
	Name, URL string
	Pool      *pgxpool.Pool
}

// Schema is what a test's database holds at first.
type Schema struct {
	Version  migrations.EngineVersion // 0: empty
	Prepared bool                     // by ffstream migrate
}

// template returns a database to copy, made once for each schema: 512 leaves and
// 256 indexes take seconds to make and less to copy.
func (s *shared) template(ctx context.Context, schema Schema) (string, error) {
	if schema.Version == 0 {
		return "template0", nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fmt.Sprint(schema.Version, schema.Prepared)
	if name, ok := s.templates[key]; ok {
		return name, nil
	}
	name := fmt.Sprintf("ffstream_template_%d_%d", os.Getpid(), len(s.templates))
	s.templates[key] = name
	if err := s.exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	if err := migrations.EngineSchema(ctx, s.databaseURL(name), schema.Version); err != nil {
		return "", err
	}
	if !schema.Prepared {
		return name, nil
	}
	conn, err := pgx.Connect(ctx, s.databaseURL(name))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	cfg := migrations.Config{Publication: "ffstream", Identity: true}
	steps, err := migrations.Plan(ctx, conn, cfg)
	if err != nil {
		return "", err
	}
	return name, migrations.Apply(ctx, conn, cfg, steps, func(migrations.Progress) {})
}

// poolSize bounds a test's connections, which are opened when they are needed.
const poolSize = 12

// DB gives a test a database of its own and removes it afterwards with its slots.
func DB(tb testing.TB, schema Schema) *Database {
	tb.Helper()
	ctx := context.Background()
	if err := pg.start(); err != nil {
		tb.Fatal(err)
	}
	template, err := pg.template(ctx, schema)
	if err != nil {
		tb.Fatal(err)
	}
	d := &Database{Name: fmt.Sprintf("ffstream_test_%d_%d", os.Getpid(), pg.number.Add(1))}
	d.URL = pg.databaseURL(d.Name)
	// Two copies of one template must not be made at once.
	pg.mu.Lock()
	err = pg.exec(ctx, "CREATE DATABASE "+d.Name+" TEMPLATE "+template)
	pg.mu.Unlock()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { d.drop(tb) })
	cfg, err := pgxpool.ParseConfig(d.URL)
	if err != nil {
		tb.Fatal(err)
	}
	cfg.MaxConns = poolSize
	if d.Pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
		tb.Fatal(err)
	}
	return d
}

func (d *Database) drop(tb testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	d.Pool.Close()
	conn, err := pgx.Connect(ctx, pg.url)
	if err != nil {
		tb.Error(err)
		return
	}
	defer func() { _ = conn.Close(ctx) }()
	// A walsender that is told to end still holds its slot for a moment.
	for {
		_, err = conn.Exec(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active`, d.Name)
		if err == nil {
			_, err = conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1`, d.Name)
		}
		if err == nil {
			_, err = conn.Exec(ctx, "DROP DATABASE "+d.Name+" WITH (FORCE)")
		}
		if err == nil || !strings.Contains(err.Error(), "55006") {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done(): // which the next statement says
		}
	}
	if err != nil {
		tb.Errorf("drop %s: %v", d.Name, err)
	}
}

// Slot returns a name for a replication slot that no other test uses.
func (d *Database) Slot() string { return strings.ReplaceAll(d.Name, "ffstream_test", "slot") }

// sharedNATS is the NATS server of one test binary.
type sharedNATS struct {
	once   sync.Once
	err    error
	server *NATS
}

var broker sharedNATS

// NATSURL is the address of the test binary's NATS server. Use a stream and a
// subject prefix of your own: Database.Name serves for both.
func NATSURL(tb testing.TB) string {
	tb.Helper()
	broker.once.Do(func() { broker.server, broker.err = StartNATS(NATSConfig{}) })
	if broker.err != nil {
		tb.Fatal(broker.err)
	}
	return broker.server.URL()
}

// PostgresBinDir is where the programs of the test's Postgres are.
func PostgresBinDir(tb testing.TB) string {
	tb.Helper()
	dir, err := findPostgres(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}
