package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

type batchHandler func(ctx context.Context, batch []*Message) error

// delivery is a message in hand: received, and neither acknowledged nor given up.
type delivery struct {
	Message
	msg     jetstream.Msg // its latest delivery, whose reply subject counts
	touched time.Time     // when the server last heard of it
	broken  error         // why it is no event
	barrier bool
	skip    bool // acknowledged with its transaction, and not handled
	running bool // its handler has it
}

// queue is what one execution waits for, in order.
type queue struct {
	key   ffstream.ExecutionID
	items []*delivery
	busy  bool // its head is being handled, is ready to be, or waits for another try
	tries int  // of the head that failed

	first [1]*delivery // what items begins as
}

// session is one consumer, from its first message to its end. Messages enter by
// receive, on the subscription's goroutine; the workers take them from ready.
type session struct {
	s        *Subscriber
	cfg      *Config
	filter   Filter
	handle   batchHandler
	grouped  bool
	con      jetstream.Consumer
	stream   jetstream.Stream
	before   error // the connection's latest when the session began
	subjects []string
	failed   chan error  // of capacity 1: the first error ends the session
	created  time.Time   // when the consumer was
	suspect  atomic.Bool // the consumer may be gone
	repeat   atomic.Bool // acknowledgements may have been lost

	mu       sync.Mutex // guards what follows
	wake     *sync.Cond // ready has grown, or stopping
	inHand   map[uint64]*delivery
	queues   map[ffstream.ExecutionID]*queue
	ready    []*queue
	held     []*delivery // not yet given to a queue
	foreign  []*delivery // in hand, and not of the own subjects
	holding  bool        // something older may be on its way
	barrier  bool        // one is being handled
	stopping bool
	pin      string // the server's name for this session, of the latest delivery
	lost     bool   // the pin is another's
	consumed uint64 // the consumer's sequence of the latest delivery
	gaps     int    // how often something was missed between two
	top      uint64 // of the stream's sequences, the greatest that came
	frontier uint64 // the sequence of the latest that came for the first time
	whole    bool   // frontier is the server's: nothing was missed since
	done     *history
}

func newSession(s *Subscriber, o opened, handle batchHandler, grouped bool, done *history) *session {
	info := o.consumer.CachedInfo()
	ss := &session{
		s: s, cfg: &s.cfg, filter: s.cfg.filter(), handle: handle, grouped: grouped, con: o.consumer, stream: o.stream, subjects: o.subjects, failed: make(chan error, 1),
		before: s.js.Conn().LastError(),
		inHand: map[uint64]*delivery{}, queues: map[ffstream.ExecutionID]*queue{},
		created: info.Created, consumed: info.Delivered.Consumer, done: done,
	}
	done.size = 2 * s.cfg.MaxPending
	if begin := info.Config.OptStartSeq; s.cfg.Durable == "" && begin > 0 {
		done.past.start = cmp.Or(done.past.start, begin)
		ss.top, ss.frontier, ss.whole = begin-1, begin-1, true
	}
	ss.wake = sync.NewCond(&ss.mu)
	return ss
}

// run returns nil when ctx ends and everything begun is finished.
func (ss *session) run(ctx context.Context) error {
	handlers, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	beside, stopBeside := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBeside()
	ss.holding = ss.con.CachedInfo().NumAckPending > 0
	var background, workers sync.WaitGroup
	background.Go(func() { ss.heartbeats(beside) })
	background.Go(func() { ss.release(beside) })
	background.Go(func() { ss.reconnects(beside) })
	count := ss.cfg.Workers
	if ss.grouped {
		count = 1
	}
	for range count {
		workers.Go(func() { ss.work(handlers) })
	}
	err := ss.consume(ctx)
	late := time.AfterFunc(ss.cfg.Drain, cancel)
	workers.Wait()
	late.Stop()
	stopBeside()
	background.Wait()
	ss.giveBack(ctx)
	return err
}

func (ss *session) pinned() bool { return len(ss.con.CachedInfo().Config.PriorityGroups) > 0 }

// consume receives until ctx ends or the session fails.
func (ss *session) consume(ctx context.Context) error {
	opts := []jetstream.PullConsumeOpt{
		jetstream.PullMaxMessages(min(ss.cfg.MaxPending, 500)),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { ss.consumeError(err) }),
	}
	if ss.pinned() {
		opts = append(opts, jetstream.PullPriorityGroup(pinGroup), jetstream.PullExpiry(pullExpiry)) // a sign of life each half
	} else {
		opts = append(opts, jetstream.PullHeartbeat(signOfLife))
	}
	receiving, err := ss.con.Consume(ss.receive, opts...)
	if err != nil {
		return fmt.Errorf("consume stream %s: %w", ss.cfg.Stream, err)
	}
	defer func() {
		ss.stop()
		receiving.Drain() // what is buffered comes to receive, which gives it back
		<-receiving.Closed()
	}()
	select {
	case <-ctx.Done():
		return nil
	case err := <-ss.failed:
		return err
	case <-receiving.Closed():
		select {
		case err := <-ss.failed:
			return err
		default:
			return fmt.Errorf("consume stream %s: %w", ss.cfg.Stream, nats.ErrConnectionClosed)
		}
	}
}

func (ss *session) consumeError(err error) {
	switch {
	case errors.Is(err, jetstream.ErrConsumerDeleted):
		ss.lose(err)
	case errors.Is(err, nats.ErrConnectionClosed):
		ss.fail(fmt.Errorf("consume stream %s: %w", ss.cfg.Stream, err))
	case errors.Is(err, jetstream.ErrPinIDMismatch):
		ss.giveUp()
		ss.repeatAcks() // a new leader of the consumer knows no pin, nor what was on its way to the one before
	default:
		ss.suspect.Store(true)
	}
}

// lose ends the session with what the server said of its consumer.
func (ss *session) lose(err error) {
	if errors.Is(err, jetstream.ErrConsumerDeleted) || errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		err = ErrConsumerGone // and whether the stream is, too, the run asks
	}
	ss.fail(fmt.Errorf("consume stream %s: %w", ss.cfg.Stream, err))
}

// fail ends the session with the first error that it is given.
func (ss *session) fail(err error) {
	select {
	case ss.failed <- err:
	default:
	}
}

// receive takes one delivery.
func (ss *session) receive(m jetstream.Msg) {
	meta, err := m.Metadata()
	if err != nil {
		ss.fail(fmt.Errorf("read message on %s: %w", m.Subject(), err))
		return
	}
	d := ss.read(m, meta.Sequence.Stream)
	unwanted := d.broken == nil && !ss.wants(d)

	ss.mu.Lock()
	ss.arrive(meta)
	if pin := m.Headers().Get("Nats-Pin-Id"); pin != "" {
		ss.pin = pin
	}
	known := ss.inHand[d.Sequence]
	again := known != nil || ss.stopping
	late := known == nil && ss.stopping
	handled := !again && ss.done.has(d.Sequence)
	if known != nil {
		known.msg, known.touched = m, d.touched
	}
	d.skip = unwanted
	if !again && !handled && unwanted && !covers(ss.subjects, d.Subject) {
		ss.inHand[d.Sequence] = d
		ss.foreign = append(ss.foreign, d)
		ss.suspect.Store(true)
	} else if !again && !handled && (!unwanted || ss.grouped) {
		ss.inHand[d.Sequence] = d
		ss.held = append(ss.held, d)
		ss.pump()
	} else if !again {
		handled = true
		ss.passOver(d.Sequence, d.Sequence)
	}
	ss.mu.Unlock()
	if late {
		_ = m.Nak() // lost, it comes again after AckWait
	}
	if handled && !ss.repeat.Load() { // else it is acknowledged with the others, if at all
		_ = m.Ack() // lost, it comes again
	}
}

func (ss *session) read(m jetstream.Msg, seq uint64) *delivery {
	d := &delivery{msg: m, touched: time.Now()}
	d.Event, d.broken = ffstream.ParseEvent(m.Data())
	d.Subject, d.Sequence, d.Body = m.Subject(), seq, m.Data()
	d.barrier = d.broken != nil || d.ExecutionID.IsZero()
	return d
}

// wants reports whether an event has a handler.
func (ss *session) wants(d *delivery) bool {
	if ss.cfg.passed(d) {
		return false
	}
	switch d.Type {
	case ffstream.TypeTransitioned:
		return d.barrier || ss.filter.Match(&d.Event, d.Subject)
	case ffstream.TypeSnapshotted:
		return ss.cfg.Snapshots != nil && ss.filter.Match(&d.Event, d.Subject)
	}
	return ss.cfg.Control != nil
}

// pump gives what is held to its queue, up to a barrier. mu is held.
func (ss *session) pump() {
	for len(ss.held) > 0 && !ss.holding && !ss.barrier {
		d := ss.held[0]
		if d.barrier && !ss.grouped {
			if len(ss.inHand) > len(ss.held) {
				return // until what is before it is done
			}
			ss.barrier = true
		}
		ss.held = shift(ss.held)
		ss.enqueue(d)
	}
}

// shift drops the first of s. The array of one that is then empty serves again.
func shift[T any](s []*T) []*T {
	s[0] = nil
	if len(s) == 1 {
		return s[:0]
	}
	return s[1:]
}

// enqueue appends to the queue of the execution; a transaction's to the only one.
func (ss *session) enqueue(d *delivery) {
	var key ffstream.ExecutionID
	if !ss.grouped {
		key = d.ExecutionID
	}
	q := ss.queues[key]
	if q == nil {
		q = &queue{key: key}
		q.items = q.first[:0]
		ss.queues[key] = q
	}
	q.items = append(q.items, d)
	ss.schedule(q)
}

// schedule makes a queue ready when there is something to handle. mu is held.
func (ss *session) schedule(q *queue) {
	if q.busy || len(ss.batch(q)) == 0 {
		return
	}
	q.busy = true
	ss.ready = append(ss.ready, q)
	ss.wake.Signal()
}

// batch is what of a queue is handled together: its head, or the transaction at
// its head once that is complete or too large.
func (ss *session) batch(q *queue) []*delivery {
	if len(q.items) == 0 || !ss.grouped {
		return q.items[:min(1, len(q.items))]
	}
	for i, d := range q.items {
		if d.barrier && i > 0 {
			return q.items[:i]
		}
		if d.barrier || d.Tx.Last || i+1 >= max(1, ss.cfg.MaxPending/2) {
			return q.items[:i+1]
		}
	}
	return nil
}

// stop begins nothing more.
func (ss *session) stop() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.stopping = true
	ss.wake.Broadcast()
}

// giveUp returns to the server all that has no handler: the pin went to another
// process, which begins nothing before it has what this one has. What is being
// handled stays in hand until the handler returns. Whatever comes after this is
// held until the server has told that nothing older is missing.
func (ss *session) giveUp() {
	ss.mu.Lock()
	ss.lost, ss.barrier, ss.consumed = true, false, 0
	ss.held, ss.foreign, ss.ready = nil, nil, nil
	for key, q := range ss.queues {
		ss.done.remember(q)
		kept := 0
		for kept < len(q.items) && q.items[kept].running {
			ss.barrier = ss.barrier || q.items[kept].barrier && !ss.grouped
			kept++
		}
		if q.items = q.items[:kept]; kept == 0 {
			delete(ss.queues, key) // a try that it waits for finds it gone
		}
	}
	var rest []*delivery
	for seq, d := range ss.inHand {
		if !d.running {
			rest = append(rest, d)
			delete(ss.inHand, seq)
		}
	}
	ss.mu.Unlock()
	nak(rest)
}

// nak gives deliveries back to the server, in the order of the stream.
func nak(rest []*delivery) {
	slices.SortFunc(rest, func(a, b *delivery) int { return cmp.Compare(a.Sequence, b.Sequence) })
	for _, d := range rest {
		_ = d.msg.Nak() // lost, it comes again after AckWait
	}
}

// giveBack hands what was not handled to the next run, which sorts it, and sees
// that the server has heard everything. What it has not heard when the bound is over,
// AckWait does later.
func (ss *session) giveBack(ctx context.Context) {
	ss.mu.Lock()
	rest := make([]*delivery, 0, len(ss.inHand))
	for _, d := range ss.inHand {
		rest = append(rest, d)
	}
	pin := ss.pin // a connection that was closed may still hand one over
	for _, q := range ss.queues {
		ss.done.remember(q)
	}
	ss.mu.Unlock()
	nak(rest) // without a delay: the next run begins nothing before it has them
	nc := ss.s.js.Conn()
	flushing, cancel := ss.ending(ctx)
	defer cancel()
	if err := nc.FlushWithContext(flushing); err != nil && !nc.IsConnected() {
		return // an outage: nobody is there to be told more
	}
	if pin != "" {
		_ = ss.unpin(ctx, pin) // unheard, the pin ends PinnedTTL after the latest request
	}
}

// ending bounds one word to the server at the end of a session. A short pause of the
// process is within it: the pin would stand for as long as AckWait.
func (ss *session) ending(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), max(ss.cfg.Drain, 5*time.Second))
}

// unpin lets a standby, or the next run, begin at once. A pin that another has is left
// to it.
func (ss *session) unpin(ctx context.Context, pin string) error {
	ctx, cancel := ss.ending(ctx)
	defer cancel()
	name := ss.con.CachedInfo().Name
	refused := func(text string) bool { return strings.Contains(text, ".CONSUMER.UNPIN."+ss.cfg.Stream+"."+name+`"`) }
	return ss.s.ask(ctx, refused, func(ctx context.Context) error {
		info, err := ss.con.Info(ctx)
		if err != nil || len(info.PriorityGroups) == 0 || info.PriorityGroups[0].PinnedClientID != pin {
			return err
		}
		return ss.stream.UnpinConsumer(ctx, name, pinGroup)
	})
}
