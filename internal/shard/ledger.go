package shard

import "github.com/ffstream/ffstream"

// ledger decides how far a slot may be confirmed: to the end of the last commit
// before which every event is stored. Sequences are those of the stream, and an
// acknowledged sequence stands for all below it. It has no goroutine, lock or
// clock, and is not safe for concurrent use.
type ledger struct {
	open        []entry // commits whose events are not all stored, in commit order
	acked       uint64
	confirmable ffstream.LSN
	released    uint64 // sequence of the last event before confirmable
}

// entry says: when the stream is stored up to sequence, end may be confirmed.
type entry struct {
	sequence uint64
	end      ffstream.LSN
}

// commit notes that the log up to end is dealt with once the stream is stored
// up to sequence. A commit without events has the sequence of the one before.
func (l *ledger) commit(end ffstream.LSN, sequence uint64) {
	n := len(l.open)
	switch {
	case sequence <= l.acked && n == 0:
		l.confirmable, l.released = max(l.confirmable, end), sequence
	case n > 0 && l.open[n-1].sequence == sequence:
		l.open[n-1].end = max(l.open[n-1].end, end)
	default:
		l.open = append(l.open, entry{sequence, end})
	}
}

// ack notes that the stream is stored up to sequence.
func (l *ledger) ack(sequence uint64) {
	l.acked = max(l.acked, sequence)
	n := 0
	for n < len(l.open) && l.open[n].sequence <= l.acked {
		l.confirmable, l.released = max(l.confirmable, l.open[n].end), l.open[n].sequence
		n++
	}
	if n > 0 {
		l.open = l.open[:copy(l.open, l.open[n:])]
	}
}
