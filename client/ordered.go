package client

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// reading is the stream from a place on, in its order, without acknowledgements.
// What was on its way when a connection broke, or a server forgot the consumer, is
// asked for again by another consumer. One goroutine reads.
type reading struct {
	s        *Subscriber
	stream   jetstream.Stream // as it was found first
	next     uint64           // where another consumer begins; 0: at the time that From says
	first    uint64           // that the stream held when the latest had begun
	consumed uint64           // the consumer's sequence of the latest message
	pending  uint64           // how many are behind the latest; with UntilEnd, without one, behind next
	failures int              // since the latest message
	unwatch  func()
	back     chan struct{}               // of capacity 1: there is another connection
	left     []string                    // consumers that may still stand: nobody answered for their deletion
	missed   func(context.Context) error // nil, or called when the stream may have forgotten what was not read yet

	mu       sync.Mutex // guards what follows
	messages jetstream.MessagesContext
	consumer string // the name of the latest that was made; empty: none is there
	before   error  // the connection's latest when that was made
	breaks   int    // how often there was another connection
	closed   bool
}

// openOrdered begins to read. The reading is the caller's to close.
func (s *Subscriber) openOrdered(ctx context.Context) (*reading, error) {
	r := &reading{s: s, back: make(chan struct{}, 1)}
	r.watch()
	if err := r.open(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// watch interrupts the wait for a message where none may come to end it: what was on
// its way when a connection broke is lost, and a server sends nothing to who may not
// ask for it.
func (r *reading) watch() {
	nc := r.s.js.Conn()
	changed := nc.StatusChanged(nats.CONNECTED)
	tick := time.NewTicker(longWait)
	done := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if r.refused() != nil {
					r.interrupt()
				}
			case _, ok := <-changed:
				if !ok {
					return
				}
				r.reconnected()
			}
		}
	})
	r.unwatch = func() {
		nc.RemoveStatusListener(changed)
		close(done)
		watching.Wait()
	}
}

// refused is what the server does not permit the reading to do with its consumer.
func (r *reading) refused() error {
	r.mu.Lock()
	name, before := r.consumer, r.before
	r.mu.Unlock()
	return r.s.refusal(before, r.s.consumed(name))
}

// reconnected makes message open anew, at once.
func (r *reading) reconnected() {
	r.mu.Lock()
	r.breaks++
	r.mu.Unlock()
	select {
	case r.back <- struct{}{}:
	default:
	}
	r.interrupt()
}

// made notes the name of the consumer, empty when it is gone.
func (r *reading) made(consumer string) (breaks int) {
	before := r.s.js.Conn().LastError()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.consumer, r.before = consumer, before
	return r.breaks
}

// discard removes the latest consumer, and those before it that may still stand.
func (r *reading) discard(ctx context.Context) (breaks int) {
	r.mu.Lock()
	name := r.consumer
	r.mu.Unlock()
	if name != "" {
		r.left = append(r.left, name)
	}
	r.left = r.s.forget(ctx, r.left)
	return r.made("")
}

// open makes a consumer that begins at next, in place of the one before.
func (r *reading) open(ctx context.Context) error {
	var messages jetstream.MessagesContext
	var breaks int
	err := r.s.patient(ctx, r.stream != nil, func(ctx context.Context) error {
		stream, err := r.s.find(ctx, r.stream)
		if err != nil {
			return err
		}
		breaks = r.discard(ctx) // first: a limit of consumers may leave no room for both
		c := jetstream.ConsumerConfig{
			Name: nameless(), AckPolicy: jetstream.AckNonePolicy, Replicas: 1, MemoryStorage: true, InactiveThreshold: forgetAfter,
			FilterSubjects: r.s.cfg.subjects(stream),
		}
		if err := r.s.startAt(ctx, stream, &c, r.next); err != nil {
			return err
		}
		r.made(c.Name) // although the answer may be lost
		consumer, err := stream.CreateConsumer(ctx, c)
		if err = crowded(err, r.left); err != nil {
			return err
		}
		if r.s.cfg.UntilEnd {
			info, err := consumer.Info(ctx)
			if err != nil {
				return err
			}
			r.pending = info.NumPending
		}
		if messages, err = consumer.Messages(jetstream.WithMessagesErrOnMissingHeartbeat(true), jetstream.PullHeartbeat(signOfLife)); err != nil {
			return err
		}
		if r.missed != nil {
			info, err := stream.Info(ctx) // what it lost before the consumer was there
			if err != nil {
				return err
			}
			r.first = info.State.FirstSeq
		}
		r.stream, r.next, r.consumed = stream, c.OptStartSeq, 0
		return nil
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = messages
	if r.closed || r.breaks != breaks {
		messages.Stop()
	}
	return nil
}

// interrupt ends the wait for a message.
func (r *reading) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.messages != nil {
		r.messages.Stop()
	}
}

// close ends the reading, by itself or by the end of ctx, and its consumer within a
// second.
func (r *reading) close() {
	r.unwatch()
	r.end()
	r.discard(context.Background())
}

func (r *reading) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	if r.messages != nil {
		r.messages.Stop()
	}
}

// message is the next one, nil when ctx has ended or UntilEnd has been reached.
// Ctx is one that ends the reading.
func (r *reading) message(ctx context.Context) (jetstream.Msg, uint64, error) {
	for {
		m, err := r.messages.Next()
		if ctx.Err() != nil {
			return nil, 0, nil
		}
		if err == nil {
			meta, err := m.Metadata()
			if err != nil {
				return nil, 0, fmt.Errorf("read message on %s: %w", m.Subject(), err)
			}
			if meta.Sequence.Consumer == r.consumed+1 {
				if meta.Sequence.Stream < r.next { // a replica that is behind begins where it ends
					r.consumed++
					continue
				}
				r.consumed, r.next, r.pending, r.failures = r.consumed+1, meta.Sequence.Stream+1, meta.NumPending, 0
				return m, meta.Sequence.Stream, nil
			}
		}
		if r.s.js.Conn().IsClosed() {
			return nil, 0, fmt.Errorf("consume stream %s: %w", r.s.cfg.Stream, nats.ErrConnectionClosed)
		}
		if err := r.refused(); err != nil {
			return nil, 0, fmt.Errorf("consume stream %s: %w", r.s.cfg.Stream, explain(err))
		}
		if more, err := r.again(ctx); !more || err != nil {
			return nil, 0, err
		}
	}
}

// again opens anew behind the latest message, and reports whether there is more to
// wait for. What fails again waits first, though not when there is another connection.
func (r *reading) again(ctx context.Context) (bool, error) {
	r.interrupt()
	select {
	case <-r.back:
		r.failures = 0
	default:
	}
	if r.failures++; r.failures > 1 {
		select {
		case <-ctx.Done():
			return false, nil
		case <-r.back:
		case <-time.After(longWait):
		}
	}
	next := r.next
	if err := r.open(ctx); err != nil {
		if ctx.Err() != nil {
			return false, nil
		}
		return false, fmt.Errorf("consume stream %s: %w", r.s.cfg.Stream, err)
	}
	if r.missed != nil && r.first > next {
		if err := r.missed(ctx); err != nil {
			return false, err
		}
	}
	return !r.s.cfg.UntilEnd || r.pending > 0, nil
}

// runOrdered reads without acknowledgements, one event at a time.
func (s *Subscriber) runOrdered(ctx context.Context, handle Handler) error {
	r, err := s.openOrdered(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("subscribe to stream %s: %w", s.cfg.Stream, err)
	}
	defer r.close()
	if s.cfg.UntilEnd && r.pending == 0 {
		return nil
	}
	return s.readOrdered(ctx, r, handle)
}

func (s *Subscriber) readOrdered(ctx context.Context, r *reading, handle Handler) error {
	defer context.AfterFunc(ctx, r.end)()
	ss := session{s: s, cfg: &s.cfg, filter: s.cfg.filter(), failed: make(chan error, 1), handle: func(ctx context.Context, b []*Message) error { return handle(ctx, b[0]) }}
	for {
		d, err := ss.nextOrdered(ctx, r)
		if err != nil || d == nil {
			return err
		}
		if d.broken != nil || ss.wants(d) {
			if err := ss.insist(ctx, d); err != nil {
				return err
			}
		}
		if ctx.Err() != nil || s.cfg.UntilEnd && r.pending == 0 {
			return nil
		}
	}
}

// nextOrdered is the next message, nil when there is none any more.
func (ss *session) nextOrdered(ctx context.Context, r *reading) (*delivery, error) {
	m, seq, err := r.message(ctx)
	if err != nil || m == nil {
		return nil, err
	}
	return ss.read(m, seq), nil
}

// insist tries one event until it is handled, given up, or ctx ends.
func (ss *session) insist(ctx context.Context, d *delivery) error {
	for d.Try = 1; ; d.Try++ {
		o := ss.try(ctx, []*delivery{d}, d.Try)
		if o.verdict != again || ctx.Err() != nil {
			return nil
		}
		select {
		case err := <-ss.failed:
			return err
		case <-ctx.Done():
			return nil
		case <-time.After(ss.cfg.delay(d.Try)):
		}
	}
}
