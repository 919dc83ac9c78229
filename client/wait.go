package client

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// Reader reads executions as *reader.Reader does, from the primary.
type Reader interface {
	StateReader
	ExecutionResult(ctx context.Context, id ffstream.ExecutionID) ([]byte, bool, error)
}

// Outcome is how an execution ended.
type Outcome struct {
	State  ffstream.PublicState
	How    ffstream.TerminalOutcome
	Result ffstream.Opt[[]byte] // as read after the end; absent when it is NULL or there is no Reader
}

// Waiter waits for the ends of executions, any number of them on one
// subscription. Its methods may be called by many goroutines.
type Waiter struct {
	reader Reader
	stop   context.CancelFunc
	ended  chan struct{} // closed when the subscription has ended
	err    error         // of the subscription; read after ended

	mu      sync.Mutex // guards waiting
	waiting map[ffstream.ExecutionID]map[*wait]struct{}
}

// wait is one call of Wait. Done has room for one: the first end counts, and
// look for one: a second demand for a read says no more than the first.
type wait struct {
	done  chan ffstream.PublicState
	look  chan struct{}
	state *ffstream.SettledState // the latest that was read; nil: none yet
	early []ffstream.Event       // the ends that came before it
}

// OpenWaiter subscribes. Of cfg only Stream, Prefix and Waiting count, and without a
// reader From. Without a reader Wait sees only ends that the stream tells of
// from there on; with one, the state is read after the subscription is there, so
// no end falls between. An outage of the broker is waited out, here as later. Close
// ends it.
func OpenWaiter(ctx context.Context, js jetstream.JetStream, cfg Config, r Reader) (*Waiter, error) {
	w := &Waiter{reader: r, ended: make(chan struct{}), waiting: map[ffstream.ExecutionID]map[*wait]struct{}{}}
	cfg = Config{Stream: cfg.Stream, Prefix: cfg.Prefix, Waiting: cfg.Waiting, From: cfg.From, Ordered: true, Snapshots: w.event, Control: w.control}
	if r != nil {
		cfg.From = Start{}
	}
	cfg.Filter.States = append(terminalStates(), ffstream.StatePurged)
	s, err := New(js, cfg)
	if err != nil {
		return nil, err
	}
	events, err := s.openOrdered(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscribe to stream %s: %w", s.cfg.Stream, err)
	}
	events.missed = func(ctx context.Context) error {
		return w.control(ctx, &Message{Event: ffstream.Event{Type: ffstream.TypeGap}})
	}
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	go func() {
		defer close(w.ended)
		defer events.close()
		w.err = s.readOrdered(inner, events, w.event)
	}()
	return w, nil
}

// Close ends the subscription, and with it every Wait.
func (w *Waiter) Close() {
	w.stop()
	<-w.ended
}

// Wait returns when the execution is in a terminal state, at once when it is
// already. One that does not exist yet is waited for. ErrPurged says that its row
// was deleted; any other error is that of ctx, the reader or the subscription.
// The engine can replay what ended: what counts is the first end behind the state
// that was read, so that an end from before a replay ends no wait that began after
// it. Without a reader it is the first end that the stream tells of.
func (w *Waiter) Wait(ctx context.Context, id ffstream.ExecutionID) (Outcome, error) {
	id = canonical(id)
	t := &wait{done: make(chan ffstream.PublicState, 1), look: make(chan struct{}, 1)}
	w.enter(id, t)
	defer w.leave(id, t)
	if w.reader != nil {
		t.look <- struct{}{} // subscribed before, so what this read misses comes as an event
	}
	read := make(chan answer, 1) // one read at a time sends to it
	inner, stop := context.WithCancel(ctx)
	defer stop()
	look := t.look
	for {
		select {
		case <-look:
			look = nil // until this read has answered
			go func() {
				state, err := w.reader.SettledState(inner, id)
				read <- answer{state, err}
			}()
		case a := <-read:
			if a.err != nil {
				return Outcome{}, fmt.Errorf("wait for %s: %w", id, a.err)
			}
			if a.state.State.Terminal() {
				return w.outcome(ctx, id, a.state.State)
			}
			w.compare(t, &a.state)
			look = t.look
		case state := <-t.done:
			if err := w.settle(ctx, id, state); err != nil {
				return Outcome{State: state}, fmt.Errorf("wait for %s: %w", id, err)
			}
			return w.outcome(ctx, id, state)
		case <-ctx.Done():
			return Outcome{}, fmt.Errorf("wait for %s: %w", id, ctx.Err())
		case <-w.ended:
			return Outcome{}, fmt.Errorf("wait for %s: %w", id, errors.Join(errors.New("the waiter is closed"), w.err))
		}
	}
}

// answer is what a read said.
type answer struct {
	state ffstream.SettledState
	err   error
}

// settle returns when reads see what an event has told of: a commit is in the log
// before they do.
func (w *Waiter) settle(ctx context.Context, id ffstream.ExecutionID, state ffstream.PublicState) error {
	if w.reader == nil || state == ffstream.StatePurged {
		return nil
	}
	_, err := w.reader.SettledState(ctx, id)
	return err
}

func (w *Waiter) outcome(ctx context.Context, id ffstream.ExecutionID, state ffstream.PublicState) (Outcome, error) {
	if state == ffstream.StatePurged {
		return Outcome{State: state}, fmt.Errorf("wait for %s: %w", id, ErrPurged)
	}
	o := Outcome{State: state, How: state.Outcome()}
	if w.reader == nil {
		return o, nil
	}
	result, found, err := w.reader.ExecutionResult(ctx, id)
	if err != nil {
		return o, fmt.Errorf("read result of %s: %w", id, err)
	}
	o.Result = ffstream.Opt[[]byte]{V: result, OK: found}
	return o, nil
}

func (w *Waiter) enter(id ffstream.ExecutionID, t *wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting[id] == nil {
		w.waiting[id] = map[*wait]struct{}{}
	}
	w.waiting[id][t] = struct{}{}
}

func (w *Waiter) leave(id ffstream.ExecutionID, t *wait) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting[id], t)
	if len(w.waiting[id]) == 0 {
		delete(w.waiting, id)
	}
}

// event ends the waits for its execution: a snapshot that a backfill took of one
// that has ended does so too.
func (w *Waiter) event(_ context.Context, m *Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range w.waiting[canonical(m.ExecutionID)] {
		w.end(t, &m.Event)
	}
	return nil
}

// end ends a wait by an event, unless the state that was read knew it. Before a
// read has answered that is not known, and the event is kept. mu is held.
func (w *Waiter) end(t *wait, e *ffstream.Event) {
	switch {
	case w.reader != nil && t.state == nil:
		t.early = append(t.early, *e)
		return
	case w.reader != nil && knew(t.state, e):
		return
	}
	state := e.To
	if e.Type == ffstream.TypeTruncated {
		state = ffstream.StatePurged
	}
	select {
	case t.done <- state:
	default:
	}
}

// compare takes a state that was read, and with it the ends that came before.
func (w *Waiter) compare(t *wait, state *ffstream.SettledState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t.state = state
	early := t.early
	t.early = nil
	for i := range early {
		w.end(t, &early[i])
	}
}

// control: after a TRUNCATE every execution is gone; after anything else that is
// no transition, a gap for one, who can reads again: the wait for the execution
// that it names, or all. The progress of a backfill says nothing of an execution.
func (w *Waiter) control(_ context.Context, m *Message) error {
	if m.Type == ffstream.TypeBackfill {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, waits := range w.waiting {
		if !m.ExecutionID.IsZero() && canonical(m.ExecutionID) != id {
			continue
		}
		for t := range waits {
			switch {
			case m.Type == ffstream.TypeTruncated:
				w.end(t, &m.Event)
			case w.reader != nil:
				select {
				case t.look <- struct{}{}:
				default:
				}
			}
		}
	}
	return nil
}
