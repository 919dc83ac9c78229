package e2e

import (
	"context"
	"net"
	"strconv"
	"strings"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
)

// beside runs f while the address of the database leads to a hot standby, as it may
// during a failover. The service has to wait and to say so once, and resume has to
// accept nothing.
func (a *arena) beside(f func()) {
	a.t.Helper()
	standby, err := a.pg.Standby(context.Background())
	a.must(err)
	defer func() { a.must(standby.Close()) }()
	a.lead(standby.Port)
	const said = "server is in recovery"
	await(a.t, "the service to meet the standby", func() (bool, string) {
		select {
		case <-a.service.done:
			a.t.Fatalf("the service ended: %s", a.service.output())
		default:
		}
		return strings.Contains(a.service.output(), said), a.service.output()
	})
	f()
	p, code := asks(a.t, a.env, "resume", "--accept-gap")
	if code != 1 || !strings.Contains(p.output(), said) {
		a.t.Errorf("resume on a standby: exit code %d: %s", code, p.output())
	}
	a.lead(a.pg.Port)
	if n := strings.Count(a.service.output(), said); n != 1 {
		a.t.Errorf("the standby was named %d times: %s", n, a.service.output())
	}
}

// lead lets the proxy in front of Postgres lead to another port.
func (a *arena) lead(port int) {
	a.t.Helper()
	a.must(a.source.Update(&toxiproxy.Proxy{Listen: a.source.Listen, Upstream: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Enabled: true}))
}
