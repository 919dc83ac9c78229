package client_test

import (
	"context"
	"sync"
	"testing"

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
			server.Stop()
			if err := server.Start(); err != nil {
				t.Fatal(err)
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
