package client_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// durable is what the server knows of the consumer d.
func (f *feed) durable() *jetstream.ConsumerInfo {
	f.t.Helper()
	c, err := f.js.Consumer(testContext(f.t), f.stream, "d")
	if err != nil {
		f.t.Fatal(err)
	}
	return c.CachedInfo()
}

// acknowledged is durable when the server, which takes acknowledgements in its own
// time, has done with all up to a message.
func (f *feed) acknowledged(seq uint64) *jetstream.ConsumerInfo {
	f.t.Helper()
	tick, ctx := time.NewTicker(10*time.Millisecond), testContext(f.t)
	defer tick.Stop()
	for {
		i := f.durable()
		if i.AckFloor.Stream >= seq {
			return i
		}
		select {
		case <-ctx.Done():
			return i
		case <-tick.C:
		}
	}
}

// TestSlowHandler: a handler that takes twice AckWait, and what waits for its
// turn behind it, is given out once. A process that is not let run sends no signs, and
// gets another chance.
func TestSlowHandler(t *testing.T) {
	t.Parallel()
	const tries = 3
	for try := 1; ; try++ {
		i := slowly(t)
		again := i.NumRedelivered != 0 || i.NumAckPending != 2 || i.Delivered.Consumer != 2
		if again && try == tries {
			t.Errorf("the server redelivers %d, waits for %d and has delivered %d, want 0, 2 and 2", i.NumRedelivered, i.NumAckPending, i.Delivered.Consumer)
		}
		if !again || try == tries {
			return
		}
	}
}

// slowly is what the server says after twice AckWait.
func slowly(t *testing.T) (said *jetstream.ConsumerInfo) {
	t.Helper()
	f := newFeed(t, testenv.NATSURL(t))
	for range 2 {
		f.transaction(step(1, "", ffstream.StateActive))
	}
	f.stored()
	const wait = 4 * time.Second // a loaded machine sends the signs in time
	ctx, stop := context.WithCancel(testContext(t))
	handled := 0
	s := f.subscriber(func(c *client.Config) { c.Durable, c.AckWait = "d", wait })
	err := s.Run(ctx, func(context.Context, *client.Message) error {
		if handled++; handled == 2 {
			stop()
			return nil
		}
		<-time.After(2 * wait)
		said = f.durable()
		return nil
	})
	if err != nil || handled != 2 {
		t.Fatalf("handled %d: %v", handled, err)
	}
	return said
}

// TestDrain: a run that ends lets its handlers finish; one that takes longer than
// Drain has its context cancelled; and what did not return nil, or was not begun, is
// what the next run is given.
func TestDrain(t *testing.T) {
	t.Parallel()
	const events, drain = 6, 3 * time.Second
	f := newFeed(t, testenv.NATSURL(t))
	for n := range events {
		f.transaction(step(n, "", ffstream.StateActive))
	}
	f.stored()
	ctx, stop := context.WithCancel(testContext(t))
	config := func(c *client.Config) { c.Durable, c.Workers, c.Drain = "d", 2, drain }
	var begun sync.WaitGroup
	begun.Add(2)
	var handlers atomic.Int32
	var cancelled atomic.Bool
	err := f.subscriber(config).Run(ctx, func(handler context.Context, m *client.Message) error {
		if handlers.Add(1) > 2 {
			return nil
		}
		begun.Done()
		if m.Sequence == 1 {
			begun.Wait()
			for handlers.Load() <= 2 && f.durable().NumAckPending < events { // until all have come
				<-time.After(10 * time.Millisecond)
			}
			<-time.After(100 * time.Millisecond) // in which a third would begin
			stopped := time.Now()
			stop()
			select {
			case <-handler.Done():
				if time.Since(stopped) < drain { // else the process was not let run
					t.Error("a handler has no time to finish")
				}
			case <-time.After(200 * time.Millisecond):
			}
			return nil
		}
		<-handler.Done()
		cancelled.Store(ctx.Err() != nil)
		return handler.Err()
	})
	if err != nil || !cancelled.Load() || handlers.Load() != 2 {
		t.Errorf("a handler was cancelled %t, %d were called, want 2: %v", cancelled.Load(), handlers.Load(), err)
	}
	if i := f.acknowledged(1); i.AckFloor.Stream != 1 || i.NumAckPending+int(i.NumPending) != events-1 {
		t.Errorf("acknowledged up to %d, %d in hand and %d to come: want 1, and 5 together", i.AckFloor.Stream, i.NumAckPending, i.NumPending)
	}
	got := handleN(testContext(t), t, f.subscriber(func(c *client.Config) { config(c); c.Workers = 1 }), events-1)
	if slices.Sort(got); !slices.Equal(got, []uint64{2, 3, 4, 5, 6}) {
		t.Errorf("the next run is given %v", got)
	}
}

// TestTries: an event that had its tries is given to the hook, once, and no more
// comes of it; before that each try that failed is told. Without the hook the run
// ends, and the event stays.
func TestTries(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	for range 2 {
		f.transaction(step(1, "", ffstream.StateActive))
	}
	f.stored()
	broken := errors.New("broken")
	fails := func(_ context.Context, m *client.Message) error {
		if m.Try == 2 {
			panic(broken)
		}
		return broken
	}
	config := func(c *client.Config) { c.Durable, c.Tries = "d", 4 }
	if err := f.subscriber(config).Run(testContext(t), fails); !errors.Is(err, broken) {
		t.Errorf("an event had its tries, and nobody takes it: %v", err)
	}
	type told struct {
		sequence uint64
		try      int
		after    time.Duration
	}
	var retried, poisoned []told
	panics := 0
	ctx, stop := context.WithCancel(testContext(t))
	err := f.subscriber(func(c *client.Config) {
		config(c)
		c.Retrying = func(m *client.Message, cause error, after time.Duration) {
			var p *client.PanicError
			if errors.As(cause, &p) {
				panics++
			} else if !errors.Is(cause, broken) {
				t.Errorf("told of %v", cause)
			}
			retried = append(retried, told{m.Sequence, m.Try, after})
		}
		c.Poison = func(_ context.Context, m *client.Message, cause error) error {
			if !errors.Is(cause, broken) {
				t.Errorf("given up because of %v", cause)
			}
			if poisoned = append(poisoned, told{m.Sequence, m.Try, 0}); len(poisoned) == 2 {
				stop()
			}
			return nil
		}
	}).Run(ctx, fails)
	const ms = time.Millisecond
	if want := []told{{1, 1, ms}, {1, 2, 2 * ms}, {1, 3, 4 * ms}, {2, 1, ms}, {2, 2, 2 * ms}, {2, 3, 4 * ms}}; err != nil || !slices.Equal(retried, want) || panics != 2 {
		t.Errorf("told of %v, want %v, %d panics: %v", retried, want, panics, err)
	}
	if want := []told{{1, 4, 0}, {2, 4, 0}}; !slices.Equal(poisoned, want) {
		t.Errorf("given up %v, want %v", poisoned, want)
	}
	if i := f.acknowledged(2); i.AckFloor.Stream != 2 || i.NumAckPending != 0 {
		t.Errorf("the server has done with %d and waits for %d, want 2 and 0", i.AckFloor.Stream, i.NumAckPending)
	}
	err = f.subscriber(func(c *client.Config) {
		c.Retrying = func(*client.Message, error, time.Duration) { panic(broken) }
	}).Run(testContext(t), fails)
	var p *client.PanicError
	if !errors.As(err, &p) {
		t.Errorf("the hook panicked: %v", err)
	}
}
