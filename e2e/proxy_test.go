package e2e

import (
	"bytes"
	"context"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/toxics"
	"github.com/rs/zerolog"
)

// proxy stands between the program and a server and breaks what passes.
type proxy struct {
	t testing.TB
	*toxiproxy.Proxy
	url string // of the server, through the proxy
}

// through starts a proxy in front of the server that a URL names.
func through(t testing.TB, server string) *proxy {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	control := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	p := &proxy{t: t, Proxy: toxiproxy.NewProxy(control, t.Name(), "127.0.0.1:0", u.Host)}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	if _, _, err := net.SplitHostPort(p.Listen); err != nil {
		t.Fatal(err)
	}
	u.Host = p.Listen
	p.url = u.String()
	return p
}

// add starts a fault, described as toxiproxy's API does.
func (p *proxy) add(fault string) toxics.Toxic {
	p.t.Helper()
	w, err := p.Toxics.AddToxicJson(strings.NewReader(fault))
	if err != nil {
		p.t.Fatal(err)
	}
	return w.Toxic
}

// silence lets nothing through in either direction, and closes nothing.
func (p *proxy) silence() {
	p.add(`{"name": "up", "type": "timeout", "stream": "upstream", "attributes": {"timeout": 0}}`)
	p.add(`{"name": "down", "type": "timeout", "stream": "downstream", "attributes": {"timeout": 0}}`)
}

// heal ends all faults. Connections that a fault held are closed.
func (p *proxy) heal() { p.Toxics.ResetToxics(context.Background()) }

func init() {
	toxics.Register("frozen", new(frozen))
	toxics.Register("halved", new(halved))
}

// freeze lets nothing through from the server on the connections that there are,
// and closes none. New ones pass.
func (p *proxy) freeze() {
	p.add(`{"name": "frozen", "type": "frozen", "stream": "downstream"}`).(*frozen).over.Store(true)
}

// frozen swallows what comes on a connection that was there before.
type frozen struct{ over atomic.Bool }

// NewState tells an old connection from a new one.
func (f *frozen) NewState() any { return !f.over.Load() }

// Pipe is a connection's life.
func (f *frozen) Pipe(stub *toxics.ToxicStub) {
	if stub.State.(bool) {
		new(toxics.TimeoutToxic).Pipe(stub)
	} else {
		new(toxics.NoopToxic).Pipe(stub)
	}
}

// Cleanup closes a connection that missed something.
func (f *frozen) Cleanup(stub *toxics.ToxicStub) {
	if stub.State.(bool) {
		stub.Close()
	}
}

// halve lets an atomic batch begin and swallows the rest of it and all that follows.
// It returns what tells whether it has.
func (p *proxy) halve() func() bool {
	return p.add(`{"name": "halved", "type": "halved", "stream": "upstream"}`).(*halved).begun.Load
}

// halved swallows everything behind the first part of a batch.
type halved struct{ begun atomic.Bool }

// Pipe is a connection's life.
func (h *halved) Pipe(stub *toxics.ToxicStub) {
	for {
		select {
		case <-stub.Interrupt:
			return
		case c := <-stub.Input:
			if c == nil {
				stub.Close()
				return
			}
			if h.begun.Load() {
				continue
			}
			stub.Output <- c
			// Headers are sorted: the mark of a batch's last message is close before its sequence.
			if i := bytes.LastIndex(c.Data, []byte("Nats-Batch-Sequence")); i >= 0 && !bytes.Contains(c.Data[max(0, i-200):], []byte("Nats-Batch-Commit")) {
				h.begun.Store(true)
			}
		}
	}
}

// Cleanup closes a connection that missed something.
func (h *halved) Cleanup(stub *toxics.ToxicStub) { stub.Close() }
