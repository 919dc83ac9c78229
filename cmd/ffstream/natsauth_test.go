package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestRefusedLast: what the server refuses is said, though nothing failed of it and
// nothing came after it; and beside a verdict, which stands.
func TestRefusedLast(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(`authorization { users = [ { user: u, password: p, permissions { publish { allow: "allowed" } } } ] }`), 0o600); err != nil {
		t.Fatal(err)
	}
	server := testenv.NewNATS(t, testenv.NATSConfig{File: file})
	url := strings.Replace(server.URL(), "://", "://u:p@", 1)
	for range 20 { // the refusal and the question for it race
		nc, err := connectNATS(url, &natsAuth{}, slog.New(slog.DiscardHandler), nats.RetryOnFailedConnect(false), nats.Timeout(time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		_, refusal := nc.permitted(t.Context())
		for _, subject := range []string{"allowed", "forbidden"} {
			if err := nc.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
		}
		refused := refusal()
		nc.Close()
		if !errors.Is(refused, publish.ErrNotPermitted) || !strings.Contains(refused.Error(), "forbidden") {
			t.Fatalf("what was refused last: %v", refused)
		}
		for _, failed := range []error{nil, errors.New("some consequence")} {
			if err := beside(failed, refused); !errors.Is(err, refused) || failed != nil && errors.Is(err, failed) {
				t.Fatalf("%v, and the refusal: %v", failed, err)
			}
		}
		for _, verdict := range []error{errUntrue, errUnjudged} {
			if err := beside(verdict, refused); !errors.Is(err, verdict) || !errors.Is(err, publish.ErrNotPermitted) {
				t.Fatalf("a verdict, and the refusal: %v", err)
			}
		}
	}
	if err := beside(errUntrue, nil); !errors.Is(err, errUntrue) {
		t.Errorf("a verdict alone: %v", err)
	}
}

// TestReportsOnce: what the server refuses for one reason is logged once a
// connection, however many messages it refuses.
func TestReportsOnce(t *testing.T) {
	t.Parallel()
	var n novelties
	logged := 0
	report := func(format string, args ...any) {
		if n.add(fmt.Errorf("%w: nats: "+format, append([]any{nats.ErrPermissionViolation}, args...)...)) {
			logged++
		}
	}
	for range 2 {
		for i := range 100 {
			report(`Permissions Violation for Publish to "ff.exec.%d.ns.lane.active"`, i)
			report(`Permissions Violation for Publish to "$KV.FFSTREAM_states.%d.0190f5c2-0000"`, i)
			report(`Permissions Violation for Publish to "$JS.API.STREAM.MSG.GET.s%d"`, i)
			report(`Permissions Violation for Publish to "$JS.API.STREAM.INFO.s%d"`, i)
			report(`Permissions Violation for Subscription to "_INBOX.a%d.*"`, 7)
			report(`Permissions Violation for Publish`)
		}
		n.forget()
	}
	if logged != 2*6 {
		t.Errorf("%d lines on two connections, want one for each of six reasons on each", logged)
	}
}
