package project_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/project"
	"github.com/ffstream/ffstream/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run)) }

// desk is a stream that the test writes and a bucket that projectors keep.
type desk struct {
	t      *testing.T
	js     jetstream.JetStream
	name   string
	ids    []ffstream.ExecutionID
	want   map[ffstream.ExecutionID]ffstream.PublicState // as told last
	commit ffstream.LSN
	keep   time.Duration // of deletions
	log    slog.Handler
}

func newDesk(t *testing.T, executions int) *desk {
	t.Helper()
	d := &desk{t: t, name: "p" + uuid.NewString()[:8], want: map[ffstream.ExecutionID]ffstream.PublicState{}, log: slog.DiscardHandler}
	for i := range executions {
		d.ids = append(d.ids, ffstream.NewExecutionID(uint16(i%5), uuid.New()))
	}
	var err error
	if d.js, err = jetstream.New(connect(t)); err != nil {
		t.Fatal(err)
	}
	d.create()
	t.Cleanup(func() {
		_ = d.js.DeleteStream(context.Background(), d.name)
		_ = d.js.DeleteKeyValue(context.Background(), d.bucket())
	})
	return d
}

func connect(t *testing.T) *nats.Conn {
	t.Helper()
	return testenv.Connect(t, testenv.NATSURL(t))
}

func (d *desk) bucket() string { return d.name + "_states" }

func (d *desk) create() {
	d.t.Helper()
	if _, err := d.js.CreateStream(d.t.Context(), jetstream.StreamConfig{Name: d.name, Subjects: []string{d.name + ".>"}}); err != nil {
		d.t.Fatal(err)
	}
}

// publish stores one event.
func (d *desk) publish(e ffstream.Event) {
	d.t.Helper()
	d.commit += 8
	e.ID.Position.Commit, e.Source = d.commit, "/ffstream/test"
	if _, err := d.js.Publish(d.t.Context(), e.Subject(d.name), e.AppendJSON(nil)); err != nil {
		d.t.Fatal(err)
	}
	switch e.Type {
	case ffstream.TypeTruncated:
		clear(d.want)
	case ffstream.TypeTransitioned, ffstream.TypeSnapshotted:
		if d.want[e.ExecutionID] = e.To; e.To == ffstream.StatePurged {
			delete(d.want, e.ExecutionID)
		}
	}
}

// some stores n events at random.
func (d *desk) some(rng *rand.Rand, n int) {
	d.t.Helper()
	states := append(ffstream.PublicStates(), ffstream.StatePurged)
	for range n {
		e := ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: d.ids[rng.IntN(len(d.ids))], To: states[rng.IntN(len(states))]}
		switch rng.IntN(40) {
		case 0:
			e.Type, e.Snapshot = ffstream.TypeSnapshotted, &ffstream.Snapshot{Run: "r"}
		case 1:
			e = ffstream.Event{Type: ffstream.TypeBackfill, Backfill: &ffstream.Backfill{Run: "r", Status: ffstream.BackfillRunning}}
		case 2:
			if rng.IntN(3) == 0 {
				e = ffstream.Event{Type: ffstream.TypeTruncated}
			}
		}
		d.publish(e)
	}
}

// projector runs one until the returned function is called.
func (d *desk) projector() (*project.Projector, func()) {
	d.t.Helper()
	return d.projectorOver(connect(d.t))
}

func (d *desk) projectorOver(nc *nats.Conn) (*project.Projector, func()) {
	d.t.Helper()
	p, err := project.New(nc, project.Config{
		Stream: d.name, Prefix: d.name, Bucket: d.bucket(), Active: func() bool { return true }, KeepDeletions: d.keep, Log: slog.New(d.log),
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	return p, func() { cancel(); wg.Wait() }
}

// settled waits until the bucket has the stream's end, and compares.
func (d *desk) settled(p *project.Projector) {
	d.t.Helper()
	ctx := d.t.Context()
	stream, err := d.js.Stream(ctx, d.name)
	if err != nil {
		d.t.Fatal(err)
	}
	last := stream.CachedInfo().State.LastSeq
	deadline := time.After(time.Minute)
	for tick := time.NewTicker(5 * time.Millisecond); ; {
		if s := p.Status(); s.Sequence >= last && !s.Building {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			d.t.Fatalf("%+v, and the stream ends with %d", p.Status(), last)
		}
	}
	got := d.values()
	for id, state := range d.want {
		if got[id].State != state {
			d.t.Errorf("%s is %q in the bucket and was told to be %q", id, got[id].State, state)
		}
	}
	if len(got) != len(d.want) {
		d.t.Errorf("%d values, want %d", len(got), len(d.want))
	}
}

func (d *desk) values() map[ffstream.ExecutionID]ffstream.CurrentState {
	d.t.Helper()
	values := map[ffstream.ExecutionID]ffstream.CurrentState{}
	d.each("KV_"+d.bucket(), func(m jetstream.Msg) {
		key := strings.TrimPrefix(m.Subject(), "$KV."+d.bucket()+".")
		if strings.HasPrefix(key, "_") {
			return
		}
		id, err := ffstream.ParseStateKey(key)
		if err != nil {
			d.t.Fatal(err)
		}
		if m.Headers().Get("KV-Operation") != "" {
			delete(values, id)
			return
		}
		var s ffstream.CurrentState
		if err := json.Unmarshal(m.Data(), &s); err != nil {
			d.t.Fatal(err)
		}
		if s.ExecutionID != id {
			d.t.Errorf("%s stands under %s", s.ExecutionID, key)
		}
		values[id] = s
	})
	return values
}

// forwards watches the bucket until the test ends: no value is ever followed by
// one of an earlier event, unless it is built anew.
func (d *desk) forwards(stop <-chan struct{}) {
	kv, err := d.js.KeyValue(d.t.Context(), d.bucket())
	if err != nil {
		d.t.Error(err)
		return
	}
	watcher, err := kv.Watch(d.t.Context(), "*.*", jetstream.UpdatesOnly())
	if err != nil {
		d.t.Error(err)
		return
	}
	defer func() { _ = watcher.Stop() }()
	latest := map[string]uint64{}
	for {
		select {
		case <-stop:
			return
		case entry := <-watcher.Updates():
			if entry == nil || entry.Operation() != jetstream.KeyValuePut {
				continue
			}
			var s ffstream.CurrentState
			if err := json.Unmarshal(entry.Value(), &s); err != nil {
				d.t.Error(err)
			}
			if s.Sequence < latest[entry.Key()] {
				d.t.Errorf("%s went back from event %d to %d", entry.Key(), latest[entry.Key()], s.Sequence)
			}
			latest[entry.Key()] = s.Sequence
		}
	}
}

// TestCrashes: over any number of projectors that end at any moment, two at once too, the
// bucket ends as the stream does, and never goes back; also while what is deleted is
// removed as soon as it may be.
func TestCrashes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			d, rng := newDesk(t, 60), rand.New(rand.NewPCG(seed, 1))
			if seed%2 == 1 {
				d.keep = 50 * time.Millisecond
			}
			d.log = steady{slog.DiscardHandler, t}
			d.some(rng, 200)
			p, end := d.projector()
			d.settled(p)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() { d.forwards(stop) })
			for range 6 {
				d.some(rng, 150)
				_, endSecond := d.projector()
				d.some(rng, 50)
				end()
				d.some(rng, rng.IntN(300))
				endSecond()
				p, end = d.projector()
			}
			d.some(rng, 100)
			d.settled(p)
			close(stop)
			wg.Wait()
			end()
		})
	}
}

// TestCrashAtTruncate: a projector that ends while it takes in a TRUNCATE leaves
// the rest of it to the next.
func TestCrashAtTruncate(t *testing.T) {
	t.Parallel()
	d := newDesk(t, 1200) // several batches
	for _, id := range d.ids {
		d.publish(ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: id, To: ffstream.StateActive})
	}
	p, end := d.projector()
	d.settled(p)
	end()
	kv, err := d.js.KeyValue(t.Context(), d.bucket())
	if err != nil {
		t.Fatal(err)
	}
	watcher, err := kv.WatchAll(t.Context(), jetstream.UpdatesOnly())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = watcher.Stop() }()
	d.publish(ffstream.Event{Type: ffstream.TypeTruncated})
	nc := connect(t)
	_, end = d.projectorOver(nc)
	for entry := range watcher.Updates() {
		if entry != nil { // the first that it stores is the last that it lives to see
			break
		}
	}
	nc.Close()
	end()
	p, end = d.projector()
	defer end()
	d.settled(p)
}

// TestRebuilt: a bucket that is deleted, written into, or behind what the stream
// still has, is built anew, and one of another stream is left alone.
func TestRebuilt(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d, rng := newDesk(t, 30), rand.New(rand.NewPCG(1, 1))
	d.some(rng, 300)
	p, end := d.projector()
	d.settled(p)
	if err := d.js.DeleteKeyValue(ctx, d.bucket()); err != nil { // while nothing happens
		t.Fatal(err)
	}
	for _, err := d.js.KeyValue(ctx, d.bucket()); err != nil; _, err = d.js.KeyValue(ctx, d.bucket()) {
		select {
		case <-ctx.Done():
			t.Fatal("the bucket is not made again")
		case <-time.After(10 * time.Millisecond):
		}
	}
	d.some(rng, 100)
	d.settled(p)

	kv, err := d.js.KeyValue(ctx, d.bucket())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Put(ctx, "7.somebody", []byte("else")); err != nil {
		t.Fatal(err)
	}
	d.some(rng, 100)
	d.settled(p)
	end()

	// What left the stream unseen takes all with it: nothing tells what is true.
	d.some(rng, 100)
	stream, err := d.js.Stream(ctx, d.name)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	clear(d.want)
	d.some(rng, 50)
	p, end = d.projector()
	d.settled(p)
	end()

	if err := d.js.DeleteStream(ctx, d.name); err != nil { // another of the same name
		t.Fatal(err)
	}
	d.create()
	clear(d.want)
	d.some(rng, 20)
	p, end = d.projector()
	d.settled(p)
	end()

	if err := d.js.DeleteKeyValue(ctx, d.bucket()); err != nil {
		t.Fatal(err)
	}
	if _, err := d.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: d.bucket()}); err != nil {
		t.Fatal(err)
	}
	p, end = d.projector()
	defer end()
	for p.Status().Error == "" {
		select {
		case <-ctx.Done():
			t.Fatal("a foreign bucket is no error")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if p.Status().Written != 0 {
		t.Error("a foreign bucket was written")
	}
}

// TestAnotherStream: a stream of the same name that is longer than the bucket knows
// is told by its event at the bucket's end, or, where that has aged out, by when it
// was made.
func TestAnotherStream(t *testing.T) {
	t.Parallel()
	for _, aged := range []bool{false, true} {
		t.Run(fmt.Sprintf("aged=%t", aged), func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, 10)
			tell := func(state ffstream.PublicState, ids []ffstream.ExecutionID) {
				for _, id := range ids {
					d.publish(ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: id, To: state})
				}
			}
			tell(ffstream.StateActive, d.ids)
			p, end := d.projector()
			d.settled(p)
			end()
			if err := d.js.DeleteStream(t.Context(), d.name); err != nil {
				t.Fatal(err)
			}
			d.create()
			clear(d.want)
			tell(ffstream.StateWaiting, d.ids)
			if aged {
				stream, err := d.js.Stream(t.Context(), d.name)
				if err != nil {
					t.Fatal(err)
				}
				if err := stream.Purge(t.Context()); err != nil {
					t.Fatal(err)
				}
				clear(d.want)
			}
			tell(ffstream.StateCompleted, d.ids[:5])
			p, end = d.projector()
			defer end()
			d.settled(p)
		})
	}
}

// TestMarked: a projector that ended between the mark that the bucket is built anew
// and the removal of what stood there leaves the removal to the next, and that asks
// nobody but the leader, since another replica may not know the mark.
func TestMarked(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	d := newDesk(t, 10)
	tell := func(ids []ffstream.ExecutionID) {
		for _, id := range ids {
			d.publish(ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: id, To: ffstream.StateActive})
		}
	}
	tell(d.ids)
	p, end := d.projector()
	d.settled(p)
	end()
	stream, err := d.js.Stream(ctx, d.name)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(ctx); err != nil { // five of them are told no more
		t.Fatal(err)
	}
	clear(d.want)
	tell(d.ids[:5])
	nc := connect(t)
	mark := nats.NewMsg("$KV." + d.bucket() + "." + ffstream.StateBuilding)
	mark.Data = []byte(`{}`)
	mark.Header.Set(ffstream.HeaderSequence, "10")
	mark.Header.Set("Ffstream-Stream-Created", stream.CachedInfo().Created.UTC().Format(time.RFC3339Nano))
	if _, err := d.js.PublishMsg(ctx, mark); err != nil {
		t.Fatal(err)
	}
	anybody, err := nc.SubscribeSync("$JS.API.DIRECT.GET.KV_" + d.bucket() + ".>")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	p, end = d.projector()
	defer end()
	d.settled(p)
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := anybody.Pending(); n > 0 || err != nil {
		t.Errorf("%d reads that any replica may answer, %v", n, err)
	}
}

// TestQuietStream: messages that tell of no execution are taken in too, so a
// bucket whose stream has aged out behind them is not built anew.
func TestQuietStream(t *testing.T) {
	t.Parallel()
	d := newDesk(t, 1)
	d.publish(ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: d.ids[0], To: ffstream.StateActive})
	d.publish(ffstream.Event{Type: ffstream.TypeBackfill, Backfill: &ffstream.Backfill{Run: "r"}})
	p, end := d.projector()
	d.settled(p)
	end()
	stream, err := d.js.Stream(t.Context(), d.name)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil { // as if all had aged out
		t.Fatal(err)
	}
	p, end = d.projector()
	defer end()
	d.settled(p)
}

// TestInactive: a process that does not hold the slot writes nothing.
func TestInactive(t *testing.T) {
	t.Parallel()
	d := newDesk(t, 1)
	var asked atomic.Int32
	p, err := project.New(connect(t), project.Config{Stream: d.name, Prefix: d.name, Bucket: d.bucket(), Active: func() bool { asked.Add(1); return false }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go p.Run(ctx)
	for asked.Load() < 3 {
		select {
		case <-t.Context().Done():
			t.Fatal("nobody asks")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if _, err := d.js.KeyValue(t.Context(), d.bucket()); err == nil {
		t.Error("it made the bucket")
	}
}
