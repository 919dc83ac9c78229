package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ffstream/ffstream/internal/doctor"
	"github.com/ffstream/ffstream/migrations"
)

// look runs doctor and gives its findings. Where the machine is so slow that a look is
// ended by its seconds, it says so and is asked again, unless args say for how long it
// looks.
func look(t testing.TB, env map[string]string, code int, args ...string) map[string]doctor.Finding {
	t.Helper()
	for began := time.Now(); ; {
		d := start(t, env, append([]string{"doctor", "--json"}, args...)...)
		got := d.code()
		var all []doctor.Finding
		if err := json.NewDecoder(strings.NewReader(d.output())).Decode(&all); err != nil {
			t.Fatalf("%v: %s", err, d.output())
		}
		if len(args) == 0 && slices.ContainsFunc(all, func(f doctor.Finding) bool { return unanswered(f.Found) }) && time.Since(began) < patience {
			continue
		}
		if got != code {
			t.Fatalf("doctor ends with %d, want %d: %s", got, code, d.output())
		}
		byID := make(map[string]doctor.Finding)
		for _, f := range all {
			byID[f.ID] = f
		}
		return byID
	}
}

// words are the arguments of a command of ffstream's.
func words(t testing.TB, command string) []string {
	t.Helper()
	all := strings.Fields(command)
	if len(all) < 2 || all[0] != "ffstream" {
		t.Fatalf("%q is no command of ffstream", command)
	}
	return all[1:]
}

// unexecuted are the checks whose finding no test mends by what is printed, and why
// that cannot be.
var unexecuted = map[string]string{
	"version":           "the remedy is another release of Postgres; those that the tests could start serve",
	"pooler":            "the remedy is another URL; no pooler runs here, and what it shows is held by the unit test of Postgres' answer",
	"postgres":          "nothing answers, or not to this role: the remedy is another URL or a server that runs",
	"replication":       "likewise",
	"nats":              "likewise, of the broker",
	"idle-slot-timeout": "the setting is of Postgres 18",
	"literals":          "the remedy is another release of ffstream; its test puts the rows right",
	"clock":             "the remedy sets the machine's clock, which a test must not",
	"nats-clock":        "likewise",
	"jetstream":         "the remedy is a line of the broker's configuration, in words; TestAccount follows them",
	"failover":          "the remedy is a command of Postgres 17; a unit test holds when it is said",
}

// executed are those that a test provokes, mends by what is printed, and sees gone.
var executed = map[string]string{
	"role-replication": "TestRemedies", "grants": "TestRemedies", "source": "TestRemedies", "heartbeat": "TestLeastPrivilege", "backfill": "TestLeastPrivilege", "engine-schema": "TestLeastPrivilege",
	"wal-level": "TestServerRemedies", "replication-slots": "TestServerRemedies", "wal-senders": "TestServerRemedies", "locks": "TestServerRemedies",
	"wal-sender-timeout": "TestServerRemedies", "slot-keep-size": "TestServerRemedies", "slot-wal": "TestForecast", "slot": "TestInvalidated", "replicas": "TestReplicas",
	"stream": "TestStreamRemedies", "writer": "TestWriter", "room": "TestRoom", "continuity": "TestDoctorContinuity",
}

// TestRemediesKnown: no finding escapes both lists.
func TestRemediesKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	w.run().stop()
	for id := range look(t, w.env(), 0) {
		if (executed[id] == "") == (unexecuted[id] == "") {
			t.Errorf("%s is on none or both of the lists of findings", id)
		}
	}
}

// TestDoctor: both ends of a service at work have no fault; a stream that cannot
// keep the promise and a broker that is away are faults, and none stops the looks
// at the other end.
func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	severities := func(env map[string]string, code int) map[string]doctor.Severity {
		t.Helper()
		all := make(map[string]doctor.Severity)
		for id, f := range look(t, env, code) {
			all[id] = f.Severity
			if (f.Severity == doctor.OK) != (f.Why == "") {
				t.Errorf("%+v does not say why, or why not", f)
			}
		}
		return all
	}
	sound := severities(w.env(), 0)
	for _, id := range []string{"version", "pooler", "wal-level", "replication-slots", "wal-senders", "role-replication", "grants", "heartbeat", "engine-schema", "literals", "source", "slot", "slot-wal", "failover", "clock", "nats", "jetstream", "writer", "room", "replicas", "nats-clock", "continuity"} {
		if sound[id] != doctor.OK {
			t.Errorf("%s is %q", id, sound[id])
		}
	}
	if s := sound["stream"]; s == doctor.Fault || s == "" {
		t.Errorf("the stream is %q", s)
	}
	p.stop()
	idle := look(t, w.env(), 0)["slot"]
	if idle.Severity != doctor.Warning || len(idle.Run) != 1 {
		t.Fatalf("a slot that nobody holds: %+v", idle)
	}
	p = start(t, w.env(), words(t, idle.Run[0])...)
	w.awaitActive(p)
	if f := look(t, w.env(), 0)["slot"]; f.Severity != doctor.OK {
		t.Errorf("a slot that somebody holds: %+v", f)
	}
	p.stop()
	stream := w.jetstream()
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgsPerSubject = 5
	if _, err := w.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if all := severities(w.env(), 1); all["stream"] != doctor.Fault || all["slot"] != doctor.Warning {
		t.Errorf("a stream that deletes events from the middle is %q, a slot that nobody holds %q", all["stream"], all["slot"])
	}
	env := w.env()
	env["FFSTREAM_NATS_URL"] = ""
	if f := look(t, env, 0)["nats"]; f.Severity != doctor.OK || !strings.Contains(f.Found, "was not looked at") {
		t.Errorf("without a broker's address: %+v", f)
	}
	env["FFSTREAM_NATS_URL"] = "nats://127.0.0.1:1"
	if all := severities(env, 1); all["nats"] != doctor.Fault || all["source"] != doctor.OK {
		t.Errorf("a broker that is away is %q, and the source %q", all["nats"], all["source"])
	}
}

// TestDoctorTimeout: servers that take a connection and say nothing do not keep doctor
// for longer than it is given, and what it had no time for is reported.
func TestDoctorTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	env := w.env()
	database := through(t, env["FFSTREAM_DATABASE_URL"])
	database.silence()
	env["FFSTREAM_DATABASE_URL"] = database.url
	all := look(t, env, 1, "--timeout=1s")
	if f := all["postgres"]; f.Severity != doctor.Fault {
		t.Errorf("a database that says nothing: %+v", f)
	}
	if f := all["nats"]; f.Severity != doctor.Fault || !strings.Contains(f.Why, "--timeout") {
		t.Errorf("a broker for which no time was left: %+v", f)
	}
	refused(t, start(t, env, "doctor", "--timeout=0s"), 2, []string{"--timeout"}, nil)
}

// TestDoctorContinuity: where one end is gone and the other has a past, doctor says
// what run stops with, sends nobody to run, and its remedy is the one that works. To
// look makes neither end anew.
func TestDoctorContinuity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	if f := look(t, w.env(), 0)["continuity"]; f.Severity != doctor.OK {
		t.Errorf("before the first run: %+v", f)
	}
	p := w.run()
	w.passes(p)
	p.stop()
	if f := look(t, w.env(), 0)["continuity"]; f.Severity != doctor.OK {
		t.Errorf("between two runs: %+v", f)
	}
	for _, c := range []struct {
		name   string
		strike func(w *world)
		reason string
	}{
		{"slot dropped", dropSlot, "does not exist, and stream"},
		{"stream and bucket deleted", func(w *world) {
			deleteStream(w)
			w.must(w.js.DeleteKeyValue(t.Context(), w.bucket()))
		}, "does not exist, and slot"},
		{"slot advanced", advance, "was advanced"},
	} {
		c.strike(w)
		all := look(t, w.env(), 1)
		f := all["continuity"]
		if f.Severity != doctor.Fault || !strings.Contains(f.Found, c.reason) || len(f.Run) != 1 {
			t.Fatalf("%s: %+v", c.name, f)
		}
		for _, id := range []string{"slot", "stream"} {
			if end := all[id]; strings.Contains(end.Found, "first run") || len(end.Run) > 0 {
				t.Errorf("%s: %+v", c.name, end)
			}
		}
		refused(t, start(t, w.env(), "run"), 1, []string{"continuity is lost"}, nil)
		if p, code := asks(t, w.env(), words(t, f.Run[0])...); code != 0 {
			t.Fatalf("%s: the remedy ends with %d: %s", c.name, p.code(), p.output())
		}
		if f := look(t, w.env(), 0)["continuity"]; f.Severity != doctor.OK {
			t.Errorf("%s, after the remedy: %+v", c.name, f)
		}
	}
	w.run().stop()
}
