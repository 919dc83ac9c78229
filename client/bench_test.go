package client_test

import (
	"context"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// cpu is what the process has used so far, the embedded server included.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRun compares Run with a bare nats.go consumer that parses and
// acknowledges the same events, server included: FFSTREAM_CLIENT_EVENTS of them
// (20000), each once per iteration.
func BenchmarkRun(b *testing.B) {
	events := 20000
	if n, err := strconv.Atoi(os.Getenv("FFSTREAM_CLIENT_EVENTS")); err == nil {
		events = n
	}
	server, err := testenv.StartNATS(testenv.NATSConfig{})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	f := newFeed(b, server.URL())
	for n := range events {
		f.transaction(step(n%1000, ffstream.StateWaiting, ffstream.StateActive))
		if n%2000 == 0 {
			f.stored()
		}
	}
	f.stored()
	measure := func(b *testing.B, run func(context.Context, func())) {
		for b.Loop() {
			ctx, stop := context.WithCancel(context.Background())
			before, left := cpu(), events
			run(ctx, func() {
				if left--; left == 0 {
					stop()
				}
			})
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(events), "cpu-ns/event")
		}
	}
	b.Run("bare", func(b *testing.B) {
		measure(b, func(ctx context.Context, one func()) { bare(ctx, b, f, one) })
	})
	b.Run("client", func(b *testing.B) {
		measure(b, func(ctx context.Context, one func()) {
			s := f.subscriber(func(c *client.Config) { c.Workers = 1 })
			if err := s.Run(ctx, func(context.Context, *client.Message) error { one(); return nil }); err != nil {
				b.Fatal(err)
			}
		})
	})
}

func bare(ctx context.Context, b *testing.B, f *feed, one func()) {
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		b.Fatal(err)
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1024, MemoryStorage: true})
	if err != nil {
		b.Fatal(err)
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if _, err := ffstream.ParseEvent(m.Data()); err != nil {
			b.Error(err)
		}
		_ = m.Ack()
		one()
	})
	if err != nil {
		b.Fatal(err)
	}
	<-ctx.Done()
	consuming.Stop()
	<-consuming.Closed()
}
