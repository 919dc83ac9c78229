package bench

import (
	"context"
	"log/slog"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/shard"
)

// BenchmarkDrain drains a backlog within the test's process, so that the test's
// own flags can take a profile of it: make profile.
func BenchmarkDrain(b *testing.B) {
	gate(b)
	s := newSource(b)
	k := newBroker(b, singleServer(b))
	log := s.write(setting(b, "FFSTREAM_BENCH_EXECUTIONS", 8000))
	database, err := pgconn.ParseConfig(s.url)
	if err != nil {
		b.Fatal(err)
	}
	nc, err := nats.Connect(k.url(), nats.ReconnectBufSize(-1))
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		slot, drop := s.slot()
		stream := k.stream(b, slot)
		b.StartTimer()
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		one := shard.New(nc, shard.Config{
			Source: repl.Config{Conn: database, Slot: slot, Publication: "ffstream"},
			Sink:   publish.Config{Stream: slot, Prefix: slot, Replicas: 1}, Identity: true, RecentStates: 40_000, Log: slog.New(slog.DiscardHandler),
		})
		go func() { ended <- one.Run(ctx) }()
		await(b, "the events to be stored", func() bool {
			info, err := stream.Info(context.Background())
			return err == nil && info.State.LastSeq >= uint64(log.events)
		})
		b.StopTimer()
		stop()
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
		if err := k.js.DeleteStream(context.Background(), slot); err != nil {
			b.Fatal(err)
		}
		drop()
		b.StartTimer()
	}
	b.ReportMetric(float64(log.changes*b.N)/b.Elapsed().Seconds(), "changes/s")
}
