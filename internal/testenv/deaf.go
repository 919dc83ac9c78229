package testenv

import (
	"bytes"
	"context"
	"net"
	"sync/atomic"
)

// Deaf is a connection on which the first request for messages gets lost: who sent it
// waits for them, and no server knows.
type Deaf struct {
	net.Conn
	lost atomic.Bool
}

// Lost reports whether it has been lost.
func (d *Deaf) Lost() bool { return d.lost.Load() }

// Dial makes the connection, once.
func (d *Deaf) Dial(network, address string) (net.Conn, error) {
	var err error
	d.Conn, err = new(net.Dialer).DialContext(context.Background(), network, address)
	return d, err
}

// Write writes all but that request.
func (d *Deaf) Write(b []byte) (int, error) {
	from := bytes.Index(b, []byte("PUB $JS.API.CONSUMER.MSG.NEXT."))
	if from < 0 || d.lost.Load() {
		return d.Conn.Write(b)
	}
	end := from // behind two lines: the request and what it holds
	for range 2 {
		end += bytes.IndexByte(b[end:], '\n') + 1
	}
	if _, err := d.Conn.Write(append(bytes.Clone(b[:from]), b[end:]...)); err != nil {
		return 0, err
	}
	d.lost.Store(true)
	return len(b), nil
}
