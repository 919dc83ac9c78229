package e2e

import (
	"context"
	"fmt"
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
	for rest := n; rest > 0; rest -= 50_000 {
		a.exec(fmt.Sprintf(insertBulk, min(rest, 50_000)))
	}
	a.exec("ANALYZE ff_exec_core")
	o := newOracle(a.world)
	a.env["FFSTREAM_BACKFILL_RATE"] = "0"
	a.startService()
	a.awaitActive(a.service)
	m := a.measure()

	began := time.Now()
	_, err := m.conn.CopyTo(t.Context(), m, `COPY (SELECT partition_key, execution_id, flow_id, lane_id, attempt_index, lifecycle_phase, ownership_state, eligibility_state, public_state,
		attempt_state, blocking_reason, cancellation_reason, cancelled_by, priority, created_at_ms, terminal_at_ms, raw_fields, started_at_ms FROM ff_exec_core) TO STDOUT`)
	a.must(err)
	copied := time.Since(began)
	r := a.order(0)
	t.Logf("at rest: %d executions published at %.0f a second, COPY reads %.0f a second: %.2fx", r.Published, perSecond(n, r.Ended.Sub(r.Started)), perSecond(n, copied), copied.Seconds()/r.Ended.Sub(r.Started).Seconds())

	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { a.transit(ctx, seed) })
	a.moment(ctx, time.Second)
	alone := m.latency(ctx, func() { sleepFor(20 * time.Second) })
	rate := setting(t, "FFSTREAM_E2E_BACKFILL_RATE", 2000)
	beside := m.latency(ctx, func() {
		over := time.AfterFunc(time.Minute, func() { _, _ = a.orders().Ask(ctx, backfill.Cancel) }) // if it is not over
		defer over.Stop()
		r = a.order(rate)
	})
	t.Logf("beside transitions: %d published and %d superseded in %s, %s", r.Published, r.Superseded, r.Ended.Sub(r.Started).Round(time.Second), r.State)
	t.Logf("latency of transitions from commit to subscriber: alone %s, while a backfill of %d a second runs %s: p50 %.2fx, p99 %.2fx", alone, rate, beside, beside.ratio(alone, 50), beside.ratio(alone, 99))
	t.Logf("the service's longest transaction on the source took %s; its peak RSS is %d MiB", time.Duration(m.longest.Load()).Round(time.Millisecond), a.memory())

	struck := map[string]int{}
	done := make(chan backfill.Report, 1)
	go func() { done <- a.order(0) }()
	for over := false; !over; {
		select {
		case r = <-done:
			over = true
		default:
			name := killings[a.rng.IntN(len(killings))]
			faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == name })].do(ctx, a)
			struck[name]++
			a.alive(name)
			a.moment(ctx, 4*time.Second)
		}
	}
	stop()
	wg.Wait()
	a.db.Pool.Reset()
	t.Logf("while killed: %v: %d published and %d superseded in %s", struck, r.Published, r.Superseded, r.Ended.Sub(r.Started).Round(time.Second))
	a.awaitActive(a.service)
	a.caughtUp(a.service)
	s, transitions := newSnapshots(t), []message(nil)
	a.each(func(m message) {
		s.message(m)
		if strings.HasSuffix(parsed(t, m).Type, ".transitioned.v1") {
			transitions = append(transitions, m)
		}
	})
	s.complete(a.world)
	o.compareWith(transitions)
	t.Logf("%d transitions as committed, %d snapshots that contradict none, no execution missing, none twice in a run", len(transitions), s.n)
	m.end()
	a.service.stop()
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

// order orders a backfill and waits for its end. It is called from a goroutine of
// its own while brokers are killed.
func (a *arena) order(rate int) backfill.Report {
	ctx := context.Background()
	run := ""
	for {
		store, err := backfill.Open(ctx, a.js, a.bucket())
		if err == nil && run == "" {
			var o backfill.Order
			if o, err = store.Place(ctx, backfill.Order{Rate: rate}); err == nil {
				run = o.Run
			}
		}
		if err == nil {
			if o, r, found, err := store.Current(ctx); err == nil && found && o.Run == run && r.State.Ended() {
				return r
			}
		}
		pause(ctx, a.pace)
	}
}

// orders opens the bucket of orders.
func (a *arena) orders() *backfill.Store {
	store, err := backfill.Open(context.Background(), a.js, a.bucket())
	a.must(err)
	return store
}

// memory is the most that the service has had resident, in MiB.
func (a *arena) memory() int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.service.cmd.Process.Pid))
	a.must(err)
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	a.must(err)
	return kib >> 10
}

// meter watches the source for long transactions of the service.
type meter struct {
	a       *arena
	conn    *pgconn.PgConn
	longest atomic.Int64 // nanoseconds
	end     func()
}

// Write drops what COPY sends.
func (m *meter) Write(b []byte) (int, error) { return len(b), nil }

func (a *arena) measure() *meter {
	ctx, stop := context.WithCancel(context.Background())
	conn, err := pgconn.Connect(ctx, a.db.URL)
	a.must(err)
	m := &meter{a: a, conn: conn}
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			var seconds float64
			err := a.db.Pool.QueryRow(ctx, `SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8 FROM pg_stat_activity
				WHERE backend_type = 'client backend' AND query LIKE '%pg_current_snapshot()::text AS saw%' AND pid <> pg_backend_pid()`).Scan(&seconds)
			if d := int64(seconds * 1e9); err == nil && d > m.longest.Load() {
				m.longest.Store(d)
			}
			pause(ctx, 10*time.Millisecond)
		}
	})
	m.end = func() { stop(); wg.Wait(); _ = conn.Close(context.Background()) }
	return m
}

// delays are how long transitions took, sorted.
type delays []time.Duration

func (d delays) at(percent int) time.Duration { return d[min(len(d)-1, len(d)*percent/100)] }

func (d delays) String() string {
	return fmt.Sprintf("p50 %s p99 %s (%d transitions)", d.at(50).Round(10*time.Microsecond), d.at(99).Round(10*time.Microsecond), len(d))
}

func (d delays) ratio(other delays, percent int) float64 {
	return d.at(percent).Seconds() / other.at(percent).Seconds()
}

// latency measures transitions while f runs: from the commit's time to a
// subscriber, by the one clock of this machine.
func (m *meter) latency(ctx context.Context, f func()) (all delays) {
	t := m.a.t
	t.Helper()
	stream, err := m.a.js.Stream(ctx, m.a.stream)
	m.a.must(err)
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverNewPolicy})
	m.a.must(err)
	var mu sync.Mutex // guards all
	running, err := consumer.Consume(func(msg jetstream.Msg) {
		now := time.Now()
		e := parsed(t, message{body: msg.Data()})
		if e.Data.Op != "" || !strings.HasSuffix(e.Type, ".transitioned.v1") {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		all = append(all, now.Sub(e.Time))
	})
	m.a.must(err)
	f()
	running.Stop()
	<-running.Closed()
	mu.Lock()
	defer mu.Unlock()
	slices.Sort(all)
	return all
}
