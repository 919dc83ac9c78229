package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/doctor"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

const (
	roleFile        = "../deploy/postgres/role.sql"
	migrateFile     = "../deploy/postgres/migrate.sql"
	permissionsFile = "../deploy/nats/permissions.conf"
)

// strict is a Postgres where nobody may do what the scripts do not say: what every
// role has by default was taken away.
type strict struct {
	*testenv.Postgres
	pool *pgxpool.Pool // the superuser's
}

func startStrict(t *testing.T) *strict {
	t.Helper()
	ctx := context.Background()
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{
		"shared_buffers": "32MB", "max_connections": "80", "max_replication_slots": "40", "max_wal_senders": "40",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	pool, err := pgxpool.New(ctx, pg.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &strict{pg, pool}
	s.exec(t, "CREATE ROLE engine LOGIN; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE, CREATE ON SCHEMA public TO engine")
	s.exec(t, "REVOKE ALL ON DATABASE postgres FROM PUBLIC; GRANT CONNECT ON DATABASE postgres TO engine")
	s.exec(t, "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$")
	if err := migrations.EngineSchema(ctx, s.as("engine"), migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	s.exec(t, "CREATE TABLE _sqlx_migrations (version bigint, success boolean); INSERT INTO _sqlx_migrations VALUES (22, true)")
	for range 2 { // running them again does no harm
		s.exec(t, readFile(t, roleFile))
		s.exec(t, readFile(t, migrateFile))
	}
	return s
}

// as is the URL of a role.
func (s *strict) as(role string) string {
	u := url.URL{Scheme: "postgres", User: url.User(role), Host: fmt.Sprintf("127.0.0.1:%d", s.Port), Path: "/postgres"}
	return u.String()
}

// exec runs statements as the superuser.
func (s *strict) exec(t testing.TB, sql string) {
	t.Helper()
	conn, err := s.pool.Acquire(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Conn().PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// world is a slot of its own, and a NATS server of its own whose users have the
// permissions of the file, as change leaves them.
func (s *strict) world(t testing.TB, slot string, change func(string) string) *world {
	t.Helper()
	w := &world{t: t, db: &testenv.Database{Name: "postgres", URL: s.as("ffstream"), Pool: s.pool}, slot: slot, stream: "FFSTREAM", prefix: "ff"}
	conf := fmt.Sprintf("FFSTREAM_NATS_PASSWORD: %q\nSUBSCRIBER_NATS_PASSWORD: %q\n", rightSecret, newSecret) + change(readFile(t, permissionsFile))
	conf = strings.Replace(conf, "users = [", `users = [ { user: admin, password: admin }`, 1)
	w.guarded(conf, nats.UserInfo("admin", "admin"))
	return w
}

func (w *world) service() map[string]string {
	return w.with(env{"FFSTREAM_NATS_USER": "ffstream", "FFSTREAM_NATS_PASSWORD_FILE": writeFile(w.t, w.t.TempDir(), "password", rightSecret)})
}

func (w *world) subscriber() map[string]string {
	return w.with(env{"FFSTREAM_NATS_USER": "subscriber", "FFSTREAM_NATS_PASSWORD_FILE": writeFile(w.t, w.t.TempDir(), "password", newSecret)})
}

func unchanged(text string) string { return text }

var commented = regexp.MustCompile(`(?m)^(\s+)# (")`)

// withStates takes the # away that the rights for a bucket of states stand behind.
func withStates(text string) string { return commented.ReplaceAllString(text, "$1$2") }

// states is the bucket that those rights are for.
const states = "FFSTREAM_states"

// findings runs doctor as the service's user.
func (w *world) findings(code int) map[string]doctor.Finding {
	w.t.Helper()
	return look(w.t, w.service(), code)
}

// TestLeastPrivilege: with the rights that the scripts give, and no others, both
// ends are prepared, followed, looked at and read; and each right is needed: where
// it is left out, what fails names it.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	s := startStrict(t)
	migrateRights(t, s)
	w := s.world(t, "whole", withStates)
	w.db.URL = s.as("ffstream_migrate")
	if p := start(t, w.env(), "migrate"); p.code() != 0 {
		t.Fatal(p.output())
	}
	w.db.URL = s.as("ffstream")
	whole(t, w)
	postgresRights(t, s, w)
	natsRights(t, s)
}

// whole is the service's life.
func whole(t *testing.T, w *world) {
	t.Helper()
	before := engine.Exec{Partition: 1, ID: uuid.New()} // of which the stream is not told
	w.play(&engine.Engine{Version: engine.Newest}, &engine.StoriesOf(engine.Newest)[0], before)
	p := start(t, w.service(), "run", "--heartbeat=100ms", "--state-bucket="+states)
	w.awaitActive(p)
	w.passes(p)
	w.caughtUp(p)
	for id, f := range w.findings(0) {
		if id != "slot-keep-size" && id != "stream" && f.Severity != doctor.OK {
			t.Errorf("doctor says of a service at work: %+v", f)
		}
	}
	for _, c := range []struct {
		code int
		args []string
		says string
	}{
		{1, []string{"verify", "--repair", "--timeout=2m"}, "1 missing"},
		{0, []string{"backfill", "status", "--watch"}, " is completed: 1 executions read"},
		{0, []string{"verify", "--timeout=2m"}, "0 missing"},
		{0, []string{"backfill", "--wait"}, " is completed: 2 executions read"},
	} {
		if p, code := asks(t, w.service(), c.args...); code != c.code || !strings.Contains(p.output(), c.says) {
			t.Errorf("%v ends with %d and does not say %q: %s", c.args, code, c.says, p.output())
		}
	}
	toasted(t, w)
	w.sameStates(states, p)
	p.stop()
	for _, line := range strings.Split(p.output(), "\n") {
		if strings.Contains(line, `"level":"WARN"`) && !strings.Contains(line, "allow_") {
			t.Errorf("run warns: %s", line)
		}
	}
	p = start(t, w.service(), "run", "--state-bucket="+states)
	w.awaitActive(p)
	w.passes(p)
	w.sameStates(states, p)
	w.exec("TRUNCATE ff_exec_core, ff_attempt")
	w.passes(p)
	w.sameStates(states, p)
	bucket, err := w.js.KeyValue(t.Context(), states)
	w.must(err)
	_, err = bucket.PutString(t.Context(), "1.foreign", "written by another: the service builds the bucket anew")
	w.must(err)
	await(t, "the bucket to be built anew", func() (bool, string) {
		_, err := bucket.Get(t.Context(), "1.foreign")
		return errors.Is(err, jetstream.ErrKeyNotFound), p.output()
	})
	w.sameStates(states, p)
	if strings.Contains(p.output(), nats.ErrPermissionViolation.Error()) {
		t.Errorf("a bucket of states takes more rights: %s", p.output())
	}
	w.watches()
	p.stop()
	stored := w.messages()
	tail, code := asks(t, w.subscriber(), "tail", "--follow=false", "--json")
	if code != 0 || uint64(strings.Count(tail.output(), "\n")) != stored {
		t.Errorf("tail ends with %d and does not print %d events: %s", code, stored, tail.output())
	}
	dropSlot(w)
	for _, says := range []string{"Accepted", "Nothing is lost"} {
		if p, code := asks(t, w.service(), "resume", "--accept-gap"); code != 0 || !strings.Contains(p.output(), says) {
			t.Errorf("resume ends with %d and does not say %q: %s", code, says, p.output())
		}
	}
	p = start(t, w.service(), "run")
	w.awaitActive(p)
	for _, args := range [][]string{{"backfill", "--wait"}, {"verify", "--timeout=2m"}} { // which read what the stream tells
		if p, code := asks(t, w.service(), args...); code != 0 {
			t.Errorf("%s behind a gap: %s", args, p.output())
		}
	}
	p.stop()
}

// watches reads the bucket of states as the subscriber.
func (w *world) watches() {
	w.t.Helper()
	js, refused := asSubscriber(w.t, w.nats)
	bucket, err := client.OpenStates(refused, js, states)
	w.must(err)
	w.must(bucket.Ready(refused))
	for change, err := range bucket.Watch(refused, ffstream.Opt[uint16]{}) {
		w.must(err)
		if change.Initial {
			break
		}
		if _, found, err := bucket.Get(refused, change.ID); err != nil || !found {
			w.t.Errorf("the subscriber reads of %s: %t, %v: %v", change.ID, found, err, context.Cause(refused))
		}
	}
	w.must(js.Conn().Flush())
	w.must(context.Cause(refused))
}

// asSubscriber connects as the user of the subscribers. The context ends when the
// broker refuses something, with what it says.
func asSubscriber(t testing.TB, url string) (jetstream.JetStream, context.Context) {
	t.Helper()
	ctx, refuse := context.WithCancelCause(t.Context())
	nc := testenv.Connect(t, url, nats.UserInfo("subscriber", newSecret), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refuse(err) }))
	return testenv.JetStream(t, nc), ctx
}

// toasted makes the service look a row up: its raw_fields are stored out of line
// and do not change.
func toasted(t *testing.T, w *world) {
	t.Helper()
	w.exec(`UPDATE ff_exec_core SET raw_fields = raw_fields || jsonb_build_object('pad', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) i)), lifecycle_phase = 'active', ownership_state = 'leased', public_state = 'active'`)
	w.exec(`UPDATE ff_exec_core SET lifecycle_phase = 'runnable', ownership_state = 'unowned', public_state = 'waiting'`)
}

// migrateRights leaves out each right that migrate needs.
func migrateRights(t *testing.T, s *strict) {
	t.Helper()
	for _, c := range []struct{ take, give, says string }{
		{"REVOKE CREATE ON DATABASE postgres FROM ffstream_migrate", "GRANT CREATE ON DATABASE postgres TO ffstream_migrate", "permission denied for database postgres"},
		{"REVOKE engine FROM ffstream_migrate; GRANT USAGE ON SCHEMA public TO ffstream_migrate", "GRANT engine TO ffstream_migrate", "must be owner of table ff_exec_core"},
	} {
		s.exec(t, c.take)
		p := start(t, env{"FFSTREAM_DATABASE_URL": s.as("ffstream_migrate")}, "migrate")
		if p.code() != 1 || !strings.Contains(p.output(), c.says) {
			t.Errorf("after %s migrate ends with %d: %s", c.take, p.code(), p.output())
		}
		s.exec(t, c.give)
	}
}

// postgresRights leaves out each right of the service's role: run says what gives
// it back, and so does doctor, whose remedy does.
func postgresRights(t *testing.T, s *strict, w *world) {
	t.Helper()
	lookedUp := []string{"partition_key", "execution_id", "raw_fields", "blocking_reason", "cancellation_reason", "cancelled_by"}
	cases := []struct{ take, give, says, finding string }{
		{"ALTER ROLE ffstream NOLOGIN", "ALTER ROLE ffstream LOGIN", "is not permitted to log in", ""},
		{"REVOKE CONNECT ON DATABASE postgres FROM ffstream", "GRANT CONNECT ON DATABASE postgres TO ffstream", `GRANT CONNECT ON DATABASE "postgres" TO "ffstream"`, ""},
		{"ALTER ROLE ffstream NOREPLICATION", "", `ALTER ROLE "ffstream" REPLICATION`, "role-replication"},
		{"REVOKE USAGE ON SCHEMA public FROM ffstream", "", `GRANT USAGE ON SCHEMA "public" TO "ffstream"`, "grants"},
		{"REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM ffstream", "", "", "heartbeat"},
		{"REVOKE SELECT ON _sqlx_migrations FROM ffstream", "", "", "engine-schema"},
	}
	for _, column := range lookedUp {
		cases = append(cases, struct{ take, give, says, finding string }{
			"REVOKE SELECT (" + column + ") ON ff_exec_core FROM ffstream", "", `GRANT SELECT (` + column + `) ON "public"."ff_exec_core" TO "ffstream"`, "grants",
		})
	}
	for _, column := range []string{"attempt_index", "lifecycle_phase", "ownership_state", "eligibility_state", "public_state", "attempt_state"} {
		cases = append(cases, struct{ take, give, says, finding string }{"REVOKE SELECT (" + column + ") ON ff_exec_core FROM ffstream", "", "", "literals"})
	}
	for _, column := range []string{"partition_key", "execution_id", "attempt_index", "outcome"} {
		cases = append(cases, struct{ take, give, says, finding string }{"REVOKE SELECT (" + column + ") ON ff_attempt FROM ffstream", "", "", "literals"})
	}
	for _, column := range []string{"flow_id", "lane_id", "priority", "created_at_ms", "terminal_at_ms", "started_at_ms", "xmax", "tableoid"} {
		cases = append(cases, struct{ take, give, says, finding string }{"REVOKE SELECT (" + column + ") ON ff_exec_core FROM ffstream", "", "", "backfill"})
	}
	for _, column := range []string{"worker_id", "worker_instance_id", "lease_epoch", "lease_expires_at_ms", "started_at_ms", "terminal_at_ms"} {
		cases = append(cases, struct{ take, give, says, finding string }{"REVOKE SELECT (" + column + ") ON ff_attempt FROM ffstream", "", "", "backfill"})
	}
	for _, c := range cases {
		s.exec(t, c.take)
		code := 0
		if c.says != "" {
			code = 1
			refused(t, start(t, w.service(), "run"), 1, []string{c.says}, nil)
		}
		before := w.findings(code)
		if c.finding == "" {
			if f := before["postgres"]; f.Severity != doctor.Fault {
				t.Errorf("after %s doctor says %+v", c.take, f)
			}
			s.exec(t, c.give)
			continue
		}
		f := before[c.finding]
		if f.Severity == doctor.OK || len(f.Remedy) == 0 {
			t.Errorf("after %s doctor says %+v", c.take, f)
		}
		for _, sql := range f.Remedy {
			s.exec(t, sql)
		}
		if f := w.findings(0)[c.finding]; f.Severity != doctor.OK {
			t.Errorf("%s is not mended by its remedy: %+v", c.take, f)
		}
	}
}

var allowed = regexp.MustCompile(`(?m)^\s+"([^"]+)"$`)

// subjects are those that a user of the file may publish to.
func subjects(t *testing.T, user string) []string {
	t.Helper()
	_, text, found := strings.Cut(readFile(t, permissionsFile), "user: "+user)
	if !found {
		t.Fatalf("no user %s in %s", user, permissionsFile)
	}
	text, _, _ = strings.Cut(text, "subscribe {")
	var all []string
	for _, m := range allowed.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// without removes a subject from what a user may do.
func without(user, subject string) func(string) string {
	return func(text string) string {
		before, after, _ := strings.Cut(text, "user: "+user)
		return before + "user: " + user + strings.Replace(after, `"`+subject+`"`, `"nothing"`, 1)
	}
}

// natsRights leaves out each subject of both users.
func natsRights(t *testing.T, s *strict) {
	t.Helper()
	for i, subject := range append(subjects(t, "ffstream"), "_INBOX.>") {
		if strings.Contains(subject, "."+consumer+".") {
			continue // TestVerifyRights
		}
		t.Run("service/"+subject, func(t *testing.T) {
			t.Parallel()
			w := s.world(t, fmt.Sprintf("nats_%d", i), without("ffstream", subject))
			says := strings.TrimSuffix(subject, ">")
			if subject == "$JS.API.INFO" {
				if f := w.findings(0)["jetstream"]; f.Severity != doctor.Warning || !strings.Contains(f.Found, says) {
					t.Errorf("doctor says %+v", f)
				}
				return
			}
			p := start(t, w.service(), "run")
			if subject == "$JS.API.STREAM.MSG.GET.FFSTREAM" { // nothing is read of an empty stream
				w.awaitActive(p)
				w.passes(p)
				p.stop()
				p = start(t, w.service(), "run")
			}
			if subject == "ff.>" { // it is not known before the first event
				w.awaitActive(p)
				w.play(&engine.Engine{Version: engine.Newest}, &engine.StoriesOf(engine.Newest)[0], engine.Exec{Partition: 1, ID: uuid.New()})
				await(t, "the service to say what it may not", func() (bool, string) { return strings.Contains(p.output(), says), p.output() })
				p.kill()
			} else {
				refused(t, p, 1, []string{"NATS user lacks a permission", says, "grant it to the user of this service"}, nil)
			}
		})
	}
	for i, subject := range append(subjects(t, "subscriber"), "_INBOX.>") {
		t.Run("subscriber/"+subject, func(t *testing.T) {
			t.Parallel()
			w := s.world(t, fmt.Sprintf("subscriber_%d", i), without("subscriber", subject))
			p := start(t, w.service(), "run")
			w.awaitActive(p)
			w.passes(p)
			w.caughtUp(p)
			says := strings.TrimSuffix(strings.TrimSuffix(subject, ">"), "*")
			if slices.Contains([]string{"CREATE", "INFO", "NEXT", "INBOX"}, kindOf(subject)) {
				p, _ := asks(t, w.subscriber(), "tail", "--follow=false")
				refused(t, p, 1, []string{"NATS user lacks a permission", says}, nil)
				return
			}
			if said := subscribe(t, w); !strings.Contains(said, says) {
				t.Errorf("the broker refuses %q, want %s", said, says)
			}
		})
	}
	t.Run("subscriber", func(t *testing.T) {
		t.Parallel()
		w := s.world(t, "subscriber", unchanged)
		p := start(t, w.service(), "run")
		w.awaitActive(p)
		w.passes(p)
		w.caughtUp(p)
		if said := subscribe(t, w); said != "" {
			t.Errorf("the broker refuses %s", said)
		}
	})
}

const consumer = "CONSUMER"

// kindOf is the word of a subject that says what is asked.
func kindOf(subject string) string {
	for _, token := range strings.Split(subject, ".") {
		if slices.Contains([]string{"CREATE", "INFO", "NEXT", "DELETE", "UNPIN", "ACK", "DIRECT"}, token) {
			return token
		}
	}
	return "INBOX"
}

// subscribe does what package client does, once the stream has all that was played: it
// reads with a durable consumer from behind a position, acknowledges, hands that on, and
// with an ephemeral one, which it removes. It returns what the broker refused first,
// empty for nothing.
func subscribe(t *testing.T, w *world) string {
	t.Helper()
	js, ctx := asSubscriber(t, w.nats)
	stored := w.stored()
	first, err := ffstream.ParsePosition(stored[0].header.Get(ffstream.HeaderPosition))
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []client.Config{{Durable: "some", From: client.After(first)}, {From: client.All()}} {
		s, err := client.New(js, cfg)
		if err != nil {
			t.Fatal(err)
		}
		reading, enough := context.WithTimeout(ctx, patience)
		err = s.Run(reading, func(_ context.Context, m *client.Message) error {
			if m.Sequence == uint64(len(stored)) {
				enough()
			}
			return nil
		})
		if errors.Is(reading.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("the last of %d messages does not come", len(stored))
		}
		enough()
		if errors.Is(err, nats.ErrPermissionViolation) { // the connection reports it to both, in any order
			return err.Error()
		}
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
	}
	if err := js.Conn().Flush(); err != nil { // what was refused last has been said
		t.Fatal(err)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause.Error()
	}
	return ""
}
