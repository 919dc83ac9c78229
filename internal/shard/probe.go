package shard

import (
	"context"
	"math"
	"time"

	"github.com/ffstream/ffstream"
)

// SlotHealth is what the server says of the slot, whoever holds it.
type SlotHealth struct {
	Exists    bool
	Active    bool   // a WAL sender serves it
	WALStatus string // reserved, extended, unreserved or lost; empty without a slot
	// SafeWAL is how many more bytes may be written before the slot is in danger;
	// none when max_slot_wal_keep_size sets no bound.
	SafeWAL   ffstream.Opt[int64]
	Restart   ffstream.LSN // the log from here on is kept for the slot
	Confirmed ffstream.LSN
	End       ffstream.LSN // of the log, now
	Recovery  bool         // the server is a standby
}

// Retained is how many bytes of the log the server keeps for the slot.
func (h *SlotHealth) Retained() uint64 {
	if !h.Exists || h.End < h.Restart {
		return 0
	}
	return uint64(h.End - h.Restart)
}

// Probed is the latest look at the slot.
type Probed struct {
	SlotHealth
	At      time.Time // zero: never
	WALRate float64   // bytes a second that the server writes, over some minutes
	Error   string    // of the latest look that failed; the rest is then older
}

// Runway is how long the log that the slot needs would be safe if nothing were
// confirmed from now on and the server wrote on at today's rate; false when
// nothing bounds it, or nothing is written.
func (p *Probed) Runway() (time.Duration, bool) {
	if p.At.IsZero() || !p.SafeWAL.OK || p.WALRate <= 0 {
		return 0, false
	}
	seconds := float64(max(0, p.SafeWAL.V)) / p.WALRate
	return time.Duration(min(seconds, math.MaxInt64/1e10) * float64(time.Second)), true
}

const (
	defaultProbeInterval = 10 * time.Second
	// rateWindow is the time over which the rate of writing is smoothed.
	rateWindow = 5 * time.Minute
)

// take replaces the look by a newer one.
func (p *Probed) take(h SlotHealth, now time.Time) {
	if passed := now.Sub(p.At).Seconds(); !p.At.IsZero() && passed > 0 && h.End >= p.End {
		rate := float64(h.End-p.End) / passed
		weight := 1 - math.Exp(-passed/rateWindow.Seconds())
		if p.WALRate == 0 {
			weight = 1
		}
		p.WALRate += weight * (rate - p.WALRate)
	}
	p.SlotHealth, p.At, p.Error = h, now, ""
}

// probe is goroutine D: it looks at the slot until ctx ends, also while the broker
// is away and no session lives, which is when the log piles up. A look that
// fails is shown by its age and its error; the sessions have their own
// connections to fail by.
func (s *Shard) probe(ctx context.Context) {
	tick := time.NewTicker(s.cfg.ProbeInterval)
	defer tick.Stop()
	for {
		looking, cancel := context.WithTimeout(ctx, connectTimeout)
		h, err := s.cfg.Probe(looking)
		cancel()
		s.board.update(func(b *Status) {
			if err != nil {
				b.Probed.Error = err.Error()
				return
			}
			b.Probed.take(h, time.Now())
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
