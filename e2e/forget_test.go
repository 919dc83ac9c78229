package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// forgetful is a NATS server that can be put back to what it held earlier, as a
// power failure does to one that acknowledges before it syncs.
type forgetful struct {
	*testenv.NATSProcess
	w     *world
	saved string
}

func newForgetful(w *world) *forgetful {
	w.t.Helper()
	f := &forgetful{NATSProcess: testenv.Server(w.t), w: w, saved: filepath.Join(w.t.TempDir(), "saved")}
	w.connect(f.URL())
	return f
}

// save keeps a copy of what the server holds.
func (f *forgetful) save() {
	f.w.t.Helper()
	f.Kill()
	f.copy(f.Dir(), f.saved)
	f.start()
}

// forget puts the server back.
func (f *forgetful) forget() {
	f.w.t.Helper()
	f.Kill()
	f.copy(f.saved, f.Dir())
	f.start()
}

func (f *forgetful) copy(from, to string) {
	f.w.t.Helper()
	if err := os.RemoveAll(to); err != nil {
		f.w.t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		f.w.t.Fatal(err)
	}
}

func (f *forgetful) start() {
	f.w.t.Helper()
	if err := f.Start(); err != nil {
		f.w.t.Fatal(err)
	}
}

// holds waits until the stream has n messages.
func (f *forgetful) holds(p *process, n uint64) {
	f.w.t.Helper()
	await(f.w.t, "the stream to hold its messages", func() (bool, string) {
		select {
		case <-p.done:
			f.w.t.Fatalf("the service ended: %s", p.output())
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stream, err := f.w.js.Stream(ctx, f.w.stream)
		if err != nil {
			return false, err.Error() // it is being restarted
		}
		return stream.CachedInfo().State.LastSeq >= n, p.output()
	})
}

// noted waits until the note says that n messages are stored, and the slot has
// been told how far that lets it be confirmed.
func (f *forgetful) noted(p *process, n uint64) {
	f.w.t.Helper()
	await(f.w.t, "the note", func() (bool, string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		bucket, err := f.w.js.KeyValue(ctx, f.w.bucket())
		if err != nil {
			return false, err.Error()
		}
		entry, err := bucket.Get(ctx, "note")
		if err != nil {
			return false, err.Error()
		}
		return strings.Contains(string(entry.Value()), fmt.Sprintf(`"sequence":%d,`, n)), string(entry.Value()) + p.output()
	})
	f.w.statusSent(anySender)
	f.w.statusSent(anySender)
}

// TestBrokerForgets: messages that the broker acknowledged and forgot come again
// from a slot whose confirmation was held back, whether the service noticed the
// loss or was started after it; else the service stops and names the gap.
func TestBrokerForgets(t *testing.T) {
	t.Parallel()
	story := engine.StoriesOf(engine.Newest)[0] // three events
	e := &engine.Engine{Version: engine.Newest}
	begin := func(t *testing.T, args ...string) (*world, *oracle, *forgetful, *process) {
		w := newWorld(t, migrations.EngineNewest)
		o := newOracle(w)
		f := newForgetful(w)
		p := w.run(args...)
		w.play(e, &story, engine.Exec{Partition: 1, ID: uuid.New()})
		f.holds(p, 3)
		f.save()
		f.holds(p, 3)
		w.play(e, &story, engine.Exec{Partition: 2, ID: uuid.New()})
		w.play(e, &story, engine.Exec{Partition: 3, ID: uuid.New()})
		f.holds(p, 9)
		f.noted(p, 9)
		return w, o, f, p
	}
	t.Run("held back", func(t *testing.T) {
		t.Parallel()
		w, o, f, p := begin(t, "--confirm-holdback=1m")
		f.forget()
		f.holds(p, 9)
		o.compare()
		if !strings.Contains(p.output(), "the broker forgot") {
			t.Errorf("nothing was said of it: %s", p.output())
		}
		w.play(e, &story, engine.Exec{Partition: 4, ID: uuid.New()})
		f.holds(p, 12)
		o.compare()
		p.stop()
	})
	t.Run("held back, the service restarted", func(t *testing.T) {
		t.Parallel()
		w, o, f, p := begin(t, "--confirm-holdback=1m")
		p.kill()
		f.forget()
		p = w.run("--confirm-holdback=1m")
		f.holds(p, 9)
		o.compare()
		p.stop()
	})
	t.Run("let go", func(t *testing.T) {
		t.Parallel()
		w, _, f, p := begin(t)
		w.caughtUp(p)
		f.forget()
		if code := p.code(); code != 1 {
			t.Errorf("exit code %d, want 1", code)
		}
		for _, words := range []string{"continuity is lost", "the broker forgot", "ends with message 3", "up to 9", "--confirm-holdback"} {
			if text := lastLines(p.output(), 1); !strings.Contains(text, words) {
				t.Errorf("%q does not say %q", text, words)
			}
		}
	})
}

// TestBrokerForgetsBackfills: snapshots do not come again from the slot. A run whose
// end the broker forgot goes on where the stream says, and the initial order that it
// forgot with the note is placed again, unless the stream says that a run is over.
func TestBrokerForgetsBackfills(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	w.exec(fmt.Sprintf(insertBulk, 300))
	f := newForgetful(w)
	p := w.run("--confirm-holdback=5m")
	w.exec(fmt.Sprintf(insertBulk, 10))
	f.holds(p, 10)
	f.noted(p, 10)
	f.save()
	f.holds(p, 10)
	p.kill()
	restart := func() {
		w.must(w.js.DeleteKeyValue(t.Context(), w.bucket()))
		p = start(t, w.with(map[string]string{"FFSTREAM_BACKFILL": "initial"}), "run", "--confirm-holdback=5m")
		w.awaitActive(p)
	}
	restart()
	if r := w.backfilled(p); r.State != "completed" || r.Published != 310 {
		t.Errorf("the initial backfill whose order was forgotten: %+v", r)
	}
	f.noted(p, w.messages())
	f.Kill() // the stream's files were not synced, and the bucket's were
	stream := filepath.Join("jetstream", "$G", "streams", w.stream)
	f.copy(filepath.Join(f.saved, stream), filepath.Join(f.Dir(), stream))
	f.start()
	await(t, "the snapshots to come again", func() (bool, string) { return w.messages() >= 320, p.output() })
	if r := w.backfilled(p); r.State != "completed" || r.Published != 310 || !strings.Contains(p.output(), "the broker forgot the end of a backfill") {
		t.Errorf("the backfill whose end was forgotten: %+v: %s", r, p.output())
	}
	w.exec(fmt.Sprintf(insertBulk, 10))
	f.holds(p, 331)
	if found := w.differences(0); len(found) > 0 {
		t.Errorf("after all: %v", found)
	}
	p.kill()
	restart()
	if text := w.orders("backfill", "status"); !strings.Contains(text, "No backfill was ever ordered") {
		t.Errorf("after a run that the stream says is over: %s", text)
	}
	p.stop()
}

// TestAgedOut: events that were stored and have aged out of the stream are not
// stored again when Postgres forgets in a crash that they were confirmed.
func TestAgedOut(t *testing.T) {
	t.Parallel()
	a := newArena(t, 1, 1)
	a.env["FFSTREAM_STREAM_MAX_AGE"] = "1s"
	a.startService()
	a.awaitActive(a.service)
	e := &engine.Engine{Version: engine.Newest}
	story := &engine.StoriesOf(engine.Newest)[0]
	state := func() jetstream.StreamState {
		stream, err := a.js.Stream(context.Background(), a.stream)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo().State
	}
	a.play(e, story, engine.Exec{Partition: 1, ID: uuid.New()})
	a.caughtUp(a.service)
	await(t, "the stream to forget its messages", func() (bool, string) { s := state(); return s.Msgs == 0 && s.LastSeq == 3, "" })
	if err := a.pg.Stop("immediate"); err != nil {
		t.Fatal(err)
	}
	if err := a.pg.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	a.db.Pool.Reset()
	a.awaitActive(a.service)
	a.play(e, story, engine.Exec{Partition: 2, ID: uuid.New()})
	a.caughtUp(a.service)
	if last := state().LastSeq; last != 6 {
		t.Errorf("%d messages were stored, want 6", last)
	}
	await(t, "the stream to forget its messages", func() (bool, string) { return state().Msgs == 0, "" })
	for _, end := range []func(*process){(*process).kill, (*process).stop} { // a quiet month is no gap
		end(a.service)
		a.startService()
		a.awaitActive(a.service)
	}
	a.play(e, story, engine.Exec{Partition: 3, ID: uuid.New()})
	a.caughtUp(a.service)
	if last := state().LastSeq; last != 9 {
		t.Errorf("%d messages were stored, want 9", last)
	}
	a.service.stop()
}

// TestRestoredDatabase: a database that was put back to an earlier state and has
// gone on since, past the stream's end, is not the one that the stream follows.
func TestRestoredDatabase(t *testing.T) {
	t.Parallel()
	a := newArena(t, 1, 1)
	a.startService()
	a.awaitActive(a.service)
	e := &engine.Engine{Version: engine.Newest}
	story := &engine.StoriesOf(engine.Newest)[0]
	a.play(e, story, engine.Exec{Partition: 1, ID: uuid.New()})
	a.caughtUp(a.service)
	a.service.stop()

	saved := a.pg.Dir() + "-saved"
	t.Cleanup(func() { _ = os.RemoveAll(saved) })
	a.offline(func() { copyDir(t, a.pg.Dir(), saved) })
	a.startService()
	a.awaitActive(a.service)
	a.play(e, story, engine.Exec{Partition: 2, ID: uuid.New()})
	a.caughtUp(a.service)
	a.service.stop()
	a.offline(func() { copyDir(t, saved, a.pg.Dir()) })
	for i := range int16(4) {
		a.play(e, story, engine.Exec{Partition: i, ID: uuid.New(), Tags: map[string]string{"app.longer": "than before"}})
	}
	a.startService()
	if code := a.service.code(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	for _, words := range []string{"continuity is lost", "has no commit there", "--stream"} {
		if text := lastLines(a.service.output(), 1); !strings.Contains(text, words) {
			t.Errorf("%q does not say %q", text, words)
		}
	}
}
