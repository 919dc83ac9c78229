package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// StateReader reads the state of an execution with the transactions that the read
// saw, as *reader.Reader does, from the primary. An event that was in the stream
// before the call must be of a transaction that the read saw.
type StateReader interface {
	SettledState(ctx context.Context, id ffstream.ExecutionID) (ffstream.SettledState, error)
}

// Change is what Watch tells.
type Change struct {
	// State that the execution is in from here on: empty while it does not exist,
	// StatePurged when its row was deleted.
	State ffstream.PublicState
	// Event that brought it there: a transition, or a TRUNCATE; or the snapshot of a
	// backfill, where that tells another state than was told before. Nil when the
	// state was read.
	Event *Message
}

// Watch gives the current state of an execution and then each transition as it
// comes, none left out and none that the state knew already. Of cfg only Stream,
// Prefix and Waiting count. The stream must be that of the database that r reads.
//
// It ends with an error: that of ctx, r or the subscription, or a
// *ffstream.CorruptionError when the row cannot be understood any more; and
// without one when the loop breaks off. It outlives outages of the broker as long
// as the connection does. Behind a gap that an operator accepted, and where the stream's
// limits removed in an outage what was not read, the state is read again and told,
// whatever it is.
func Watch(ctx context.Context, js jetstream.JetStream, cfg Config, r StateReader, id ffstream.ExecutionID) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		w := watch{reader: r, id: canonical(id), yield: yield}
		if err := w.run(ctx, js, cfg); err != nil {
			yield(Change{}, fmt.Errorf("watch %s: %w", id, err))
		}
	}
}

// watch is one range over Watch.
type watch struct {
	reader StateReader
	id     ffstream.ExecutionID
	yield  func(Change, error) bool
	state  ffstream.SettledState // the latest that was read
	told   ffstream.PublicState  // last
}

// tell gives the loop a change, and reports whether it goes on.
func (w *watch) tell(c Change) bool {
	w.told = c.State
	return w.yield(c, nil)
}

// errLeft: the loop has broken off.
var errLeft = errors.New("the loop has broken off")

// run returns nil when the loop has broken off.
func (w *watch) run(ctx context.Context, js jetstream.JetStream, cfg Config) error {
	nothing := func(context.Context, *Message) error { return nil }
	s, err := New(js, Config{Stream: cfg.Stream, Prefix: cfg.Prefix, Waiting: cfg.Waiting, Ordered: true, Filter: Filter{Execution: w.id}, Snapshots: nothing, Control: nothing})
	if err != nil {
		return err
	}
	r, err := s.openOrdered(ctx)
	if err != nil {
		return fmt.Errorf("subscribe to stream %s: %w", s.cfg.Stream, err)
	}
	defer r.close()
	defer context.AfterFunc(ctx, r.end)()
	r.missed = func(ctx context.Context) error {
		more, err := w.read(ctx)
		if err == nil && !more {
			err = errLeft
		}
		return err
	}
	more, err := w.read(ctx)
	ss := session{s: s, cfg: &s.cfg, filter: s.cfg.filter()}
	for more && err == nil {
		var d *delivery
		if d, err = ss.nextOrdered(ctx, r); errors.Is(err, errLeft) {
			return nil
		} else if err != nil {
			return err
		}
		if d == nil {
			return ctx.Err()
		}
		if d.broken != nil {
			return fmt.Errorf("read message %d: %w", d.Sequence, d.broken)
		}
		if ss.wants(d) {
			more, err = w.event(ctx, &d.Message)
		}
	}
	return err
}

// read tells the state. The subscription is there before, so what the read does
// not see has its event behind the place where that began.
func (w *watch) read(ctx context.Context) (more bool, err error) {
	if w.state, err = w.reader.SettledState(ctx, w.id); err != nil {
		return false, err
	}
	return w.tell(Change{State: w.state.State}), nil
}

// event tells what a message means for the execution, unless the state that was
// read knew it.
func (w *watch) event(ctx context.Context, m *Message) (more bool, err error) {
	switch m.Type {
	case ffstream.TypeGap:
		return w.read(ctx)
	case ffstream.TypeSnapshotted:
		// What it tells is told already, unless it repairs what the stream had lost.
		if knew(&w.state, &m.Event) || m.To == w.told {
			return true, nil
		}
		return w.tell(Change{State: m.To, Event: m}), nil
	case ffstream.TypeTransitioned, ffstream.TypeTruncated, ffstream.TypeCorrupt:
	default:
		return true, nil
	}
	if knew(&w.state, &m.Event) {
		return true, nil
	}
	switch m.Type {
	case ffstream.TypeTruncated:
		return w.tell(Change{State: ffstream.StatePurged, Event: m}), nil
	case ffstream.TypeCorrupt:
		if canonical(m.ExecutionID) != w.id {
			return true, nil
		}
		return false, &ffstream.CorruptionError{ExecutionID: m.ExecutionID, Column: m.Corrupt.Column, Literal: m.Corrupt.Literal}
	}
	return w.tell(Change{State: m.To, Event: m}), nil
}

// knew reports whether a read saw what an event tells of. A snapshot is of no
// transaction: its place in the log decides.
func knew(s *ffstream.SettledState, e *ffstream.Event) bool {
	if e.Type == ffstream.TypeSnapshotted {
		return e.ID.Position.Commit < s.End
	}
	return s.Knew(e)
}
