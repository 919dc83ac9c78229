package publish

import (
	"testing"
	"time"
)

// drive plays a broker of two speeds, messages a second, that is the limit for n
// acknowledgements of 64 messages.
func drive(t *tempo, now *time.Time, sequence *uint64, n int, singles, batches float64) {
	for range n {
		rate := singles
		if t.batching {
			rate = batches
		}
		*now = now.Add(time.Duration(64 / rate * float64(time.Second)))
		*sequence += 64
		t.press(*sequence, *now)
		t.acked(*sequence, *now)
	}
}

// TestTempo: the faster way is found, whichever it is, and found again when the
// broker changes; a trickle is sent as single messages.
func TestTempo(t *testing.T) {
	t.Parallel()
	now, sequence := time.Unix(1e9, 0), uint64(0)
	var leisure tempo
	drive(&leisure, &now, &sequence, 1000, 60e3, 30e3)
	if leisure.batching || leisure.batches == 0 {
		t.Errorf("a broker that takes single messages faster: %+v", leisure)
	}
	var syncing tempo
	drive(&syncing, &now, &sequence, 200, 3e3, 30e3)
	if !syncing.batching {
		t.Errorf("a broker that takes batches faster: %+v", syncing)
	}
	syncing.idle(now)
	now = now.Add(tempoRest / 2)
	syncing.wake(now)
	if !syncing.batching {
		t.Error("a breath ends the batches of a backlog")
	}
	syncing.idle(now)
	now = now.Add(tempoRest)
	syncing.wake(now)
	if syncing.batching {
		t.Error("a log that trickles is batched")
	}
	drive(&syncing, &now, &sequence, 70, 3e3, 30e3)
	if !syncing.batching {
		t.Errorf("a backlog after an idle hour: %+v", syncing)
	}
	drive(&syncing, &now, &sequence, 500, 60e3, 2e3)
	if syncing.batching {
		t.Errorf("a broker whose disk became slow for batches: %+v", syncing)
	}
	now = now.Add(tempoRetry)
	drive(&syncing, &now, &sequence, 200, 3e3, 30e3)
	if !syncing.batching {
		t.Errorf("a broker that changed: %+v", syncing)
	}
	var trickle tempo
	for range 10000 {
		now, sequence = now.Add(time.Millisecond), sequence+1
		trickle.acked(sequence, now)
	}
	if trickle != (tempo{}) {
		t.Errorf("a trickle: %+v", trickle)
	}
}

// TestTempoCalm: a load that follows a backlog without a rest is sent as single
// messages again where these are known to keep up with it, and as batches where not.
func TestTempoCalm(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		singles, rate float64 // of the broker and of the load, messages a second
		ends          bool
	}{
		{"far below", 3e3, 1e3, true},
		{"near", 3e3, 2e3, false},
		{"above", 200, 500, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var tempo tempo
			now, sequence := time.Unix(1e9, 0), uint64(0)
			drive(&tempo, &now, &sequence, 200, c.singles, 10*c.singles)
			if !tempo.batching {
				t.Fatalf("a backlog: %+v", tempo)
			}
			began := now
			for tempo.batching && now.Sub(began) < 10*tempoCalm {
				tempo.idle(now)
				now, sequence = now.Add(time.Duration(10/c.rate*float64(time.Second))), sequence+10
				tempo.wake(now)
				tempo.acked(sequence, now)
			}
			if d := now.Sub(began); tempo.batching == c.ends || c.ends && (d < tempoCalm || d > tempoCalm+time.Second) {
				t.Errorf("batching %t after %s", tempo.batching, d)
			}
			drive(&tempo, &now, &sequence, 16, c.singles, 10*c.singles)
			if !tempo.batching {
				t.Errorf("a load that presses again is not batched: %+v", tempo)
			}
		})
	}
}

// TestTempoLull: what is measured after the broker was the limit is not its speed.
func TestTempoLull(t *testing.T) {
	t.Parallel()
	var tempo tempo
	now, sequence := time.Unix(1e9, 0), uint64(0)
	tempo.press(sequence, now)
	for range 2 * tempoLeast {
		now, sequence = now.Add(time.Millisecond), sequence+1
		tempo.acked(sequence, now)
	}
	if tempo.singles != 0 || tempo.batching {
		t.Errorf("one moment of pressure before a trickle: %+v", tempo)
	}
}

// TestTempoMixed: while single messages are in flight, what the broker takes says
// nothing of batches.
func TestTempoMixed(t *testing.T) {
	t.Parallel()
	p := Publisher{tempo: tempo{batching: true}, singles: 1}
	p.press()
	if !p.tempo.began.IsZero() {
		t.Error("single messages are measured as batches")
	}
	p.singles = 0
	p.press()
	if p.tempo.began.IsZero() {
		t.Error("batches are not measured")
	}
}
