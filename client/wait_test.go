package client_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// table is where executions are, for the reader of a test: the state changes
// first and the event follows, as with a database.
type table struct {
	mu     sync.Mutex
	states map[ffstream.ExecutionID]ffstream.PublicState
}

func (r *table) set(id ffstream.ExecutionID, s ffstream.PublicState) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states[id] = s
}

func (r *table) SettledState(_ context.Context, id ffstream.ExecutionID) (ffstream.SettledState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ffstream.SettledState{State: r.states[id]}, nil
}

func (r *table) ExecutionResult(_ context.Context, id ffstream.ExecutionID) ([]byte, bool, error) {
	return []byte(id.String()), true, nil
}

// TestWait: waits begin while executions end and the broker restarts; all
// return, and none before its execution ended.
func TestWait(t *testing.T) {
	t.Parallel()
	const waits = 1000
	server, err := testenv.StartNATS(testenv.NATSConfig{})
	if err != nil {
		t.Fatal(err)
	}
	f := newFeed(t, server.URL())
	r := &table{states: map[ffstream.ExecutionID]ffstream.PublicState{}}
	ctx := testContext(t)
	w, err := client.OpenWaiter(ctx, f.js, f.config(nil), r)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	for n := range waits {
		running.Go(func() {
			o, err := w.Wait(ctx, execution(n))
			if now, _ := r.SettledState(ctx, execution(n)); err != nil || o.State != now.State || !o.Result.OK {
				t.Errorf("execution %d: %+v, which is %q: %v", n, o, now.State, err)
			}
		})
		if n == waits/2 {
			f.stored()
			connected := f.js.Conn().StatusChanged(nats.CONNECTED)
			server.Stop()
			if err := server.Start(); err != nil {
				t.Fatal(err)
			}
			select { // until then a message may be written to the socket of the server that was stopped
			case <-connected:
			case <-ctx.Done():
				t.Fatal("the connection does not come back")
			}
		}
		r.set(execution(n), ffstream.StateActive)
		f.transaction(step(n, ffstream.StateWaiting, ffstream.StateActive))
		r.set(execution(n), ffstream.StateCompleted)
		f.transaction(step(n, ffstream.StateActive, ffstream.StateCompleted))
	}
	running.Wait()
	w.Close()
	if _, err := w.Wait(ctx, execution(waits)); err == nil {
		t.Error("a wait on a closed waiter returns without error")
	}
	f.js.Conn().Close()
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

// rerun is a reader of executions that run again since a transaction below 100.
// Of the first it counts the reads, which wait for answer.
type rerun struct {
	*table
	reads  atomic.Int64
	begun  chan struct{}
	answer chan struct{}
}

func (r *rerun) SettledState(_ context.Context, id ffstream.ExecutionID) (ffstream.SettledState, error) {
	r.begun <- struct{}{}
	if id == execution(1) {
		r.reads.Add(1)
		<-r.answer
	}
	return ffstream.SettledState{State: ffstream.StateActive, Saw: ffstream.TxSnapshot{Xmin: 100, Xmax: 100}, End: 0x2000}, nil
}

// TestWaitReplayed: an end from before the state that was read ends no wait, one
// from behind it does, whether it comes before the read has answered or after; and
// a row of another execution that cannot be understood has nobody read again.
func TestWaitReplayed(t *testing.T) {
	t.Parallel()
	for _, early := range []bool{false, true} {
		f := newFeed(t, testenv.NATSURL(t))
		r := &rerun{table: &table{}, begun: make(chan struct{}, 10), answer: make(chan struct{})}
		ctx := testContext(t)
		w, err := client.OpenWaiter(ctx, f.js, f.config(nil), r)
		if err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		wait := func(n int) {
			if o, err := w.Wait(ctx, execution(n)); err != nil || o.State != ffstream.StateFailed {
				t.Errorf("early %t: execution %d has ended as %q: %v", early, n, o.State, err)
			}
		}
		running.Go(func() { wait(1) })
		<-r.begun
		end := func(n int, xid uint32, to ffstream.PublicState) {
			e := step(n, "", to)
			e.Tx.Xid = xid
			f.transaction(e)
		}
		end(1, 50, ffstream.StateCompleted)
		f.transaction(ffstream.Event{Type: ffstream.TypeTruncated, Tx: ffstream.Tx{Xid: 51}})
		snapshot := step(1, "", ffstream.StateExpired)
		snapshot.Type, snapshot.Snapshot = ffstream.TypeSnapshotted, &ffstream.Snapshot{Run: "r"}
		f.transaction(snapshot, ffstream.Event{Type: ffstream.TypeCorrupt, ExecutionID: execution(2), Corrupt: ffstream.Corruption{Column: "c", Literal: "l"}})
		other := make(chan struct{})
		go func() { defer close(other); wait(2) }()
		<-r.begun
		f.commit = 0x2000
		if early {
			end(1, 200, ffstream.StateFailed)
		}
		end(2, 200, ffstream.StateFailed)
		<-other // so the waiter has had all that was stored before
		close(r.answer)
		if !early {
			end(1, 200, ffstream.StateFailed)
		}
		running.Wait()
		if n := r.reads.Load(); n != 2 { // at first, and behind the end
			t.Errorf("early %t: read %d times, want 2", early, n)
		}
		w.Close()
	}
}
