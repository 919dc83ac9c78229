package project_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/project"
)

// steady is the log of projectors that never have to build a bucket anew.
type steady struct {
	slog.Handler
	t *testing.T
}

func (s steady) Enabled(context.Context, slog.Level) bool { return true }

func (s steady) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "anew") || strings.Contains(r.Message, "deletions stay") {
		text := r.Message
		r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
		s.t.Error(text)
	}
	return nil
}

// told is how many messages the bucket has.
func (d *desk) told() uint64 {
	d.t.Helper()
	stream, err := d.js.Stream(d.t.Context(), "KV_"+d.bucket())
	if err != nil {
		d.t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

// looked waits until it is looked for deletions, so many times.
func (d *desk) looked(times int) {
	d.t.Helper()
	sub, err := connect(d.t).SubscribeSync("$JS.API.CONSUMER.DELETE.KV_" + d.bucket() + ".*")
	if err != nil {
		d.t.Fatal(err)
	}
	for range times {
		if _, err := sub.NextMsg(time.Minute); err != nil {
			d.t.Fatal(err)
		}
	}
}

// TestDeletionsRemoved: what says that executions were deleted stays for as long as it is
// to be told, and longer only where the bucket ends with it; the bucket is what it was,
// and the next projector goes on.
func TestDeletionsRemoved(t *testing.T) {
	t.Parallel()
	d := newDesk(t, 600) // more than is removed at a time
	d.log = steady{slog.DiscardHandler, t}
	tell := func(ids []ffstream.ExecutionID, state ffstream.PublicState) {
		for _, id := range ids {
			d.publish(ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: id, To: state})
		}
	}
	removed := func(project.Status) bool { return d.told() <= uint64(len(d.want))+3 } // and two keys, and the end
	tell(d.ids, ffstream.StateCompleted)
	p, stop := d.projector()
	d.settled(p)
	tell(d.ids[:590], ffstream.StatePurged) // the bucket ends with one of them
	d.settled(p)
	if n := d.told(); n < 600 {
		t.Errorf("%d messages are told, want 600: an hour has not passed", n)
	}
	stop()
	d.keep = 50 * time.Millisecond
	p, stop = d.projector()
	d.await(p, "removal", removed)
	d.looked(3) // what was to be removed is
	d.settled(p)
	stop()
	d.keep = 3 * time.Second
	p, stop = d.projector()
	d.settled(p)
	tell(d.ids[580:], ffstream.StateActive) // some again
	d.settled(p)
	tell(d.ids[:300], ffstream.StateActive)
	purged := time.Now() // or later
	tell(d.ids, ffstream.StatePurged)
	d.some(rand.New(rand.NewPCG(1, 1)), 300)
	d.settled(p)
	d.await(p, "removal", removed)
	if after := time.Since(purged); after < d.keep {
		t.Errorf("what was told %s ago is removed", after)
	}
	d.settled(p)
	stop()
	p, stop = d.projector()
	defer stop()
	d.settled(p)
}
