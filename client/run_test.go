package client_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// record checks what handlers are given: the events of an execution in order,
// each again only right after itself.
type record struct {
	mu    sync.Mutex
	last  map[ffstream.ExecutionID]ffstream.Position
	seen  map[ffstream.EventID]bool
	wrong []string
}

func newRecord() *record {
	return &record{last: map[ffstream.ExecutionID]ffstream.Position{}, seen: map[ffstream.EventID]bool{}}
}

func (r *record) handled(m *client.Message) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, ok := r.last[m.ExecutionID]; ok && p.Compare(m.Position()) > 0 {
		r.wrong = append(r.wrong, m.ID.String()+" after "+p.String())
	}
	r.last[m.ExecutionID] = m.Position()
	r.seen[m.ID] = true
	return len(r.seen)
}

// TestOrder: handlers fail, panic and hang, the run ends again and again with
// events in hand, and each execution's events are handled in order, all of them.
func TestOrder(t *testing.T) {
	t.Parallel()
	const executions, steps = 40, 25
	f := newFeed(t, testenv.NATSURL(t))
	for range steps {
		for n := range executions {
			f.transaction(step(n, ffstream.StateWaiting, ffstream.StateActive))
		}
	}
	f.stored()
	ctx := testContext(t)
	r := newRecord()
	for run := 0; len(r.seen) < executions*steps; run++ {
		inner, stop := context.WithCancel(ctx)
		s := f.subscriber(func(c *client.Config) {
			c.Durable, c.AckWait, c.Timeout, c.Drain, c.MaxPending = "d", time.Second, 50*time.Millisecond, 10*time.Millisecond, 100
		})
		started := len(r.seen)
		err := s.Run(inner, func(ctx context.Context, m *client.Message) error {
			switch kind := (m.Sequence*7 + uint64(run)) % 41; {
			case kind == 0 && m.Try < 3:
				return errors.New("not yet")
			case kind == 1 && m.Try < 2:
				panic("no")
			case kind == 2 && m.Try < 2:
				<-ctx.Done()
				return ctx.Err()
			}
			if n := r.handled(m); n >= started+300 || n == executions*steps {
				stop()
			}
			return nil
		})
		stop()
		if err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
	}
	if len(r.wrong) > 0 {
		t.Errorf("%d out of order: %v", len(r.wrong), r.wrong[:min(3, len(r.wrong))])
	}
}

// TestPoison: what no try can handle goes to the hook once and comes no more;
// without a hook the run ends and the event stays.
func TestPoison(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	f.put(f.stream+".exec.1.ns.default.active", []byte("no event"), "")
	f.transaction(step(1, "", ffstream.StateWaiting))
	f.transaction(step(1, ffstream.StateWaiting, ffstream.StateActive))
	f.stored()
	ctx, stop := context.WithCancel(testContext(t))
	handle := func(_ context.Context, m *client.Message) error {
		if m.To == ffstream.StateWaiting {
			return client.ErrPoison
		}
		stop()
		return nil
	}
	if err := f.subscriber(func(c *client.Config) { c.Durable = "d" }).Run(ctx, handle); err == nil || ctx.Err() != nil {
		t.Fatalf("a message that is no event was passed over: %v", err)
	}
	var given []uint64
	s := f.subscriber(func(c *client.Config) {
		c.Durable = "d"
		c.Poison = func(_ context.Context, m *client.Message, _ error) error {
			given = append(given, m.Sequence)
			return nil
		}
	})
	if err := s.Run(ctx, handle); err != nil {
		t.Fatal(err)
	}
	if len(given) != 2 || given[0] != 1 || given[1] != 2 {
		t.Errorf("given to the hook: %v, want 1 and 2", given)
	}
}

// TestUnreturned: a handler that ends its goroutine, and a hook that panics, end
// the run with an error and nothing else: the event stays.
func TestUnreturned(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	f.transaction(step(1, "", ffstream.StateWaiting))
	f.stored()
	ctx := testContext(t)
	poisoned := func(hook func()) *client.Subscriber {
		return f.subscriber(func(c *client.Config) {
			c.Durable = "d"
			c.Poison = func(context.Context, *client.Message, error) error { hook(); return nil }
		})
	}
	poison := func(context.Context, *client.Message) error { return client.ErrPoison }
	var panicked *client.PanicError
	if err := poisoned(func() { panic("no") }).Run(ctx, poison); !errors.As(err, &panicked) {
		t.Errorf("the hook panicked: %v", err)
	}
	if err := poisoned(runtime.Goexit).Run(ctx, poison); err == nil || !strings.Contains(err.Error(), "Goexit") {
		t.Errorf("the hook ended its goroutine: %v", err)
	}
	err := f.subscriber(func(c *client.Config) { c.Durable = "d" }).Run(ctx, func(context.Context, *client.Message) error {
		runtime.Goexit()
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "Goexit") {
		t.Errorf("the handler ended its goroutine: %v", err)
	}
	handleN(ctx, t, f.subscriber(func(c *client.Config) { c.Durable = "d" }), 1)
}

// TestRestartRetry: a run that ends with an event that waits for its next try
// holds up nothing of the next run.
func TestRestartRetry(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	f.transaction(step(0, "", ffstream.StateActive))
	f.stored()
	s := f.subscriber(func(c *client.Config) { c.Durable, c.RetryMin, c.RetryMax, c.Workers = "d", time.Hour, time.Hour, 1 })
	ctx, stop := context.WithCancel(testContext(t))
	err := s.Run(ctx, func(context.Context, *client.Message) error { stop(); return errors.New("not yet") })
	if err != nil {
		t.Fatal(err)
	}
	f.transaction(step(1, "", ffstream.StateActive))
	f.stored()
	handleN(testContext(t), t, s, 2)
}

// TestTransactions: the events of a transaction come together.
func TestTransactions(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	for n := range 50 {
		var tx []ffstream.Event
		for i := range 1 + n%7 {
			tx = append(tx, step(i, "", ffstream.StateActive))
		}
		f.transaction(tx...)
	}
	f.stored()
	ctx, stop := context.WithCancel(testContext(t))
	transactions := 0
	s := f.subscriber(func(c *client.Config) { c.Durable = "d" })
	err := s.RunTransactions(ctx, func(_ context.Context, events []*client.Message) error {
		if want := 1 + transactions%7; len(events) != want || !events[want-1].Tx.Last {
			t.Errorf("transaction %d has %d events, want %d", transactions, len(events), want)
		}
		if events[0].Try == 1 && transactions%5 == 0 {
			return errors.New("not yet")
		}
		if transactions++; transactions == 50 {
			stop()
		}
		return nil
	})
	if err != nil || transactions != 50 {
		t.Errorf("%d transactions: %v", transactions, err)
	}
}

// TestLargeTransaction: what the stream stores atomically comes whole.
func TestLargeTransaction(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	tx := make([]ffstream.Event, 1000)
	for i := range tx {
		tx[i] = step(i, "", ffstream.StateActive)
	}
	f.transaction(tx...)
	f.stored()
	ctx, stop := context.WithCancel(testContext(t))
	err := f.subscriber(nil).RunTransactions(ctx, func(_ context.Context, events []*client.Message) error {
		if len(events) != len(tx) {
			t.Errorf("a transaction of %d comes as %d", len(tx), len(events))
		}
		stop()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestControl: a TRUNCATE is handled after all before it and before all behind.
func TestControl(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	for n := range 20 {
		f.transaction(step(n, "", ffstream.StateActive))
	}
	f.transaction(ffstream.Event{Type: ffstream.TypeTruncated})
	later := ffstream.Event{Type: "ffstream.later.v1", ID: ffstream.EventID{System: 7, Position: ffstream.Position{Commit: f.commit + 1}}}
	f.put(f.stream+".later", later.AppendJSON(nil), later.Position().String())
	for n := range 20 {
		f.transaction(step(n, "", ffstream.StateActive))
	}
	f.stored()
	ctx, stop := context.WithCancel(testContext(t))
	r := newRecord()
	control := 0
	s := f.subscriber(func(c *client.Config) {
		c.Durable = "d"
		c.Control = func(_ context.Context, m *client.Message) error {
			if control++; len(r.seen) != 20 {
				t.Errorf("%s after %d events, want 20", m.Type, len(r.seen))
			}
			return nil
		}
	})
	err := s.Run(ctx, func(_ context.Context, m *client.Message) error {
		if r.handled(m) == 40 {
			stop()
		}
		return nil
	})
	if err != nil || control != 2 {
		t.Errorf("%d control events, want 2: %v", control, err)
	}
}

// TestSnapshots: what a backfill tells goes to its own handler, under the filter,
// in its place among the execution's transitions, and to nobody's else.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	snapshot := func(n int, to ffstream.PublicState) ffstream.Event {
		e := step(n, "", to)
		e.Type, e.Snapshot = ffstream.TypeSnapshotted, &ffstream.Snapshot{Run: "r"}
		return e
	}
	f.transaction(step(1, "", ffstream.StateActive))
	f.transaction(snapshot(1, ffstream.StateActive), snapshot(2, ffstream.StateActive), snapshot(3, ffstream.StateWaiting),
		ffstream.Event{Type: ffstream.TypeBackfill, Backfill: &ffstream.Backfill{Run: "r", Status: ffstream.BackfillCompleted}})
	f.transaction(step(1, ffstream.StateActive, ffstream.StateActive))
	f.stored()
	for _, wanted := range []bool{true, false} {
		ctx, stop := context.WithCancel(testContext(t))
		var mu sync.Mutex
		var got []string
		note := func(kind string) client.Handler {
			return func(_ context.Context, m *client.Message) error {
				mu.Lock()
				defer mu.Unlock()
				who := " other"
				if m.ExecutionID == execution(1) {
					who = " 1"
				}
				got = append(got, kind+who)
				return nil
			}
		}
		s := f.subscriber(func(c *client.Config) {
			c.Filter.States = []ffstream.PublicState{ffstream.StateActive}
			if wanted {
				c.Snapshots = note("snapshot")
			}
		})
		transitions := 0
		err := s.Run(ctx, func(ctx context.Context, m *client.Message) error {
			if transitions++; transitions == 2 {
				defer stop()
			}
			return note("transition")(ctx, m)
		})
		stop()
		of1 := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return !strings.HasSuffix(s, " 1") })
		want := []string{"transition 1", "snapshot 1", "transition 1"}
		all := 4
		if !wanted {
			want, all = []string{"transition 1", "transition 1"}, 2
		}
		if err != nil || !slices.Equal(of1, want) || len(got) > all {
			t.Errorf("wanted %t: %v, %v", wanted, got, err)
		}
	}
}
