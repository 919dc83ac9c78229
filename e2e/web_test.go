package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/internal/web"
	"github.com/ffstream/ffstream/migrations"
)

var servedAt = regexp.MustCompile(`"?msg"?[:=]"HTTP is served",? ?"?addr"?[:=]"?([^"\s]+)`)

// get asks a running program.
func (p *process) get(path string) (int, string) {
	p.t.Helper()
	var addr string
	await(p.t, "HTTP to be served", func() (bool, string) {
		m := servedAt.FindStringSubmatch(p.output())
		if m != nil {
			addr = m[1]
		}
		return m != nil, p.output()
	})
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + addr + path)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func (p *process) report() (r web.Report) {
	p.t.Helper()
	_, body := p.get("/status")
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		p.t.Fatal(err)
	}
	return r
}

// TestWeb: health, readiness, status and metrics say what the service does, from
// a start without a broker over active and standby to a database that is away.
func TestWeb(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	env := w.env()
	database, broker := through(t, env["FFSTREAM_DATABASE_URL"]), through(t, env["FFSTREAM_NATS_URL"])
	env["FFSTREAM_DATABASE_URL"], env["FFSTREAM_NATS_URL"], env["FFSTREAM_HEARTBEAT"] = database.url, broker.url, "100ms"
	broker.Stop()
	began, logged := time.Now(), w.logged()
	p := start(t, env, "run")
	await(t, "the service to say that it is not ready", func() (bool, string) {
		code, body := p.get("/readyz")
		return code == 503 && strings.Contains(body, `"role": "connecting"`) && strings.Contains(body, "NATS"), body
	})
	if code, body := p.get("/healthz"); code != 200 {
		t.Errorf("healthz of a service without a broker: %d %s", code, body)
	}
	if f := p.report().LastFailure; f == nil || f.Cause != "nats_unavailable" {
		t.Errorf("without a broker the latest failure is %s", mustJSON(f))
	}
	w.must(broker.Start())
	w.awaitActive(p)
	await(t, "the service to be ready", func() (bool, string) {
		code, body := p.get("/readyz")
		return code == 200 && strings.Contains(body, `"role": "active"`), body
	})
	w.play(&engine.Engine{Version: engine.Newest}, &engine.StoriesOf(engine.Newest)[0], engine.Exec{Partition: 1, ID: uuid.New()})
	w.caughtUp(p)
	await(t, "the status to show what was published, and a heartbeat", func() (bool, string) {
		r := p.report()
		return r.Counters.Events["completed"] == 1 && r.Counters.Events["active"] == 1 && r.Stream.AckedSequence == 3 &&
			r.Lag.HeartbeatDelaySeconds != nil && r.Lag.HeartbeatError == nil && r.LastError == nil && r.Counters.Sessions >= 1 &&
			r.Postgres.Slot.WALStatus == "reserved" && r.Postgres.Slot.Exists, mustJSON(r)
	})
	r := p.report()
	if f := r.LastFailure; f == nil || f.Cause != "nats_unavailable" || f.Error == "" || !f.Time.After(began) || f.Time.After(r.Since) {
		t.Errorf("the failure did not stay: %s", mustJSON(f))
	}
	if v := r.Rates; v.Transactions <= 0 || v.Rows <= 0 || v.Events <= 0 || v.WALBytes <= 0 || v.StreamBytes <= 0 || v.Snapshots != 0 || v.WindowSeconds <= 0 || v.WindowSeconds > 30 {
		t.Errorf("the rates are %s", mustJSON(v))
	}
	if c := r.Counters; c.WALBytes == 0 || c.WALBytes > w.logged()-logged || c.StreamBytes < 3*500 || r.Stream.Window.Events == 0 || r.Stream.Window.Bytes == 0 {
		t.Errorf("%d bytes of the log were read, and the server wrote %d: %s", c.WALBytes, w.logged()-logged, mustJSON(r))
	}
	_, metrics := p.get("/metrics")
	for _, name := range web.Names() {
		unknown := slices.Contains([]string{"ffstream_slot_safe_wal_bytes", "ffstream_slot_runway_seconds", "ffstream_corrupt_total", "ffstream_backfill_progress_ratio"}, name) ||
			strings.HasPrefix(name, "ffstream_state_bucket_") // there is none
		if !strings.Contains(metrics, "# TYPE "+name+" ") && !unknown {
			t.Errorf("%s is not exported", name)
		}
	}
	second := start(t, w.env(), "run")
	await(t, "the second to be a standby that is ready", func() (bool, string) {
		code, body := second.get("/readyz")
		return code == 200 && strings.Contains(body, `"role": "standby"`), body
	})
	if r := second.report(); r.LastError == nil || r.LastFailure != nil {
		t.Errorf("a standby's life is no failure: %s", mustJSON(r))
	}
	second.stop()
	database.Stop()
	await(t, "the service to notice that the database is away", func() (bool, string) {
		code, body := p.get("/readyz")
		return code == 503, body
	})
	if r := p.report(); r.LastError == nil || r.LastFailure == nil || r.LastFailure.Cause != "postgres" || r.LastFailure.Error != *r.LastError {
		t.Errorf("without a database: %s", mustJSON(r))
	}
	w.must(database.Start())
	await(t, "the service to be ready again", func() (bool, string) {
		code, body := p.get("/readyz")
		return code == 200 && strings.Contains(body, `"role": "active"`), body
	})
	if r := p.report(); r.LastError != nil || r.LastFailure == nil || r.LastFailure.Cause != "postgres" {
		t.Errorf("after a reconnection: %s", mustJSON(r))
	}
	if r := p.report(); r.Counters.Sessions < 2 || r.Counters.Retries["postgres"] == 0 || r.Counters.Events["completed"] != 1 || r.Counters.Transactions < 3 {
		t.Errorf("the counters after a reconnection: %s", mustJSON(r.Counters))
	}
	p.stop()
}

// logged is how many bytes the server has logged in its life.
func (w *world) logged() (n uint64) {
	w.t.Helper()
	w.must(w.db.Pool.QueryRow(w.t.Context(), "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").Scan(&n))
	return n
}

func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// TestHeartbeatIdle: on a server where nobody writes, heartbeats come back, and
// what they need is flushed at once; switched off, nothing is written.
func TestHeartbeatIdle(t *testing.T) {
	t.Parallel()
	a := newArena(t, 1, 1)
	a.env["FFSTREAM_HEARTBEAT"] = "100ms"
	a.startService()
	a.awaitActive(a.service)
	await(t, "ten heartbeats to come back", func() (bool, string) {
		_, body := a.service.get("/metrics")
		r := a.service.report()
		return r.Lag.HeartbeatDelaySeconds != nil && *r.Lag.HeartbeatDelaySeconds < 5 && r.Counters.Transactions == 0, body
	})
	a.service.stop()
	a.env["FFSTREAM_HEARTBEAT"] = "0"
	a.startService()
	a.awaitActive(a.service)
	if r := a.service.report(); r.Lag.HeartbeatDelaySeconds != nil {
		t.Error("a heartbeat although it is off")
	}
	a.service.stop()
}

// TestHeartbeatRefused: a role that may not write messages loses the measure and
// nothing else, and is told once.
func TestHeartbeatRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	role := "role_" + w.slot
	w.exec("CREATE ROLE " + role + " LOGIN REPLICATION PASSWORD 'heartbeat'")
	t.Cleanup(func() {
		w.exec("DROP OWNED BY " + role)
		w.exec("DROP ROLE " + role)
	})
	w.exec("GRANT SELECT ON ff_exec_core, ff_attempt TO " + role)
	w.exec("REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC")
	env := w.env()
	u, err := url.Parse(env["FFSTREAM_DATABASE_URL"])
	w.must(err)
	u.User = url.UserPassword(role, "heartbeat")
	env["FFSTREAM_DATABASE_URL"], env["FFSTREAM_HEARTBEAT"] = u.String(), "100ms"
	p := start(t, env, "run")
	w.awaitActive(p)
	await(t, "the failure to show", func() (bool, string) {
		r := p.report()
		return r.Lag.HeartbeatError != nil && strings.Contains(*r.Lag.HeartbeatError, "permission denied"), mustJSON(r)
	})
	w.play(&engine.Engine{Version: engine.Newest}, &engine.StoriesOf(engine.Newest)[0], engine.Exec{Partition: 1, ID: uuid.New()})
	w.caughtUp(p)
	if n := strings.Count(p.output(), "no heartbeat can be written"); n != 1 {
		t.Errorf("it was said %d times: %s", n, p.output())
	}
	p.stop()
}
