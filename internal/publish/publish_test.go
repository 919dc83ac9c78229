package publish_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestPublish: every shape of transaction is stored once, in order, with the
// sequence that the publisher said.
func TestPublish(t *testing.T) {
	t.Parallel()
	for name, counts := range map[string][]int{
		"one":                   {1},
		"none":                  {0},
		"singles":               {1, 1, 1, 0, 1},
		"many singles":          slices.Repeat([]int{1}, 700),
		"two":                   {2},
		"transactions":          {2, 3, 1, 7, 0, 1, 1, 2},
		"many transactions":     slices.Repeat([]int{1, 2, 3}, 200),
		"single before a batch": {1, 1000},
		"whole batch":           {1000},
		"more than a batch":     {1001},
		"two batches":           {2000},
		"many batches":          {1, 2500, 1, 3001, 2},
		"batches that overflow": {600, 600, 999, 2, 1000, 1},
	} {
		for _, atomic := range []bool{true, false} {
			t.Run(name+map[bool]string{true: "", false: ", not atomic"}[atomic], func(t *testing.T) {
				t.Parallel()
				b := sharedBench(t)
				b.create(t, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = atomic })
				p := b.publisher(t)
				txs := sizes(1, counts...)
				n := uint64(len(slices.Concat(txs...)))
				if err := add(testContext(t), p, txs...); err != nil {
					t.Fatal(err)
				}
				if p.Sequence() != n || p.InFlight() != int(n-p.Acked()) {
					t.Errorf("sequence %d, acked %d, in flight %d of %d", p.Sequence(), p.Acked(), p.InFlight(), n)
				}
				mustStore(t, p)
				if p.Sequence() != n || p.Acked() != n || p.InFlight() != 0 {
					t.Errorf("stored: sequence %d, acked %d, in flight %d of %d", p.Sequence(), p.Acked(), p.InFlight(), n)
				}
				b.holds(t, 1, txs...)
			})
		}
	}
}

// TestFlushSends: without Drain or more events, what was flushed is stored and
// acknowledged.
func TestFlushSends(t *testing.T) {
	t.Parallel()
	for _, counts := range [][]int{{1}, {1, 1}, {2}, {1, 3}} {
		b := sharedBench(t)
		p := b.publisher(t)
		ctx := testContext(t)
		txs := sizes(1, counts...)
		if err := errors.Join(add(ctx, p, txs...), p.Flush(ctx)); err != nil {
			t.Fatal(err)
		}
		for p.InFlight() > 0 {
			select {
			case m := <-p.Acks():
				if err := p.Ack(ctx, m); err != nil {
					t.Fatal(err)
				}
			case <-ctx.Done():
				t.Fatalf("%v: %d of %d acknowledged", counts, p.Acked(), p.Sequence())
			}
		}
		b.holds(t, 1, txs...)
	}
}

// TestUncommittedIsNotStored: a transaction whose commit was not read leaves
// nothing.
func TestUncommittedIsNotStored(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	p := b.publisher(t)
	ctx := testContext(t)
	first, open := transaction(1, 3), transaction(2, 3)
	if err := add(ctx, p, first); err != nil {
		t.Fatal(err)
	}
	for i := range open {
		if err := p.Add(ctx, &open[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	mustStore(t, p)
	if p.Sequence() != 3 || p.Acked() != 3 {
		t.Errorf("sequence %d, acked %d, want 3", p.Sequence(), p.Acked())
	}
	b.holds(t, 1, first)
	mustStore(t, p, open) // and the publisher goes on
	b.holds(t, 1, first, open)
}

// TestTransactionsAreAtomic: whoever has a transaction's first event can read its
// last.
func TestTransactionsAreAtomic(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	p := b.publisher(t)
	ctx := testContext(t)
	stream, err := b.js.Stream(ctx, b.cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := b.js.OrderedConsumer(ctx, b.cfg.Stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	txs := sizes(1, 2, 1000, 3, 1, 999, 500, 501, 2, 1000, 7, 1, 1, 64, 300, 2, 2, 900, 1000, 1000)
	done := make(chan error, 1)
	go func() { done <- store(ctx, p, txs...) }()
	first := uint64(1)
	for _, tx := range txs {
		end := first + uint64(len(tx)) - 1
		for at := first; at <= end; at++ {
			if _, err := messages.Next(jetstream.NextContext(ctx)); err != nil {
				t.Fatal(err)
			}
			if at > first {
				continue
			}
			if m, err := stream.GetMsg(ctx, end); err != nil || m.Header.Get(jetstream.MsgIDHeader) != tx[len(tx)-1].ID.String() {
				t.Errorf("message %d was there before %d, the end of its transaction: %v", first, end, err)
			}
		}
		first = end + 1
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	b.holds(t, 1, txs...)
}

// TestAddCopies: an event is the caller's again after Add.
func TestAddCopies(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	p := b.publisher(t)
	tx := transaction(1, 4)
	var e ffstream.Event
	for i := range tx {
		e = tx[i]
		if err := p.Add(testContext(t), &e); err != nil {
			t.Fatal(err)
		}
		e = ffstream.Event{Namespace: "overwritten"}
	}
	if err := p.Commit(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mustStore(t, p)
	b.holds(t, 1, tx)
}

// TestResume: a new publisher goes on at the tail, with or without messages left
// in the stream.
func TestResume(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	s := b.open(t)
	txs := sizes(1, 1, 3, 1200, 1, 5)
	sequence := uint64(0)
	for i, tx := range txs {
		tail, err := s.ReadTail(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		want := ffstream.Position{}
		if i > 0 {
			want = txs[i-1][len(txs[i-1])-1].ID.Position
		}
		if tail.Sequence != sequence || tail.Stored != (i > 0) || tail.Position != want {
			t.Errorf("tail %+v, want sequence %d at %s", tail, sequence, want)
		}
		p := b.publisher(t)
		if p.Sequence() != sequence || p.Acked() != sequence || p.InFlight() != 0 {
			t.Errorf("resumed at sequence %d, acked %d, want %d", p.Sequence(), p.Acked(), sequence)
		}
		mustStore(t, p, tx)
		sequence += uint64(len(tx))
	}
	b.holds(t, 1, txs...)
	if got := b.open(t).LastSequence(); got != sequence {
		t.Errorf("last sequence %d, want %d", got, sequence)
	}

	stream, err := b.js.Stream(testContext(t), b.cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(testContext(t)); err != nil {
		t.Fatal(err)
	}
	tail, err := s.ReadTail(testContext(t))
	if err != nil || tail.Sequence != sequence || tail.Stored || !tail.Position.IsZero() {
		t.Errorf("tail of a purged stream %+v, %v", tail, err)
	}
	later := sizes(10, 1, 2, 1)
	mustStore(t, b.publisher(t), later...)
	b.holds(t, sequence+1, later...)
}

// shapes are what a publisher may have to store when the chain is broken.
var shapes = map[string][]int{
	"single": {1}, "singles": {1, 1, 1}, "many singles": slices.Repeat([]int{1}, 200),
	"transaction": {2}, "transactions": {3, 1, 1000, 2}, "large": {2500},
}

// TestForeignMessage: behind a message of another writer nothing is stored, and
// the tail says whose stream it is.
func TestForeignMessage(t *testing.T) {
	t.Parallel()
	for name, counts := range shapes {
		for _, foreign := range []int{1, 2, 64} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				b := sharedBench(t)
				p := b.publisher(t)
				mustStore(t, p, transaction(1, 2))
				for range foreign {
					if _, err := b.js.Publish(testContext(t), b.cfg.Prefix+".foreign", []byte("x")); err != nil {
						t.Fatal(err)
					}
				}
				if err := store(testContext(t), p, sizes(2, counts...)...); !errors.Is(err, publish.ErrAmbiguous) {
					t.Errorf("published behind it: %v", err)
				}
				if last := b.last(t); last != 2+uint64(foreign) || p.Acked() != 2 {
					t.Errorf("the stream ends at %d, want %d; acked %d", last, 2+foreign, p.Acked())
				}
				if _, err := b.open(t).ReadTail(testContext(t)); !errors.Is(err, publish.ErrStreamForeign) {
					t.Errorf("read tail: %v", err)
				}
			})
		}
	}
}

// last is the stream's last sequence once everything that is on its way has
// arrived: a message that the same connection sends behind it says so.
func (b *bench) last(t *testing.T) uint64 {
	t.Helper()
	ack, err := b.js.Publish(testContext(t), b.cfg.Prefix+".sentinel", nil)
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence - 1
}

// TestStalePublisher: two publishers of the same events, as after a takeover,
// leave each event once and in order, whoever was how far.
func TestStalePublisher(t *testing.T) {
	t.Parallel()
	for name, counts := range shapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			txs := sizes(1, append([]int{2}, counts...)...)
			for ahead := 1; ahead < len(txs); ahead += max(1, len(txs)/4) {
				b := sharedBench(t)
				stale := b.publisher(t)
				mustStore(t, stale, txs[0])
				mustStore(t, b.publisher(t), txs[1:1+ahead]...)
				before := b.state(t).LastSeq
				err := store(testContext(t), stale, txs[1:]...)
				if err != nil && !errors.Is(err, publish.ErrAmbiguous) {
					t.Errorf("%d transactions behind: %v", ahead, err)
				}
				all := slices.Concat(txs...)
				last := b.last(t)
				if err == nil && last != uint64(len(all)) || err != nil && last < before {
					t.Errorf("%d transactions behind: the stream went from %d to %d: %v", ahead, before, last, err)
				}
				b.begins(t, 1, all[:last])
			}
		})
	}
}

// TestDuplicate: an event that is in the stream already, when the tail did not
// show it, is noticed and not stored.
func TestDuplicate(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3} {
		b := sharedBench(t)
		p := b.publisher(t)
		mustStore(t, p, transaction(1, n), transaction(2, 1))
		if err := store(testContext(t), p, transaction(1, n)); !errors.Is(err, publish.ErrAmbiguous) {
			t.Errorf("%d events again: %v", n, err)
		}
		b.holds(t, 1, transaction(1, n), transaction(2, 1))
	}
}

// TestFull: a stream that refuses more stops the publisher, whole transactions at
// a time, and goes on when there is room.
func TestFull(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*jetstream.StreamConfig){
		"messages": func(c *jetstream.StreamConfig) { c.MaxMsgs = 10 },
		"bytes":    func(c *jetstream.StreamConfig) { c.MaxBytes = 14 << 10 },
	} {
		for _, n := range []int{1, 4} {
			b := sharedBench(t)
			b.create(t, func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew; limit(c) })
			p := b.publisher(t)
			txs := sizes(1, slices.Repeat([]int{n}, 40/n)...)
			err := error(nil)
			for stored := 0; err == nil; stored++ {
				err = store(testContext(t), p, txs[stored])
			}
			if !errors.Is(err, publish.ErrFull) {
				t.Fatalf("%s, transactions of %d: %v", name, n, err)
			}
			last := b.state(t).LastSeq
			if last == 0 || last >= 40 || last%uint64(n) != 0 || last != p.Acked() {
				t.Errorf("%s, transactions of %d: stored %d, acked %d", name, n, last, p.Acked())
			}
			// Whoever comes next with much at once is told the same.
			if err := store(testContext(t), b.publisher(t), txs[int(last)/n:]...); !errors.Is(err, publish.ErrFull) {
				t.Errorf("%s, transactions of %d: again: %v", name, n, err)
			}
			cfg := b.promised()
			cfg.Discard = jetstream.DiscardNew
			if _, err := b.js.UpdateStream(testContext(t), cfg); err != nil {
				t.Fatal(err)
			}
			mustStore(t, b.publisher(t), txs[int(last)/n:]...)
			b.holds(t, 1, txs...)
		}
	}
}

// TestTooLarge: an event above what the server or the stream takes loses fields
// and is stored; one that cannot be made small enough is no matter of waiting.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]int32{"max_payload": -1, "max_msg_size": 4096} {
		b := sharedBench(t)
		b.create(t, func(c *jetstream.StreamConfig) { c.MaxMsgSize = limit })
		whole, large := transaction(1, 1), transaction(2, 1)
		large[0].BlockingDetail = strings.Repeat("x", 2<<20)
		mustStore(t, b.publisher(t), whole, large)
		want := large[0]
		for want.BlockingDetail != "" {
			want.Truncate()
		}
		b.holds(t, 1, whole, []ffstream.Event{want})
		if !want.Truncated {
			t.Errorf("%s: the event is not marked", name)
		}
	}
	b := sharedBench(t)
	b.create(t, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 300 })
	if err := store(testContext(t), b.publisher(t), transaction(1, 1)); !errors.Is(err, publish.ErrStreamConfig) || !strings.Contains(err.Error(), "max_msg_size") {
		t.Errorf("above the stream's max_msg_size: %v", err)
	}
}

// TestStreamDeleted: nothing makes it anew, and the tail says what happened.
func TestStreamDeleted(t *testing.T) {
	t.Parallel()
	b, _ := ownBench(t, testenv.NATSConfig{})
	s := b.open(t)
	p := b.publisher(t)
	mustStore(t, p, transaction(1, 2))
	if err := b.js.DeleteStream(testContext(t), b.cfg.Stream); err != nil {
		t.Fatal(err)
	}
	if err := store(testContext(t), p, transaction(2, 1)); !errors.Is(err, publish.ErrUnavailable) {
		t.Errorf("publish: %v", err)
	}
	if _, err := s.ReadTail(testContext(t)); !errors.Is(err, publish.ErrStreamLost) {
		t.Errorf("read tail: %v", err)
	}
	if _, err := publish.Open(testContext(t), b.nc, b.cfg, false); !errors.Is(err, publish.ErrStreamLost) {
		t.Errorf("open: %v", err)
	}
}

// TestServerRestart: a server that goes ends the session, and the next one goes
// on at what it kept.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	b, server := ownBench(t, testenv.NATSConfig{SyncAlways: true})
	p := b.publisher(t)
	txs := sizes(1, 2, 1, 1, 40, 1)
	mustStore(t, p, txs[:2]...)
	gone, back := b.nc.StatusChanged(nats.RECONNECTING), b.nc.StatusChanged(nats.CONNECTED)
	server.Stop()
	<-gone
	if err := store(testContext(t), p, txs[2]); !errors.Is(err, publish.ErrUnavailable) {
		t.Errorf("publish to a server that is gone: %v", err)
	}
	if _, err := publish.Open(testContext(t), b.nc, b.cfg, false); !errors.Is(err, publish.ErrUnavailable) {
		t.Errorf("open on a server that is gone: %v", err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	<-back
	mustStore(t, b.publisher(t), txs[2:]...)
	b.holds(t, 1, txs...)
}

// TestOverdue: an answer that does not come ends the session, for what it would
// have told is not known.
func TestOverdue(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2} {
		b := sharedBench(t)
		b.create(t, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false })
		b.cfg.AckTimeout = 50 * time.Millisecond
		p := b.publisher(t)
		if err := p.Overdue(time.Now().Add(time.Hour)); err != nil {
			t.Errorf("nothing is waited for: %v", err)
		}
		cfg := b.promised()
		cfg.AllowAtomicPublish, cfg.NoAck = false, true
		if _, err := b.js.UpdateStream(testContext(t), cfg); err != nil {
			t.Fatal(err)
		}
		if err := store(testContext(t), p, transaction(1, n)); !errors.Is(err, publish.ErrAmbiguous) || !strings.Contains(err.Error(), "50ms") {
			t.Errorf("drain: %v", err)
		}
		if err := p.Overdue(time.Now().Add(-time.Minute)); err != nil {
			t.Errorf("before the time: %v", err)
		}
		if err := p.Overdue(time.Now()); !errors.Is(err, publish.ErrAmbiguous) || p.Acked() != 0 {
			t.Errorf("overdue: %v, acked %d", err, p.Acked())
		}
	}
}

// TestContextEnds: waiting for the window or for answers ends with the context.
func TestContextEnds(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	b.create(t, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false })
	b.cfg.Window = 64
	p := b.publisher(t)
	cfg := b.promised()
	cfg.AllowAtomicPublish, cfg.NoAck = false, true
	if _, err := b.js.UpdateStream(testContext(t), cfg); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if err := add(ctx, p, sizes(1, slices.Repeat([]int{1}, 1000)...)...); !errors.Is(err, context.Canceled) {
		t.Errorf("add: %v", err)
	}
	if err := p.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("drain: %v", err)
	}
}
