package testenv

import (
	"context"
	"errors"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Relay stands between a client and a server, and can let the connections that it
// has vanish, as a machine that lost its power or a firewall that forgot them does:
// nothing passes, and nothing is refused or closed. Later connections are none of
// their business.
type Relay struct {
	URL      string // of the server, through the relay
	upstream string
	listener net.Listener
	running  sync.WaitGroup

	mu    sync.Mutex // guards pairs and done
	pairs []*pair
	done  bool
}

// pair is one connection, on both sides of the relay.
type pair struct {
	client, server net.Conn
	frozen         atomic.Bool
}

// NewRelay starts a relay in front of the server that a URL names, until the test ends.
func NewRelay(tb testing.TB, server string) *Relay {
	tb.Helper()
	u, err := url.Parse(server)
	if err != nil {
		tb.Fatal(err)
	}
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &Relay{upstream: u.Host, listener: listener}
	u.Host = listener.Addr().String()
	r.URL = u.String()
	r.running.Go(func() { r.accept(tb.Context()) })
	tb.Cleanup(r.close)
	return r
}

// Freeze lets every present connection vanish.
func (r *Relay) Freeze() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pairs {
		p.frozen.Store(true)
	}
}

func (r *Relay) accept(ctx context.Context) {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := new(net.Dialer).DialContext(ctx, "tcp", r.upstream)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.add(&pair{client: client, server: server})
	}
}

func (r *Relay) add(p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		p.close()
		return
	}
	r.pairs = append(r.pairs, p)
	r.running.Go(func() { p.copy(p.client, p.server) })
	r.running.Go(func() { p.copy(p.server, p.client) })
}

// copy passes on what comes from one side until that or the other is closed.
func (p *pair) copy(from, to net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		switch {
		case p.frozen.Load():
			if err != nil {
				return
			}
			continue
		case n > 0:
			_, failed := to.Write(b[:n])
			err = errors.Join(err, failed)
		}
		if err != nil {
			p.close()
			return
		}
	}
}

func (p *pair) close() {
	_ = p.client.Close()
	_ = p.server.Close()
}

func (r *Relay) close() {
	_ = r.listener.Close()
	r.mu.Lock()
	r.done = true
	for _, p := range r.pairs {
		p.close()
	}
	r.mu.Unlock()
	r.running.Wait()
}
