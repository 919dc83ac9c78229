package publish

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

const (
	// maxBatch is the server's limit of messages in one atomic batch.
	maxBatch = 1000
	// gatherLimit is how many events are gathered before they go out without
	// waiting for Flush.
	gatherLimit = 256
	// ackEvery: one single message in so many asks for an acknowledgement.
	ackEvery = 64
	// headerRoom is what a message's headers may take of what a message may have.
	headerRoom = 1 << 10
	// windowBytes bounds the bytes in flight.
	windowBytes = 16 << 20
	// gatherBytes is how many bytes are gathered, beside the transaction that is
	// being added, before they go out whatever has to be waited for.
	gatherBytes = 4 << 20
)

// Publisher stores events behind a tail. It belongs to one goroutine.
type Publisher struct {
	cfg    Config
	nc     *nats.Conn
	atomic bool

	// acks receives the server's answers. nats.go sends, nobody closes; its
	// capacity is above the number of answers that may be outstanding, so
	// nats.go never drops one.
	acks  chan *nats.Msg
	sub   *nats.Subscription
	inbox string // prefix of reply subjects; what follows is the sequence asked about

	gather gather
	// lastID is the message id of the last message sent, for the chain. The first
	// names none: a server that was restarted knows the id of its last message no
	// longer than its duplicate window.
	lastID   []byte
	tail     uint64 // sequence of the last message before the first
	sent     uint64 // sequence of the last message sent
	acked    uint64 // everything up to here is stored
	pending  []pendingAck
	bytes    int // in flight
	stored   int // bytes that were acknowledged since TakeStored
	batches  int // atomic batches in flight
	singles  int // answers outstanding for single messages
	batchSeq int // atomic batches of this publisher, for their ids

	tempo tempo

	noteSubject  string
	noteRevision uint64
	noting       time.Time // when the note that waits for its answer was written; zero: none does

	single, batch nats.Msg // reused for every message
}

// pendingAck is an answer that is being waited for.
type pendingAck struct {
	seq   uint64
	bytes int // of the messages that it acknowledges
	batch bool
	at    time.Time
}

// Resume returns a publisher that goes on behind tail, which must have been
// read after the slot was taken. Close it.
func (s *Stream) Resume(tail Tail) (*Publisher, error) {
	p := &Publisher{
		cfg: s.cfg, nc: s.nc, atomic: s.Atomic,
		acks:   make(chan *nats.Msg, s.cfg.Window+maxBatch),
		inbox:  s.nc.NewRespInbox() + ".",
		gather: gather{limit: s.bodyLimit()},
		tail:   tail.Sequence, sent: tail.Sequence, acked: tail.Sequence,
		noteSubject: s.noteSubject(), noteRevision: s.noteRevision,
		single: nats.Msg{Header: nats.Header{}}, batch: nats.Msg{Header: nats.Header{}},
	}
	for _, m := range []*nats.Msg{&p.single, &p.batch} {
		for _, key := range []string{jetstream.MsgIDHeader, ffstream.HeaderPosition} {
			m.Header[key] = []string{""}
		}
		m.Header["Content-Type"] = []string{ffstream.ContentType}
	}
	p.single.Header[jetstream.ExpectedLastSeqHeader] = []string{""}
	p.batch.Header[headerBatchID] = []string{""}
	p.batch.Header[headerBatchSequence] = []string{""}
	sub, err := s.nc.ChanSubscribe(p.inbox+"*", p.acks)
	if err != nil {
		return nil, fmt.Errorf("subscribe to acknowledgements: %w", classify(err))
	}
	p.sub = sub
	return p, nil
}

// bodyLimit is the size above which an event loses fields, in bytes.
func (s *Stream) bodyLimit() int {
	most := s.nc.MaxPayload()
	if s.maxMsgSize > 0 {
		most = min(most, int64(s.maxMsgSize))
	}
	return max(1, int(most)-headerRoom)
}

// Headers of atomic batches (ADR-50); nats.go has no names for them.
const (
	headerBatchID       = "Nats-Batch-Id"
	headerBatchSequence = "Nats-Batch-Sequence"
	headerBatchCommit   = "Nats-Batch-Commit"
)

// Close gives up the acknowledgements. Messages in flight may still be stored.
func (p *Publisher) Close() error {
	if err := p.sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) && !errors.Is(err, nats.ErrBadSubscription) {
		return fmt.Errorf("unsubscribe from acknowledgements: %w", err)
	}
	return nil
}

// Add takes one event of the transaction that is being committed. It copies
// what it needs of e. It blocks while the window is full.
func (p *Publisher) Add(ctx context.Context, e *ffstream.Event) error {
	if p.gather.open() == maxBatch {
		// More than a batch holds, so it cannot become visible at once.
		p.gather.part()
		if err := p.sendComplete(ctx); err != nil {
			return err
		}
	}
	p.gather.add(e, p.cfg.Prefix)
	return nil
}

// Commit ends a transaction, with or without events.
func (p *Publisher) Commit(ctx context.Context) error {
	p.gather.commit()
	if p.gather.complete < gatherLimit && len(p.gather.bytes) < gatherBytes {
		return nil
	}
	return p.dispatch(ctx)
}

// Flush sends what was gathered, as far as that needs no waiting: while a batch
// is in flight, small transactions wait for its answer and then go out together.
func (p *Publisher) Flush(ctx context.Context) error { return p.dispatch(ctx) }

// Sequence is the stream sequence that the last event added has or will get.
func (p *Publisher) Sequence() uint64 { return p.sent + uint64(len(p.gather.events)) }

// Acked is the stream sequence up to which every message is stored.
func (p *Publisher) Acked() uint64 { return p.acked }

// InFlight is the number of events that were added and are not acknowledged.
func (p *Publisher) InFlight() int { return int(p.Sequence() - p.acked) }

// InFlightBytes is how many bytes of events were sent and are not acknowledged.
func (p *Publisher) InFlightBytes() int { return p.bytes }

// Window is how much may be in flight.
type Window struct {
	Events int // one transaction that is stored atomically may be more
	Bytes  int // of events; what is sent at once may exceed it
}

// Window is the present bound of what is in flight.
func (p *Publisher) Window() Window {
	return Window{Events: p.tempo.window(p.cfg.Window), Bytes: windowBytes}
}

// TakeStored gives how many bytes of events were acknowledged since it was called last.
func (p *Publisher) TakeStored() uint64 {
	n := p.stored
	p.stored = 0
	return uint64(n)
}

// Acks is where answers come from. What is received from it belongs to Ack.
func (p *Publisher) Acks() <-chan *nats.Msg { return p.acks }

// dispatch sends complete transactions unless waiting merges them for less.
func (p *Publisher) dispatch(ctx context.Context) error {
	if p.gather.complete == 0 || p.mustWait() && p.gather.complete < maxBatch && len(p.gather.bytes) < gatherBytes {
		if p.gather.complete >= gatherLimit {
			p.press()
		}
		return nil
	}
	return p.sendComplete(ctx)
}

// press tells the tempo that the broker is the limit, unless what it is busy with was
// sent the other way.
func (p *Publisher) press() {
	if p.tempo.batching && p.singles > 0 {
		return
	}
	p.tempo.press(p.acked, time.Now())
}

// mustWait: an atomic batch costs the server the same whatever its size, so
// while one is in flight the next is gathered. And a batch cannot name the id
// of the message before it, so it does not follow single messages whose
// answers are outstanding.
func (p *Publisher) mustWait() bool {
	if p.batches > 0 {
		return true
	}
	return p.batching() && p.singles > 0
}

// batching: what is gathered goes out as atomic batches.
func (p *Publisher) batching() bool { return p.atomic && (p.gather.multi || p.tempo.batching) }

// sendComplete sends every complete transaction.
func (p *Publisher) sendComplete(ctx context.Context) error {
	p.tempo.wake(time.Now())
	for p.gather.complete > 0 {
		n := p.gather.complete
		if p.batching() {
			n = p.gather.whole(maxBatch)
			for p.singles > 0 {
				if err := p.wait(ctx); err != nil {
					return err
				}
			}
			if err := p.room(ctx, n); err != nil {
				return err
			}
			if err := p.sendBatch(n); err != nil {
				return err
			}
			p.gather.drop(n)
		} else if err := p.sendSingles(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// room waits until n more messages fit the window.
func (p *Publisher) room(ctx context.Context, n int) error {
	for len(p.pending) > 0 && (int(p.sent-p.acked)+n > max(p.tempo.window(p.cfg.Window), n) || p.bytes > windowBytes) {
		p.press()
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// wait takes one answer, or fails when it is overdue.
func (p *Publisher) wait(ctx context.Context) error {
	timer := time.NewTimer(time.Until(p.oldest().Add(p.cfg.AckTimeout)))
	defer timer.Stop()
	select {
	case m := <-p.acks:
		return p.ack(m)
	case <-timer.C:
		return p.Overdue(time.Now())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// oldest is when what waits longest for its answer was sent.
func (p *Publisher) oldest() time.Time {
	if len(p.pending) > 0 && (!p.Noting() || p.pending[0].at.Before(p.noting)) {
		return p.pending[0].at
	}
	return p.noting
}

// Overdue returns ErrAmbiguous when an answer is later than AckTimeout.
func (p *Publisher) Overdue(now time.Time) error {
	if p.Noting() && now.Sub(p.noting) >= p.cfg.AckTimeout {
		return fmt.Errorf("%w: no acknowledgement of the note within %s", ErrAmbiguous, p.cfg.AckTimeout)
	}
	if len(p.pending) == 0 || now.Sub(p.pending[0].at) < p.cfg.AckTimeout {
		return nil
	}
	return fmt.Errorf("%w: no acknowledgement of message %d within %s", ErrAmbiguous, p.pending[0].seq, p.cfg.AckTimeout)
}

// expect notes that the message just sent asked for an answer.
func (p *Publisher) expect(size int, batch bool) {
	p.pending = append(p.pending, pendingAck{seq: p.sent, bytes: size, batch: batch, at: time.Now()})
	p.bytes += size
	if batch {
		p.batches++
	} else {
		p.singles++
	}
}

// Ack takes one answer and sends what was waiting for it.
func (p *Publisher) Ack(ctx context.Context, m *nats.Msg) error {
	if err := p.ack(m); err != nil {
		return err
	}
	return p.dispatch(ctx)
}

func (p *Publisher) ack(m *nats.Msg) error {
	what := m.Subject[len(p.inbox):]
	if m.Header.Get("Status") == "503" {
		return fmt.Errorf("acknowledge message %s: %w: no responders", what, ErrUnavailable)
	}
	if what == noteReply {
		return p.ackNote(m.Data)
	}
	asked, err := strconv.ParseUint(what, 36, 64)
	if err != nil {
		return fmt.Errorf("read acknowledgement: subject %s has no sequence", m.Subject)
	}
	answer, err := parseAck(m.Data)
	if err != nil {
		return fmt.Errorf("acknowledge message %d: %w", asked, err)
	}
	if answer.Duplicate {
		return fmt.Errorf("acknowledge message %d: %w: it was stored before as %d", asked, ErrAmbiguous, answer.Sequence)
	}
	if answer.Sequence != asked {
		return fmt.Errorf("acknowledge message %d: %w: it was stored as %d", asked, ErrAmbiguous, answer.Sequence)
	}
	p.tempo.acked(asked, time.Now())
	n := 0
	for n < len(p.pending) && p.pending[n].seq <= asked {
		p.bytes -= p.pending[n].bytes
		p.stored += p.pending[n].bytes
		if p.pending[n].batch {
			p.batches--
		} else {
			p.singles--
		}
		n++
	}
	p.pending = p.pending[:copy(p.pending, p.pending[n:])]
	p.acked = max(p.acked, asked)
	if len(p.pending) == 0 && p.gather.complete == 0 {
		p.tempo.idle(time.Now())
	}
	return nil
}

// Drain sends what is complete and waits until everything is acknowledged or
// ctx ends. Events of a transaction that was not committed are dropped.
func (p *Publisher) Drain(ctx context.Context) error {
	p.gather.abandon()
	for p.gather.complete > 0 || len(p.pending) > 0 {
		if err := p.dispatch(ctx); err != nil {
			return err
		}
		if len(p.pending) == 0 {
			continue
		}
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}
