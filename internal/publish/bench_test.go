package publish_test

import (
	"testing"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

// BenchmarkPublish stores transactions as a session does: a flush for each run
// of them that one read of the socket gives, and answers as they come. The last
// of the figures counts events.
func BenchmarkPublish(b *testing.B) {
	for _, bc := range []struct {
		name   string
		events int // of a transaction
	}{{"singles", 1}, {"transactions of 3", 3}, {"transactions of 100", 100}, {"transactions of 1000", 1000}} {
		b.Run(bc.name, func(b *testing.B) {
			p := sharedBench(b).publisher(b)
			tx := transaction(1, bc.events)
			commit := ffstream.LSN(0)
			b.ReportAllocs()
			for b.Loop() {
				commit++
				for i := range tx {
					tx[i].ID.Position.Commit = commit
				}
				if err := add(b.Context(), p, tx); err != nil {
					b.Fatal(err)
				}
				if commit%64 == 0 {
					turn(b, p)
				}
			}
			b.StartTimer() // the loop stopped it, and what is in flight counts
			mustStore(b, p)
			b.StopTimer()
			b.ReportMetric(float64(p.Acked())/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// turn is what a session does between two batches of the log.
func turn(b *testing.B, p *publish.Publisher) {
	b.Helper()
	if err := p.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	for {
		select {
		case m := <-p.Acks():
			if err := p.Ack(b.Context(), m); err != nil {
				b.Fatal(err)
			}
		default:
			return
		}
	}
}
