package client_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// handleN runs until n events were handled, and tells which.
func handleN(ctx context.Context, t *testing.T, s *client.Subscriber, n int) []uint64 {
	t.Helper()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var got []uint64
	err := s.Run(ctx, func(_ context.Context, m *client.Message) error {
		if got = append(got, m.Sequence); len(got) == n {
			stop()
		}
		return nil
	})
	if err != nil || len(got) != n {
		t.Fatalf("handled %d, want %d: %v", len(got), n, err)
	}
	return got
}

// TestShares: the shares of one name take everything between them, two shares or
// three, and a consumer is given to no other share than its own.
func TestShares(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	const events = 60
	for n := range events {
		f.transaction(step(n, "", ffstream.StateActive))
	}
	f.stored()
	ctx := testContext(t)
	share := func(name string, index, of uint16) *client.Subscriber {
		return f.subscriber(func(c *client.Config) {
			c.Durable, c.Workers, c.Share = name, 1, client.Share{Index: index, Of: of}
		})
	}
	for _, of := range []uint16{2, 3} {
		seen := map[uint64]bool{}
		for i := range of {
			for _, seq := range handleN(ctx, t, share("d", i, of), events/int(of)) {
				seen[seq] = true
			}
		}
		if len(seen) != events {
			t.Errorf("%d shares handled %d of %d", of, len(seen), events)
		}
	}
	if _, err := f.js.CreateConsumer(ctx, f.stream, jetstream.ConsumerConfig{
		Durable: "other-1of2", AckPolicy: jetstream.AckExplicitPolicy, Metadata: map[string]string{"ffstream.share": "0 of 2, partitions 256"},
	}); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*client.Subscriber{share("other", 1, 2), share("d-0of2", 0, 0)} {
		err := s.Run(ctx, func(context.Context, *client.Message) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "0 of 2") {
			t.Errorf("a consumer serves another share: %v", err)
		}
	}
}

// TestForeign: a process whose consumer another gave a wider filter acknowledges
// nothing of what it was not to have, and ends. What is left from a wider filter
// that nobody has any more holds nothing up.
func TestForeign(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	f.transaction(step(0, "", ffstream.StateActive))
	f.stored()
	ctx := testContext(t)
	only := func(states ...ffstream.PublicState) *client.Subscriber {
		return f.subscriber(func(c *client.Config) {
			c.Durable, c.AckWait, c.Workers, c.Filter.States = "d", 300*time.Millisecond, 1, states
		})
	}
	widen := func() jetstream.Consumer {
		c, err := f.js.Consumer(ctx, f.stream, "d")
		if err != nil {
			t.Fatal(err)
		}
		cfg := c.CachedInfo().Config
		cfg.FilterSubject, cfg.FilterSubjects = f.stream+".>", nil
		cfg.PriorityPolicy, cfg.PriorityGroups, cfg.PinnedTTL = jetstream.PriorityPolicyNone, nil, 0
		if c, err = f.js.UpdateConsumer(ctx, f.stream, cfg); err != nil {
			t.Fatal(err)
		}
		return c
	}
	err := only(ffstream.StateActive).Run(ctx, func(_ context.Context, m *client.Message) error {
		widen()
		f.transaction(step(0, ffstream.StateActive, ffstream.StateCompleted))
		f.stored()
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "changed") {
		t.Fatalf("the filter was changed: %v", err)
	}
	if got := handleN(ctx, t, only(ffstream.StateCompleted), 1); got[0] != 2 {
		t.Errorf("handled message %d, want 2", got[0])
	}

	f.transaction(step(0, "", ffstream.StateActive))
	f.transaction(step(0, ffstream.StateActive, ffstream.StateCompleted))
	f.stored()
	taken, err := widen().Fetch(2)
	if err != nil {
		t.Fatal(err)
	}
	for m := range taken.Messages() {
		_ = m // never acknowledged
	}
	if got := handleN(ctx, t, only(ffstream.StateCompleted), 1); got[0] != 4 {
		t.Errorf("handled message %d, want 4", got[0])
	}
}
