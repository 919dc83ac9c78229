package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/testenv/engine"
)

// TestBackfillLarge backfills FFSTREAM_E2E_BACKFILL executions: at rest beside
// COPY, beside transitions, and beside transitions while everything is killed. It
// prints rates, latencies, the service's memory and its longest transaction, and
// checks what came of it.
func TestBackfillLarge(t *testing.T) {
	n := setting(t, "FFSTREAM_E2E_BACKFILL", 0)
	if n == 0 {
		t.Skip("FFSTREAM_E2E_BACKFILL says how many executions")
	}
	seed := uint64(setting(t, "FFSTREAM_E2E_SEED", 1))
	a := newArena(t, 1, seed)
	a.env["FFSTREAM_BACKFILL_RATE"] = "0"
	a.env["FFSTREAM_DATABASE_URL"] += "&application_name=" + measured
	l := &large{arena: a, n: n}
	l.note("made by INSERT ... SELECT", n, timed(func() { a.existing(n) }))
	o := newOracle(a.world)
	o.bounded = true // its snapshots are more than the memory holds
	a.startService()
	a.awaitActive(a.service)
	l.watchSource()
	defer l.end()

	copied := timed(l.copyOut)
	l.note("COPY (SELECT ...) TO STDOUT", n, copied)
	r := a.ended(a.place(0))
	l.note(fmt.Sprintf("backfill at rest, %.2f of COPY", copied.Seconds()/took(&r).Seconds()), int(r.Executions), took(&r))
	if r.Published != uint64(n) {
		t.Errorf("at rest %d executions were published, and there are %d: %+v", r.Published, n, r)
	}
	l.over(0)

	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	wg.Go(func() { a.transit(ctx, seed) })
	a.moment(ctx, time.Second)
	l.beside(ctx)
	l.over(1)
	l.whileKilled(ctx)
	stop()
	wg.Wait()
	a.db.Pool.Reset()
	a.awaitActive(a.service)
	a.caughtUp(a.service)
	s, transitions := newSnapshots(t), []message(nil)
	a.each(func(m message) {
		s.message(m)
		if isTransition(m.body) {
			transitions = append(transitions, m)
		}
	})
	s.complete(a.world)
	o.compareWith(transitions)
	l.end()
	l.print(len(transitions), s.n)
	a.service.stop()
}

// large is what one run of TestBackfillLarge measured.
type large struct {
	*arena
	n       int
	rows    []string // of the table of rates
	delays  []string // of the table of latencies
	peaks   [3]int   // of the service's resident memory, MiB: at rest, beside transitions, while killed
	struck  map[string]int
	phase   atomic.Int32
	longest [3]atomic.Int64 // transaction of the service on the source, likewise, nanoseconds
	end     func()          // ends the watch over the source; it may be called again
}

const (
	// measured is the name under which the service's connections are known.
	measured = "measured"
	// strikes is about how often something is killed.
	strikes = 45
	// mostMemory bounds what the service has resident, in MiB, whatever it reads.
	mostMemory = 256
)

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func took(r *backfill.Report) time.Duration { return r.Ended.Sub(r.Started) }

func (l *large) note(what string, n int, d time.Duration) {
	l.rows = append(l.rows, fmt.Sprintf("| %s | %d | %.1f | %.0f |", what, n, d.Seconds(), perSecond(n, d)))
	l.t.Log(l.rows[len(l.rows)-1])
}

// existing makes executions, half of them with an attempt.
func (a *arena) existing(n int) {
	for rest := n; rest > 0; rest -= 50_000 {
		a.exec(fmt.Sprintf(insertBulk, min(rest, 50_000)))
	}
	a.exec(`INSERT INTO ff_attempt (partition_key, execution_id, attempt_index, worker_id, worker_instance_id, lease_epoch, started_at_ms)
		SELECT partition_key, execution_id, attempt_index, 'w1', 'w1-0', 1, created_at_ms FROM ff_exec_core WHERE execution_id < '80000000-0000-0000-0000-000000000000'`)
	a.exec("VACUUM ANALYZE ff_exec_core, ff_attempt")
}

// copyOut reads the columns that a backfill reads.
func (l *large) copyOut() {
	conn, err := pgconn.Connect(context.Background(), l.db.URL)
	l.must(err)
	defer func() { _ = conn.Close(context.Background()) }()
	tag, err := conn.CopyTo(context.Background(), io.Discard, `COPY (SELECT c.partition_key, c.execution_id, c.flow_id, c.lane_id, c.attempt_index, c.lifecycle_phase,
		c.ownership_state, c.eligibility_state, c.public_state, c.attempt_state, c.blocking_reason, c.cancellation_reason, c.cancelled_by, c.priority, c.created_at_ms,
		c.terminal_at_ms, c.raw_fields, c.started_at_ms, a.attempt_index, a.worker_id, a.worker_instance_id, a.lease_epoch, a.lease_expires_at_ms, a.started_at_ms,
		a.terminal_at_ms, a.outcome FROM ff_exec_core c LEFT JOIN ff_attempt a USING (partition_key, execution_id, attempt_index)) TO STDOUT`)
	l.must(err)
	if tag.RowsAffected() != int64(l.n) {
		l.t.Errorf("COPY reads %d rows, and there are %d", tag.RowsAffected(), l.n)
	}
}

// beside measures how long transitions take alone, and while a backfill of the rate
// that a service has by default goes on.
func (l *large) beside(ctx context.Context) {
	const span = 10 * time.Second // before and again behind it: others may be at work on the machine
	alone := l.latency(ctx, func() { sleepFor(span) })
	rate := setting(l.t, "FFSTREAM_E2E_BACKFILL_RATE", 2000)
	var r backfill.Report
	both := l.latency(ctx, func() {
		over := time.AfterFunc(time.Minute, func() { _, _ = l.orders().Ask(ctx, backfill.Cancel) }) // if it is not over
		defer over.Stop()
		r = l.ended(l.place(rate))
	})
	alone = append(alone, l.latency(ctx, func() { sleepFor(span) })...)
	slices.Sort(alone)
	l.delays = append(l.delays, fmt.Sprintf("| alone | %.0f | %s | %s |", perSecond(len(alone), 2*span), alone.at(50), alone.at(99)))
	l.delays = append(l.delays, fmt.Sprintf("| while %d a second are backfilled | %.0f | %s (%.2fx) | %s (%.2fx) |", rate, perSecond(len(both), took(&r)),
		both.at(50), both.ratio(alone, 50), both.at(99), both.ratio(alone, 99)))
	l.t.Log(strings.Join(l.delays, "\n"))
	l.note(fmt.Sprintf("backfill of %d a second beside transitions, a minute of it", rate), int(r.Executions), took(&r))
}

// whileKilled backfills everything and kills all in turn, each when the backfill got
// on since the last: else none would be in its middle.
func (l *large) whileKilled(ctx context.Context) {
	l.struck = map[string]int{}
	run := l.place(0)
	next := uint64(0)
	patient := time.Now().Add(2 * patience)
	for n := 0; ; {
		r, found := l.progress(run)
		switch {
		case found && r.State.Ended():
			if l.note("backfill beside transitions while all is killed", int(r.Executions), took(&r)); r.State != backfill.Completed {
				l.t.Errorf("it ended as %+v", r)
			}
			for _, name := range killings {
				if l.struck[name] == 0 {
					l.t.Errorf("there was no %q: it was over too soon", name)
				}
			}
			return
		case found && r.Executions >= next:
			name := killings[n%len(killings)]
			l.memory(2)
			faultNamed(name).do(ctx, l.arena)
			l.struck[name]++
			l.alive(name)
			n, patient = n+1, time.Now().Add(2*patience)
			next = r.Executions + 1 + l.rng.Uint64N(uint64(2*l.n/strikes))
		case time.Now().After(patient):
			l.t.Fatalf("the backfill does not get on behind %d executions: %+v: %s", r.Executions, r, lastLines(l.service.output(), 5))
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// over ends a phase.
func (l *large) over(phase int) {
	l.memory(phase)
	l.phase.Store(int32(phase + 1))
}

// memory notes the most that the service has had resident, in a phase or before it.
func (l *large) memory(phase int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", l.service.cmd.Process.Pid))
	l.must(err)
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	l.must(err)
	if l.peaks[phase] = max(l.peaks[phase], kib>>10); l.peaks[phase] > mostMemory {
		l.t.Errorf("the service had %d MiB resident", l.peaks[phase])
	}
}

// print writes what was measured, as docs/benchmarks.md has it.
func (l *large) print(transitions, snapshots int) {
	fmt.Printf("\nbackfill of %d executions:\n\n| | executions | s | executions/s |\n|---|---:|---:|---:|\n%s\n", l.n, strings.Join(l.rows, "\n"))
	fmt.Printf("\nfrom commit to subscriber:\n\n| | transitions/s | p50 | p99 |\n|---|---:|---:|---:|\n%s\n", strings.Join(l.delays, "\n"))
	fmt.Printf("\n| of the whole run | |\n|---|---:|\n")
	fmt.Printf("| longest transaction of the service on the source at rest, beside transitions, while killed, ms | %d, %d, %d |\n",
		l.longest[0].Load()/1e6, l.longest[1].Load()/1e6, l.longest[2].Load()/1e6)
	fmt.Printf("| peak RSS of the service at rest, beside transitions, while killed, MiB | %d, %d, %d |\n", l.peaks[0], l.peaks[1], l.peaks[2])
	for _, name := range killings {
		fmt.Printf("| %s during the last backfill | %d times |\n", name, l.struck[name])
	}
	fmt.Printf("| transitions as committed, none lost, repeated, moved or altered | %d |\n", transitions)
	fmt.Printf("| snapshots, none twice in a run, none that contradicts a transition | %d |\n", snapshots)
	fmt.Printf("| executions that nothing tells of | 0 |\n\n")
}

func isTransition(body []byte) bool {
	return bytes.Contains(body, []byte(`"ffstream.execution.transitioned.v1"`))
}

func perSecond(n int, d time.Duration) float64 { return float64(n) / d.Seconds() }

// sleepFor is how long something is measured; it waits for nothing.
func sleepFor(d time.Duration) { <-time.After(d) }

// transit makes about 500 transitions a second.
func (a *arena) transit(ctx context.Context, seed uint64) {
	for n := uint64(0); ctx.Err() == nil; n++ {
		_, _ = engine.Run(ctx, a.db.Pool, engine.WorkloadConfig{Version: engine.Newest, Writers: 6, Rate: 125, Seed: seed + n<<32})
		pause(ctx, a.pace)
	}
}

// place orders a backfill and gives its run. Brokers may be killed meanwhile.
func (a *arena) place(rate int) (run string) {
	a.t.Helper()
	await(a.t, "a backfill to be ordered", func() (bool, string) {
		store, err := backfill.Open(context.Background(), a.js, a.bucket())
		if err == nil {
			var o backfill.Order
			o, err = store.Place(context.Background(), backfill.Order{Rate: rate})
			run = o.Run
		}
		return err == nil, fmt.Sprint(err)
	})
	return run
}

// progress is how far a run is; false when the broker does not say.
func (a *arena) progress(run string) (backfill.Report, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	store, err := backfill.Open(ctx, a.js, a.bucket())
	if err != nil {
		return backfill.Report{}, false
	}
	o, r, found, err := store.Current(ctx)
	return r, err == nil && found && o.Run == run
}

// ended waits for a run's end, as long as it gets on.
func (a *arena) ended(run string) (r backfill.Report) {
	a.t.Helper()
	for at := uint64(0); ; at = r.Executions {
		over := false
		await(a.t, "the backfill to get on", func() (bool, string) {
			latest, found := a.progress(run)
			if found {
				r, over = latest, latest.State.Ended()
			}
			return over || found && r.Executions > at, fmt.Sprintf("%+v %s", r, lastLines(a.service.output(), 5))
		})
		if over {
			return r
		}
		pause(context.Background(), 100*time.Millisecond)
	}
}

// orders opens the bucket of orders.
func (a *arena) orders() *backfill.Store {
	store, err := backfill.Open(context.Background(), a.js, a.bucket())
	a.must(err)
	return store
}

// watchSource looks for long transactions of the service, a hundred times a second.
func (l *large) watchSource() {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			var seconds float64
			err := l.db.Pool.QueryRow(ctx, `SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
				FROM pg_stat_activity WHERE application_name = $1 AND backend_type = 'client backend'`, measured).Scan(&seconds)
			if d, most := int64(seconds*1e9), &l.longest[l.phase.Load()]; err == nil && d > most.Load() {
				most.Store(d)
			}
			pause(ctx, 10*time.Millisecond)
		}
	})
	l.end = func() { stop(); wg.Wait() }
}

// delays are how long transitions took, sorted.
type delays []time.Duration

func (d delays) at(percent int) time.Duration {
	return d[min(len(d)-1, len(d)*percent/100)].Round(10 * time.Microsecond)
}

func (d delays) ratio(other delays, percent int) float64 {
	return d.at(percent).Seconds() / other.at(percent).Seconds()
}

// latency measures transitions while f runs: from the commit's time to a
// subscriber, by the one clock of this machine.
func (l *large) latency(ctx context.Context, f func()) (all delays) {
	t := l.t
	t.Helper()
	stream, err := l.js.Stream(ctx, l.stream)
	l.must(err)
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	l.must(err)
	var mu sync.Mutex // guards all
	running, err := consumer.Consume(func(msg jetstream.Msg) {
		now := time.Now()
		if !isTransition(msg.Data()) { // what is measured is not this test
			return
		}
		e := parsed(t, message{body: msg.Data()})
		mu.Lock()
		defer mu.Unlock()
		all = append(all, now.Sub(e.Time))
	})
	l.must(err)
	f()
	running.Stop()
	<-running.Closed()
	mu.Lock()
	defer mu.Unlock()
	if len(all) == 0 {
		t.Fatal("no transition came")
	}
	slices.Sort(all)
	return all
}
