package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
)

// ends are both connections, open and checked, with the slot taken.
type ends struct {
	source *repl.Stream
	stream *publish.Stream
	sight  sighting
}

// open checks both ends and takes the slot. With accept it makes anew what is
// missing, for the judgement to see; else it creates a slot and a stream for a
// beginning and nothing more. The caller closes source, which is not nil once it
// was opened.
func (s *Shard) open(ctx context.Context, source *repl.Stream, accept bool) (*ends, error) {
	checking, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	e := &ends{source: source}
	if s.cfg.Preflight != nil {
		if err := s.cfg.Preflight(checking); err != nil {
			return nil, fmt.Errorf("check source: %w", err)
		}
	}
	before, err := s.openStream(checking, e, accept)
	if err != nil {
		return nil, err
	}
	if before != nil && before.Timeline != source.System().Timeline {
		if e.sight.fork, e.sight.forked, err = source.Fork(checking, before.Timeline); err != nil {
			return nil, err
		}
	}
	if err := s.takeSlot(ctx, e, accept); err != nil {
		return nil, err
	}
	// From here on the slot is ours, so no other process can be publishing but
	// a straggler, and that breaks the chain that begins at this tail.
	looking, cancelLooking := context.WithTimeout(ctx, connectTimeout)
	defer cancelLooking()
	if err := s.look(looking, e); err != nil {
		return nil, err
	}
	if n := e.sight.note; n != nil && before != nil && n.Timeline != before.Timeline {
		return nil, fmt.Errorf("%w: another process went on to timeline %d", errUnsure, n.Timeline)
	}
	return e, nil
}

// errNothing: there is neither a slot nor an event, so nothing can be lost, and
// the slot is for the first run to create.
var errNothing = errors.New("nothing was ever published")

// openStream checks the stream, creates it for a slot that does not exist yet,
// and refuses a slot that is missing although the stream has a past. It returns
// the note as it is before the slot is taken.
func (s *Shard) openStream(ctx context.Context, e *ends, accept bool) (*note, error) {
	sink, slot := s.cfg.Sink, e.source.Slot()
	sink.SystemID, sink.Slot = e.source.System().ID, s.cfg.Source.Slot
	stream, err := publish.Open(ctx, s.nc, sink, accept || !slot.Exists)
	if errors.Is(err, publish.ErrStreamLost) {
		return nil, fmt.Errorf("%w: %w. Either restore the stream, or begin it anew without what it held: ffstream resume --accept-gap", ErrGap, err)
	}
	if err != nil {
		return nil, err
	}
	for _, w := range stream.Warnings {
		if !s.established {
			s.cfg.Log.Warn("stream "+sink.Stream, "warning", w)
		}
	}
	e.stream = stream
	before, err := readNote(ctx, stream)
	if err == nil && accept && !slot.Exists && stream.LastSequence() == 0 && before == nil {
		return nil, errNothing
	}
	if err != nil || accept || slot.Exists && slot.Invalidated == "" || !slot.Exists && stream.LastSequence() == 0 && before == nil {
		return before, err
	}
	return before, s.slotLoss(ctx, e, before)
}

// slotLoss says what is lost with a slot that is gone or invalidated.
func (s *Shard) slotLoss(ctx context.Context, e *ends, n *note) error {
	tail, err := e.stream.ReadTail(ctx)
	if err != nil {
		return err
	}
	slot := e.source.Slot()
	e.sight.slot, e.sight.tail, e.sight.note = slot, tail, n
	l := s.invalidated(slot)
	if !slot.Exists {
		e.sight.slot.Confirmed = e.source.System().End
		l = &loss{reason: ffstream.GapSlotMissing, what: fmt.Sprintf("replication slot %s does not exist, and stream %s has a past, up to message %d",
			s.cfg.Source.Slot, s.cfg.Sink.Stream, tail.Sequence), restore: "restore the slot with the database"}
	}
	return s.twice(l.reason, e.sight.err(l, s.cfg.Sink.Stream, s.cfg.Source.Slot))
}

func (s *Shard) invalidated(slot repl.Slot) *loss {
	return &loss{reason: ffstream.GapSlotInvalidated, what: fmt.Sprintf("Postgres invalidated slot %s (%s) and removed the log behind %s; max_slot_wal_keep_size bounds what it keeps",
		s.cfg.Source.Slot, slot.Invalidated, slot.Confirmed), restore: "restore the slot with the database"}
}

// takeSlot creates the slot where that is right and starts it.
func (s *Shard) takeSlot(ctx context.Context, e *ends, accept bool) error {
	slot := e.source.Slot()
	if accept && slot.Invalidated != "" {
		if err := e.source.DropSlot(ctx); err != nil {
			return err
		}
		slot = e.source.Slot()
	}
	if !slot.Exists {
		// This may wait long for transactions that are running.
		s.cfg.Log.Info("creating the replication slot; this waits for transactions that are running now", "slot", s.cfg.Source.Slot)
		if err := e.source.CreateSlot(ctx); err != nil {
			return err
		}
		e.sight.slotMade = true
	}
	starting, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return e.source.Start(starting)
}

// look fills in the sighting.
func (s *Shard) look(ctx context.Context, e *ends) (err error) {
	g := &e.sight
	g.slot, g.system, g.streamMade, g.now = e.source.Slot(), e.source.System(), e.stream.Created, time.Now()
	if g.tail, err = e.stream.ReadTail(ctx); err != nil {
		return err
	}
	if g.note, err = readNote(ctx, e.stream); err != nil {
		return err
	}
	g.noteStored = g.note != nil
	if s.known != nil && (g.note == nil || g.note.last().End < s.known.last().End) {
		g.note = s.known.clone()
	}
	if s.cfg.Lineage != nil {
		if g.lineage, err = s.cfg.Lineage(ctx); err != nil {
			return fmt.Errorf("read publication: %w", err)
		}
	}
	if g.note == nil {
		return nil
	}
	switch last := g.note.last().Sequence; {
	case last == g.tail.Sequence:
		g.noted, g.noteHas = g.tail.Position, g.tail.Stored
	case last < g.tail.Sequence && last >= g.tail.State.First && last > 0:
		g.noted, g.noteHas, err = e.stream.ReadPosition(ctx, last)
	}
	return err
}

func readNote(ctx context.Context, stream *publish.Stream) (*note, error) {
	data, err := stream.ReadNote(ctx)
	if err != nil {
		return nil, err
	}
	return decodeNote(data)
}

// plan judges and refuses what is a gap, or may be one.
func (s *Shard) plan(e *ends) (course, error) {
	g := &e.sight
	c, l := g.judge()
	if l != nil {
		return c, g.err(l, s.cfg.Sink.Stream, s.cfg.Source.Slot)
	}
	// The log's end was read before the slot was taken, so another process may
	// have published since.
	if l := c.checkLog(g.system.End); l != nil {
		return c, s.twice(l.reason, g.err(l, s.cfg.Sink.Stream, s.cfg.Source.Slot))
	}
	if c.refill || g.tail.Sequence < s.acked {
		text := fmt.Sprintf("the broker forgot messages that it had acknowledged; the slot still has them and refills stream %s from message %d", s.cfg.Sink.Stream, g.tail.Sequence+1)
		// The slot was looked at before it was taken; it is where it was when a
		// second session, which nobody came before, sees the same.
		if err := s.twice("refill at "+g.slot.Confirmed.String(), errors.New(text)); errors.Is(err, errUnsure) {
			return c, err
		}
		s.cfg.Log.Warn(text)
		s.acked = g.tail.Sequence
	}
	return c, nil
}

// newNote is the note of a session that begins.
func (s *Shard) newNote(g *sighting, marks []mark) note {
	n := note{SystemID: g.system.ID, Slot: s.cfg.Source.Slot, Timeline: g.system.Timeline, Publication: edition(g.lineage), Marks: marks}
	if g.note != nil {
		n.Anchors, n.Deleted = g.note.Anchors, min(g.note.Deleted, g.tail.State.Deleted)
	}
	return n
}

// Accept looks for a gap and goes on over it: it stores the gap's event in the
// stream and returns it, nil when there is none, and nothing is changed then. The
// service must be stopped: the slot has one holder.
func (s *Shard) Accept(ctx context.Context) (gap *ffstream.Gap, err error) {
	source, err := repl.Open(ctx, s.cfg.Source)
	if err != nil {
		return nil, err
	}
	defer func() {
		if source == nil {
			return
		}
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
		defer cancel()
		err = errors.Join(err, source.Close(closing))
	}()
	defer func() { err = s.cfg.Sink.Explain(err) }()
	was := source.Slot()
	e, err := s.open(ctx, source, true)
	if errors.Is(err, errNothing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	g := &e.sight
	l := g.accepting()
	switch {
	case l == nil:
		return nil, nil
	case l.final:
		return nil, g.err(l, s.cfg.Sink.Stream, s.cfg.Source.Slot)
	case was.Invalidated != "":
		l = s.invalidated(was)
	case l.anew && !g.slotMade:
		old := source
		if source, err = s.replace(ctx, old); err != nil {
			return nil, err
		}
		g.slot = source.Slot()
	}
	gap = g.gap(l)
	sequence := g.tail.Sequence + 1
	event := &ffstream.Event{
		ID:   ffstream.EventID{System: g.system.ID, Position: ffstream.GapPosition(gap.ResumesAt, sequence)},
		Type: ffstream.TypeGap, Source: "/ffstream/" + s.cfg.Source.Slot, Time: g.now, Gap: gap,
	}
	tail, err := e.stream.PublishGap(ctx, g.tail, event)
	if err != nil {
		return nil, err
	}
	n := s.newNote(g, []mark{{End: gap.ResumesAt, Sequence: tail.Sequence, Position: tail.Position}})
	n.Anchors, n.Deleted = nil, tail.State.Deleted
	return gap, e.stream.WriteNote(ctx, n.encode())
}
