package shard

import "time"

// RateWindow is the time over which rates are taken, less while a shard is younger.
const RateWindow = 30 * time.Second

// Rates are what a shard did a second over Window, which ends now: sessions that
// ended and what is read again after them count too.
type Rates struct {
	Window       time.Duration
	Transactions float64
	Rows         float64 // row changes of both tables
	Events       float64 // without snapshots
	Snapshots    float64
	ReadWAL      float64 // bytes of the log
	Stored       float64 // bytes of events
}

// counted are the counters that rates are taken of, in the order of Rates.
type counted [6]float64

func countsOf(s *Status) counted {
	var events uint64
	for _, n := range s.Events {
		events += n
	}
	n := &s.Normalizer
	return counted{float64(n.Transactions), float64(n.CoreRows + n.AttemptRows), float64(events), float64(s.Snapshots), float64(s.ReadWAL), float64(s.StoredBytes)}
}

// rateStep is how far samples are apart at least.
const rateStep = time.Second

type sample struct {
	at     time.Time
	counts counted
}

// sampler keeps what the counters were over the latest RateWindow and one sample from
// before it, some 40 samples. The last is always the latest that was taken, so a time
// in which nobody takes any is one in which nothing was counted, if one is taken when
// it begins and when it ends. It has no clock.
type sampler struct{ samples []sample }

// take notes the counters. Times never go back.
func (r *sampler) take(now time.Time, counts counted) {
	if n := len(r.samples); n >= 2 && now.Sub(r.samples[n-2].at) < rateStep {
		r.samples = r.samples[:n-1]
	}
	r.samples = append(r.samples, sample{now, counts})
	from, old := now.Add(-RateWindow), 0
	for old+1 < len(r.samples) && !r.samples[old+1].at.After(from) {
		old++
	}
	r.samples = r.samples[:copy(r.samples, r.samples[old:])]
}

// rates compares the latest counters with those of RateWindow ago.
func (r *sampler) rates(now time.Time) (v Rates) {
	if len(r.samples) == 0 {
		return v
	}
	first, last := r.samples[0], r.samples[len(r.samples)-1]
	from := now.Add(-RateWindow)
	if from.Before(first.at) {
		from = first.at
	}
	v.Window = now.Sub(from)
	if v.Window <= 0 {
		return Rates{}
	}
	var rate counted
	for i, was := range r.at(from) {
		rate[i] = (last.counts[i] - was) / v.Window.Seconds()
	}
	v.Transactions, v.Rows, v.Events, v.Snapshots, v.ReadWAL, v.Stored = rate[0], rate[1], rate[2], rate[3], rate[4], rate[5]
	return v
}

// at is what the counters were then, by the samples around; then is not before the
// first.
func (r *sampler) at(then time.Time) counted {
	for i := 1; i < len(r.samples); i++ {
		a, b := &r.samples[i-1], &r.samples[i]
		if !then.Before(b.at) {
			continue
		}
		c, part := a.counts, then.Sub(a.at).Seconds()/b.at.Sub(a.at).Seconds()
		for k := range c {
			c[k] += part * (b.counts[k] - a.counts[k])
		}
		return c
	}
	return r.samples[len(r.samples)-1].counts
}
