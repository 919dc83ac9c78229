package shard

import (
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

// journal decides when the note is written and when the slot is confirmed: never
// past a mark of the stored note, and never before a mark has been held back for
// its time, so that the slot can refill a stream whose broker forgot it. It has
// no goroutine or clock and does no I/O; it belongs to one session.
type journal struct {
	note  note
	state publish.State // of the stream, as it was seen last
	wait  time.Duration // the holdback
	every time.Duration // between two notes
	next  time.Time     // not before then
	sent  bool          // a note waits for its answer
	fresh anchor        // the first message that no note tells of
}

const (
	// noteInterval is the least time between two notes.
	noteInterval = time.Second
	// holdbackSteps is into how many marks the holdback is divided at most.
	holdbackSteps = 64
)

// newJournal goes on from a stored note and a stream that ends at sequence.
func newJournal(n note, sequence uint64, state publish.State, wait time.Duration, now time.Time) *journal {
	j := &journal{note: n, state: state, wait: wait, every: max(noteInterval, wait/holdbackSteps), fresh: anchor{sequence + 1, now}}
	for i := range j.note.Marks {
		j.note.Marks[i].noted, j.note.Marks[i].due = true, now.Add(wait)
	}
	return j
}

// write returns the note that is to be stored, nil when there is nothing to say
// or it is too soon. At the end of a session it is never too soon.
func (j *journal) write(done entry, now time.Time, end bool) []byte {
	if done.sequence < j.fresh.Sequence {
		j.fresh.At = now // it is not stored yet
	}
	if j.sent || done.end <= j.note.last().End || !end && now.Before(j.next) {
		return nil
	}
	j.note.Marks = append(j.note.Marks, mark{End: done.end, Sequence: done.sequence, Position: done.position})
	if done.sequence >= j.fresh.Sequence {
		j.note.anchor(j.fresh, now, &j.state)
		j.fresh = anchor{done.sequence + 1, now}
	}
	j.sent, j.next = true, now.Add(j.every)
	return j.note.encode()
}

// stored says that the note that was written is stored.
func (j *journal) stored(now time.Time) {
	j.sent = false
	for i := range j.note.Marks {
		if m := &j.note.Marks[i]; !m.noted {
			m.noted, m.due = true, now.Add(j.wait)
		}
	}
}

// ripe gives the greatest end that may be confirmed by now, 0 for none, and
// forgets the marks before it. A mark of an earlier session has to be met in the
// log first: this may be another log.
func (j *journal) ripe(done ffstream.LSN, now time.Time) ffstream.LSN {
	n := 0
	for n < len(j.note.Marks) && j.note.Marks[n].noted && j.note.Marks[n].End <= done && !now.Before(j.note.Marks[n].due) {
		n++
	}
	if n == 0 {
		return 0
	}
	marks := j.note.Marks
	j.note.Marks = marks[:copy(marks, marks[n-1:])]
	return j.note.Marks[0].End
}
