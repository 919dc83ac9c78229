package project_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/project"
	"github.com/ffstream/ffstream/internal/testenv"
)

// is publishes that an execution is in a state.
func (d *desk) is(n uint16, state ffstream.PublicState) {
	d.t.Helper()
	d.publish(ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: ffstream.NewExecutionID(n, [16]byte{1}), To: state})
}

// over runs a projector whose first request for messages gets lost, and returns when it is.
func (d *desk) over(link *testenv.Deaf) (*project.Projector, func()) {
	d.t.Helper()
	nc, err := nats.Connect(testenv.NATSURL(d.t), nats.SetCustomDialer(link))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(nc.Close)
	p, stop := d.projectorOver(nc)
	d.await(p, "a request for messages", func(project.Status) bool { return link.Lost() })
	return p, stop
}

// await waits for something that a projector does.
func (d *desk) await(p *project.Projector, what string, done func(s project.Status) bool) {
	d.t.Helper()
	deadline := time.After(time.Minute)
	for !done(p.Status()) {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			d.t.Fatalf("no %s: %+v", what, p.Status())
		}
	}
}

// TestSilence: events do not come, and nobody says so, on a connection that stays. The
// bucket goes on all the same, with the stream or with another of its name.
func TestSilence(t *testing.T) {
	t.Parallel()
	d := newDesk(t, 0)
	d.is(1, ffstream.StateActive)
	d.is(2, ffstream.StateActive)
	p, stop := d.over(&testenv.Deaf{})
	d.settled(p)
	stop()
	p, stop = d.over(&testenv.Deaf{})
	defer stop()
	if err := d.js.DeleteStream(t.Context(), d.name); err != nil {
		t.Fatal(err)
	}
	clear(d.want)
	d.create()
	d.is(3, ffstream.StateActive)
	d.await(p, "other stream", func(s project.Status) bool { return s.Sequence == 1 })
	d.settled(p)
}

// TestStreamDeleted: a projector whose stream is deleted says so, and ends when it is
// told to.
func TestStreamDeleted(t *testing.T) {
	t.Parallel()
	d := newDesk(t, 0)
	d.is(1, ffstream.StateActive)
	p, stop := d.projector()
	d.settled(p)
	if err := d.js.DeleteStream(t.Context(), d.name); err != nil {
		t.Fatal(err)
	}
	d.await(p, "word of it", func(s project.Status) bool { return strings.Contains(s.Error, "stream not found") })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		stop()
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("it does not end")
	}
}
