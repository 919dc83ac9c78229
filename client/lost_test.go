package client_test

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// thief takes messages of an ephemeral consumer, as an outage does: the server has
// given them, and nobody has them. Until it has, the run has what the gate lets it have.
type thief struct {
	f        *feed
	gate     *gate
	ctx      context.Context
	stream   jetstream.Stream
	consumer jetstream.Consumer
}

// steal is a thief of what a run behind the gate, which began just now, is to have.
func (g *gate) steal(ctx context.Context, f *feed) *thief {
	f.t.Helper()
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		f.t.Fatal(err)
	}
	h := &thief{f: f, gate: g, ctx: ctx, stream: stream}
	for h.consumer == nil {
		for name := range stream.ConsumerNames(ctx).Name() {
			if h.consumer, err = stream.Consumer(ctx, name); err != nil {
				f.t.Fatal(err)
			}
		}
		<-time.After(10 * time.Millisecond)
	}
	return h
}

// until looks at the consumer until it is as wanted.
func (h *thief) until(want func(*jetstream.ConsumerInfo) bool) {
	h.f.t.Helper()
	for {
		info, err := h.consumer.Info(h.ctx)
		if err != nil {
			h.f.t.Fatal(err)
		}
		if want(info) {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
}

// delivered waits until the server has given out so many.
func (h *thief) delivered(count uint64) {
	h.f.t.Helper()
	h.until(func(i *jetstream.ConsumerInfo) bool { return i.Delivered.Consumer >= count })
}

// give lets the run have one message.
func (h *thief) give() {
	h.f.t.Helper()
	info, err := h.consumer.Info(h.ctx)
	if err != nil {
		h.f.t.Fatal(err)
	}
	h.gate.one(h.ctx)
	h.delivered(info.Delivered.Consumer + 1)
}

// take gives the run a message and takes the one behind it. The run has what comes
// after that.
func (h *thief) take() jetstream.Msg {
	h.f.t.Helper()
	h.give()
	m, err := h.consumer.Next(jetstream.FetchMaxWait(patience))
	if err != nil {
		h.f.t.Fatal(err)
	}
	h.gate.open()
	return m
}

// again has the server give a message again that is not the one that was taken.
func (h *thief) again(taken jetstream.Msg, stream, consumer uint64) {
	h.f.t.Helper()
	meta, err := taken.Metadata()
	if err != nil {
		h.f.t.Fatal(err)
	}
	tokens := strings.Split(taken.Reply(), ".")
	for i := range tokens[:len(tokens)-1] {
		if tokens[i] == strconv.FormatUint(meta.Sequence.Stream, 10) && tokens[i+1] == strconv.FormatUint(meta.Sequence.Consumer, 10) {
			tokens[i], tokens[i+1] = strconv.FormatUint(stream, 10), strconv.FormatUint(consumer, 10)
			if err := h.f.js.Conn().Publish(strings.Join(tokens, "."), []byte("-NAK")); err != nil {
				h.f.t.Fatal(err)
			}
			return
		}
	}
	h.f.t.Fatalf("no sequences in %s", taken.Reply())
}

// TestLostAmongRepeated: an event was lost on its way; what the server gives next is an
// older one again and then a newer one, one right after the other. The lost one is
// handled when it comes again, in its place.
func TestLostAmongRepeated(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	g := newGate(t, testenv.NATSURL(t))
	s := g.subscriber(f)
	release, ended := make(chan struct{}), make(chan error, 1)
	var got []uint64
	go func() {
		ended <- s.Run(ctx, func(_ context.Context, m *client.Message) error {
			if m.Sequence == 1 {
				<-release
			}
			if got = append(got, m.Sequence); m.Sequence == 3 {
				stop()
			}
			return nil
		})
	}()
	event := func() {
		f.transaction(step(1, "", ffstream.StateActive))
		f.stored()
	}
	h := g.steal(ctx, f)
	event()
	event()
	lost := h.take()
	h.again(lost, 1, 1)
	h.delivered(3)
	event()
	h.delivered(4)
	if err := lost.Nak(); err != nil {
		t.Fatal(err)
	}
	h.delivered(5)
	close(release)
	if err := <-ended; err != nil || !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("handled %v: %v", got, err)
	}
}

// TestRemovedInHand: of what is in hand one message leaves the stream, at its head or in
// its midst, and the server waits for it no more. That makes up for nothing that was
// lost on its way: what is behind that, of the same execution, waits.
func TestRemovedInHand(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]uint64{"head": 0, "midst": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFeed(t, testenv.NATSURL(t))
			ctx, stop := context.WithCancel(testContext(t))
			defer stop()
			g := newGate(t, testenv.NATSURL(t))
			s := g.subscriber(f)
			begun, release, second, ended := make(chan struct{}, 3), make(chan struct{}), make(chan uint64, 2), make(chan error, 1)
			go func() {
				ended <- s.Run(ctx, func(_ context.Context, m *client.Message) error {
					if m.ExecutionID == execution(2) {
						second <- m.Sequence
						return nil
					}
					begun <- struct{}{}
					<-release
					return nil
				})
			}()
			h := g.steal(ctx, f)
			for range before {
				f.transaction(step(3, "", ffstream.StateActive))
				f.stored()
				h.give()
				<-begun
			}
			f.transaction(step(1, "", ffstream.StateActive))
			f.transaction(step(2, "", ffstream.StateActive))
			f.stored()
			lost := h.take()
			<-begun
			if err := h.stream.DeleteMsg(ctx, before+1); err != nil {
				t.Fatal(err)
			}
			h.until(func(i *jetstream.ConsumerInfo) bool { return i.NumAckPending == int(before)+1 })
			f.transaction(step(2, "", ffstream.StateActive))
			f.stored()
			h.delivered(before + 3)
			select {
			case seq := <-second:
				t.Errorf("message %d is handled while one of its execution may come", seq)
			case <-time.After(time.Second):
			}
			if err := lost.Nak(); err != nil {
				t.Fatal(err)
			}
			for want := before + 2; want <= before+3 && !t.Failed(); want++ {
				select {
				case seq := <-second:
					if seq != want {
						t.Errorf("message %d is handled, want %d", seq, want)
					}
				case <-ctx.Done():
					t.Errorf("message %d is not handled", want)
				}
			}
			stop()
			close(release)
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
