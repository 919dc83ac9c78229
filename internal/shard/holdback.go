package shard

import (
	"time"

	"github.com/ffstream/ffstream"
)

// holdback delays confirmations, so that the slot can refill a stream whose
// broker forgot what it had acknowledged, and remembers what each confirmation
// let go, so that it is noticed when the slot no longer can. It belongs to one
// goroutine at a time and outlives sessions.
type holdback struct {
	wait     time.Duration
	due      []mark // waiting, in order
	released []mark // confirmed, in order; the newest maxReleased
	stored   uint64 // greatest sequence that was acknowledged
}

// mark says: when the slot is confirmed to end, the log of the events up to
// sequence may be gone.
type mark struct {
	end      ffstream.LSN
	sequence uint64
	at       time.Time // when it may be confirmed
}

const (
	// holdbackSteps is into how many marks the wait is divided at most.
	holdbackSteps = 256
	maxReleased   = 1024
)

// add notes that the log up to end is stored, with the events up to sequence.
func (h *holdback) add(end ffstream.LSN, sequence uint64, now time.Time) {
	// A mark takes in what comes within a step, and is due when its last part is.
	at := now.Add(h.wait + h.wait/holdbackSteps)
	if n := len(h.due); n > 0 && now.Add(h.wait).Before(h.due[n-1].at) {
		h.due[n-1].end, h.due[n-1].sequence = end, sequence
		return
	}
	h.due = append(h.due, mark{end, sequence, at})
}

// ripe gives the greatest end that may be confirmed by now; 0 is none that is new.
func (h *holdback) ripe(now time.Time) ffstream.LSN {
	n := 0
	for n < len(h.due) && !now.Before(h.due[n].at) {
		n++
	}
	if n == 0 {
		return 0
	}
	last := h.due[n-1]
	h.due = h.due[:copy(h.due, h.due[n:])]
	if len(h.released) == maxReleased {
		h.released = h.released[:copy(h.released, h.released[maxReleased/2:])]
	}
	h.released = append(h.released, last)
	return last.end
}

// gone is the sequence up to which a slot that is confirmed to lsn may have let
// the log of events go, as far as this process knows.
func (h *holdback) gone(lsn ffstream.LSN) uint64 {
	for i := len(h.released) - 1; i >= 0; i-- {
		if h.released[i].end <= lsn {
			return h.released[i].sequence
		}
	}
	return 0
}
