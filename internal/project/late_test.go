package project_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestLate: of what a process that was killed has on its way to the broker, nothing is
// stored behind what the next one wrote, though its sequence would fit there.
func TestLate(t *testing.T) {
	t.Parallel()
	d := newDesk(t, 20)
	d.some(rand.New(rand.NewPCG(1, 2)), 20)
	d.remember()
	p, stop := d.projector()
	d.settled(p)
	stop()
	var wrote []*nats.Msg
	d.each("KV_"+d.bucket(), func(m jetstream.Msg) {
		wrote = append(wrote, &nats.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
	})
	const arrived = 3
	if len(wrote) < arrived+3 {
		t.Fatalf("the bucket has %d messages", len(wrote))
	}
	if err := d.js.DeleteKeyValue(t.Context(), d.bucket()); err != nil {
		t.Fatal(err)
	}
	d.remember()
	for _, m := range wrote[:arrived] {
		if _, err := d.js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.js.Publish(t.Context(), wrote[arrived].Subject, nil, jetstream.WithExpectLastSequence(arrived)); err != nil {
		t.Fatal(err)
	}
	for i, m := range wrote[arrived : arrived+3] {
		var refused *jetstream.APIError
		if ack, err := d.js.PublishMsg(t.Context(), m); !errors.As(err, &refused) {
			t.Errorf("message %d of the session before is stored: %+v, %v", arrived+i+1, ack, err)
		}
	}
}
