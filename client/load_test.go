package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// setting reads a size from the environment.
func setting(t testing.TB, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// tally is record for any number of events: which were handled, and up to where
// each execution is.
type tally struct {
	mu    sync.Mutex
	last  map[ffstream.ExecutionID]uint64 // handled in this run
	top   map[ffstream.ExecutionID]uint64 // handled in any
	seen  []bool                          // by sequence
	count int
	again int
	wrong int
	heaps []uint64 // bytes that were in use at each quarter, with everything in hand
}

func (r *tally) handled(m *client.Message) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m.Sequence < r.last[m.ExecutionID] || !r.seen[m.Sequence] && m.Sequence < r.top[m.ExecutionID] {
		r.wrong++
	}
	r.last[m.ExecutionID] = m.Sequence
	r.top[m.ExecutionID] = max(m.Sequence, r.top[m.ExecutionID])
	if r.seen[m.Sequence] {
		r.again++
		return r.count
	}
	r.seen[m.Sequence] = true
	if r.count++; r.count == (len(r.seen)-1)*(len(r.heaps)+1)/4 {
		r.heaps = append(r.heaps, heap())
	}
	return r.count
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// misbehave is what every so many-th first try does instead of its work.
func misbehave(ctx context.Context, m *client.Message) error {
	if m.Try > 1 {
		return nil
	}
	switch m.Sequence % 997 {
	case 0:
		return errors.New("not yet")
	case 1:
		panic("no")
	case 2:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// TestLoad: FFSTREAM_CLIENT_EVENTS events (20000) through one durable subscriber
// whose handlers fail, panic and hang, and whose connection is cut five times as a
// crash would, with everything in hand: each execution's events are handled in
// order, all of them, and memory does not grow.
func TestLoad(t *testing.T) {
	t.Parallel()
	events := setting(t, "FFSTREAM_CLIENT_EVENTS", 20000)
	f := newFeed(t, testenv.NATSURL(t))
	for n := range events {
		f.transaction(step(n%1000, ffstream.StateWaiting, ffstream.StateActive))
		if n%2000 == 0 {
			f.stored()
		}
	}
	f.stored()
	r := &tally{top: map[ffstream.ExecutionID]uint64{}, seen: make([]bool, events+1)}
	began, before := time.Now(), cpu()
	const crashes = 5
	for crash := 1; r.count < events; crash++ {
		runUntil(t, f, r, min(events, crash*events/crashes+1), crash <= crashes)
	}
	if r.wrong > 0 {
		t.Errorf("%d events out of order", r.wrong)
	}
	t.Logf("%d events in %s, %s CPU of the process, server and other tests included\n"+
		"about %d first tries failed, panicked or hung; %d handlings were repeated, by the end of %d connections\n"+
		"heap in use after each quarter: %s",
		events, time.Since(began).Round(time.Millisecond), (cpu() - before).Round(time.Millisecond), events*3/997, r.again, crashes, mebibytes(r.heaps))
	// Of fewer all in hand at once is less than what other tests beside this one take.
	if last := r.heaps[len(r.heaps)-1]; events >= 1_000_000 && last > r.heaps[0]+64<<20 {
		t.Errorf("heap grew from %d to %d bytes", r.heaps[0], last)
	}
}

func mebibytes(bytes []uint64) string {
	var list []string
	for _, n := range bytes {
		list = append(list, strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64))
	}
	return strings.Join(list, ", ") + " MiB"
}

// runUntil runs until so many events are handled, and then ends as a crash does:
// the server hears nothing of what is in hand.
func runUntil(t *testing.T, f *feed, r *tally, count int, crash bool) {
	t.Helper()
	nc, err := nats.Connect(f.js.Conn().ConnectedUrl(), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.New(js, f.config(func(c *client.Config) {
		c.Durable, c.AckWait, c.Timeout, c.Drain = "d", time.Second, 20*time.Millisecond, 50*time.Millisecond
	}))
	if err != nil {
		t.Fatal(err)
	}
	r.last = map[ffstream.ExecutionID]uint64{} // what a crash took along comes again
	ctx, stop := context.WithTimeout(context.Background(), 20*time.Minute)
	defer stop()
	err = s.Run(ctx, func(ctx context.Context, m *client.Message) error {
		if err := misbehave(ctx, m); err != nil {
			return err
		}
		if r.handled(m) >= count {
			if crash {
				nc.Close()
			} else {
				stop()
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) || errors.Is(ctx.Err(), context.DeadlineExceeded) {
		t.Fatal(err, ctx.Err())
	}
}

// moments are when executions were completed, when the stream had that and when
// their waits returned.
type moments struct {
	mu                          sync.Mutex
	completed, stored, returned map[ffstream.ExecutionID]time.Time
}

// read notes when the stream had the completions.
func (m *moments) read(ctx context.Context, t *testing.T, s *service) {
	t.Helper()
	cfg := s.config()
	cfg.Ordered, cfg.UntilEnd, cfg.From, cfg.Filter = true, true, client.All(), client.Filter{Terminal: true}
	subscriber, err := client.New(s.js, cfg)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := s.js.Stream(ctx, s.name)
	if err != nil {
		t.Fatal(err)
	}
	err = subscriber.Run(ctx, func(ctx context.Context, e *client.Message) error {
		raw, err := stream.GetMsg(ctx, e.Sequence)
		if err == nil {
			m.stored[e.ExecutionID] = raw.Time
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// between is how long after one moment the other was, sorted.
func between(one, other map[ffstream.ExecutionID]time.Time) []time.Duration {
	var all []time.Duration
	for id, at := range other {
		all = append(all, max(0, at.Sub(one[id])))
	}
	slices.Sort(all)
	return all
}

func (m *moments) note(of map[ffstream.ExecutionID]time.Time, id ffstream.ExecutionID) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	of[id] = now
}

// outage is a time in which the service or the broker was away.
type outage struct{ from, to time.Time }

// late is how long after the completions the waits returned, and how much of that
// was no outage, each sorted. A wait that returned before its completion was noted
// is not late.
func (m *moments) late(outages []outage) (all, rest []time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, returned := range m.returned {
		completed := m.completed[id]
		d := max(0, returned.Sub(completed))
		all = append(all, d)
		for _, o := range outages {
			if from, to := later(o.from, completed), earlier(o.to, returned); to.After(from) {
				d -= to.Sub(from)
			}
		}
		rest = append(rest, d)
	}
	slices.Sort(all)
	slices.Sort(rest)
	return all, rest
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// quantiles is what half, 99 of 100 and all of what is sorted are within.
func quantiles(sorted []time.Duration) string {
	var text [3]time.Duration
	for i, at := range []int{len(sorted) / 2, len(sorted) * 99 / 100, len(sorted) - 1} {
		text[i] = sorted[at].Round(time.Millisecond)
	}
	return fmt.Sprintf("half within %s, 99 of 100 within %s, all within %s", text[0], text[1], text[2])
}

// TestWaitRestarts: FFSTREAM_CLIENT_WAITS waits (300) while the executions are
// created and complete, and the service and the broker end and begin again: all
// return, none before its execution ended.
func TestWaitRestarts(t *testing.T) {
	t.Parallel()
	waits := setting(t, "FFSTREAM_CLIENT_WAITS", 300)
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest, Prepared: true})
	server := testenv.NewNATS(t, testenv.NATSConfig{})
	s := newService(t, db.URL, db.Name, server.URL())
	defer s.nc.Close()
	defer s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	w, err := client.OpenWaiter(ctx, s.js, s.config(), reader.New(db.Pool))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var running, writers sync.WaitGroup
	var ended atomic.Int64
	m := &moments{completed: map[ffstream.ExecutionID]time.Time{}, stored: map[ffstream.ExecutionID]time.Time{}, returned: map[ffstream.ExecutionID]time.Time{}}
	begun := make(chan engine.Exec, waits)
	for n := range waits {
		x, id := newExecution(n % 256)
		running.Go(func() {
			o, err := w.Wait(ctx, id)
			if err != nil || o.State != ffstream.StateCompleted || string(o.Result.V) != "42" {
				t.Errorf("%s: %+v: %v", id, o, err)
			}
			m.note(m.returned, id)
		})
		begun <- x
	}
	close(begun)
	for range 4 {
		writers.Go(func() {
			complete(ctx, t, db, begun, func(id ffstream.ExecutionID) { m.note(m.completed, id); ended.Add(1) })
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	var outages []outage
	for part := 1; part <= 3; part++ {
		for ended.Load() < int64(part*waits/4) && ctx.Err() == nil {
			<-tick.C
		}
		down := time.Now()
		s.stop()
		server.Stop()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		s.start()
		outages = append(outages, outage{down, time.Now()})
	}
	writers.Wait()
	running.Wait()
	var away []time.Duration
	for _, o := range outages {
		away = append(away, o.to.Sub(o.from).Round(time.Millisecond))
	}
	m.read(ctx, t, s)
	late, rest := m.late(outages)
	t.Logf("%d of %d waits returned, %s of the completion\n"+
		"service and broker were away for %s; without that, %s\n"+
		"the stream had it, %s of the completion; of that the waits returned %s", len(late), waits, quantiles(late), away, quantiles(rest),
		quantiles(between(m.completed, m.stored)), quantiles(between(m.stored, m.returned)))
}

// complete plays executions to their end.
func complete(ctx context.Context, t *testing.T, db *testenv.Database, begun <-chan engine.Exec, ended func(ffstream.ExecutionID)) {
	e := &engine.Engine{Version: engine.Newest}
	for x := range begun {
		for _, op := range []func(tx pgx.Tx) error{
			func(tx pgx.Tx) error { return create(ctx, e, tx, x) },
			func(tx pgx.Tx) error { return e.Claim(ctx, tx, x) },
			func(tx pgx.Tx) error { return e.Complete(ctx, tx, x, []byte("42")) },
		} {
			if err := pgx.BeginFunc(ctx, db.Pool, op); err != nil {
				t.Error(err)
			}
		}
		ended(ffstream.NewExecutionID(uint16(x.Partition), x.ID))
	}
}
