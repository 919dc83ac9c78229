package client

import "slices"

// settled is what of the stream a run has behind it, as ranges of sequences that
// grow and do not touch: what was handled or passed over, and what lies between two
// messages that the server gave one after the other. Between two ranges is what is
// in hand, or was lost on its way and comes again; so there are no more ranges than
// the server lets be unacknowledged, and one.
type settled struct {
	start  uint64 // where the run began; 0: not known yet
	ranges []span
}

// span holds its ends.
type span struct{ from, to uint64 }

// add settles a range; one that ends before it begins is none.
func (s *settled) add(from, to uint64) {
	if from > to {
		return
	}
	// What touches it is [i, j).
	i, _ := slices.BinarySearchFunc(s.ranges, from, func(r span, from uint64) int {
		if r.to+1 < from {
			return -1
		}
		return 1
	})
	j := i
	for j < len(s.ranges) && s.ranges[j].from <= to+1 {
		from, to = min(from, s.ranges[j].from), max(to, s.ranges[j].to)
		j++
	}
	s.ranges = slices.Replace(s.ranges, i, j, span{from, to})
}

func (s *settled) has(seq uint64) bool {
	_, found := slices.BinarySearchFunc(s.ranges, seq, func(r span, seq uint64) int {
		switch {
		case r.to < seq:
			return -1
		case r.from > seq:
			return 1
		}
		return 0
	})
	return found
}

// next is the first sequence that is not settled; 0 when it is not known where the
// run began.
func (s *settled) next() uint64 {
	if s.start == 0 || len(s.ranges) == 0 || s.ranges[0].from > s.start {
		return s.start
	}
	return s.ranges[0].to + 1
}
