package doctor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
)

var testStream = publish.Config{Stream: "DOCTOR", Prefix: "doctor", SystemID: 7, Slot: "s", Replicas: 1, MaxAge: time.Hour}

func mustJetStream(t *testing.T, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc := testenv.Connect(t, url, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	return nc, testenv.JetStream(t, nc)
}

// TestAccount provokes each limit of an account and raises it as the finding says.
func TestAccount(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	configure := func(limits string) {
		t.Helper()
		text := "accounts { A {\n" + limits + "\nusers [ { user: a, password: a } ] } }\nno_auth_user: a\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const sound = "jetstream { max_file: 64M, max_streams: 2 }"
	configure(sound)
	server := testenv.NewNATS(t, testenv.NATSConfig{File: file})
	check := func() Finding {
		t.Helper()
		nc, _ := mustJetStream(t, server.URL())
		return find(t, answered(t.Context(), nc, testStream), "jetstream")
	}
	for _, c := range []struct {
		limits   string
		fill     bool
		severity Severity
		why      string
	}{
		{"", false, Fault, "enable it for the account"},
		{"jetstream { max_file: 64M, max_streams: 1 }", false, Fault, "raise max_streams"},
		{"jetstream { max_file: 64M, max_streams: 2, max_bytes_required: true }", false, Fault, "set max_bytes_required to false"},
		{"jetstream { max_file: 40K, max_streams: 2 }", true, Warning, "raise max_file"},
	} {
		server.Stop()
		configure(c.limits)
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if c.fill {
			nc, js := mustJetStream(t, server.URL())
			mustOpen(t, nc, testStream)
			if _, err := js.Publish(t.Context(), "doctor.x", make([]byte, 38_000)); err != nil {
				t.Fatal(err)
			}
		}
		if f := check(); f.Severity != c.severity || !strings.Contains(f.Why, c.why) {
			t.Errorf("%s: %+v", c.limits, f)
		}
		server.Stop()
		configure(sound)
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		if f := check(); f.Severity != OK {
			t.Errorf("%s, then more: %+v", c.limits, f)
		}
	}
}

// TestWriter: a message that is not this service's is found, whoever wrote it; and a
// stream without the bucket that belongs to it, which is not made by looking.
func TestWriter(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := testenv.NewNATS(t, testenv.NATSConfig{})
	nc, js := mustJetStream(t, server.URL())
	cfg := testStream
	look := func(id string) Finding { t.Helper(); return find(t, answered(ctx, nc, cfg), id) }
	mustOpen(t, nc, cfg)
	for _, id := range []string{"writer", "replicas", "nats-clock"} {
		if f := look(id); f.Severity != OK || f.Why != "" {
			t.Errorf("an empty stream: %+v", f)
		}
	}
	if _, err := js.Publish(ctx, "doctor.x", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	f := look("writer")
	if f.Severity != Fault || !strings.Contains(f.Found, "another writer") || len(f.Run) != 1 {
		t.Fatalf("a message of another writer: %+v", f)
	}
	cfg.Stream, cfg.Slot, cfg.Prefix = flag(t, f.Run[0], "--stream"), flag(t, f.Run[0], "--slot"), flag(t, f.Run[0], "--subject-prefix")
	mustOpen(t, nc, cfg) // which that command does first
	if f := look("writer"); f.Severity != OK {
		t.Errorf("after the remedy: %+v", f)
	}
	cfg = testStream
	if err := js.DeleteKeyValue(ctx, publish.Bucket(cfg.Stream)); err != nil {
		t.Fatal(err)
	}
	if f := look("stream"); f.Severity != Fault || len(f.Run) == 0 {
		t.Errorf("a stream without its note: %+v", f)
	}
	if _, err := js.KeyValue(ctx, publish.Bucket(cfg.Stream)); err == nil {
		t.Error("looking made the bucket")
	}
	cfg.SystemID = 8
	if _, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: publish.Bucket(cfg.Stream)}); err != nil {
		t.Fatal(err)
	}
	if f := look("stream"); f.Severity != Fault || !strings.Contains(f.Found, "name another stream (--stream)") {
		t.Errorf("a stream of another database: %+v", f)
	}
	cfg.Stream, cfg.Prefix = "ANOTHER", "another" // which is what the finding asks for
	if f := look("stream"); f.Severity != OK {
		t.Errorf("another stream: %+v", f)
	}
}

// TestReplicas: in a cluster one replica is a warning, whose remedy is executed, and
// so is a replica that is away.
func TestReplicas(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	servers := testenv.Cluster(t, 3)
	nc, js := mustJetStream(t, servers[0].URL())
	retry := func(what string, f func(context.Context) error) {
		t.Helper()
		try := func() error { // a cluster without a leader gives no answer
			trying, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return f(trying)
		}
		for err := try(); err != nil; err = try() {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("%s: %v", what, err)
			}
		}
	}
	retry("make the stream", func(ctx context.Context) error { _, err := publish.Open(ctx, nc, testStream, true); return err })
	look := func() Finding {
		looking, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		for _, f := range Stream(looking, nc, testStream) {
			if f.ID == "replicas" {
				return f
			}
		}
		return Finding{} // there is no leader now
	}
	settle := func(want Severity, says string) Finding {
		t.Helper()
		f := look()
		for ; f.Severity != want || !strings.Contains(f.Found, says); f = look() {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("want %s: %+v", want, f)
			}
		}
		return f
	}
	before := settle(Warning, "is kept by one server of cluster")
	if len(before.Run) != 2 {
		t.Fatalf("one replica in a cluster: %+v", before)
	}
	for _, command := range before.Run {
		retry(command, func(ctx context.Context) error { return runNATS(ctx, t, js, command) })
	}
	settle(OK, "3 replicas")
	away := servers[2]
	away.Kill()
	settle(Warning, "offline or behind")
	if err := away.Start(); err != nil {
		t.Fatal(err)
	}
	settle(OK, "3 replicas")
}
