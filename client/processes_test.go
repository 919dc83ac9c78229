package client_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// team is processes of one durable name, two for each of two shares, of which the
// one that is given events is killed now and then.
type team struct {
	t      *testing.T
	feed   *feed
	events int
	every  int // handled by a share between two kills
	kills  int // of a share

	mu      sync.Mutex // guards what follows
	seen    map[uint64]bool
	top     map[ffstream.ExecutionID]uint64
	handled [2]int // by share
	killed  [2]int
	holder  map[ffstream.ExecutionID]uint16 // the share that has it
	wrong   int
}

// process lives until it is killed, which it reports, or ctx ends.
func (m *team) process(ctx context.Context, share uint16) (killed bool) {
	nc, err := nats.Connect(m.feed.js.Conn().ConnectedUrl(), nats.Timeout(time.Minute))
	if err != nil {
		m.t.Error(err)
		return false
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		m.t.Error(err)
		return false
	}
	s, err := client.New(js, m.feed.config(func(c *client.Config) {
		c.Durable, c.AckWait, c.MaxPending, c.Drain = "d", time.Second, 20, time.Second
		c.Share = client.Share{Index: share, Of: 2}
	}))
	if err != nil {
		m.t.Error(err)
		return false
	}
	last := map[ffstream.ExecutionID]uint64{}
	err = s.Run(ctx, func(_ context.Context, e *client.Message) error {
		if e.Try == 1 && e.Sequence%7 == 0 {
			return errors.New("not yet")
		}
		if m.note(e, share, last) {
			nc.Close() // with all in hand, and acknowledgements on their way
		}
		return nil
	})
	if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		m.t.Errorf("share %d: %v", share, err)
		return false
	}
	return err != nil
}

// note takes what a handler was given, and reports whether its process is to die.
func (m *team) note(e *client.Message, share uint16, last map[ffstream.ExecutionID]uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if holder, ok := m.holder[e.ExecutionID]; ok && holder != share || e.Sequence < last[e.ExecutionID] || !m.seen[e.Sequence] && e.Sequence < m.top[e.ExecutionID] {
		m.wrong++
	}
	m.holder[e.ExecutionID], last[e.ExecutionID] = share, e.Sequence
	m.top[e.ExecutionID] = max(m.top[e.ExecutionID], e.Sequence)
	m.seen[e.Sequence] = true
	m.handled[share]++
	if m.killed[share] < m.kills && m.handled[share] >= m.every*(m.killed[share]+1) {
		m.killed[share]++
		return true
	}
	return false
}

func (m *team) done() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.seen) == m.events
}

// TestProcesses: the processes of one durable name die with everything in hand, and
// others go on: each event is handled, those of an execution by one share and in
// order.
func TestProcesses(t *testing.T) {
	t.Parallel()
	const executions, steps = 40, 10
	f := newFeed(t, testenv.NATSURL(t))
	for n := range executions { // many of an execution are in hand together
		for range steps {
			f.transaction(step(n, ffstream.StateWaiting, ffstream.StateActive))
		}
	}
	f.stored()
	m := &team{
		t: t, feed: f, events: executions * steps, every: 60, kills: 2,
		seen: map[uint64]bool{}, top: map[ffstream.ExecutionID]uint64{}, holder: map[ffstream.ExecutionID]uint16{},
	}
	ctx, stop := context.WithCancel(testContext(t))
	defer stop()
	var running sync.WaitGroup
	for share := range uint16(2) {
		for range 2 {
			running.Go(func() {
				for m.process(ctx, share) && ctx.Err() == nil {
					continue // another one is started in its place
				}
			})
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !m.done() && ctx.Err() == nil {
		<-tick.C
	}
	stop()
	running.Wait()
	if len(m.seen) != m.events || m.wrong > 0 || m.killed != [2]int{2, 2} {
		t.Errorf("%d of %d events handled, %d out of order or by another share, killed %v", len(m.seen), m.events, m.wrong, m.killed)
	}
}
