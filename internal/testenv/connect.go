package testenv

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// answer is how long a test waits for one answer of a server: it asks once, and a
// machine with much else to do may take longer than a program would wait.
const answer = time.Minute

// Connect connects to a NATS server until the test ends. It waits for a server that is
// slow, and what the server refuses is refused at once.
func Connect(tb testing.TB, url string, options ...nats.Option) *nats.Conn {
	tb.Helper()
	options = append([]nats.Option{nats.Timeout(answer)}, options...)
	nc, err := nats.Connect(url, options...)
	for began := time.Now(); late(err) && time.Since(began) < answer; {
		nc, err = nats.Connect(url, options...)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(nc.Close)
	return nc
}

// late reports whether a server that waits for two seconds gave a client up that was
// slow. It is a server of the program's own: those of this package wait.
func late(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "authentication timeout")
}

// JetStream is that of a connection. Where a context has no deadline a request waits as
// long as Connect.
func JetStream(tb testing.TB, nc *nats.Conn) jetstream.JetStream {
	tb.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(answer))
	if err != nil {
		tb.Fatal(err)
	}
	return js
}
