package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// cpu is the processor time that this process has used so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// transition is an event with everything in it, as a working engine causes them.
func transition(n int) ffstream.Event {
	e := step(n, ffstream.StateActive, ffstream.StateCompleted)
	e.ExecutionKind, e.FlowID = "task", ffstream.Some(uuid.NewSHA1(uuid.Nil, fmt.Append(nil, "flow", n%100)))
	e.StateVector = ffstream.StateVector{
		LifecyclePhase: ffstream.PhaseTerminal, OwnershipState: ffstream.OwnershipUnowned, EligibilityState: ffstream.EligibilityNotApplicable,
		BlockingReason: ffstream.BlockingNone, TerminalOutcome: ffstream.OutcomeSuccess, AttemptState: ffstream.AttemptStateTerminal, PublicState: e.To,
	}
	e.StoredPublicState = ffstream.StateActive
	e.Attempt = ffstream.Some(ffstream.Attempt{
		WorkerID: ffstream.Some("worker-17"), WorkerInstanceID: ffstream.Some("worker-17-b3f2"), LeaseEpoch: 1,
		StartedAtMs: ffstream.Some[int64](1732320000000), TerminalAtMs: ffstream.Some[int64](1732320001000), Outcome: ffstream.Some("success"),
	})
	e.CreatedAtMs, e.StartedAtMs, e.TerminalAtMs = ffstream.Some[int64](1732319999000), e.Attempt.V.StartedAtMs, e.Attempt.V.TerminalAtMs
	e.Tags = []ffstream.Tag{{Key: "cairn.instance_id", Value: "i-1"}, {Key: "team", Value: "billing"}}
	return e
}

// plainEvent is what a program without ffstream's package would write for an event.
type plainEvent struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Type        string    `json:"type"`
	Subject     string    `json:"subject"`
	Time        time.Time `json:"time"`
	Data        struct {
		ExecutionID         string            `json:"execution_id"`
		Partition           uint16            `json:"partition"`
		FlowID              *string           `json:"flow_id"`
		Namespace           string            `json:"namespace"`
		LaneID              string            `json:"lane_id"`
		ExecutionKind       string            `json:"execution_kind"`
		Priority            int32             `json:"priority"`
		From                *string           `json:"from"`
		To                  string            `json:"to"`
		Terminal            bool              `json:"terminal"`
		StateVector         map[string]string `json:"state_vector"`
		StoredPublicState   *string           `json:"stored_public_state"`
		Consistent          bool              `json:"consistent"`
		CurrentAttemptIndex uint32            `json:"current_attempt_index"`
		Attempt             *struct {
			Index            uint32  `json:"index"`
			WorkerID         *string `json:"worker_id"`
			WorkerInstanceID *string `json:"worker_instance_id"`
			LeaseEpoch       int64   `json:"lease_epoch"`
			LeaseExpiresAtMs *int64  `json:"lease_expires_at_ms"`
			StartedAtMs      *int64  `json:"started_at_ms"`
			TerminalAtMs     *int64  `json:"terminal_at_ms"`
			Outcome          *string `json:"outcome"`
		} `json:"attempt"`
		CreatedAtMs        *int64            `json:"created_at_ms"`
		StartedAtMs        *int64            `json:"started_at_ms"`
		TerminalAtMs       *int64            `json:"terminal_at_ms"`
		BlockingDetail     string            `json:"blocking_detail"`
		CancellationReason *string           `json:"cancellation_reason"`
		CancelledBy        *string           `json:"cancelled_by"`
		Tags               map[string]string `json:"tags"`
		Tx                 struct {
			Xid       uint32 `json:"xid"`
			CommitLSN string `json:"commit_lsn"`
			Index     uint32 `json:"index"`
			Last      bool   `json:"last"`
		} `json:"tx"`
	} `json:"data"`
}

// reading is one way to read all events: it calls one for each and returns when ctx ends.
type reading struct {
	name string
	run  func(ctx context.Context, one func())

	rate, cpu, server, allocations []float64 // of each round
}

// BenchmarkRun compares Run with consumers that a program would write with nats.go
// alone: FFSTREAM_CLIENT_EVENTS events (20000), by each of them in turn in each
// iteration, from a server that is a process of its own. Processor time is that of
// the reading process; the ratios are to those who read in the same iteration.
func BenchmarkRun(b *testing.B) {
	events := setting(b, "FFSTREAM_CLIENT_EVENTS", 20000)
	server := testenv.Server(b)
	ready(b, server.URL())
	f := newFeed(b, server.URL())
	for n := range events {
		f.transaction(transition(n % 1000))
		if n%2000 == 0 {
			f.stored()
		}
	}
	f.stored()
	bare := func(read func([]byte) error) func(context.Context, func()) {
		return func(ctx context.Context, one func()) { consume(ctx, b, f, read, one) }
	}
	run := func(workers int) func(context.Context, func()) {
		return func(ctx context.Context, one func()) {
			s := f.subscriber(func(c *client.Config) { c.Workers = workers })
			if err := s.Run(ctx, func(context.Context, *client.Message) error { one(); return nil }); err != nil {
				b.Fatal(err)
			}
		}
	}
	readings := []*reading{
		{name: "client, 1 worker", run: run(1)},
		{name: "nats.go, ParseEvent", run: bare(func(body []byte) error { _, err := ffstream.ParseEvent(body); return err })},
		{name: "nats.go, json.Unmarshal", run: bare(func(body []byte) error { return json.Unmarshal(body, new(plainEvent)) })},
		{name: "nats.go, body unread", run: bare(func([]byte) error { return nil })},
		{name: "client, 16 workers", run: run(16)},
	}
	b.ResetTimer()
	for b.Loop() {
		for _, r := range readings {
			r.measure(b, events, server.Pid())
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, name := range []string{"parse", "json", "unread"} {
		b.ReportMetric(median(ratios(readings[0].cpu, readings[i+1].cpu)), "cpu/"+name)
		b.ReportMetric(median(ratios(readings[0].rate, readings[i+1].rate)), "rate/"+name)
	}
	report(b, events, readings)
}

func (r *reading) measure(b *testing.B, events, server int) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var done atomic.Int64
	began, used, serving := time.Now(), cpu(), processCPU(b, server)
	r.run(ctx, func() {
		if done.Add(1) == int64(events) {
			stop()
		}
	})
	n := float64(events)
	r.rate = append(r.rate, n/time.Since(began).Seconds())
	r.cpu = append(r.cpu, float64((cpu()-used).Nanoseconds())/1e3/n)
	r.server = append(r.server, float64((processCPU(b, server)-serving).Nanoseconds())/1e3/n)
	runtime.ReadMemStats(&after)
	r.allocations = append(r.allocations, float64(after.Mallocs-before.Mallocs)/n)
}

// ready waits until a server takes connections.
func ready(b *testing.B, url string) {
	connected := make(chan struct{})
	nc, err := nats.Connect(url, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ConnectHandler(func(*nats.Conn) { close(connected) }))
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	select {
	case <-connected:
	case <-testContext(b).Done():
		b.Fatal("the server takes no connection")
	}
}

// consume is the consumer that Run makes, read as nats.go's documentation shows.
func consume(ctx context.Context, b *testing.B, f *feed, read func([]byte) error, one func()) {
	stream, err := f.js.Stream(ctx, f.stream)
	if err != nil {
		b.Fatal(err)
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxAckPending: 1024, MemoryStorage: true, InactiveThreshold: 5 * time.Minute,
	})
	if err != nil {
		b.Fatal(err)
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if err := read(m.Data()); err != nil {
			b.Error(err)
		}
		if err := m.Ack(); err != nil {
			b.Error(err)
		}
		one()
	})
	if err != nil {
		b.Fatal(err)
	}
	<-ctx.Done()
	consuming.Stop()
	<-consuming.Closed()
	if err := stream.DeleteConsumer(context.WithoutCancel(ctx), consumer.CachedInfo().Name); err != nil {
		b.Error(err)
	}
}

// processCPU is the processor time that another process has used so far, in the
// kernel's hundredths of a second.
func processCPU(b *testing.B, pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	var ticks int
	for _, field := range strings.Fields(rest)[11:13] { // utime and stime
		n, err := strconv.Atoi(field)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// report prints the rows of docs/benchmarks.md.
func report(b *testing.B, events int, readings []*reading) {
	var t strings.Builder
	fmt.Fprintf(&t, "%d events, read %d times by each:\n\n", events, len(readings[0].cpu))
	t.WriteString("| reader | CPU us/event | client's CPU to it | events/s | client's events/s to it | allocations/event | nats-server CPU us/event |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for _, r := range readings {
		fmt.Fprintf(&t, "| %s | %.1f | %s | %.0f | %s | %.0f | %.1f |\n", r.name, median(r.cpu), spread(ratios(readings[0].cpu, r.cpu)),
			median(r.rate), spread(ratios(readings[0].rate, r.rate)), median(r.allocations), median(r.server))
	}
	b.Log("\n" + t.String())
}

func ratios(v, to []float64) []float64 {
	out := make([]float64, len(v))
	for i := range v {
		out[i] = v[i] / to[i]
	}
	return out
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

func spread(v []float64) string {
	return fmt.Sprintf("%.2f (%.2f-%.2f)", median(v), slices.Min(v), slices.Max(v))
}
