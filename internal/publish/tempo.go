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
}

const (
	// tempoSample is how many messages a measurement takes.
	tempoSample = 4096
	// tempoMargin is by how much the other way has to be faster.
	tempoMargin = 1.1
	// tempoRetry is after how long a way that was slower is tried again.
	tempoRetry = time.Minute
)

// acked notes that everything up to sequence is stored. While the broker is not
// the limit nothing is learnt.
func (t *tempo) acked(sequence uint64, limit bool, now time.Time) {
	switch {
	case !limit:
		t.began = time.Time{}
	case t.began.IsZero():
		t.began, t.from = now, sequence
	case sequence-t.from >= tempoSample:
		rate := float64(sequence-t.from) / now.Sub(t.began).Seconds()
		t.began = time.Time{}
		t.choose(rate, now)
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

// idle says that nothing is in flight and nothing waits.
func (t *tempo) idle() { t.batching, t.began = false, time.Time{} }
