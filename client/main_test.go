package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

func TestMain(m *testing.M) {
	code := testenv.Main(func() int {
		server, err := testenv.StartNATS(testenv.NATSConfig{})
		tb := &mainTB{}
		if err == nil {
			err = errors.Join(prepareExamples(server), prepareDatabase(tb))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		for _, cleanup := range slices.Backward(tb.cleanups) {
			cleanup()
		}
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	})
	if err := testenv.Leaks(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// prepareExamples makes the stream that the examples read.
func prepareExamples(server *testenv.NATS) error {
	nc, err := nats.Connect(server.URL(), nats.Timeout(time.Minute))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		return err
	}
	ctx := context.Background()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: client.DefaultStream, Subjects: []string{"ff.>"}}); err != nil {
		return err
	}
	for i, to := range []ffstream.PublicState{ffstream.StateWaiting, ffstream.StateActive, ffstream.StateCompleted} {
		e := step(1, ffstream.StateActive, to)
		if i == 0 {
			e.LaneID = "bulk"
		}
		e.Type, e.ID = ffstream.TypeTransitioned, ffstream.EventID{System: 7, Position: ffstream.Position{Commit: ffstream.LSN(0x1000 + 0x10*i)}}
		m := &nats.Msg{Subject: e.Subject("ff"), Data: e.AppendJSON(nil), Header: nats.Header{ffstream.HeaderPosition: {e.Position().String()}}}
		if _, err := js.PublishMsg(ctx, m); err != nil {
			return err
		}
	}
	return os.Setenv("FFSTREAM_NATS_URL", server.URL())
}

// prepareDatabase makes the execution that the examples read: it has completed.
func prepareDatabase(tb *mainTB) error {
	ctx := context.Background()
	db := testenv.DB(tb, testenv.Schema{Version: migrations.EngineNewest, Prepared: true})
	e := &engine.Engine{Version: engine.Newest}
	x := engine.Exec{Partition: 86, ID: uuid.MustParse("0190f5c2-0000-7000-8000-000000000001")}
	return errors.Join(os.Setenv("FFSTREAM_DATABASE_URL", db.URL),
		create(ctx, e, db.Pool, x), e.Claim(ctx, db.Pool, x), e.Complete(ctx, db.Pool, x, []byte("42")))
}

// mainTB is the testing.TB of TestMain, for what the examples share.
type mainTB struct {
	testing.TB
	cleanups []func()
}

func (tb *mainTB) Helper()                   {}
func (tb *mainTB) Cleanup(f func())          { tb.cleanups = append(tb.cleanups, f) }
func (tb *mainTB) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (tb *mainTB) Error(args ...any)         { panic(fmt.Sprint(args...)) }
func (tb *mainTB) Errorf(f string, a ...any) { panic(fmt.Sprintf(f, a...)) }

const patience = 4 * time.Minute // with what a test waits for; a green one never takes it

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// feed is a stream of one's own and what was put into it.
type feed struct {
	t      testing.TB
	js     jetstream.JetStream
	stream string
	commit ffstream.LSN
}

var streams atomic.Int64

func newFeed(t testing.TB, url string) *feed {
	t.Helper()
	f := &feed{t: t, js: process(t, url), stream: fmt.Sprintf("c%d", streams.Add(1)), commit: 0x1000}
	if _, err := f.js.CreateStream(testContext(t), jetstream.StreamConfig{Name: f.stream, Subjects: []string{f.stream + ".>"}, AllowDirect: true}); err != nil {
		t.Fatal(err)
	}
	return f
}

// process is a connection of one's own, as another process has.
func process(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// relayed is a process whose connection the test can let vanish: it notices by itself.
func relayed(t testing.TB) (*testenv.Relay, jetstream.JetStream) {
	t.Helper()
	relay := testenv.NewRelay(t, testenv.NATSURL(t))
	nc, err := nats.Connect(relay.URL, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.PingInterval(500*time.Millisecond), nats.MaxPingsOutstanding(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return relay, js
}

func (f *feed) config(change func(*client.Config)) client.Config {
	cfg := client.Config{Stream: f.stream, Prefix: f.stream, From: client.All(), RetryMin: time.Millisecond, RetryMax: 4 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

func (f *feed) subscriber(change func(*client.Config)) *client.Subscriber {
	f.t.Helper()
	s, err := client.New(f.js, f.config(change))
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

// execution is the nth execution of a test.
func execution(n int) ffstream.ExecutionID {
	return ffstream.NewExecutionID(uint16(n%256), uuid.NewSHA1(uuid.Nil, fmt.Append(nil, n)))
}

// transaction stores the events of one transaction.
func (f *feed) transaction(events ...ffstream.Event) {
	f.t.Helper()
	f.commit += 0x10
	for i := range events {
		e := &events[i]
		e.ID = ffstream.EventID{System: 7, Position: ffstream.Position{Commit: f.commit, Index: uint32(i)}}
		e.Source, e.Time, e.Tx.Last = "/ffstream/test", time.Unix(1, 0), i == len(events)-1
		if e.Type == "" {
			e.Type = ffstream.TypeTransitioned
		}
		f.put(e.Subject(f.stream), e.AppendJSON(nil), e.Position().String())
	}
}

func (f *feed) put(subject string, body []byte, position string) {
	f.t.Helper()
	m := &nats.Msg{Subject: subject, Data: body, Header: nats.Header{ffstream.HeaderPosition: {position}}}
	if _, err := f.js.PublishMsgAsync(m); err != nil {
		f.t.Fatal(err)
	}
}

func (f *feed) stored() {
	f.t.Helper()
	select {
	case <-f.js.PublishAsyncComplete():
	case <-testContext(f.t).Done():
		f.t.Fatal("events are not stored")
	}
}

func step(n int, from, to ffstream.PublicState) ffstream.Event {
	return ffstream.Event{ExecutionID: execution(n), LaneID: "default", Namespace: "ns", From: from, To: to}
}
