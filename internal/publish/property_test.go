package publish_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestPublishProperty: whatever the transactions, and however flushes, answers
// and ends of sessions interleave with them, the stream is the input, in order,
// each event once. A session that ends leaves messages on their way, and the next
// one replays everything, as a slot does.
func TestPublishProperty(t *testing.T) {
	t.Parallel()
	nc := connect(t, testenv.NATSURL(t))
	few := rapid.IntRange(0, 3)
	count := rapid.OneOf(few, few, few, few, few, few, few, rapid.SampledFrom([]int{40, 300, 999, 1000, 1001, 2100}))
	rapid.Check(t, func(rt *rapid.T) {
		b := newBench(t, nc)
		b.cfg.Window = rapid.SampledFrom([]int{1, 10, 100, 4096}).Draw(rt, "window")
		if rapid.SampledFrom([]bool{false, false, true}).Draw(rt, "without batches") {
			b.create(t, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false })
		}
		txs := sizes(1, rapid.SliceOfN(count, 0, 12).Draw(rt, "events")...)
		stream := b.open(rt)
		player := player{t: rt, crashes: rapid.IntRange(0, 3).Draw(rt, "sessions that end early")}
		for sessions := 0; !player.play(stream, txs); sessions++ {
			if sessions == 100 {
				rt.Fatalf("100 sessions, and not everything is stored")
			}
		}
		b.holds(rt, 1, txs...)
	})
}

// player draws what happens in a session.
type player struct {
	t       *rapid.T
	crashes int // that may still happen
}

var errCrash = errors.New("the session ends here")

// play is a session: it adds what is behind the tail, and reports whether
// everything was stored.
func (pl *player) play(s *publish.Stream, txs [][]ffstream.Event) bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tail, err := s.ReadTail(ctx)
	if err != nil {
		pl.t.Fatalf("read tail: %v", err)
	}
	p, err := s.Resume(tail)
	if err != nil {
		pl.t.Fatalf("resume: %v", err)
	}
	err = pl.follow(ctx, p, tail, txs)
	if err := p.Close(); err != nil {
		pl.t.Fatalf("close: %v", err)
	}
	if err != nil && !errors.Is(err, errCrash) && !errors.Is(err, publish.ErrAmbiguous) {
		pl.t.Fatalf("session: %v", err)
	}
	return err == nil
}

func (pl *player) follow(ctx context.Context, p *publish.Publisher, tail publish.Tail, txs [][]ffstream.Event) error {
	for _, tx := range txs {
		for i := range tx {
			if tail.Stored && tx[i].Position().Compare(tail.Position) <= 0 {
				continue
			}
			if err := p.Add(ctx, &tx[i]); err != nil {
				return err
			}
		}
		if err := p.Commit(ctx); err != nil {
			return err
		}
		if err := pl.step(ctx, p); err != nil {
			return err
		}
	}
	return p.Drain(ctx)
}

func (pl *player) step(ctx context.Context, p *publish.Publisher) error {
	switch rapid.SampledFrom([]string{"on", "on", "on", "flush", "flush", "ack", "wait", "crash"}).Draw(pl.t, "step") {
	case "flush":
		return p.Flush(ctx)
	case "ack":
		select {
		case m := <-p.Acks():
			return p.Ack(ctx, m)
		default:
		}
	case "wait":
		// Behind a flush there is an answer to come if anything is not acknowledged.
		if err := p.Flush(ctx); err != nil || p.InFlight() == 0 {
			return err
		}
		select {
		case m := <-p.Acks():
			return p.Ack(ctx, m)
		case <-ctx.Done():
			return ctx.Err()
		}
	case "crash":
		if pl.crashes > 0 {
			pl.crashes--
			return errCrash
		}
	}
	return nil
}
