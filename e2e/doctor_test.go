package e2e

import (
	"encoding/json"
	"testing"

	"github.com/ffstream/ffstream/internal/doctor"
	"github.com/ffstream/ffstream/migrations"
)

// TestDoctor: both ends of a service at work have no fault; a stream that cannot
// keep the promise and a broker that is away are faults, and none stops the looks
// at the other end.
func TestDoctor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	look := func(env map[string]string, code int) map[string]doctor.Severity {
		t.Helper()
		d := start(t, env, "doctor", "--json")
		if got := d.code(); got != code {
			t.Fatalf("exit code %d, want %d: %s", got, code, d.output())
		}
		var findings []doctor.Finding
		if err := json.NewDecoder(&d.out).Decode(&findings); err != nil {
			t.Fatal(err)
		}
		all := make(map[string]doctor.Severity)
		for _, f := range findings {
			all[f.ID] = f.Severity
			if (f.Severity == doctor.OK) != (f.Why == "") {
				t.Errorf("%+v does not say why, or why not", f)
			}
		}
		return all
	}
	sound := look(w.env(), 0)
	for _, id := range []string{"version", "pooler", "wal-level", "replication-slots", "wal-senders", "role-replication", "grants", "source", "slot", "slot-wal", "clock", "nats", "jetstream"} {
		if sound[id] != doctor.OK {
			t.Errorf("%s is %q", id, sound[id])
		}
	}
	if s := sound["stream"]; s == doctor.Fault || s == "" {
		t.Errorf("the stream is %q", s)
	}
	p.stop()
	stream := w.jetstream()
	cfg := stream.CachedInfo().Config
	cfg.MaxMsgsPerSubject = 5
	if _, err := w.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if all := look(w.env(), 1); all["stream"] != doctor.Fault || all["slot"] != doctor.Warning {
		t.Errorf("a stream that deletes events from the middle is %q, a slot that nobody holds %q", all["stream"], all["slot"])
	}
	env := w.env()
	env["FFSTREAM_NATS_URL"] = "nats://127.0.0.1:1"
	if all := look(env, 1); all["nats"] != doctor.Fault || all["source"] != doctor.OK {
		t.Errorf("a broker that is away is %q, and the source %q", all["nats"], all["source"])
	}
}
