package client

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/ffstream/ffstream"
)

// PanicError is the error of a try that panicked.
type PanicError struct {
	Value any
	Stack []byte
}

// Error says what the handler panicked with.
func (e *PanicError) Error() string { return fmt.Sprintf("handler panicked: %v", e.Value) }

// work handles what is ready until the session stops.
func (ss *session) work(ctx context.Context) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	for {
		for len(ss.ready) == 0 && !ss.stopping {
			ss.wake.Wait()
		}
		if ss.stopping {
			return
		}
		q := ss.ready[0]
		ss.ready = shift(ss.ready)
		batch := ss.batch(q)
		if q.tries == 0 {
			q.tries = ss.done.tried(batch[0].Sequence)
		}
		q.tries++
		for _, d := range batch {
			d.Try, d.running = q.tries, true
		}
		ss.finish(q, batch, ss.unlocked(ctx, batch, q.tries))
	}
}

// unlocked tries with mu let go: it is held again however the handler ends.
func (ss *session) unlocked(ctx context.Context, batch []*delivery, tries int) outcome {
	ss.mu.Unlock()
	defer ss.mu.Lock()
	return ss.try(ctx, batch, tries)
}

// verdict is how a batch leaves the hand.
type verdict int

const (
	acknowledge verdict = iota
	again
	terminate
)

// outcome is a verdict with its cause.
type outcome struct {
	verdict verdict
	cause   error
}

// try calls the handler once and, for poison, the hook.
func (ss *session) try(ctx context.Context, batch []*delivery, tries int) outcome {
	err := ss.guard(batch, func() error { return ss.call(ctx, batch) })
	if err == nil {
		return outcome{}
	}
	broken := batch[len(batch)-1].broken != nil
	if !broken && !errors.Is(err, ErrPoison) && (ss.cfg.Tries == 0 || tries < ss.cfg.Tries) {
		ss.tell(batch, err, ss.cfg.delay(tries))
		return outcome{again, err}
	}
	if ss.cfg.Poison == nil {
		ss.fail(fmt.Errorf("handle event %s: %w", batch[len(batch)-1].name(), err))
		return outcome{again, err}
	}
	for _, d := range batch {
		if d.skip {
			continue
		}
		if hook := ss.guard(batch, func() error { return ss.cfg.Poison(ctx, &d.Message, err) }); hook != nil {
			ss.fail(fmt.Errorf("give up event %s: %w", d.name(), hook))
			return outcome{again, err}
		}
	}
	return outcome{terminate, err}
}

// tell says that a batch will be tried again.
func (ss *session) tell(batch []*delivery, cause error, after time.Duration) {
	if ss.cfg.Retrying == nil {
		return
	}
	for _, d := range batch {
		if d.skip {
			continue
		}
		if hook := ss.guard(batch, func() error { ss.cfg.Retrying(&d.Message, cause, after); return nil }); hook != nil {
			ss.fail(fmt.Errorf("tell that event %s is tried again: %w", d.name(), hook))
			return
		}
	}
}

func (d *delivery) name() string {
	if d.broken != nil {
		return fmt.Sprintf("in message %d", d.Sequence)
	}
	return d.ID.String()
}

// guard calls f, which is the caller's. A panic is an error. A goroutine that f
// ends (runtime.Goexit, which a test's FailNow calls) takes nothing with it but
// the session: that fails, and gives back what f was given.
func (ss *session) guard(batch []*delivery, f func() error) (err error) {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		} else if !returned {
			ss.fail(fmt.Errorf("handle event %s: the handler ended its goroutine (runtime.Goexit)", batch[len(batch)-1].name()))
		}
	}()
	err = f()
	returned = true
	return err
}

// call gives the batch to the handler that it is for.
func (ss *session) call(ctx context.Context, batch []*delivery) error {
	if ss.cfg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, ss.cfg.Timeout)
		defer cancel()
	}
	var events []*Message
	for _, d := range batch {
		switch {
		case d.broken != nil:
			return d.broken
		case d.skip:
		case d.Type == ffstream.TypeSnapshotted:
			if err := ss.cfg.Snapshots(ctx, &d.Message); err != nil {
				return err
			}
		case d.Type != ffstream.TypeTransitioned:
			if err := ss.cfg.Control(ctx, &d.Message); err != nil {
				return err
			}
		default:
			events = append(events, &d.Message)
		}
	}
	if len(events) == 0 {
		return nil
	}
	return ss.handle(ctx, events)
}

// finish takes a batch from hand, or schedules its next try. mu is held, and let
// go while the server is told: a message leaves the hand first, so that the server
// waits for each that is in hand, unless it was removed from the stream.
func (ss *session) finish(q *queue, batch []*delivery, o outcome) {
	for _, d := range batch {
		d.running = false
	}
	if o.verdict == again && !ss.lost {
		time.AfterFunc(ss.cfg.delay(q.tries), func() {
			ss.mu.Lock()
			defer ss.mu.Unlock()
			if ss.queues[q.key] == q { // and was not given up
				ss.ready = append(ss.ready, q)
				ss.wake.Signal()
			}
		})
		return
	}
	last := batch[len(batch)-1]
	msg := last.msg
	for _, d := range batch {
		delete(ss.inHand, d.Sequence)
		if o.verdict != again {
			ss.settle(d)
		}
	}
	if last.barrier && !ss.grouped {
		ss.barrier = false
	}
	q.items = q.items[len(batch):]
	q.tries, q.busy = 0, false
	if len(q.items) == 0 {
		delete(ss.queues, q.key)
	}
	ss.schedule(q)
	ss.pump()
	ss.mu.Unlock()
	if o.verdict == again {
		nak(batch)
	} else if o.verdict == terminate && !ss.grouped {
		_ = msg.TermWithReason(reason(o.cause))
	} else {
		_ = msg.Ack() // lost, it comes again and is known
	}
	ss.mu.Lock()
}

// reason is an error as an advisory of the server carries it: one short line.
func reason(err error) string {
	text := []rune(err.Error())
	for i, r := range text {
		if r < ' ' {
			text[i] = ' '
		}
	}
	return string(text[:min(len(text), 200)])
}
