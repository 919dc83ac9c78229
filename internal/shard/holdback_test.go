package shard

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
)

// TestHoldbackProperty: nothing is confirmed before its time, everything is soon
// after it, in bounded memory; and what a confirmed slot has let go is known.
func TestHoldbackProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := holdback{wait: time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "wait"))}
		type entry struct {
			end ffstream.LSN
			seq uint64
			at  time.Time
		}
		var all []entry
		now, end, seq, confirmed := time.Unix(0, 0), ffstream.LSN(0), uint64(0), ffstream.LSN(0)
		for range rapid.IntRange(1, 600).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pass")))
			end += ffstream.LSN(rapid.Uint64Range(1, 9).Draw(t, "bytes"))
			seq += rapid.Uint64Range(0, 2).Draw(t, "events")
			h.add(end, seq, now)
			all = append(all, entry{end, seq, now})
			if ripe := h.ripe(now); ripe != 0 {
				if ripe <= confirmed {
					t.Fatalf("confirmed %d after %d", ripe, confirmed)
				}
				confirmed = ripe
			}
			var late ffstream.LSN
			for _, e := range all {
				if e.end <= confirmed && now.Sub(e.at) < h.wait {
					t.Fatalf("%d was confirmed after %s, the wait is %s", e.end, now.Sub(e.at), h.wait)
				}
				if now.Sub(e.at) >= h.wait+2*h.wait/holdbackSteps {
					late = e.end
				}
				if e.end == confirmed && h.gone(confirmed) != e.seq {
					t.Fatalf("a slot at %d let go %d, not %d", confirmed, h.gone(confirmed), e.seq)
				}
			}
			if confirmed < late {
				t.Fatalf("%d is not confirmed, only %d", late, confirmed)
			}
			if len(h.due) > holdbackSteps+2 || len(h.released) > maxReleased {
				t.Fatalf("%d and %d marks", len(h.due), len(h.released))
			}
		}
	})
}
