package client_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestUnpinnedLate: a server that takes its time to give up the pin of a run that ends
// has given it up when the run has ended.
func TestUnpinnedLate(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	f.transaction(step(1, "", ffstream.StateActive))
	f.stored()
	js := interposed(t, testenv.NATSURL(t), func(m *nats.Msg, pass func(*nats.Msg)) {
		if strings.Contains(m.Subject, ".CONSUMER.UNPIN.") {
			time.AfterFunc(3*time.Second, func() { pass(m) })
			return
		}
		pass(m)
	})
	s := (&feed{t: t, js: js, stream: f.stream}).subscriber(func(c *client.Config) { c.Durable, c.Drain = "d", patience })
	handleN(testContext(t), t, s, 1)
	if id := f.durable().PriorityGroups[0].PinnedClientID; id != "" {
		t.Errorf("%s is pinned still", id)
	}
}
