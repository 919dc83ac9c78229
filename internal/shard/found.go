package shard

import (
	"context"
	"errors"
	"fmt"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
	"github.com/ffstream/ffstream/internal/repl"
)

// found is a loss that a session met in the log. No look at both ends shows it: it
// is kept in the note, for Accept to see, until a session has gone on past it. A
// session finds it again by itself, since the slot is not confirmed past it.
type found struct {
	Reason  string `json:"reason"`
	What    string `json:"what"`
	Restore string `json:"restore"`
	First   string `json:"first"` // what has to be done before it is accepted
}

// loss is what is lost. The log that the slot still has is what it is, so only
// another slot leads past it.
func (f *found) loss() *loss {
	return &loss{reason: f.Reason, what: f.What, restore: f.Restore, first: f.First, anew: true}
}

// Error makes it an error of the stage that found it.
func (f *found) Error() string { return f.What }

// foundBy tells which loss an error of a session is; nil: none.
func (ss *session) foundBy(err error) *found {
	var f *found
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, normalize.ErrReplicaIdentity):
		return &found{Reason: ffstream.GapIdentityLost, What: err.Error() + ", and that is in the log for good", Restore: "restore the database", First: "run: ffstream migrate, then "}
	case errors.Is(err, repl.ErrPublicationMissing):
		return &found{
			Reason:  ffstream.GapPublicationEdited,
			What:    fmt.Sprintf("publication %s did not exist when a change in the log was made: what was written until it was made again is never sent", ss.shard.cfg.Source.Publication),
			Restore: "restore the database", First: "run: ffstream migrate, then ",
		}
	}
	return nil
}

// tell ends a session. A loss that it found is told when everything before is
// stored, and it is noted; else the next session finds it again.
func (ss *session) tell(ctx context.Context, err error) error {
	f := ss.foundBy(err)
	if f == nil {
		return err
	}
	if err := ss.drain(ctx); err != nil {
		return err
	}
	if err := ss.keep(ctx, f); err != nil {
		return fmt.Errorf("note what is lost: %w", err)
	}
	g := &sighting{note: &ss.journal.note}
	g.slot.Confirmed = max(ss.received, ss.serverEnd)
	return g.err(f.loss(), ss.shard.cfg.Sink.Stream, ss.shard.cfg.Source.Slot)
}

// keep adds a loss to the note that is stored.
func (ss *session) keep(ctx context.Context, f *found) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), connectTimeout)
	defer cancel()
	n, err := readNote(ctx, ss.stream)
	if err != nil {
		return err
	}
	if n == nil {
		n = ss.journal.note.clone()
	}
	n.Lost = f
	return ss.stream.WriteNote(ctx, n.encode())
}

// accepting is the loss that an operator accepts: what both ends show, and what a
// session found besides.
func (s *sighting) accepting() *loss {
	_, l := s.judge()
	if l != nil && l.final {
		return l
	}
	way, _ := s.course()
	if ahead := way.checkLog(s.system.End); ahead != nil && l != nil {
		return ahead // positions would repeat behind a gap
	}
	if s.note == nil || s.note.Lost == nil {
		return l
	}
	f := s.note.Lost.loss()
	if l != nil {
		f.reason, f.what = l.reason, l.what+"; and "+f.what
	}
	return f
}

// replace closes a stream, drops its slot and makes it anew, held by the stream that
// it returns. What the old one had in its log is given up.
func (s *Shard) replace(ctx context.Context, old *repl.Stream) (*repl.Stream, error) {
	opening, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := old.Close(opening); err != nil {
		return nil, err
	}
	source, err := repl.Open(opening, s.cfg.Source)
	if err != nil {
		return nil, err
	}
	err = source.DropSlot(opening)
	if err == nil {
		err = source.CreateSlot(ctx) // which may wait long for transactions that are running
	}
	if err == nil {
		starting, cancel := context.WithTimeout(ctx, connectTimeout)
		defer cancel()
		err = source.Start(starting)
	}
	if err != nil {
		return nil, errors.Join(err, source.Close(opening))
	}
	return source, nil
}
