package client

import (
	"slices"
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
		ss.arrive(&jetstream.MsgMetadata{NumDelivered: 1, Sequence: jetstream.SequencePair{Consumer: consumer, Stream: seq}})
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
		info := &jetstream.ConsumerInfo{NumAckPending: 1, Delivered: jetstream.SequenceInfo{Stream: seq}}
		if before := ss.handful(); before.holding && !ss.letGo(before, info, &jetstream.StreamState{}) {
			t.Fatal("what is in hand is all that the server waits for")
		}
		if n := len(ss.done.past.ranges); n > 1 || ss.done.past.has(stuck) || !ss.done.past.has(seq) || ss.done.past.next() != stuck {
			t.Fatalf("at %d: %v, next %d", seq, ss.done.past.ranges, ss.done.past.next())
		}
	}
}

// TestPassedOver: what lies between two deliveries is settled where the server gave
// both for the first time and nothing was missed between them, whatever it gave
// again; else it may have been lost, and is not.
func TestPassedOver(t *testing.T) {
	t.Parallel()
	type delivered struct{ consumer, stream, times uint64 }
	for name, c := range map[string]struct {
		deliveries []delivered
		settled    []span
	}{
		"nothing missed":               {[]delivered{{1, 104, 1}, {2, 107, 1}}, []span{{105, 106}}},
		"one again between":            {[]delivered{{1, 103, 1}, {2, 105, 1}, {3, 103, 2}, {4, 107, 1}}, []span{{104, 104}, {106, 106}}},
		"one missed":                   {[]delivered{{1, 104, 1}, {3, 107, 1}, {4, 109, 1}}, []span{{108, 108}}},
		"one missed, an older again":   {[]delivered{{1, 104, 1}, {3, 104, 2}, {4, 106, 1}}, nil},
		"two missed, the first again":  {[]delivered{{1, 104, 1}, {4, 105, 2}, {5, 107, 1}, {6, 109, 1}}, []span{{108, 108}}},
		"one missed that was an older": {[]delivered{{1, 103, 1}, {2, 104, 1}, {4, 104, 3}, {5, 107, 1}}, nil}, // which, cannot be known
	} {
		ss := &session{cfg: &Config{}, done: &history{}, inHand: map[uint64]*delivery{}}
		for _, d := range c.deliveries {
			ss.arrive(&jetstream.MsgMetadata{NumDelivered: d.times, Sequence: jetstream.SequencePair{Consumer: d.consumer, Stream: d.stream}})
		}
		if !slices.Equal(ss.done.past.ranges, c.settled) {
			t.Errorf("%s: %v, want %v", name, ss.done.past.ranges, c.settled)
		}
	}
}

// TestLetGo: what is in hand lets go what is held as far as the server can wait for it.
func TestLetGo(t *testing.T) {
	t.Parallel()
	floor := func(seq uint64) jetstream.SequenceInfo { return jetstream.SequenceInfo{Stream: seq} }
	for name, c := range map[string]struct {
		info   jetstream.ConsumerInfo
		stream jetstream.StreamState
		want   bool
		next   uint64 // that is not settled
	}{
		"all in hand":              {jetstream.ConsumerInfo{NumAckPending: 2, Delivered: floor(9)}, jetstream.StreamState{}, true, 4},
		"one is not":               {jetstream.ConsumerInfo{NumAckPending: 3, Delivered: floor(9)}, jetstream.StreamState{}, false, 1},
		"one left the stream":      {jetstream.ConsumerInfo{NumAckPending: 2, Delivered: floor(9)}, jetstream.StreamState{FirstSeq: 5}, false, 1},
		"one was deleted":          {jetstream.ConsumerInfo{NumAckPending: 2, Delivered: floor(9)}, jetstream.StreamState{Deleted: []uint64{2, 4, 8}}, false, 1},
		"one is done with":         {jetstream.ConsumerInfo{NumAckPending: 2, Delivered: floor(9), AckFloor: floor(4)}, jetstream.StreamState{}, false, 1},
		"one will be given anew":   {jetstream.ConsumerInfo{NumAckPending: 2, Delivered: floor(6)}, jetstream.StreamState{}, false, 1},
		"what left is not awaited": {jetstream.ConsumerInfo{NumAckPending: 1, Delivered: floor(9)}, jetstream.StreamState{FirstSeq: 5}, true, 4},
	} {
		ss := &session{cfg: &Config{}, done: &history{past: settled{start: 1}}, inHand: map[uint64]*delivery{4: {}, 7: {}}, holding: true, top: 7}
		if got := ss.letGo(ss.handful(), &c.info, &c.stream); got != c.want || ss.holding == c.want || ss.done.past.next() != c.next {
			t.Errorf("%s: %t, holding %t, next %d; want %t and %d", name, got, ss.holding, ss.done.past.next(), c.want, c.next)
		}
	}
}
