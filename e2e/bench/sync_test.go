package bench

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/testenv"
)

func singleServer(t testing.TB) []*testenv.NATSProcess {
	return []*testenv.NATSProcess{testenv.Server(t)}
}

// asynchronous publishes n messages of an event's size as a program does that has
// a window of them in flight, and gives the rate.
func (k *broker) asynchronous(t testing.TB, n int) float64 {
	t.Helper()
	nc, err := nats.Connect(k.url())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		t.Fatal(err)
	}
	k.stream(t, "plain")
	defer func() {
		if err := k.js.DeleteStream(context.Background(), "plain"); err != nil {
			t.Error(err)
		}
	}()
	body := make([]byte, 900)
	began := time.Now()
	for i := range n {
		if _, err := js.PublishAsync("plain.x", body, jetstream.WithMsgID(fmt.Sprint("id-", i)), jetstream.WithStallWait(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	<-js.PublishAsyncComplete()
	return float64(n) / time.Since(began).Seconds()
}

// TestSync prints how fast events are stored by a server that syncs before it
// answers, beside asynchronous publishing into it.
func TestSync(t *testing.T) {
	gate(t)
	s := newSource(t)
	k := newBroker(t, []*testenv.NATSProcess{testenv.SyncingServer(t)})
	b := s.transitions(setting(t, "FFSTREAM_BENCH_EXECUTIONS", 8000) * 5)
	var plain, ours, ratio []float64
	for range setting(t, "FFSTREAM_BENCH_ROUNDS", 3) {
		p := k.asynchronous(t, 20000)
		o := float64(b.events) / k.ffstream(b).took.Seconds()
		plain, ours, ratio = append(plain, p), append(ours, o), append(ratio, o/p)
	}
	t.Logf("\n| sync_interval: always, R1 | events/s | ratio |\n|---|---:|---:|\n| asynchronous publishing, 4096 in flight | %s | 1 |\n| ffstream | %s | %s |\n",
		spread(plain, "%.0f"), spread(ours, "%.0f"), spread(ratio, "%.1f"))
}
