package shard

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
)

// ErrGap says that the stream cannot be continued without losing or repeating
// what Postgres committed.
var ErrGap = errors.New("continuity is lost")

// sighting is what is seen of both ends before a session begins. Everything that
// decides about continuity is in it.
type sighting struct {
	slot     repl.Slot
	slotMade bool // just now, and so it says nothing of the past
	system   repl.System
	fork     ffstream.LSN // where the server left the timeline of the note
	forked   bool         // it was on that timeline

	tail       publish.Tail
	streamMade bool  // just now
	note       *note // the stored one, or a later that this process knows was
	noteStored bool  // the bucket has one
	// noted is the event that the stream has at the note's last sequence.
	noted   ffstream.Position
	noteHas bool     // the stream holds a message there
	lineage []string // editions of the publication that followed each other; the present one last
	now     time.Time
}

// course is how a session goes on.
type course struct {
	skip  ffstream.Position // events up to here are stored,
	extra uint64            // and so many behind it, which have aged out
	event bool              // skip is an event's position, which the log has to have
	marks []mark            // of the note, those that hold for what the stream has
	// refill: the broker forgot events, and the slot has to have them.
	refill bool
}

// expects is the commit that a slot which is confirmed up to a place has to send; 0:
// none, since it no longer reaches back to where the stream ends.
func (c *course) expects(confirmed ffstream.LSN) ffstream.LSN {
	if !c.event || confirmed > c.skip.Commit {
		return 0
	}
	return c.skip.Commit
}

// checkLog looks for a stream that is ahead of a log that ends at a place.
func (c *course) checkLog(end ffstream.LSN) *loss {
	if !c.event || c.skip.Commit < end {
		return nil
	}
	return &loss{reason: "behind " + c.skip.String(), what: fmt.Sprintf("the stream ends at %s, which the database's log has not reached: the database was restored or lost its latest transactions", c.skip),
		restore: "bring back the database that the stream follows", final: true}
}

// loss is a gap: what happened, and what the operator can restore instead of
// accepting it.
type loss struct {
	reason  string
	what    string
	restore string
	// first is what has to be done before it is accepted; empty: nothing.
	first string
	// anew: the slot's log has the hole in it, so accepting makes the slot anew.
	anew bool
	// final: positions would repeat, so the stream can never go on.
	final bool
}

// judge compares both ends with the note. A loss means that the course is none.
func (s *sighting) judge() (course, *loss) {
	if l := s.checkTimeline(); l != nil {
		return course{}, l
	}
	if s.note == nil && s.tail.Sequence == 0 && (s.slotMade || !s.streamMade) {
		return course{marks: []mark{{End: s.slot.Confirmed}}}, nil // nothing ever was in the stream
	}
	c, l := s.course()
	for _, check := range []func() *loss{s.checkStream, func() *loss { return s.checkSlot(&c) }, s.checkPublication} {
		if l == nil {
			l = check()
		}
	}
	return c, l
}

// checkTimeline compares histories of the database. What the stream holds has to
// lie before the place where they part.
func (s *sighting) checkTimeline() *loss {
	if s.note == nil || s.note.Timeline == s.system.Timeline {
		return nil
	}
	before := s.note.last().Position
	if s.tail.Stored {
		before = s.tail.Position
	}
	if s.forked && before.Commit < s.fork {
		return nil
	}
	what := fmt.Sprintf("the database is on timeline %d, and the stream, which ends at %s, follows timeline %d", s.system.Timeline, before, s.note.Timeline)
	if s.forked {
		what += fmt.Sprintf(", which it left at %s: it was restored, or a standby that lacked the latest transactions was promoted", s.fork)
	}
	return &loss{reason: "timeline", what: what, restore: "bring back the database that the stream follows", final: true}
}

// marks are the note's that hold for what the stream has and for this log.
func (s *sighting) marks() (held []mark) {
	if s.note == nil {
		return nil
	}
	for _, m := range s.note.Marks {
		if m.Sequence <= s.tail.Sequence && (!s.forked || m.End <= s.fork) {
			held = append(held, m)
		}
	}
	return held
}

// course finds where the stream ends in the log.
func (s *sighting) course() (course, *loss) {
	c := course{marks: s.marks()}
	if s.note != nil {
		last := s.note.last()
		if s.tail.Sequence < last.Sequence {
			if s.streamMade {
				return c, &loss{reason: ffstream.GapStreamMissing, what: fmt.Sprintf("the stream was deleted, with messages up to %d (%s)", last.Sequence, last.Position), restore: "restore the stream"}
			}
			c.refill = true
		}
	}
	if s.tail.Stored {
		c.skip, c.event = s.tail.Position, !s.tail.Gap
		return c, nil
	}
	if s.streamMade || s.tail.Sequence > 0 && len(c.marks) == 0 {
		reason, what := ffstream.GapNoteMissing, "the stream's messages are gone, and so is the note that says how far they went"
		if s.streamMade {
			reason, what = ffstream.GapStreamMissing, "the stream was deleted"
		}
		return c, &loss{reason: reason, what: what, restore: "restore the stream and its note, bucket " + publish.Bucket("<stream>")}
	}
	if n := len(c.marks); n > 0 {
		c.skip, c.extra, c.event = c.marks[n-1].Position, s.tail.Sequence-c.marks[n-1].Sequence, c.marks[n-1].event()
	}
	return c, nil
}

// checkStream looks for messages that somebody else removed or replaced.
func (s *sighting) checkStream() *loss {
	accepted := 0
	if s.note != nil {
		accepted = s.note.Deleted
		if last := s.note.last(); s.noteHas && last.Sequence > 0 && s.noted != last.Position {
			return &loss{reason: ffstream.GapStreamEdited, what: fmt.Sprintf("the stream was replaced: message %d was %s and is %s", last.Sequence, last.Position, s.noted), restore: "restore the stream"}
		}
		if l := s.note.checkState(&s.tail.State, s.now); l != nil {
			return l
		}
	}
	if n := s.tail.State.Deleted; n > accepted {
		return deletedLoss(n - accepted)
	}
	return nil
}

func deletedLoss(n int) *loss {
	return &loss{reason: ffstream.GapStreamEdited, what: fmt.Sprintf("%d messages were deleted from the stream", n), restore: "restore the stream"}
}

// checkState looks for messages that somebody else removed.
func (n *note) checkState(state *publish.State, now time.Time) *loss {
	if state.Deleted > n.Deleted {
		return deletedLoss(state.Deleted - n.Deleted)
	}
	if sequence, purged := n.purged(state, now); purged {
		return &loss{reason: ffstream.GapStreamPurged, what: fmt.Sprintf("the stream was purged: messages up to %d, younger than its max_age, are gone", max(sequence, state.First-1)), restore: "restore the stream"}
	}
	return nil
}

// checkSlot looks for a slot that does not reach back to where the stream ends.
func (s *sighting) checkSlot(c *course) *loss {
	reach := ffstream.LSN(0) // the log before this is dealt with
	if s.tail.Stored {
		reach = s.tail.Position.Commit
		if s.tail.Gap {
			reach++ // a gap's event stands right before the place where the slot goes on
		}
	}
	if n := len(c.marks); n > 0 {
		reach = max(reach, c.marks[n-1].End)
	}
	switch {
	case s.slotMade:
		return &loss{reason: ffstream.GapSlotMissing, what: "the replication slot was dropped", restore: "restore the slot with the database"}
	case s.slot.Confirmed <= reach:
		return nil
	case c.refill:
		last := s.note.last()
		return &loss{reason: ffstream.GapStreamForgot, what: fmt.Sprintf("the broker forgot what it had acknowledged, or the stream was restored or made again: "+
			"it ends with message %d, and messages up to %d (%s) were stored; the slot has let their log go, which --confirm-holdback or sync_interval: always in NATS prevents",
			s.tail.Sequence, last.Sequence, last.Position), restore: "restore the stream"}
	case s.note == nil:
		return &loss{reason: ffstream.GapNoteMissing, what: fmt.Sprintf("the slot is confirmed up to %s, and the note that would say that the stream has everything up to there is gone", s.slot.Confirmed),
			restore: "restore the note"}
	default:
		return &loss{reason: ffstream.GapSlotMoved, what: fmt.Sprintf("the slot is confirmed up to %s, and this service confirmed nothing behind %s: it was advanced, or dropped and made again", s.slot.Confirmed, reach),
			restore: "restore the slot with the database"}
	}
}

func (s *sighting) checkPublication() *loss {
	if s.note == nil {
		return nil
	}
	return s.note.checkLineage(s.lineage)
}

// checkLineage looks for a publication that was edited other than by migrate.
func (n *note) checkLineage(lineage []string) *loss {
	if n.Publication == "" || len(lineage) == 0 || slices.Contains(lineage, n.Publication) {
		return nil
	}
	return &loss{reason: ffstream.GapPublicationEdited, what: "the publication was edited or made again: rows that were written while it lacked something were never sent, and nothing tells which",
		restore: "restore the database", anew: true}
}

// edition is the present one's name.
func edition(lineage []string) string {
	if len(lineage) == 0 {
		return ""
	}
	return lineage[len(lineage)-1]
}

// resumesAt is where the stream goes on behind a gap: where the slot does, but never
// before what is stored, which Postgres forgets in a crash that it was confirmed.
func (s *sighting) resumesAt() ffstream.LSN {
	at := s.slot.Confirmed
	for _, m := range s.marks() {
		if m.End <= s.system.End { // else it is of a log that was put back
			at = max(at, m.End)
		}
	}
	if s.tail.Stored {
		at = max(at, behind(s.tail.Position))
	}
	return at
}

// behind is the first LSN behind a position at which a record can begin.
func behind(p ffstream.Position) ffstream.LSN { return (p.Commit + 8) &^ 7 }

// gap describes a loss for the stream's subscribers.
func (s *sighting) gap(l *loss) *ffstream.Gap {
	g := &ffstream.Gap{Reason: l.reason, Detail: l.what, ResumesAt: s.resumesAt()}
	after := func(p ffstream.Position, sequence uint64) {
		if sequence > 0 && p.Commit < g.ResumesAt { // what the slot sends again is not lost
			g.After, g.AfterSequence = ffstream.Some(p), sequence
		}
	}
	if s.note != nil {
		for _, m := range s.note.Marks {
			after(m.Position, m.Sequence)
		}
	}
	if s.tail.Stored && (s.note == nil || s.tail.Sequence < s.note.last().Sequence || s.tail.Position.Compare(g.After.V) > 0) {
		after(s.tail.Position, s.tail.Sequence)
	}
	return g
}

// err is a loss as the operator reads it.
func (s *sighting) err(l *loss, stream, slot string) error {
	if l.final {
		return fmt.Errorf("%w: %s. Either %s, or begin a new stream (--stream) with a new slot (--slot)", ErrGap, l.what, l.restore)
	}
	return fmt.Errorf("%w: %s. %s. Either %s, or go on without what is lost: %sstop the service and run: ffstream resume --accept-gap", ErrGap, l.what, describe(s.gap(l), l, stream, slot), l.restore, l.first)
}

func describe(g *ffstream.Gap, l *loss, stream, slot string) string {
	from := "the stream's beginning"
	if g.After.OK {
		from = fmt.Sprintf("message %d (%s)", g.AfterSequence, g.After.V)
	}
	to := fmt.Sprintf("%s, where slot %s goes on", g.ResumesAt, slot)
	if l.anew {
		to = fmt.Sprintf("the place, behind %s, where slot %s is made anew when that is accepted", g.ResumesAt, slot)
	}
	is := "is exact up to " + from
	if strings.HasPrefix(l.reason, "stream_") {
		is = "was exact up to " + from + ", and no longer holds all of that"
	}
	return fmt.Sprintf("Stream %s %s; of what committed behind that and before %s, something may be missing", stream, is, to)
}
