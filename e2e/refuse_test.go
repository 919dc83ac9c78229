package e2e

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

const secret = "hunter2"

// refusal is a way to start the service wrongly.
type refusal struct {
	name string
	// given breaks the world or the environment, and may add arguments.
	given func(w *world, env map[string]string) []string
	code  int
	says  []string // the thing, the rule and the remedy
}

// set makes a refusal's given of a change to the environment.
func set(name, value string) func(*world, map[string]string) []string {
	return func(_ *world, env map[string]string) []string {
		env[name] = value
		return nil
	}
}

// sql makes a refusal's given of statements.
func sql(statements ...string) func(*world, map[string]string) []string {
	return func(w *world, _ map[string]string) []string {
		for _, s := range statements {
			w.exec(s)
		}
		return nil
	}
}

// args makes a refusal's given of arguments.
func args(list ...string) func(*world, map[string]string) []string {
	return func(*world, map[string]string) []string { return list }
}

// stream makes a refusal's given of a stream that exists already.
func stream(change func(w *world, c *jetstream.StreamConfig)) func(*world, map[string]string) []string {
	return func(w *world, _ map[string]string) []string {
		w.createStream(func(c *jetstream.StreamConfig) { change(w, c) })
		return nil
	}
}

func (w *world) createStream(change func(c *jetstream.StreamConfig)) {
	w.t.Helper()
	c := jetstream.StreamConfig{Name: w.stream, Subjects: []string{w.prefix + ".>"}, Storage: jetstream.FileStorage, AllowAtomicPublish: true, AllowDirect: true, MaxAge: 7 * 24 * time.Hour}
	change(&c)
	if _, err := w.js.CreateStream(context.Background(), c); err != nil {
		w.t.Fatal(err)
	}
}

var usageRefusals = []refusal{
	{"unparsable URL", set("FFSTREAM_DATABASE_URL", "postgres://u:"+secret+"@h:port/db"), 2, []string{"--database-url", "postgres://user:password@host:port/database"}},
	{"no URL", set("FFSTREAM_DATABASE_URL", ""), 2, []string{"FFSTREAM_DATABASE_URL", "required"}},
	{"unparsable NATS URL", set("FFSTREAM_NATS_URL", "http://u:"+secret+"@h"), 2, []string{"--nats-url", "nats://host:port"}},
	{"slot name", set("FFSTREAM_SLOT", "My-Slot"), 2, []string{`--slot "My-Slot"`, "lower-case"}},
	{"stream name", set("FFSTREAM_STREAM", "a.b"), 2, []string{`--stream "a.b"`, "no dots"}},
	{"subject prefix", set("FFSTREAM_SUBJECT_PREFIX", "a.>"), 2, []string{`--subject-prefix "a.>"`, "one token"}},
	{"unknown flag", args("--colour"), 2, []string{"--colour", "ffstream --help"}},
	{"unknown YAML key", func(w *world, env map[string]string) []string {
		path := filepath.Join(w.t.TempDir(), "ffstream.yaml")
		if err := os.WriteFile(path, []byte("slott: x\n"), 0o600); err != nil {
			w.t.Fatal(err)
		}
		env["FFSTREAM_CONFIG"] = path
		return nil
	}, 2, []string{`"slott"`, "ffstream.yaml", "names of flags"}},
}

var sourceRefusals = []refusal{
	{"unknown host", set("FFSTREAM_DATABASE_URL", "postgres://u:"+secret+"@no-such-host.invalid/db"), 1, []string{"no-such-host.invalid", "correct the host"}},
	{"database missing", func(w *world, env map[string]string) []string {
		env["FFSTREAM_DATABASE_URL"] = strings.Replace(w.db.URL, w.db.Name, w.db.Name+"_nope", 1)
		return nil
	}, 1, []string{"_nope", "does not exist", "correct the database URL"}},
	{"role without REPLICATION", func(w *world, env map[string]string) []string {
		role := w.db.Name + "_role"
		w.exec("CREATE ROLE " + role + " LOGIN PASSWORD '" + secret + "'")
		w.t.Cleanup(func() { w.exec("DROP ROLE " + role) })
		env["FFSTREAM_DATABASE_URL"] = withUser(w.t, w.db.URL, role, secret)
		return nil
	}, 1, []string{"not permitted to replicate", "ALTER ROLE"}},
	{"engine's tables missing", sql("DROP TABLE ff_attempt CASCADE"), 1, []string{"ff_attempt", "name the database that the engine uses"}},
	{"publication missing", sql("DROP PUBLICATION ffstream"), 1, []string{"publication ffstream does not exist", "ffstream migrate"}},
	{"publication without a table", sql("ALTER PUBLICATION ffstream DROP TABLE ff_attempt"), 1, []string{"lacks table ff_attempt", "ffstream migrate"}},
	{"publication without root", sql("DROP PUBLICATION ffstream", "CREATE PUBLICATION ffstream FOR TABLE ff_exec_core, ff_attempt"), 1, []string{"publish_via_partition_root", "ffstream migrate"}},
	{"publication without a column", sql("ALTER PUBLICATION ffstream SET TABLE ff_exec_core, ff_attempt (partition_key, execution_id, attempt_index)"), 1, []string{"lacks column worker_id of table ff_attempt", "ffstream migrate"}},
	{"leaf without identity", sql("ALTER TABLE ff_exec_core_p42 REPLICA IDENTITY DEFAULT"), 1, []string{"ff_exec_core_p42", "ffstream migrate", "--replica-identity=none"}},
	{"slot of another plugin", func(w *world, _ map[string]string) []string {
		w.exec("SELECT pg_create_logical_replication_slot($1, 'test_decoding')", w.slot)
		return nil
	}, 1, []string{"test_decoding", "--slot"}},
	{"slot of another database", func(w *world, env map[string]string) []string {
		other := newWorld(w.t, 0)
		other.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", other.slot)
		env["FFSTREAM_SLOT"] = other.slot
		return nil
	}, 1, []string{"is of database", "--slot"}},
	{"slot missing although the stream has events", func(w *world, _ map[string]string) []string {
		p := w.run()
		w.play(&engine.Engine{Version: engine.Newest}, &engine.StoriesOf(engine.Newest)[0], engine.Exec{Partition: 1, ID: uuid.New()})
		w.caughtUp(p)
		p.stop()
		dropSlot(w)
		return nil
	}, 1, []string{"continuity is lost", "does not exist", "message 3", "restore the slot", "ffstream resume --accept-gap"}},
	{"stream deleted although the slot was confirmed", func(w *world, _ map[string]string) []string {
		p := w.run()
		w.caughtUp(p)
		p.stop()
		if err := w.js.DeleteStream(context.Background(), w.stream); err != nil {
			w.t.Fatal(err)
		}
		return nil
	}, 1, []string{"continuity is lost", "stream", "does not exist", "restore the stream", "ffstream resume --accept-gap"}},
}

var sinkRefusals = []refusal{
	{"JetStream disabled", func(w *world, env map[string]string) []string {
		bare := testenv.NewNATS(w.t, testenv.NATSConfig{NoJetStream: true})
		env["FFSTREAM_NATS_URL"] = bare.URL()
		return nil
	}, 1, []string{"JetStream is not enabled", "start nats-server with -js"}},
	{"stream with other subjects", stream(func(w *world, c *jetstream.StreamConfig) { c.Subjects = []string{w.prefix + ".other.>"} }), 1,
		[]string{"subjects", "is the only writer", "--subject-prefix"}},
	{"stream of another database", stream(func(_ *world, c *jetstream.StreamConfig) {
		c.Metadata = map[string]string{"ffstream.system_identifier": "42"}
	}), 1, []string{"database system 42", "--stream"}},
	{"stream of another slot", stream(func(_ *world, c *jetstream.StreamConfig) { c.Metadata = map[string]string{"ffstream.slot": "another"} }), 1,
		[]string{"fed by slot another", "--slot"}},
	{"stream that forgets what is read", stream(func(_ *world, c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }), 1,
		[]string{"retention", "set it to limits"}},
	{"stream in memory", stream(func(_ *world, c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }), 1, []string{"storage", "memory", "--stream"}},
	{"foreign message at the stream's end", func(w *world, _ map[string]string) []string {
		w.createStream(func(*jetstream.StreamConfig) {})
		if _, err := w.js.Publish(context.Background(), w.prefix+".exec.1.a.b.active", []byte("mine")); err != nil {
			w.t.Fatal(err)
		}
		return nil
	}, 1, []string{"message 1 of stream", "is no event of ffstream", "another writer"}},
}

// TestRefusals: each mistake ends the program with one line that names the
// thing, the rule and the remedy, with the documented exit code, and without a
// word of the password.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, group := range [][]refusal{usageRefusals, sourceRefusals, sinkRefusals} {
		for _, r := range group {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, migrations.EngineNewest)
				r.check(t, w)
			})
		}
	}
}

func (r *refusal) check(t *testing.T, w *world) {
	t.Helper()
	env := w.env()
	more := r.given(w, env)
	p := start(t, env, append([]string{"run"}, more...)...)
	if code := p.code(); code != r.code {
		t.Errorf("exit code %d, want %d", code, r.code)
	}
	line := oneError(t, p)
	for _, word := range r.says {
		if !strings.Contains(line, word) {
			t.Errorf("%q does not say %q", line, word)
		}
	}
	if strings.Contains(line, secret) {
		t.Errorf("%q shows the password", line)
	}
}

// withUser gives a URL another user.
func withUser(t testing.TB, server, user, password string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// TestRefusedServer: what needs a server of its own.
func TestRefusedServer(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	server, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{"wal_level": "replica"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	database := server.URL("postgres")
	if err := migrations.EngineSchema(ctx, database, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"FFSTREAM_DATABASE_URL": database}
	if p := start(t, env, "migrate"); p.code() != 0 {
		t.Fatal(p.output())
	}
	conn, err := pgx.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "CREATE ROLE scram_users; CREATE ROLE app LOGIN REPLICATION PASSWORD 'right' IN ROLE scram_users"); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 0)
	for _, r := range []refusal{
		{"wal_level", set("FFSTREAM_DATABASE_URL", database), 1, []string{"wal_level", "replica", "set wal_level = logical and restart"}},
		{"wrong password", set("FFSTREAM_DATABASE_URL", withUser(t, database, "app", secret)), 1, []string{"authentication failed", `"app"`, "correct the user or password"}},
	} {
		t.Run(r.name, func(t *testing.T) { r.check(t, w) })
	}
}

// TestNATSUnreachable: the service waits, says for what, and goes on when it comes.
func TestNATSUnreachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	env := w.env()
	broker := through(t, env["FFSTREAM_NATS_URL"])
	broker.Stop()
	env["FFSTREAM_NATS_URL"] = broker.url
	p := start(t, env, "run")
	await(t, "the service to say what it waits for", func() (bool, string) {
		text := p.output()
		return strings.Contains(text, "NATS is unavailable") && strings.Contains(text, broker.Listen), text
	})
	if err := broker.Start(); err != nil {
		t.Fatal(err)
	}
	w.awaitActive(p)
	w.caughtUp(p)
	p.stop()
}

// TestStreamFull: a stream whose limit refuses new messages stops the stream and
// loses nothing: the slot keeps the log until there is room.
func TestStreamFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	var limited jetstream.StreamConfig
	w.createStream(func(c *jetstream.StreamConfig) {
		c.MaxMsgs, c.Discard = 4, jetstream.DiscardNew
		limited = *c
	})
	o := newOracle(w)
	p := w.run()
	e := &engine.Engine{Version: engine.Newest}
	story := &engine.StoriesOf(engine.Newest)[0]
	for i := range int16(3) {
		w.play(e, story, engine.Exec{Partition: i, ID: uuid.New()})
	}
	await(t, "the service to say that the stream is full", func() (bool, string) {
		text := p.output()
		return strings.Contains(text, "stream is full") && strings.Contains(text, "until there is room"), text
	})
	if n := len(w.stored()); n != 4 {
		t.Errorf("%d messages are stored, the limit is 4", n)
	}
	await(t, "the service to try again and again", func() (bool, string) {
		return p.report().Counters.Retries["stream_full"] >= 6, p.output()
	})
	// The session that filled it and the first that could not go on are news; no later try is.
	if n, m := strings.Count(p.output(), `"msg":"streaming"`), strings.Count(p.output(), "stream is full"); n > 2 || m > 2 {
		t.Errorf("it says %d times that it streams and %d times that the stream is full: %s", n, m, p.output())
	}
	limited.MaxMsgs = -1
	if _, err := w.js.UpdateStream(context.Background(), limited); err != nil {
		t.Fatal(err)
	}
	w.awaitActive(p)
	w.caughtUp(p)
	if !strings.Contains(p.output(), "streaming again") {
		t.Errorf("it does not say that it goes on: %s", p.output())
	}
	o.compare()
	p.stop()
}
