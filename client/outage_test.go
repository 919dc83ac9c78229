package client_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// kinds are the ways to subscribe.
var kinds = map[string]func(*client.Config){
	"durable":   func(c *client.Config) { c.Durable = "d" },
	"ephemeral": nil,
	"ordered":   func(c *client.Config) { c.Ordered = true },
}

// downFeed is a feed whose broker is down: a request fails at once.
func downFeed(t *testing.T) (*feed, *testenv.NATS) {
	t.Helper()
	server := testenv.NewNATS(t, testenv.NATSConfig{})
	f := newFeed(t, server.URL())
	f.transaction(step(1, "", ffstream.StateActive))
	f.stored()
	nc, err := nats.Connect(server.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.ReconnectBufSize(-1), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if f.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute)); err != nil {
		t.Fatal(err)
	}
	down := nc.StatusChanged(nats.RECONNECTING)
	server.Stop()
	<-down
	return f, server
}

// runKinds begins a run of each kind, until it has handled one event. The channel gives
// how each ended.
func (f *feed) runKinds(ctx context.Context) <-chan error {
	ended := make(chan error, len(kinds))
	for name, kind := range kinds {
		s := f.subscriber(kind)
		go func() {
			ctx, stop := context.WithCancel(ctx)
			defer stop()
			handled := false
			err := s.Run(ctx, func(context.Context, *client.Message) error { handled = true; stop(); return nil })
			if err != nil || !handled {
				err = errors.Join(errors.New(name+" has not handled"), err)
			}
			ended <- err
		}()
	}
	return ended
}

// TestStartInOutage: what begins while the broker is down begins when it is back.
func TestStartInOutage(t *testing.T) {
	t.Parallel()
	f, server := downFeed(t)
	ctx := testContext(t)
	ended := f.runKinds(ctx)
	opened := make(chan error, 1)
	go func() {
		w, err := client.OpenWaiter(ctx, f.js, f.config(nil), nil)
		if err == nil {
			w.Close()
		}
		opened <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("a run ends while the broker is down: %v", err)
	case err := <-opened:
		t.Fatalf("a waiter opens while the broker is down: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	for range kinds {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// TestStartWithoutLeader: what begins while a cluster has no majority, and so answers
// nothing or that it cannot, begins when it has one.
func TestStartWithoutLeader(t *testing.T) {
	t.Parallel()
	const timeout = 5 * time.Second // a consumer with three replicas takes its time on a loaded machine
	servers := testenv.Cluster(t, 3)
	nc, err := nats.Connect(servers[0].URL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(timeout))
	if err != nil {
		t.Fatal(err)
	}
	f := &feed{t: t, js: js, stream: "cluster", commit: 0x1000}
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	until := func(want bool, request func(context.Context) error) {
		t.Helper()
		for try := (func() bool {
			ctx, cancel := context.WithTimeout(ctx, timeout) // there may be no answer
			defer cancel()
			return request(ctx) == nil
		}); try() != want; {
			select {
			case <-ctx.Done():
				t.Fatalf("the cluster answers: %t", !want)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	until(true, func(ctx context.Context) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: f.stream, Subjects: []string{f.stream + ".>"}, Replicas: 3})
		return err
	})
	e := step(1, "", ffstream.StateActive)
	e.Type = ffstream.TypeTransitioned
	until(true, func(ctx context.Context) error {
		_, err := js.Publish(ctx, e.Subject(f.stream), e.AppendJSON(nil))
		return err
	})
	servers[1].Kill()
	servers[2].Kill()
	until(false, func(ctx context.Context) error {
		_, err := js.CreateConsumer(ctx, f.stream, jetstream.ConsumerConfig{Durable: "other"})
		return err
	})
	ended := f.runKinds(ctx)
	select {
	case err := <-ended:
		t.Fatalf("a run ends while the cluster has no majority: %v", err)
	case <-time.After(timeout + 2*time.Second):
	}
	for _, server := range servers[1:] {
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for range kinds {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// TestEndInOutage: a context that ends while a subscription waits for the broker
// ends it as it does later.
func TestEndInOutage(t *testing.T) {
	t.Parallel()
	f, _ := downFeed(t)
	for name, kind := range kinds {
		ctx, stop := context.WithTimeout(testContext(t), 50*time.Millisecond)
		if err := f.subscriber(kind).Run(ctx, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		stop()
	}
	ctx, stop := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer stop()
	if _, err := client.OpenWaiter(ctx, f.js, f.config(nil), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a waiter: %v", err)
	}
	for _, err := range client.Watch(ctx, f.js, f.config(nil), nil, execution(1)) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a watch: %v", err)
		}
	}
}

// TestVanished: what was on its way when a connection vanished comes again, although
// nothing behind it tells.
func TestVanished(t *testing.T) {
	t.Parallel()
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFeed(t, testenv.NATSURL(t))
			relay, js := relayed(t)
			s, err := client.New(js, f.config(func(c *client.Config) {
				c.AckWait = time.Second
				if kind != nil {
					kind(c)
				}
			}))
			if err != nil {
				t.Fatal(err)
			}
			f.transaction(step(1, "", ffstream.StateActive))
			f.stored()
			ctx, stop := context.WithCancel(testContext(t))
			var got []uint64
			err = s.Run(ctx, func(_ context.Context, m *client.Message) error {
				if got = append(got, m.Sequence); m.Sequence == 2 {
					stop()
				} else if len(got) == 1 {
					relay.Freeze()
					f.transaction(step(1, "", ffstream.StateActive))
					f.stored()
				}
				return nil
			})
			if err != nil || len(got) != 2 {
				t.Errorf("handled %v: %v", got, err)
			}
		})
	}
}

// TestStreamGone: a stream that is deleted ends what reads it, also when one of its
// name is there at once.
func TestStreamGone(t *testing.T) {
	t.Parallel()
	for name, kind := range kinds {
		for _, anew := range []bool{false, true} {
			f := newFeed(t, testenv.NATSURL(t))
			f.transaction(step(1, "", ffstream.StateActive))
			f.stored()
			ctx := testContext(t)
			err := f.subscriber(kind).Run(ctx, func(context.Context, *client.Message) error {
				if err := f.js.DeleteStream(ctx, f.stream); err != nil || !anew {
					return err
				}
				_, err := f.js.CreateStream(ctx, jetstream.StreamConfig{Name: f.stream, Subjects: []string{f.stream + ".>"}})
				return err
			})
			if !errors.Is(err, client.ErrStreamGone) || !strings.Contains(err.Error(), f.stream) {
				t.Errorf("%s, made anew %t: %v", name, anew, err)
			}
		}
	}
}

// TestStartRefused: what waiting cannot mend is told, with what mends it.
func TestStartRefused(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	const users = `authorization { users = [
		{ user: all, password: all }
		{ user: some, password: some, permissions: { publish: { deny: ["$JS.API.STREAM.INFO.>"] } } }
		{ user: none, password: none, permissions: { subscribe: { deny: ["_INBOX.>"] } } }
	] }`
	if err := os.WriteFile(file, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func(cfg testenv.NATSConfig, user string) *feed {
		server := testenv.NewNATS(t, cfg)
		silent := nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})
		nc, err := nats.Connect(strings.Replace(server.URL(), "//", "//"+user, 1), silent)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return &feed{t: t, js: js, stream: "absent"}
	}
	for _, c := range []struct {
		name, want string
		feed       *feed
	}{
		{"no stream", "start ffstream run", start(testenv.NATSConfig{}, "")},
		{"no JetStream", "start nats-server with -js", start(testenv.NATSConfig{NoJetStream: true}, "")},
		{"not to be asked", "grant it", start(testenv.NATSConfig{File: file}, "some:some@")},
		{"no answers", "grant it", start(testenv.NATSConfig{File: file}, "none:none@")},
	} {
		for name, kind := range kinds {
			err := c.feed.subscriber(kind).Run(testContext(t), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "absent") {
				t.Errorf("%s, %s: %v", c.name, name, err)
			}
		}
	}
}
