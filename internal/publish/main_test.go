package publish_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
)

func TestMain(m *testing.M) {
	code := testenv.Main(m.Run)
	if err := testenv.Leaks(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const (
	patience = 4 * time.Minute // with what a test waits for; a green one never takes it
	system   = 7406114242318563021
)

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// connect connects as the service does: what is not on its way fails.
func connect(t testing.TB, url string) *nats.Conn {
	t.Helper()
	return testenv.Connect(t, url, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
}

// bench is a NATS connection and the configuration of a stream of one's own.
type bench struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	cfg publish.Config
}

var streams atomic.Int64

func newBench(t testing.TB, nc *nats.Conn) *bench {
	t.Helper()
	name := fmt.Sprintf("s%d", streams.Add(1))
	// The stream stays until the server goes: one that is removed can take the
	// account's directory with it while another is created.
	return &bench{nc: nc, js: testenv.JetStream(t, nc), cfg: publish.Config{Stream: name, Prefix: name, Replicas: 1, MaxAge: 7 * 24 * time.Hour, SystemID: system, Slot: "ffstream", AckTimeout: patience}}
}

// ownBench is on a server of the test's own.
func ownBench(t testing.TB, cfg testenv.NATSConfig) (*bench, *testenv.NATS) {
	t.Helper()
	server := testenv.NewNATS(t, cfg)
	return newBench(t, connect(t, server.URL())), server
}

func sharedBench(t testing.TB) *bench {
	t.Helper()
	return newBench(t, connect(t, testenv.NATSURL(t)))
}

// promised is the configuration that the contract names.
func (b *bench) promised() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: b.cfg.Stream, Subjects: []string{b.cfg.Prefix + ".>"}, Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy,
		MaxAge: 7 * 24 * time.Hour, Replicas: 1, AllowDirect: true, AllowAtomicPublish: true, Duplicates: 2 * time.Minute,
	}
}

func (b *bench) create(t testing.TB, change func(*jetstream.StreamConfig)) {
	t.Helper()
	cfg := b.promised()
	change(&cfg)
	if _, err := b.js.CreateStream(testContext(t), cfg); err != nil {
		t.Fatal(err)
	}
}

// fatal is what rapid's T and testing's have in common.
type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// answered asks as the service does, which asks again where it had no answer in time.
func answered[T any](f func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	v, err := f(ctx)
	for errors.Is(err, publish.ErrUnavailable) && ctx.Err() == nil {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
		v, err = f(ctx)
	}
	return v, err
}

func (b *bench) open(t fatal) *publish.Stream {
	t.Helper()
	s, err := answered(func(ctx context.Context) (*publish.Stream, error) { return publish.Open(ctx, b.nc, b.cfg, true) })
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func (b *bench) resume(t fatal, s *publish.Stream) *publish.Publisher {
	t.Helper()
	tail, err := answered(s.ReadTail)
	if err != nil {
		t.Fatalf("read tail: %v", err)
	}
	p, err := s.Resume(tail)
	if err != nil {
		t.Fatalf("resume: %v", err)
	}
	return p
}

// publisher opens the stream and resumes at its tail.
func (b *bench) publisher(t testing.TB) *publish.Publisher {
	t.Helper()
	p := b.resume(t, b.open(t))
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// transaction is one with n events, which commits at an LSN.
func transaction(commit ffstream.LSN, n int) []ffstream.Event {
	events := make([]ffstream.Event, n)
	for i := range events {
		events[i] = ffstream.Event{
			ID:     ffstream.EventID{System: system, Position: ffstream.Position{Commit: commit, Index: uint32(i)}},
			Type:   ffstream.TypeTransitioned,
			Source: "/ffstream/ffstream", Time: time.UnixMicro(int64(commit)).UTC(),
			ExecutionID: ffstream.NewExecutionID(uint16(i%256), uuid.UUID{byte(commit), byte(i >> 8), byte(i)}),
			Namespace:   "ns.a", LaneID: "default", To: ffstream.StateActive,
			Tx: ffstream.Tx{Xid: uint32(commit), Last: i == n-1},
		}
	}
	return events
}

// publish adds transactions of the given sizes, which commit at 1, 2 and so on
// behind the events that were there, and returns all.
func add(ctx context.Context, p *publish.Publisher, txs ...[]ffstream.Event) error {
	for _, tx := range txs {
		for i := range tx {
			if err := p.Add(ctx, &tx[i]); err != nil {
				return err
			}
		}
		if err := p.Commit(ctx); err != nil {
			return err
		}
	}
	return nil
}

// store adds transactions and waits until they are stored.
func store(ctx context.Context, p *publish.Publisher, txs ...[]ffstream.Event) error {
	if err := add(ctx, p, txs...); err != nil {
		return err
	}
	return p.Drain(ctx)
}

func mustStore(t testing.TB, p *publish.Publisher, txs ...[]ffstream.Event) {
	t.Helper()
	if err := store(testContext(t), p, txs...); err != nil {
		t.Fatal(err)
	}
}

// sizes makes transactions of the given numbers of events.
func sizes(first ffstream.LSN, counts ...int) (txs [][]ffstream.Event) {
	for i, n := range counts {
		txs = append(txs, transaction(first+ffstream.LSN(i), n))
	}
	return txs
}

func (b *bench) state(t fatal) jetstream.StreamState {
	t.Helper()
	stream, err := b.js.Stream(context.Background(), b.cfg.Stream)
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	return stream.CachedInfo().State
}

// holds checks that the stream is the transactions' events, each once, in order,
// from a sequence on.
func (b *bench) holds(t fatal, first uint64, txs ...[]ffstream.Event) {
	t.Helper()
	var want []ffstream.Event
	for _, tx := range txs {
		want = append(want, tx...)
	}
	if last := b.state(t).LastSeq; last != first+uint64(len(want))-1 {
		t.Fatalf("the stream ends at %d, want %d", last, first+uint64(len(want))-1)
	}
	b.begins(t, first, want)
}

// begins checks that the stream holds the events, each once, in order, from a
// sequence on.
func (b *bench) begins(t fatal, first uint64, want []ffstream.Event) {
	t.Helper()
	if len(want) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	consumer, err := b.js.OrderedConsumer(ctx, b.cfg.Stream, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first})
	if err != nil {
		t.Fatalf("consume: %v", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		t.Fatalf("consume: %v", err)
	}
	defer messages.Stop()
	for i := range want {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if text := differs(m, &want[i], first+uint64(i), b.cfg.Prefix); text != "" {
			t.Fatalf("message %d: %s", i, text)
		}
	}
}

// differs says what of a message is not as the event wants it.
func differs(m jetstream.Msg, want *ffstream.Event, sequence uint64, prefix string) string {
	meta, err := m.Metadata()
	if err != nil || meta.Sequence.Stream != sequence {
		return fmt.Sprintf("sequence %d, want %d (%v)", meta.Sequence.Stream, sequence, err)
	}
	got, err := ffstream.ParseEvent(m.Data())
	if err != nil || !reflect.DeepEqual(got, *want) {
		return fmt.Sprintf("event %s, want %s (%v)", got.ID, want.ID, err)
	}
	h := m.Headers()
	if h.Get(jetstream.MsgIDHeader) != want.ID.String() || h.Get("Ffstream-Position") != want.ID.Position.String() ||
		h.Get("Content-Type") != "application/cloudevents+json" || m.Subject() != want.Subject(prefix) {
		return fmt.Sprintf("%s, headers %v", m.Subject(), h)
	}
	for key := range h {
		if strings.HasPrefix(key, "Nats-Expected") && key != "Nats-Expected-Last-Sequence" && key != "Nats-Expected-Last-Msg-Id" {
			return "header " + key
		}
	}
	return ""
}
