package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// forget removes all consumers of the stream, as a server that restarts does with
// those that are kept in memory.
func (f *feed) forget(ctx context.Context) {
	f.t.Helper()
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		f.t.Fatal(err)
	}
	for name := range stream.ConsumerNames(ctx).Name() {
		if err := stream.DeleteConsumer(ctx, name); err != nil {
			f.t.Fatal(err)
		}
	}
}

// TestForgotten: an ephemeral consumer is lost, again and again, while one handler is
// stuck and five times MaxPending events behind it are handled. Each is handled once,
// wherever reading began and whatever the filter leaves out.
func TestForgotten(t *testing.T) {
	t.Parallel()
	const pending, parts = 8, 3
	for name, from := range map[string]client.Start{"all": client.All(), "time": client.Since(time.Unix(0, 0))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFeed(t, testenv.NATSURL(t))
			f.transaction(step(1, "", ffstream.StateWaiting))
			f.transaction(step(1, "", ffstream.StateActive)) // will be stuck
			fill := func() {
				for n := range 5 * pending {
					f.transaction(step(2+n%5, "", ffstream.StateActive), step(20, "", ffstream.StateWaiting))
				}
				f.stored()
			}
			fill()
			ctx, stop := context.WithCancel(testContext(t))
			defer stop()
			s := f.subscriber(func(c *client.Config) {
				c.From, c.MaxPending, c.Workers, c.Drain = from, pending, 4, 10*time.Millisecond
				c.Filter.States = []ffstream.PublicState{ffstream.StateActive}
			})
			var released atomic.Bool
			handled, ended := make(chan uint64, 10_000), make(chan error, 1)
			go func() {
				ended <- s.Run(ctx, func(ctx context.Context, m *client.Message) error {
					if m.ExecutionID == execution(1) && !released.Load() {
						<-ctx.Done()
						return ctx.Err()
					}
					handled <- m.Sequence
					return nil
				})
			}()
			times := map[uint64]int{}
			take := func(count int) {
				for range count {
					select {
					case seq := <-handled:
						times[seq]++
					case err := <-ended:
						t.Fatal(err)
					}
				}
			}
			for range parts {
				take(5 * pending)
				f.forget(ctx)
				fill()
			}
			take(5 * pending)
			released.Store(true)
			f.forget(ctx)
			take(1)
			fill()
			take(5 * pending)
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if want := 1 + (parts+2)*5*pending; len(times) != want || len(handled) > 0 {
				t.Errorf("%d events are handled, want %d, and %d again", len(times), want, len(handled))
			}
			for seq, n := range times {
				if n != 1 {
					t.Errorf("message %d is handled %d times", seq, n)
				}
			}
		})
	}
}

// TestForgottenTries: the tries of an event go on where they were when the server forgot
// an ephemeral consumer.
func TestForgottenTries(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	f.transaction(step(1, "", ffstream.StateActive))
	f.stored()
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		t.Fatal(err)
	}
	last := 0
	err = f.subscriber(nil).Run(ctx, func(_ context.Context, m *client.Message) error {
		if m.Try != last+1 {
			t.Errorf("try %d follows try %d", m.Try, last)
		}
		if last = m.Try; last == 3 {
			f.forget(ctx)
		}
		for range stream.ConsumerNames(ctx).Name() {
			if last > 3 {
				stop() // it was made anew
			}
		}
		return errors.New("not yet")
	})
	if err != nil || last < 4 {
		t.Errorf("tried %d times: %v", last, err)
	}
}

// TestForgottenInSilence: the server forgets a consumer and does not say so, as where a
// request for messages is on its way while the consumer is deleted. The signs of life
// that every request asks for are missed, and reading goes on.
func TestForgottenInSilence(t *testing.T) {
	t.Parallel()
	for name, ordered := range map[string]bool{"ephemeral": false, "ordered": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, g := newFeed(t, testenv.NATSURL(t)), newGate(t, testenv.NATSURL(t))
			ctx, stop := context.WithCancel(testContext(t))
			defer stop()
			requests, err := f.js.Conn().SubscribeSync("$JS.API.CONSUMER.MSG.NEXT." + f.stream + ".*")
			if err != nil {
				t.Fatal(err)
			}
			event := func() {
				f.transaction(step(1, "", ffstream.StateActive))
				f.stored()
			}
			event()
			handled, ended := make(chan uint64, 2), make(chan error, 1)
			g.close()
			s := (&feed{t: t, js: g.js, stream: f.stream}).subscriber(func(c *client.Config) { c.Ordered = ordered })
			go func() {
				ended <- s.Run(ctx, func(_ context.Context, m *client.Message) error {
					handled <- m.Sequence
					return nil
				})
			}()
			take := func(want uint64) {
				select {
				case seq := <-handled:
					if seq != want {
						t.Errorf("message %d is handled, want %d", seq, want)
					}
				case err := <-ended:
					t.Fatalf("the run ended before message %d: %v", want, err)
				}
			}
			g.one(ctx)
			take(1)
			m, err := requests.NextMsgWithContext(ctx)
			if err != nil {
				t.Fatal(err)
			}
			var request struct {
				Heartbeat time.Duration `json:"idle_heartbeat"`
			}
			if err := json.Unmarshal(m.Data, &request); err != nil {
				t.Fatal(err)
			}
			if request.Heartbeat <= 0 || request.Heartbeat > 2*time.Second {
				t.Errorf("a sign of life every %s is asked for, want one every 2 s at least", request.Heartbeat)
			}
			f.forget(ctx)
			g.drop()
			event()
			take(2)
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUnheardAcks: a server did not hear of an acknowledgement, and then took the pin, as
// a new leader of a consumer does: the acknowledgement is repeated.
func TestUnheardAcks(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	configure := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	configure(`mappings = { "$JS.ACK.>": "lost.>" }`)
	server := testenv.NewNATS(t, testenv.NATSConfig{File: file})
	f := newFeed(t, server.URL())
	lost, err := f.js.Conn().SubscribeSync("lost.>")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	f.transaction(step(1, "", ffstream.StateActive))
	f.stored()
	ended := make(chan error, 1)
	s := f.subscriber(func(c *client.Config) { c.Durable, c.AckWait = "d", 2*patience })
	go func() { ended <- s.Run(ctx, func(context.Context, *client.Message) error { return nil }) }()
	if _, err := lost.NextMsgWithContext(ctx); err != nil {
		t.Fatal(err)
	}
	configure("mappings = {}")
	if err := server.Reload(); err != nil {
		t.Fatal(err)
	}
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		t.Fatal(err)
	}
	m := &moved{t, ctx, stream}
	m.away(func() {
		f.transaction(step(2, "", ffstream.StateActive))
		f.stored()
	})
	for {
		c, err := stream.Consumer(ctx, "d")
		if err != nil {
			t.Fatal(err)
		}
		if c.CachedInfo().AckFloor.Stream == 2 {
			break
		}
		<-time.After(20 * time.Millisecond)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
