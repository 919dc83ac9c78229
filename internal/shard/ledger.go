package shard

import "github.com/ffstream/ffstream"

// ledger decides how far a slot may be confirmed: to the end of the last commit
// before which every event is stored. Sequences are those of the stream, and an
// acknowledged sequence stands for all below it. It has no goroutine, lock or
// clock, and is not safe for concurrent use.
type ledger struct {
	open  []entry // commits whose events are not all stored, in commit order
	acked uint64
	done  entry // the log before done.end is dealt with
}

// entry says: when the stream is stored up to sequence, whose event stands at
// position, the log before end is dealt with.
type entry struct {
	sequence uint64
	position ffstream.Position
	end      ffstream.LSN
}

// commit notes an entry. A commit without events has sequence and position of
// the one before.
func (l *ledger) commit(e entry) {
	n := len(l.open)
	switch {
	case e.sequence <= l.acked && n == 0:
		l.settle(e)
	case n > 0 && l.open[n-1].sequence == e.sequence:
		l.open[n-1].end = max(l.open[n-1].end, e.end)
	default:
		l.open = append(l.open, e)
	}
}

// ack notes that the stream is stored up to sequence.
func (l *ledger) ack(sequence uint64) {
	l.acked = max(l.acked, sequence)
	n := 0
	for n < len(l.open) && l.open[n].sequence <= l.acked {
		l.settle(l.open[n])
		n++
	}
	if n > 0 {
		l.open = l.open[:copy(l.open, l.open[n:])]
	}
}

func (l *ledger) settle(e entry) {
	e.end = max(e.end, l.done.end)
	l.done = e
}
