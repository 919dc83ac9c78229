package client_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestRightsLater: a right that is missing for what comes after the start is told, too:
// to ask for messages, and to acknowledge. One that nothing depends on is not missed.
func TestRightsLater(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	const users = `authorization { users = [
		{ user: all, password: all }
		{ user: next, password: next, permissions: { publish: { deny: ["$JS.API.CONSUMER.MSG.NEXT.>"] } } }
		{ user: ack, password: ack, permissions: { publish: { deny: ["$JS.ACK.>"] } } }
		{ user: tidy, password: tidy, permissions: { publish: { deny: ["$JS.API.CONSUMER.DELETE.>", "$JS.API.CONSUMER.UNPIN.>"] } } }
	] }`
	if err := os.WriteFile(file, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	server := testenv.NewNATS(t, testenv.NATSConfig{File: file})
	as := func(user string) string { return strings.Replace(server.URL(), "//", "//"+user+":"+user+"@", 1) }
	for _, c := range []struct{ user, want string }{{"next", ".CONSUMER.MSG.NEXT."}, {"ack", ".ACK."}, {"tidy", ""}} {
		for name, kind := range kinds {
			if c.user == "ack" && name == "ordered" {
				continue // acknowledges nothing
			}
			t.Run(c.user+"/"+name, func(t *testing.T) {
				t.Parallel()
				f := newFeed(t, as("all"))
				f.transaction(step(1, "", ffstream.StateActive))
				f.stored()
				nc, err := nats.Connect(as(c.user), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(nc.Close)
				js, err := jetstream.New(nc)
				if err != nil {
					t.Fatal(err)
				}
				f.js = js
				ctx, stop := context.WithCancel(testContext(t))
				defer stop()
				err = f.subscriber(kind).Run(ctx, func(context.Context, *client.Message) error {
					if c.want == "" {
						stop()
					}
					return nil
				})
				if c.want == "" && err != nil {
					t.Error(err)
				}
				if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "grant it")) {
					t.Errorf("%v, want the right to %s", err, c.want)
				}
			})
		}
	}
}

// TestConsumersLeft: a reader whose connection breaks again and again has one consumer at
// a time, where the stream takes no more, and leaves none; nor do waits and watches.
func TestConsumersLeft(t *testing.T) {
	t.Parallel()
	const events = 5
	ctx := testContext(t)
	f := &feed{t: t, js: process(t, testenv.NATSURL(t)), stream: "limited", commit: 0x1000}
	stream, err := f.js.CreateStream(ctx, jetstream.StreamConfig{Name: f.stream, Subjects: []string{f.stream + ".>"}, MaxConsumers: 1})
	if err != nil {
		t.Fatal(err)
	}
	event := func() {
		f.transaction(step(1, "", ffstream.StateActive))
		f.stored()
	}
	event()
	none := func(after string) {
		t.Helper()
		late := time.After(30 * time.Second) // than who has left waits for the answer
		for {
			var names []string
			for name := range stream.ConsumerNames(ctx).Name() {
				names = append(names, name)
			}
			if len(names) == 0 {
				return
			}
			select {
			case <-late:
				t.Fatalf("%s leaves consumers %s", after, names)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	inner, stop := context.WithCancel(ctx)
	defer stop()
	reader := &feed{t: t, js: process(t, testenv.NATSURL(t)), stream: f.stream}
	got := 0
	err = reader.subscriber(kinds["ordered"]).Run(inner, func(context.Context, *client.Message) error {
		if got++; got == events {
			stop()
			return nil
		}
		err := reader.js.Conn().ForceReconnect()
		event()
		return err
	})
	if err != nil || got != events {
		t.Errorf("%d events: %v", got, err)
	}
	none("a run")
	w, err := client.OpenWaiter(ctx, f.js, f.config(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	none("a waiter")
	for _, err := range client.Watch(ctx, f.js, f.config(nil), unread{}, execution(1)) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	none("a watch")
}

// unread is a reader of a database that holds nothing.
type unread struct{}

func (unread) SettledState(context.Context, ffstream.ExecutionID) (ffstream.SettledState, error) {
	return ffstream.SettledState{}, nil
}

// TestWaiting: who asks a JetStream domain that is nobody's waits, and is told once.
func TestWaiting(t *testing.T) {
	t.Parallel()
	js, err := jetstream.NewWithDomain(process(t, testenv.NATSURL(t)).Conn(), "nobodys")
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &feed{t: t, js: js, stream: "absent"}
			ctx, stop := context.WithCancel(testContext(t))
			defer stop()
			var told atomic.Int32
			waiting := func(c *client.Config) {
				if kind != nil {
					kind(c)
				}
				c.Waiting = func(cause error) {
					if told.Add(1) == 1 {
						time.AfterFunc(2*time.Second, stop) // in which it would be told again
					}
					if !errors.Is(cause, nats.ErrNoResponders) || !strings.Contains(cause.Error(), "domain") {
						t.Errorf("told of %v", cause)
					}
				}
			}
			if err := f.subscriber(waiting).Run(ctx, nil); err != nil || told.Load() != 1 {
				t.Errorf("told %d times: %v", told.Load(), err)
			}
			err := f.subscriber(func(c *client.Config) {
				waiting(c)
				c.Waiting = func(error) { panic("no") }
			}).Run(testContext(t), nil)
			var p *client.PanicError
			if !errors.As(err, &p) {
				t.Errorf("the hook panicked: %v", err)
			}
		})
	}
}
