package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestServerDies: of a cluster the server on which a consumer without a name stands
// dies, and stays dead. The stream goes on, and so does the run.
func TestServerDies(t *testing.T) {
	t.Parallel()
	servers := testenv.Cluster(t, 3)
	urls := make([]string, len(servers))
	for i, server := range servers {
		urls[i] = server.URL()
	}
	nc, err := nats.Connect(strings.Join(urls, ","), nats.Timeout(time.Minute), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.RetryOnFailedConnect(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	f := &feed{t: t, js: js, stream: "cluster", commit: 0x1000}
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	insist := func(request func(context.Context) error) {
		t.Helper()
		try := func() error { // there may be no answer
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			return request(ctx)
		}
		for err := try(); err != nil; err = try() {
			select {
			case <-ctx.Done():
				t.Fatal(err)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	var stream jetstream.Stream
	insist(func(ctx context.Context) (err error) {
		stream, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: f.stream, Subjects: []string{f.stream + ".>"}, Replicas: 3})
		return err
	})
	event := func(n int) {
		t.Helper()
		e := step(n, "", ffstream.StateActive)
		e.Type = ffstream.TypeTransitioned
		insist(func(ctx context.Context) error {
			_, err := js.Publish(ctx, e.Subject(f.stream), e.AppendJSON(nil), jetstream.WithMsgID(e.ExecutionID.String()))
			return err
		})
	}
	event(1)
	handled, ended := make(chan uint64, 16), make(chan error, 1)
	s := f.subscriber(nil)
	go func() {
		ended <- s.Run(ctx, func(_ context.Context, m *client.Message) error {
			handled <- m.Sequence
			return nil
		})
	}()
	take := func(want uint64) {
		t.Helper()
		select {
		case seq := <-handled:
			if seq != want {
				t.Errorf("message %d is handled, want %d", seq, want)
			}
		case err := <-ended:
			t.Fatalf("the run ended before message %d: %v", want, err)
		}
	}
	take(1)
	host := ""
	for i := range stream.ListConsumers(ctx).Info() {
		host = i.Cluster.Leader
	}
	for _, server := range servers {
		if server.Name() == host {
			server.Kill()
		}
	}
	event(2)
	take(2)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestMissed: what a stream's limits remove while a consumer is lost is read from the
// database.
func TestMissed(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	waits, watches := newGate(t, testenv.NATSURL(t)), newGate(t, testenv.NATSURL(t))
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	r := &table{states: map[ffstream.ExecutionID]ffstream.PublicState{execution(1): ffstream.StateActive}}
	f.transaction(step(1, "", ffstream.StateActive))
	f.stored()
	waits.close()
	watches.close()
	w, err := client.OpenWaiter(ctx, waits.js, f.config(nil), r)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	waited, told, watched := make(chan error, 1), make(chan client.Change, 8), make(chan struct{})
	go func() {
		_, err := w.Wait(ctx, execution(1))
		waited <- err
	}()
	go func() {
		defer close(watched)
		for c, err := range client.Watch(ctx, watches.js, f.config(nil), r, execution(1)) {
			if err != nil {
				return
			}
			told <- c
			if c.State == ffstream.StateCompleted {
				return // by itself
			}
		}
	}()
	if c := <-told; c.State != ffstream.StateActive {
		t.Fatalf("at first it is told %q", c.State)
	}
	f.forget(ctx)
	r.set(execution(1), ffstream.StateCompleted)
	f.transaction(step(1, ffstream.StateActive, ffstream.StateCompleted))
	f.transaction(step(2, "", ffstream.StateActive))
	f.stored()
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSequence(3)); err != nil {
		t.Fatal(err)
	}
	waits.drop()
	watches.drop()
	if err := <-waited; err != nil {
		t.Error(err)
	}
	<-watched
	select {
	case c := <-told:
		if c.State != ffstream.StateCompleted {
			t.Errorf("it is told %q", c.State)
		}
	default:
		t.Error("nothing more is told")
	}
}

// moved is a durable consumer whose pin is taken from one process.
type moved struct {
	t      *testing.T
	ctx    context.Context
	stream jetstream.Stream
}

// pin is whose the consumer is.
func (m *moved) pin() string {
	m.t.Helper()
	c, err := m.stream.Consumer(m.ctx, "d")
	if err != nil {
		m.t.Fatal(err)
	}
	return c.CachedInfo().PriorityGroups[0].PinnedClientID
}

// away takes the pin from who has it, and returns when somebody has it again. The pin
// goes with a message, which event stores.
func (m *moved) away(event func()) {
	m.t.Helper()
	before := m.pin()
	if err := m.stream.UnpinConsumer(m.ctx, "d", "ffstream"); err != nil {
		m.t.Fatal(err)
	}
	event()
	for now := m.pin(); now == "" || now == before; now = m.pin() {
		select {
		case <-m.ctx.Done():
			m.t.Fatal("nobody has the pin")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestTriesOfPin: the tries of an event go on when the pin was taken from the process
// and came back, whether its handler ran then or it waited for another try.
func TestTriesOfPin(t *testing.T) {
	t.Parallel()
	for name, delay := range map[string]time.Duration{"running": time.Millisecond, "waiting": time.Hour} {
		t.Run(name, func(t *testing.T) {
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
			tries, others := make(chan int, 16), make(chan struct{}, 16)
			s := f.subscriber(func(c *client.Config) { c.Durable, c.RetryMin, c.RetryMax, c.Workers = "d", delay, delay, 1 })
			ended := make(chan error, 1)
			go func() {
				ended <- s.Run(ctx, func(ctx context.Context, m *client.Message) error {
					if m.ExecutionID != execution(1) {
						others <- struct{}{}
						return nil
					}
					if name == "running" {
						if err := stream.UnpinConsumer(ctx, "d", "ffstream"); err != nil {
							t.Error(err)
						}
						<-time.After(1500 * time.Millisecond) // the next request for messages is refused
					}
					tries <- m.Try
					return errors.New("not yet")
				})
			}()
			m := &moved{t, ctx, stream}
			for want := range 3 {
				select {
				case try := <-tries:
					if try != want+1 {
						t.Errorf("try %d, want %d", try, want+1)
					}
				case err := <-ended:
					t.Fatalf("the run ended: %v", err)
				}
				if name == "waiting" {
					other := func() {
						f.transaction(step(2, "", ffstream.StateActive))
						f.stored()
					}
					other()
					<-others // by the same worker, so that the try before it is over
					m.away(other)
					<-others
				}
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPinOfAnother: a process that has lost the pin leaves it to who has it when it
// stops.
func TestPinOfAnother(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	other := &feed{t: t, js: process(t, testenv.NATSURL(t)), stream: f.stream}
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		t.Fatal(err)
	}
	f.transaction(step(1, "", ffstream.StateActive))
	f.stored()
	handled := make(chan *feed, 16) // by whom
	run := func(ctx context.Context, f *feed) chan error {
		ended := make(chan error, 1)
		s := f.subscriber(func(c *client.Config) { c.Durable = "d" })
		go func() {
			ended <- s.Run(ctx, func(context.Context, *client.Message) error { handled <- f; return nil })
		}()
		return ended
	}
	first, stopFirst := context.WithCancel(ctx)
	firstEnded := run(first, f)
	who := <-handled
	secondEnded := run(ctx, other)
	m := &moved{t, ctx, stream}
	for who != other {
		m.away(func() {
			f.transaction(step(1, "", ffstream.StateActive))
			f.stored()
		})
		who = <-handled
	}
	pin := m.pin()
	stopFirst()
	if err := <-firstEnded; err != nil {
		t.Error(err)
	}
	if now := m.pin(); now != pin {
		t.Errorf("the pin of %s is gone: %q has it", pin, now)
	}
	stop()
	if err := <-secondEnded; err != nil {
		t.Error(err)
	}
}

// TestRemade: a durable consumer was deleted and made anew while the connection was
// away: what was acknowledged to the one before is not acknowledged to it.
func TestRemade(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	relay, js := relayed(t)
	s, err := client.New(js, f.config(func(c *client.Config) { c.Durable = "d" }))
	if err != nil {
		t.Fatal(err)
	}
	f.transaction(step(1, "", ffstream.StateActive))
	f.stored()
	ctx := testContext(t)
	err = s.Run(ctx, func(_ context.Context, m *client.Message) error {
		if m.Sequence == 1 {
			f.transaction(step(1, "", ffstream.StateActive))
			return nil
		}
		relay.Freeze()
		c, err := f.js.Consumer(ctx, f.stream, "d")
		if err != nil {
			return err
		}
		cfg := c.CachedInfo().Config
		if err := f.js.DeleteConsumer(ctx, f.stream, "d"); err != nil {
			return err
		}
		_, err = f.js.CreateConsumer(ctx, f.stream, cfg)
		return err
	})
	if !errors.Is(err, client.ErrConsumerGone) {
		t.Errorf("the run ended with %v", err)
	}
	c, err := f.js.Consumer(ctx, f.stream, "d")
	if err != nil {
		t.Fatal(err)
	}
	if floor := c.CachedInfo().AckFloor.Stream; floor != 0 {
		t.Errorf("up to message %d is acknowledged to the new consumer", floor)
	}
}
