package client

import (
	"testing"

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
