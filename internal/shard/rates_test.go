package shard

import (
	"context"
	"log/slog"
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestRates: rates are of the last RateWindow or what there is of it, idle times and
// times without a session count as what they were, and the memory is bounded.
func TestRates(t *testing.T) {
	t.Parallel()
	const second, report = time.Second, 250 * time.Millisecond
	type step struct {
		lasts time.Duration // with a report every 250 ms; none while off
		off   bool
		rate  float64 // transactions a second
	}
	for _, c := range []struct {
		name   string
		steps  []step
		rate   float64
		window time.Duration
	}{
		{"at the start", nil, 0, 0},
		{"a start that was long in connecting", []step{{lasts: 5 * second, off: true}}, 0, 5 * second},
		{"ten seconds old", []step{{lasts: 10 * second, rate: 8}}, 8, 10 * second},
		{"steady", []step{{lasts: 300 * second, rate: 8}}, 8, RateWindow},
		{"faster since ten seconds", []step{{lasts: 300 * second, rate: 3}, {lasts: 10 * second, rate: 30}}, 12, RateWindow},
		{"idle since ten seconds", []step{{lasts: 300 * second, rate: 30}, {lasts: 10 * second}}, 20, RateWindow},
		{"idle since long", []step{{lasts: 300 * second, rate: 30}, {lasts: 40 * second}}, 0, RateWindow},
		{"away since ten seconds", []step{{lasts: 300 * second, rate: 30}, {lasts: 10 * second, off: true}}, 20, RateWindow},
		{"away since long", []step{{lasts: 300 * second, rate: 30}, {lasts: 3600 * second, off: true}}, 0, RateWindow},
		{"a standby since its start that took over", []step{{lasts: 3600 * second, off: true}, {lasts: 10 * second, rate: 30}}, 10, RateWindow},
		{"back after long", []step{{lasts: 300 * second, rate: 70}, {lasts: 3600 * second, off: true}, {lasts: 10 * second, rate: 30}}, 10, RateWindow},
		{"back after a moment", []step{{lasts: 300 * second, rate: 8}, {lasts: report, off: true}, {lasts: 60 * second, rate: 8}}, 8, RateWindow},
	} {
		now := time.Now()
		var r sampler
		var total counted
		r.take(now, total)
		for _, s := range c.steps {
			if s.off {
				now = now.Add(s.lasts)
				r.take(now, total) // a session begins, or somebody asks
				continue
			}
			for range s.lasts / report {
				now = now.Add(report)
				for i := range total { // each counter at a speed of its own
					total[i] += s.rate * report.Seconds() * float64(i+1)
				}
				r.take(now, total)
			}
		}
		got := r.rates(now)
		for i, rate := range []float64{got.Transactions, got.Rows, got.Events, got.Snapshots, got.ReadWAL, got.Stored} {
			if want := c.rate * float64(i+1); math.Abs(rate-want) > 1e-6*max(1, want) {
				t.Errorf("%s: counter %d: %g a second, want %g", c.name, i, rate, want)
			}
		}
		if got.Window != c.window {
			t.Errorf("%s: over %s, want %s", c.name, got.Window, c.window)
		}
		if n := len(r.samples); n > 2*int(RateWindow/rateStep) {
			t.Errorf("%s: %d samples", c.name, n)
		}
	}
}

// TestRatesUnasked: nobody need look for a rate to fall to nothing.
func TestRatesUnasked(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var r sampler
	if got := r.rates(now); got != (Rates{}) {
		t.Errorf("nothing was ever taken, and the rates are %+v", got)
	}
	r.take(now, counted{})
	r.take(now.Add(time.Second), counted{60})
	for after, want := range map[time.Duration]float64{time.Second: 60, 2 * time.Second: 30, RateWindow + time.Second/2: 1, RateWindow + time.Second: 0, time.Hour: 0} {
		if got := r.rates(now.Add(after)).Transactions; math.Abs(got-want) > 1e-9 {
			t.Errorf("after %s: %g, want %g", after, got, want)
		}
	}
}

// TestCounts: each rate is of the counter that it is named after.
func TestCounts(t *testing.T) {
	t.Parallel()
	s := Status{Snapshots: 6, ReadWAL: 7, StoredBytes: 8}
	s.Events = map[ffstream.PublicState]uint64{"completed": 4, "": 1}
	s.Normalizer.Transactions, s.Normalizer.CoreRows, s.Normalizer.AttemptRows = 1, 2, 3
	if got := countsOf(&s); got != (counted{1, 5, 5, 6, 7, 8}) {
		t.Errorf("%v", got)
	}
}

// TestRatesFromSession: a sample is taken when a session begins, before it counts
// anything, so what comes then is not spread over the time before.
func TestRatesFromSession(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{})
	conn, err := pgconn.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	nc, sink := broker(t, db.Name)
	var s *Shard
	ctx, cancel := context.WithCancel(testContext(t))
	var before, began time.Time
	s = New(nc, Config{
		Source:    repl.Config{Conn: conn, Slot: db.Slot(), Publication: "ffstream"},
		Sink:      sink,
		Preflight: func(context.Context) error { before = time.Now(); return nil },
		Log: slog.New(onLine{slog.DiscardHandler, func(message string) {
			if message != "streaming" {
				return
			}
			s.board.mu.Lock()
			defer s.board.mu.Unlock()
			began = s.board.sampler.samples[len(s.board.sampler.samples)-1].at
			cancel()
		}}),
	})
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if !began.After(before) {
		t.Errorf("the session was begun behind %s, and the latest sample is of %s", before, began)
	}
}

// onLine is a log that calls a function with each message.
type onLine struct {
	slog.Handler
	f func(message string)
}

func (l onLine) Enabled(context.Context, slog.Level) bool { return true }

func (l onLine) Handle(_ context.Context, r slog.Record) error {
	l.f(r.Message)
	return nil
}
