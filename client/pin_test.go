package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestPinAdopted: a consumer that is there gets the pin that it lacks, and one
// that a live process does not lose between two of its requests.
func TestPinAdopted(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	ctx := testContext(t)
	for _, wait := range []time.Duration{30 * time.Second, time.Second} {
		f.transaction(step(1, "", ffstream.StateActive))
		f.stored()
		s := f.subscriber(func(c *client.Config) { c.Durable, c.AckWait = "d", wait })
		handleN(ctx, t, s, 1)
		c, err := f.js.Consumer(ctx, f.stream, "d")
		if err != nil {
			t.Fatal(err)
		}
		cfg := c.CachedInfo().Config
		if want := max(wait, 4*time.Second); cfg.PriorityPolicy != jetstream.PriorityPolicyPinned || cfg.PinnedTTL != want {
			t.Errorf("policy %d for %s, want pinned for %s", cfg.PriorityPolicy, cfg.PinnedTTL, want)
		}
		cfg.PriorityPolicy, cfg.PriorityGroups, cfg.PinnedTTL, cfg.AckWait = jetstream.PriorityPolicyNone, nil, 0, time.Second
		if _, err := f.js.UpdateConsumer(ctx, f.stream, cfg); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPinLost: the server takes the pin from a process that lives. It gives back
// what waits for another try, or for its turn, and not what is being handled; the
// other handles all of that, in order.
func TestPinLost(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	const events = 7
	g := newGate(t, testenv.NATSURL(t))
	one, other := &feed{t: t, js: g.js, stream: f.stream}, &feed{t: t, js: process(t, testenv.NATSURL(t)), stream: f.stream}
	for range 2 {
		for n := range 3 {
			f.transaction(step(n, "", ffstream.StateActive))
		}
	}
	f.stored()
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	r := newRecord()
	pinned := func(c *client.Config) { c.Durable, c.RetryMin, c.RetryMax = "d", time.Hour, time.Hour }
	tried, release := make(chan struct{}, 3), make(chan struct{})
	var running sync.WaitGroup
	run := func(s *client.Subscriber, handle client.Handler) {
		running.Go(func() {
			if err := s.Run(ctx, handle); err != nil {
				t.Error(err)
			}
		})
	}
	run(one.subscriber(pinned), func(_ context.Context, m *client.Message) error {
		tried <- struct{}{}
		if m.ExecutionID == execution(0) {
			return errors.New("not here")
		}
		<-release
		if m.ExecutionID == execution(1) {
			return errors.New("not here either")
		}
		r.handled(m)
		return nil
	})
	for range 3 {
		<-tried
	}
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		t.Fatal(err)
	}
	look := func(is func(*jetstream.ConsumerInfo) bool) {
		t.Helper()
		for {
			c, err := stream.Consumer(ctx, "d")
			if err != nil {
				close(release)
				t.Fatal(err)
			}
			if is(c.CachedInfo()) {
				return
			}
			<-time.After(20 * time.Millisecond)
		}
	}
	g.close()
	first := ""
	look(func(i *jetstream.ConsumerInfo) bool { // until no request of the one is left
		first = i.PriorityGroups[0].PinnedClientID
		return i.NumWaiting == 0
	})
	run(other.subscriber(pinned), func(_ context.Context, m *client.Message) error {
		select {
		case <-release:
		default:
			t.Errorf("message %d is handled while what was before it may be", m.Sequence)
		}
		if r.handled(m) == events {
			stop()
		}
		return nil
	})
	look(func(i *jetstream.ConsumerInfo) bool { return i.NumWaiting > 0 }) // until the other asks
	if err := stream.UnpinConsumer(ctx, "d", "ffstream"); err != nil {
		t.Error(err)
	}
	f.transaction(step(2, "", ffstream.StateActive)) // the pin goes with a message
	f.stored()
	look(func(i *jetstream.ConsumerInfo) bool {
		id := i.PriorityGroups[0].PinnedClientID
		return id != "" && id != first
	})
	g.open()                                                                    // the one is told that the pin is another's
	look(func(i *jetstream.ConsumerInfo) bool { return i.NumRedelivered >= 4 }) // until it has given back 1, 4, 5 and 6
	<-time.After(200 * time.Millisecond)                                        // in which the other would begin, if it were given 2 and 3
	close(release)
	running.Wait()
	if len(r.seen) != events || len(r.wrong) > 0 {
		t.Errorf("%d events, want %d; out of order: %v", len(r.seen), events, r.wrong)
	}
}
