package client_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestCrash: what a process took along when it died comes before anything newer
// of its execution, although the server hands the newer out at once.
func TestCrash(t *testing.T) {
	t.Parallel()
	const events = 60
	f := newFeed(t, testenv.NATSURL(t))
	for n := range events {
		f.transaction(step(n%3, "", ffstream.StateActive))
	}
	f.stored()
	ctx := testContext(t)
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: "d", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Second, MaxAckPending: 1000, FilterSubject: f.stream + ".exec.*.*.*.*",
	})
	if err != nil {
		t.Fatal(err)
	}
	taken, err := dead.Fetch(20)
	if err != nil {
		t.Fatal(err)
	}
	for m := range taken.Messages() {
		_ = m // never acknowledged
	}
	ctx, stop := context.WithCancel(ctx)
	r := newRecord()
	s := f.subscriber(func(c *client.Config) { c.Durable, c.AckWait, c.MaxPending = "d", time.Second, 1000 })
	err = s.Run(ctx, func(_ context.Context, m *client.Message) error {
		if r.handled(m) == events {
			stop()
		}
		return nil
	})
	if err != nil || len(r.seen) != events || len(r.wrong) > 0 {
		t.Errorf("%d events, want %d; out of order: %v; %v", len(r.seen), events, r.wrong, err)
	}
}
