package client_test

import (
	"context"
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

// narrowFeed is a feed whose stream takes one consumer.
func narrowFeed(t *testing.T) *feed {
	t.Helper()
	f := &feed{t: t, js: process(t, testenv.NATSURL(t)), stream: strings.ToLower(t.Name()), commit: 0x1000}
	if _, err := f.js.CreateStream(testContext(t), jetstream.StreamConfig{Name: f.stream, Subjects: []string{f.stream + ".>"}, MaxConsumers: 1}); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestCreatedUnheard: the answer that a consumer was made is lost. That consumer is read
// from, and no other is made beside it, although the stream ends elsewhere by then.
func TestCreatedUnheard(t *testing.T) {
	t.Parallel()
	f := narrowFeed(t)
	lost := false
	js := interposed(t, testenv.NATSURL(t), func(m *nats.Msg, pass func(*nats.Msg)) {
		if !lost && strings.Contains(m.Subject, ".CONSUMER.CREATE.") {
			lost, m.Reply = true, nats.NewInbox()
			f.transaction(step(1, "", ffstream.StateActive)) // behind the end that was asked for
			f.stored()
		}
		pass(m)
	}, jetstream.WithDefaultTimeout(2*time.Second))
	s := (&feed{t: t, js: js, stream: f.stream}).subscriber(func(c *client.Config) { c.From = client.Start{} })
	handleN(testContext(t), t, s, 1)
}

// TestDeletionUnheard: a reader's request to delete its consumer is lost, where the
// stream takes no other beside it. It asks again, and goes on.
func TestDeletionUnheard(t *testing.T) {
	t.Parallel()
	f := narrowFeed(t)
	event := func() {
		f.transaction(step(1, "", ffstream.StateActive))
		f.stored()
	}
	event()
	var lost atomic.Bool
	js := interposed(t, testenv.NATSURL(t), func(m *nats.Msg, pass func(*nats.Msg)) {
		if !strings.Contains(m.Subject, ".CONSUMER.DELETE.") || lost.Swap(true) {
			pass(m)
		}
	})
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	got := 0
	err := (&feed{t: t, js: js, stream: f.stream}).subscriber(kinds["ordered"]).Run(ctx, func(context.Context, *client.Message) error {
		if got++; got == 2 {
			stop()
			return nil
		}
		err := js.Conn().ForceReconnect()
		event()
		return err
	})
	if err != nil || got != 2 || !lost.Load() {
		t.Errorf("%d events, want 2; a request was lost %t: %v", got, lost.Load(), err)
	}
}

// TestUnpinnedLate: a server that takes its time to give up the pin of a run that ends
// has given it up when the run has ended.
func TestUnpinnedLate(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	f.transaction(step(1, "", ffstream.StateActive))
	f.stored()
	js := interposed(t, testenv.NATSURL(t), func(m *nats.Msg, pass func(*nats.Msg)) {
		if strings.Contains(m.Subject, ".CONSUMER.UNPIN.") {
			time.AfterFunc(3*time.Second, func() { pass(m) })
			return
		}
		pass(m)
	})
	s := (&feed{t: t, js: js, stream: f.stream}).subscriber(func(c *client.Config) { c.Durable, c.Drain = "d", patience })
	handleN(testContext(t), t, s, 1)
	if id := f.durable().PriorityGroups[0].PinnedClientID; id != "" {
		t.Errorf("%s is pinned still", id)
	}
}
