package client_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/client"
)

// gate keeps back the requests for messages of a process while it is closed, so that the
// test says who has the next message. How many requests wait at a server tells nothing of
// whose they are: a process that was not let run asks again before its own has ended.
type gate struct {
	t  testing.TB
	js jetstream.JetStream // of the process

	mu     sync.Mutex // guards what follows
	closed bool
	kept   *nats.Msg       // the latest request that did not pass
	pass   func(*nats.Msg) // set with kept
}

func newGate(t testing.TB, url string) *gate {
	t.Helper()
	g := &gate{t: t}
	g.js = interposed(t, url, func(m *nats.Msg, pass func(*nats.Msg)) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.closed && strings.Contains(m.Subject, ".CONSUMER.MSG.NEXT.") {
			g.kept, g.pass = m, pass
			return
		}
		pass(m)
	})
	return g
}

// subscriber closes the gate and gives an ephemeral subscriber behind it, to whom nothing
// comes again by itself.
func (g *gate) subscriber(f *feed) *client.Subscriber {
	f.t.Helper()
	g.close()
	return (&feed{t: f.t, js: g.js, stream: f.stream}).subscriber(func(c *client.Config) { c.AckWait = 2 * patience })
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
}

// open passes on what the process still asks for.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = false
	if g.kept != nil {
		g.pass(g.kept)
	}
	g.kept = nil
}

// drop loses what the process has asked for, as a server that forgets it does, and passes
// on what it will ask for.
func (g *gate) drop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed, g.kept = false, nil
}

// one lets the process have one message, of all that it asks for.
func (g *gate) one(ctx context.Context) {
	g.t.Helper()
	for !g.passOne() {
		select {
		case <-ctx.Done():
			g.t.Fatal("nobody asks for messages")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (g *gate) passOne() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.kept == nil {
		return false
	}
	var request map[string]json.RawMessage
	err := json.Unmarshal(g.kept.Data, &request)
	if err != nil {
		g.t.Error(err)
		return true
	}
	request["batch"] = json.RawMessage("1")
	m := &nats.Msg{Subject: g.kept.Subject, Reply: g.kept.Reply, Header: g.kept.Header}
	if m.Data, err = json.Marshal(request); err != nil {
		g.t.Error(err)
	}
	g.pass(m)
	return true
}
