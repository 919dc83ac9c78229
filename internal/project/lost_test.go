package project_test

import (
	"bytes"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/project"
	"github.com/ffstream/ffstream/internal/testenv"
)

// deaf is a connection on which the first request for messages gets lost: who sent it
// waits for them, and no server knows.
type deaf struct {
	net.Conn
	lost atomic.Bool
}

// Dial makes the connection, once.
func (d *deaf) Dial(network, address string) (net.Conn, error) {
	var err error
	d.Conn, err = net.Dial(network, address)
	return d, err
}

func (d *deaf) Write(b []byte) (int, error) {
	from := bytes.Index(b, []byte("PUB $JS.API.CONSUMER.MSG.NEXT."))
	if from < 0 || d.lost.Load() {
		return d.Conn.Write(b)
	}
	end := from // behind two lines: the request and what it holds
	for range 2 {
		end += bytes.IndexByte(b[end:], '\n') + 1
	}
	if _, err := d.Conn.Write(append(bytes.Clone(b[:from]), b[end:]...)); err != nil {
		return 0, err
	}
	d.lost.Store(true)
	return len(b), nil
}

// is publishes that an execution is in a state.
func (d *desk) is(n uint16, state ffstream.PublicState) {
	d.t.Helper()
	d.publish(ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: ffstream.NewExecutionID(n, [16]byte{1}), To: state})
}

// over runs a projector whose first request for messages gets lost, and returns when it is.
func (d *desk) over(link *deaf) (*project.Projector, func()) {
	d.t.Helper()
	nc, err := nats.Connect(testenv.NATSURL(d.t), nats.SetCustomDialer(link))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(nc.Close)
	p, stop := d.projectorOver(nc)
	d.await(p, "a request for messages", func(project.Status) bool { return link.lost.Load() })
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
	p, stop := d.over(&deaf{})
	d.settled(p)
	stop()
	p, stop = d.over(&deaf{})
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
