package client

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/testenv"
)

// asking is a subscriber with a connection of its own.
func asking(t *testing.T) (context.Context, *Subscriber) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	nc, err := nats.Connect(testenv.NATSURL(t), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return ctx, &Subscriber{js: js, cfg: Config{Stream: "some"}}
}

// TestRumour: that something is gone is believed when it is repeated for long enough,
// on one connection.
func TestRumour(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	type word struct {
		at   time.Duration
		err  error
		on   uint64
		want bool
	}
	stream, disabled := jetstream.ErrStreamNotFound, jetstream.ErrJetStreamNotEnabledForAccount
	for name, c := range map[string]struct {
		open  bool
		words []word
	}{
		"stream":                      {true, []word{{0, stream, 0, false}, {400 * ms, stream, 0, false}, {500 * ms, stream, 0, true}}},
		"another connection":          {true, []word{{0, stream, 0, false}, {500 * ms, stream, 1, false}, {1000 * ms, stream, 1, true}}},
		"disabled at the start":       {false, []word{{0, disabled, 0, false}, {500 * ms, disabled, 0, true}}},
		"disabled later":              {true, []word{{0, disabled, 0, false}, {9900 * ms, disabled, 0, false}, {10_000 * ms, disabled, 0, true}}},
		"a stream while it is closed": {true, []word{{0, stream, 0, false}, {500 * ms, disabled, 0, false}, {1000 * ms, disabled, 0, false}}},
	} {
		var r rumour
		began := time.Now()
		for _, w := range c.words {
			if got := r.believe(w.err, began.Add(w.at), w.on, c.open); got != w.want {
				t.Errorf("%s: after %s believed %t", name, w.at, got)
			}
		}
	}
}

// TestClosing: a server that closes its streams says for a while that JetStream is not
// enabled. A run that was open waits for its end; one that begins is told.
func TestClosing(t *testing.T) {
	t.Parallel()
	for _, open := range []bool{true, false} {
		ctx, s := asking(t)
		var began time.Time
		closing := func() error {
			times := 0
			began = time.Now()
			return s.patient(ctx, open, func(context.Context) error {
				if times++; times > 4 {
					return nil
				}
				return jetstream.ErrJetStreamNotEnabledForAccount
			})
		}
		err := closing()
		for open && err != nil && time.Since(began) >= closeWait { // it was not let run, and is right
			err = closing()
		}
		if open != (err == nil) || !open && !errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			t.Errorf("open before %t: %v", open, err)
		}
	}
}

// TestAskedAgain: what was asked on a connection that broke is asked again on the next,
// and not waited for.
func TestAskedAgain(t *testing.T) {
	t.Parallel()
	ctx, s := asking(t)
	times := 0
	err := s.patient(ctx, true, func(ctx context.Context) error {
		if times++; times > 1 {
			return nil
		}
		if err := s.js.Conn().ForceReconnect(); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	})
	if err != nil || times != 2 {
		t.Errorf("asked %d times: %v", times, err)
	}
}

// TestRefused: a right is missed where it is needed, by whom it was refused.
func TestRefused(t *testing.T) {
	t.Parallel()
	_, s := asking(t)
	for subject, want := range map[string][2]bool{ // asked, consumed
		"$JS.API.STREAM.INFO.some":               {true, false},
		"$JS.domain.API.STREAM.INFO.some":        {true, false},
		"$JS.API.CONSUMER.CREATE.some.a.ff.>":    {true, false},
		"$JS.API.CONSUMER.DURABLE.CREATE.some.a": {true, false},
		"$JS.API.CONSUMER.INFO.some.a":           {true, false},
		"$JS.API.DIRECT.GET.some":                {true, false},
		"$JS.API.STREAM.INFO.something":          {},
		"$JS.API.STREAM.PURGE.some":              {},
		"$JS.API.CONSUMER.DELETE.some.a":         {},
		"$JS.API.CONSUMER.UNPIN.some.a":          {},
		"$JS.API.CONSUMER.MSG.NEXT.some.a":       {false, true},
		"$JS.API.CONSUMER.MSG.NEXT.some.b":       {},
		"$JS.ACK.some.a.1.2.3.4.5":               {false, true},
		"$JS.ACK._.hash.some.a.1.2.3.4.5.x":      {false, true},
		"$JS.ACK.some.b.1.2.3.4.5":               {},
	} {
		text := fmt.Sprintf(`nats: permissions violation: Permissions Violation for Publish to "%s"`, subject)
		if asked, consumed := s.asked(text), s.consumed("a")(text); asked != want[0] || consumed != want[1] {
			t.Errorf("%s: asked %t and consumed %t, want %t", subject, asked, consumed, want)
		}
	}
}
