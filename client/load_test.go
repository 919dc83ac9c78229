package client_test

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strconv"
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
	mu     sync.Mutex
	last   map[ffstream.ExecutionID]uint64 // handled in this run
	top    map[ffstream.ExecutionID]uint64 // handled in any
	seen   []bool                          // by sequence
	count  int
	again  int
	wrong  int
	middle uint64 // bytes of heap when a fifth was handled
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
	if r.count++; r.count == len(r.seen)/5 {
		r.middle = heap()
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
	after := heap()
	t.Logf("%d events in %s, %s CPU with the server, %d again; heap %d KiB at a fifth, %d KiB at the end",
		events, time.Since(began).Round(time.Millisecond), (cpu() - before).Round(time.Millisecond), r.again, r.middle>>10, after>>10)
	if after > r.middle+64<<20 {
		t.Errorf("heap grew from %d to %d bytes", r.middle, after)
	}
}

// runUntil runs until so many events are handled, and then ends as a crash does:
// the server hears nothing of what is in hand.
func runUntil(t *testing.T, f *feed, r *tally, count int, crash bool) {
	t.Helper()
	nc, err := nats.Connect(f.js.Conn().ConnectedUrl())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
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

// TestWaitRestarts: FFSTREAM_CLIENT_WAITS waits (300) while the executions are
// created and complete, and the service and the broker end and begin again: all
// return, none before its execution ended.
func TestWaitRestarts(t *testing.T) {
	t.Parallel()
	waits := setting(t, "FFSTREAM_CLIENT_WAITS", 300)
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest, Prepared: true})
	server, err := testenv.StartNATS(testenv.NATSConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
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
	var ended, returned atomic.Int64
	begun := make(chan engine.Exec, waits)
	for n := range waits {
		x, id := newExecution(n % 256)
		running.Go(func() {
			o, err := w.Wait(ctx, id)
			if err != nil || o.State != ffstream.StateCompleted || string(o.Result.V) != "42" {
				t.Errorf("%s: %+v: %v", id, o, err)
			}
			returned.Add(1)
		})
		begun <- x
	}
	close(begun)
	for range 4 {
		writers.Go(func() { complete(ctx, t, db, begun, &ended) })
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for part := 1; part <= 3; part++ {
		for ended.Load() < int64(part*waits/4) && ctx.Err() == nil {
			<-tick.C
		}
		s.stop()
		server.Stop()
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		s.start()
	}
	writers.Wait()
	last := time.Now()
	running.Wait()
	t.Logf("%d waits returned, the last %s after the last completion", returned.Load(), time.Since(last).Round(time.Millisecond))
}

// complete plays executions to their end.
func complete(ctx context.Context, t *testing.T, db *testenv.Database, begun <-chan engine.Exec, ended *atomic.Int64) {
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
		ended.Add(1)
	}
}
