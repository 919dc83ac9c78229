package e2e

import (
	"context"
	"net"
	"net/url"
	"strings"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
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
func (p *proxy) add(fault string) {
	p.t.Helper()
	if _, err := p.Toxics.AddToxicJson(strings.NewReader(fault)); err != nil {
		p.t.Fatal(err)
	}
}

// silence lets nothing through in either direction, and closes nothing.
func (p *proxy) silence() {
	p.add(`{"name": "up", "type": "timeout", "stream": "upstream", "attributes": {"timeout": 0}}`)
	p.add(`{"name": "down", "type": "timeout", "stream": "downstream", "attributes": {"timeout": 0}}`)
}

// heal ends all faults. Connections that a fault held are closed.
func (p *proxy) heal() { p.Toxics.ResetToxics(context.Background()) }
