package client_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var prefixes atomic.Int64

// interposed is JetStream for a process whose requests, and not its acknowledgements, come
// to see before the server has them: to pass each on, as it is or changed, or not to.
func interposed(t testing.TB, url string, see func(m *nats.Msg, pass func(*nats.Msg)), opts ...jetstream.JetStreamOpt) jetstream.JetStream {
	t.Helper()
	nc, prefix := process(t, url).Conn(), fmt.Sprintf("interposed%d", prefixes.Add(1))
	pass := func(m *nats.Msg) { _ = nc.PublishMsg(m) } // closed at the end of the test
	_, err := nc.Subscribe(prefix+".>", func(m *nats.Msg) {
		see(&nats.Msg{Subject: "$JS.API" + strings.TrimPrefix(m.Subject, prefix), Reply: m.Reply, Header: m.Header, Data: m.Data}, pass)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushWithContext(testContext(t)); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.NewWithAPIPrefix(process(t, url).Conn(), prefix, append([]jetstream.JetStreamOpt{jetstream.WithDefaultTimeout(time.Minute)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return js
}
