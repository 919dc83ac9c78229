package repl

import (
	"testing"
	"time"
)

// TestPace: a backlog is read in bulk, a live log is not, and neither is one that
// pauses.
func TestPace(t *testing.T) {
	t.Parallel()
	now := time.Unix(1e9, 0)
	play := func(p *pace, bytes int, every time.Duration) bool {
		for range 1000 {
			now = now.Add(every)
			p.read(bytes, now)
		}
		return p.bulk
	}
	var p pace
	for _, tc := range []struct {
		name  string
		bytes int
		every time.Duration
		bulk  bool
	}{
		{"2000 small transactions a second", 1200, 500 * time.Microsecond, false},
		{"a backlog, eagerly read", 250, 40 * time.Microsecond, true},
		{"a backlog, read after naps", 60 << 10, 5200 * time.Microsecond, true},
		{"one large message a second", 1 << 20, time.Second, false},
		{"a wide backlog", 64 << 10, 100 * time.Microsecond, true},
		{"nothing", 0, 100 * time.Millisecond, false},
	} {
		if bulk := play(&p, tc.bytes, tc.every); bulk != tc.bulk {
			t.Errorf("%s: bulk %t", tc.name, bulk)
		}
	}
}
