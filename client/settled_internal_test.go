package client

import (
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"
)

// TestSettled: ranges say of each sequence what a set of all of them would.
func TestSettled(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const size = 40
		s, all := settled{start: uint64(rapid.IntRange(1, 5).Draw(t, "start"))}, [size]bool{}
		for range rapid.IntRange(0, 30).Draw(t, "adds") {
			from := rapid.IntRange(int(s.start), size-1).Draw(t, "from")
			to := min(size-1, from+rapid.IntRange(-1, 4).Draw(t, "more"))
			s.add(uint64(from), uint64(to))
			for i := from; i <= to; i++ {
				all[i] = true
			}
		}
		holes := 0
		for i := 1; i < size; i++ {
			if s.has(uint64(i)) != all[i] {
				t.Fatalf("%d: %t, want %t: %v", i, !all[i], all[i], s.ranges)
			}
			if !all[i] && all[i-1] {
				holes++
			}
		}
		if len(s.ranges) > holes+1 {
			t.Fatalf("%d ranges with %d holes: %v", len(s.ranges), holes, s.ranges)
		}
		first := s.start
		for first < size && all[first] {
			first++
		}
		if s.next() != first {
			t.Fatalf("the first that is not settled is %d, want %d: %v", s.next(), first, s.ranges)
		}
	})
}

// TestSettledBounded: a handler is stuck, a filter leaves holes between what comes
// behind it, and something is lost on its way and turns out to be nothing: as many
// ranges are kept as there are messages in hand, and one.
func TestSettledBounded(t *testing.T) {
	t.Parallel()
	ss := &session{cfg: &Config{}, done: &history{}, inHand: map[uint64]*delivery{}}
	ss.wake = sync.NewCond(&ss.mu)
	consumer := uint64(0)
	arrive := func(seq uint64) {
		consumer++
		ss.arrive(&jetstream.MsgMetadata{Sequence: jetstream.SequencePair{Consumer: consumer, Stream: seq}})
	}
	const stuck = 5
	arrive(stuck)
	ss.inHand[stuck] = &delivery{}
	for seq := uint64(stuck + 3); seq < 1000; seq += 3 {
		if seq%10 == 0 {
			consumer++
		}
		arrive(seq)
		ss.passOver(seq, seq)
		if before := ss.handful(); before.holding && !ss.letGo(before, 1) {
			t.Fatal("what is in hand is all that the server waits for")
		}
		if n := len(ss.done.past.ranges); n > 1 || ss.done.past.has(stuck) || !ss.done.past.has(seq) || ss.done.past.next() != stuck {
			t.Fatalf("at %d: %v, next %d", seq, ss.done.past.ranges, ss.done.past.next())
		}
	}
}
