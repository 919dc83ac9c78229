package bench

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/ffstream/ffstream/internal/testenv"
)

// result is one drain of a backlog by one consumer.
type result struct {
	took    time.Duration
	sender  time.Duration // processor time of the walsender
	reader  time.Duration // and of the consumer
	brokers time.Duration
	rss     int // bytes, of the consumer
}

// consumer drains a backlog.
type consumer struct {
	name  string
	drain func(b *backlog) result
}

// sender watches the walsender of a slot.
func (s *source) sender(slot string) *cpu {
	s.t.Helper()
	c := &cpu{}
	await(s.t, "the slot to be taken", func() bool {
		c.pid, _ = strconv.Atoi(s.text("SELECT coalesce(active_pid, 0)::text FROM pg_replication_slots WHERE slot_name = $1", slot))
		return c.pid != 0
	})
	return c
}

// recvlogical is pg_recvlogical to /dev/null.
func recvlogical(b *backlog) result {
	t, s := b.source.t, b.source
	slot, drop := s.slot()
	defer drop()
	var out bytes.Buffer
	began := time.Now()
	cmd := start(t, &out, nil, filepath.Join(s.pg.BinDir, "pg_recvlogical"), "-d", s.url, "-S", slot, "--start", "-f", "/dev/null",
		"--no-loop", "--endpos", b.end, "-o", "proto_version=1", "-o", "publication_names=ffstream", "-o", "binary=true")
	sender := s.sender(slot)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	rss := 0
	for {
		sender.read()
		rss = max(rss, peak(cmd.Process.Pid))
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("pg_recvlogical: %v: %s", err, out.String())
			}
			return result{took: time.Since(began), sender: sender.last, reader: used(cmd.ProcessState), rss: rss}
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// bare is a Go program that reads and discards, as one writes it with pgconn.
func bare(b *backlog) result {
	t, s := b.source.t, b.source
	slot, drop := s.slot()
	defer drop()
	ctx := context.Background()
	end, err := pglogrepl.ParseLSN(b.end)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := self()
	began := time.Now()
	conn, err := pgconn.Connect(ctx, s.url+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	err = pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{PluginArgs: []string{"proto_version '1'", "publication_names 'ffstream'", "binary 'true'"}})
	if err != nil {
		t.Fatal(err)
	}
	sender := s.sender(slot)
	for at := pglogrepl.LSN(0); at < end; {
		m, err := conn.ReceiveMessage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		data, ok := m.(*pgproto3.CopyData)
		if !ok || len(data.Data) < 17 {
			continue
		}
		if data.Data[0] == 'w' {
			if x, err := pglogrepl.ParseXLogData(data.Data[1:]); err == nil {
				at = max(at, x.WALStart)
			}
		} else if k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data.Data[1:]); err == nil {
			at = max(at, k.ServerWALEnd)
		}
	}
	r := result{took: time.Since(began), sender: sender.read()}
	after, rss := self()
	r.reader, r.rss = after-before, rss
	if err := conn.Close(ctx); err != nil {
		t.Fatal(err)
	}
	return r
}

// self is the processor time of this process and its peak of memory.
func self() (time.Duration, int) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), int(u.Maxrss) << 10
}

// ffstream is the service into a broker's stream.
func (k *broker) ffstream(b *backlog) result {
	t, s := b.source.t, b.source
	slot, drop := s.slot()
	defer drop()
	ctx := context.Background()
	stream := k.stream(t, slot)
	defer func() {
		if err := k.js.DeleteStream(ctx, slot); err != nil {
			t.Error(err)
		}
		if err := k.js.DeleteKeyValue(ctx, slot+"_notes"); err != nil {
			t.Error(err)
		}
	}()
	servers := make([]cpu, len(k.servers))
	var r result
	for i, p := range k.servers {
		servers[i].pid = p.Pid()
		r.brokers -= servers[i].read()
	}
	var out bytes.Buffer
	began := time.Now()
	cmd := start(t, &out, []string{
		"FFSTREAM_HTTP_ADDR=off", "FFSTREAM_BACKFILL=never", "FFSTREAM_DATABASE_URL=" + s.url, "FFSTREAM_NATS_URL=" + k.url(), "FFSTREAM_SLOT=" + slot, "FFSTREAM_STREAM=" + slot, "FFSTREAM_SUBJECT_PREFIX=" + slot,
		"FFSTREAM_STREAM_REPLICAS=" + strconv.Itoa(len(k.servers)),
	}, program, "run")
	sender := s.sender(slot)
	await(t, "the events to be stored", func() bool {
		info, err := stream.Info(ctx)
		return err == nil && info.State.LastSeq >= uint64(b.events)
	})
	r.took, r.sender = time.Since(began), sender.read()
	for i := range servers {
		r.brokers += servers[i].read()
	}
	await(t, "the slot to be confirmed", func() bool {
		return s.text("SELECT (confirmed_flush_lsn >= $2::pg_lsn)::text FROM pg_replication_slots WHERE slot_name = $1", slot, b.end) == "true"
	})
	r.rss = peak(cmd.Process.Pid)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("ffstream: %v: %s", err, out.String())
	}
	r.reader = used(cmd.ProcessState)
	if info, err := stream.Info(ctx); err != nil || info.State.Msgs != uint64(b.events) {
		t.Fatalf("the run is void: %d messages are stored, and the workload made %d transitions (%v)", info.State.Msgs, b.events, err)
	}
	return r
}

// TestDrain prints how fast each consumer drains the same log.
func TestDrain(t *testing.T) {
	gate(t)
	s := newSource(t)
	single := newBroker(t, singleServer(t))
	consumers := []consumer{{"pg_recvlogical to /dev/null", recvlogical}, {"bare Go reader", bare}, {"ffstream, R1", single.ffstream}}
	if setting(t, "FFSTREAM_BENCH_SYNC", 1) > 0 {
		syncing := newBroker(t, []*testenv.NATSProcess{testenv.SyncingServer(t)})
		consumers = append(consumers, consumer{"ffstream, R1, sync always", syncing.ffstream})
	}
	if setting(t, "FFSTREAM_BENCH_CLUSTER", 1) > 0 {
		three := newBroker(t, testenv.Cluster(t, 3))
		consumers = append(consumers, consumer{"ffstream, R3", three.ffstream})
	}
	b := s.write(setting(t, "FFSTREAM_BENCH_EXECUTIONS", 8000))
	t.Logf("backlog of small transactions: %d changes in %d transactions, %d events", b.changes, b.tx, b.events)
	t.Log("\n" + rounds(b, consumers, setting(t, "FFSTREAM_BENCH_ROUNDS", 3)))
}

// rounds lets every consumer drain the backlog in turns. The first consumer is
// what the others are compared with, round by round.
func rounds(b *backlog, consumers []consumer, n int) string {
	results := make([][]result, len(consumers))
	for range n {
		for i, c := range consumers {
			results[i] = append(results[i], c.drain(b))
		}
	}
	var text strings.Builder
	fmt.Fprintln(&text, "| consumer | changes/s | ratio | walsender us/change | consumer us/change | us/event | nats-server us/event | peak RSS MiB |")
	fmt.Fprintln(&text, "|---|---:|---:|---:|---:|---:|---:|---:|")
	for i, c := range consumers {
		pick := func(f func(r, first result) float64, format string) string {
			values := make([]float64, n)
			for k, r := range results[i] {
				values[k] = f(r, results[0][k])
			}
			return spread(values, format)
		}
		changes, events := float64(b.changes), float64(b.events)
		micros := func(d time.Duration, n float64) float64 { return float64(d.Microseconds()) / n }
		event, server := "-", "-"
		if strings.HasPrefix(c.name, "ffstream") {
			event = pick(func(r, _ result) float64 { return micros(r.reader, events) }, "%.1f")
			server = pick(func(r, _ result) float64 { return micros(r.brokers, events) }, "%.1f")
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", c.name,
			pick(func(r, _ result) float64 { return changes / r.took.Seconds() }, "%.0f"),
			pick(func(r, first result) float64 { return first.took.Seconds() / r.took.Seconds() }, "%.2f"),
			pick(func(r, _ result) float64 { return micros(r.sender, changes) }, "%.1f"),
			pick(func(r, _ result) float64 { return micros(r.reader, changes) }, "%.1f"),
			event, server,
			pick(func(r, _ result) float64 { return float64(r.rss) / (1 << 20) }, "%.0f"))
	}
	return text.String()
}
