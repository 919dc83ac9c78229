package publish

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/ffstream/ffstream/internal/testenv"
)

// slow is how long a machine may take that has much else to do.
const slow = 4 * time.Minute

// rig is a publisher on a stream of its own.
func rig(t *testing.T, name string, window int) *Publisher {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slow)
	defer cancel()
	nc := testenv.Connect(t, testenv.NATSURL(t), nats.ReconnectBufSize(-1))
	s, err := Open(ctx, nc, Config{Stream: name, Prefix: name, SystemID: 1, Slot: "s", Window: window, AckTimeout: slow}, true)
	if err != nil {
		t.Fatal(err)
	}
	tail, err := s.ReadTail(ctx)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Resume(tail)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bounded checks what a publisher has in its hands.
func (p *Publisher) bounded(t interface{ Fatalf(string, ...any) }, batches bool) {
	bytes, batchAnswers := 0, 0
	for _, a := range p.pending {
		bytes += a.bytes
		if a.batch {
			batchAnswers++
		}
	}
	if p.bytes != bytes || p.batches != batchAnswers || p.singles != len(p.pending)-batchAnswers {
		t.Fatalf("%d bytes, %d batches, %d singles of %+v", p.bytes, p.batches, p.singles, p.pending)
	}
	// A batch is sent whole, and one single in ackEvery asks for the answer that
	// makes room.
	window := max(p.cfg.Window, ackEvery)
	if batches {
		window = max(p.cfg.Window, maxBatch)
	}
	if inFlight := int(p.sent - p.acked); inFlight > window {
		t.Fatalf("%d messages in flight, want at most %d", inFlight, window)
	}
	if len(p.pending) > cap(p.acks) {
		t.Fatalf("%d answers outstanding, and room for %d", len(p.pending), cap(p.acks))
	}
	if p.gather.complete >= maxBatch {
		t.Fatalf("%d events gathered, which fill a batch", p.gather.complete)
	}
}

// TestWindowIsBounded: what is in flight and what is gathered has a bound,
// however much is added.
func TestWindowIsBounded(t *testing.T) {
	t.Parallel()
	number := 0
	rapid.Check(t, func(rt *rapid.T) {
		number++
		window := rapid.SampledFrom([]int{1, 10, 64, 65, 500}).Draw(rt, "window")
		largest := rapid.SampledFrom([]int{1, 2, 3, 400}).Draw(rt, "largest transaction")
		p := rig(t, fmt.Sprintf("w%d", number), window)
		ctx, cancel := context.WithTimeout(context.Background(), slow)
		defer cancel()
		for commit := 1; commit <= 600 && p.Sequence() < 1500; commit++ {
			n := 1
			if largest > 1 {
				n = rapid.IntRange(0, largest).Draw(rt, "events")
			}
			for i := range n {
				e := someEvent(commit, 0)
				e.ID.Position.Index = uint32(i)
				if err := p.Add(ctx, &e); err != nil {
					rt.Fatalf("add: %v", err)
				}
			}
			if err := p.Commit(ctx); err != nil {
				rt.Fatalf("commit: %v", err)
			}
			p.bounded(rt, largest > 1)
		}
		if err := p.Drain(ctx); err != nil {
			rt.Fatalf("drain: %v", err)
		}
		p.bounded(rt, true)
		if err := p.Close(); err != nil {
			rt.Fatalf("close: %v", err)
		}
	})
}

// TestBytesAreBounded: large events fill the bounds in bytes long before those in
// messages, also while a batch's answer is waited for.
func TestBytesAreBounded(t *testing.T) {
	t.Parallel()
	const size = 100 << 10
	for _, events := range []int{1, 2} {
		p := rig(t, fmt.Sprintf("bytes%d", events), 0)
		ctx, cancel := context.WithTimeout(context.Background(), slow)
		defer cancel()
		for commit := 1; commit <= 300; commit++ {
			for i := range events {
				e := someEvent(commit, size)
				e.ID.Position.Index = uint32(i)
				if err := p.Add(ctx, &e); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Commit(ctx); err != nil {
				t.Fatal(err)
			}
			if limit := gatherBytes + events*(size+2048); len(p.gather.bytes) > limit {
				t.Fatalf("%d bytes gathered in transactions of %d, want at most %d", len(p.gather.bytes), events, limit)
			}
			if limit := windowBytes + gatherBytes + ackEvery*size; p.bytes > limit {
				t.Fatalf("%d bytes in flight in transactions of %d, want at most %d", p.bytes, events, limit)
			}
		}
		if err := p.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
