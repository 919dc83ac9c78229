package publish

import "time"

// tempo chooses between single messages and atomic batches for transactions of
// one event each. A broker that writes at its leisure takes single messages
// faster; one that syncs to disk before each answer takes a batch in the time of
// a few. Which it is cannot be asked, so it is measured, while the broker is the
// limit and not before: a log that trickles has single messages.
type tempo struct {
	batching         bool
	singles, batches float64   // messages a second; 0: not measured
	tried            time.Time // when batches were begun with last
	began            time.Time // of the measurement that goes on; zero: none does
	from             uint64    // sequence that was acknowledged then
	rests            time.Time // since when nothing is in flight; zero: something is
	pressed          time.Time // when there was last more to send than the broker took, since then
	calm             time.Time // since when batches go out and nothing presses; zero: not so
	calmFrom         uint64    // sequence that was acknowledged then
}

const (
	// A measurement takes tempoSample messages, or as many as come in tempoTime
	// but not fewer than tempoLeast.
	tempoSample, tempoLeast = 4096, 512
	tempoTime               = 100 * time.Millisecond
	// tempoRest is how long a log is idle that is taken for a trickle.
	tempoRest = time.Second
	// tempoCalm is how long nothing presses before single messages are taken up
	// again that had been fast enough for what comes.
	tempoCalm = 10 * time.Second
	// tempoMargin is by how much the other way has to be faster.
	tempoMargin = 1.1
	// tempoRetry is after how long a way that was slower is tried again.
	tempoRetry = time.Minute
)

// press says that there is more to send than the broker takes. Everything up to
// sequence is stored.
func (t *tempo) press(sequence uint64, now time.Time) {
	if t.began.IsZero() {
		t.began, t.from = now, sequence
	}
	t.pressed, t.calm = now, time.Time{}
}

// acked notes that everything up to sequence is stored. Where the broker was not
// the limit, or was so only at first, nothing is learnt.
func (t *tempo) acked(sequence uint64, now time.Time) {
	t.relax(sequence, now)
	if n := sequence - t.from; t.began.IsZero() || n < tempoLeast || n < tempoSample && now.Sub(t.began) < tempoTime {
		return
	}
	took, limit := now.Sub(t.began), now.Sub(t.pressed) <= now.Sub(t.began)/2
	t.began, t.pressed = time.Time{}, time.Time{}
	if limit {
		t.choose(float64(sequence-t.from)/took.Seconds(), now)
	}
}

func (t *tempo) choose(rate float64, now time.Time) {
	if t.batching {
		t.batches = rate
		t.batching = rate > tempoMargin*t.singles
		return
	}
	t.singles = rate
	if t.batches > tempoMargin*rate || now.Sub(t.tried) >= tempoRetry {
		t.batching, t.tried = true, now
	}
}

// relax ends the batches of a load that never rests and no more presses: a batch
// waits for the one before it, and where single messages keep up they are stored
// sooner. Below half of their speed they do. Nothing is tried here: where they do not,
// a trial would hold up what comes for as long as it lasts.
func (t *tempo) relax(sequence uint64, now time.Time) {
	if !t.batching {
		return
	}
	if t.calm.IsZero() {
		t.calm, t.calmFrom = now, sequence
		return
	}
	if calm := now.Sub(t.calm); calm >= tempoCalm && 2*float64(sequence-t.calmFrom) < t.singles*calm.Seconds() {
		t.batching, t.calm = false, time.Time{}
	}
}

// window bounds the messages in flight. Until the broker's speed is known it is
// small, because what is in flight has to be stored before batches can begin.
func (t *tempo) window(most int) int {
	if t.singles == 0 {
		return min(most, tempoLeast)
	}
	return most
}

// idle says that nothing is in flight and nothing waits.
func (t *tempo) idle(now time.Time) {
	t.began, t.pressed = time.Time{}, time.Time{}
	if t.rests.IsZero() {
		t.rests = now
	}
}

// wake says that something is sent. A log that was idle for long trickles, until
// it is seen to press.
func (t *tempo) wake(now time.Time) {
	if !t.rests.IsZero() && now.Sub(t.rests) >= tempoRest {
		t.batching, t.calm = false, time.Time{}
	}
	t.rests = time.Time{}
}
