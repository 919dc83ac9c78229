package bench

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// minimal is the least program that does the job: it reads, and publishes each
// inserted row as it came, with nothing to rely on but the connection.
func (k *broker) minimal(ctx context.Context, t testing.TB, s *source, slot, stream string) (ready chan struct{}) {
	ready = make(chan struct{})
	nc, err := nats.Connect(k.url())
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4096))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgconn.Connect(ctx, s.url+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	err = pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{PluginArgs: []string{"proto_version '1'", "publication_names 'ffstream'", "binary 'true'"}})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer nc.Close()
		defer func() { _ = conn.Close(context.Background()) }()
		close(ready)
		for {
			m, err := conn.ReceiveMessage(ctx)
			if err != nil {
				return // the run is over
			}
			data, ok := m.(*pgproto3.CopyData)
			if !ok || data.Data[0] != 'w' || data.Data[25] != 'I' {
				continue
			}
			row := data.Data[25+1+4+1+2:] // behind kind, relation, tuple and number of columns
			id := uuid.UUID(row[1+4+2+1+4 : 1+4+2+1+4+16])
			if _, err := js.PublishAsync(stream+".row", fmt.Appendf(nil, "%s %s", id, bytes.Repeat([]byte{'x'}, 800))); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	return ready
}

// arrivals notes when a subscriber got the message of each execution.
type arrivals struct {
	mu sync.Mutex // guards at
	at map[uuid.UUID]time.Time
}

func (a *arrivals) take(m *nats.Msg) {
	now := time.Now()
	text := string(m.Data)
	if i := strings.Index(text, "{fp:"); i >= 0 {
		text = text[i+strings.Index(text[i:], "}:")+2:]
	}
	id, err := uuid.Parse(text[:36])
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.at[id]; !ok {
		a.at[id] = now
	}
}

func (a *arrivals) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.at)
}

// TestLatency prints the time from a commit to a subscriber, beside that of a
// minimal consumer of the same commits.
func TestLatency(t *testing.T) {
	gate(t)
	s := newSource(t)
	k := newBroker(t, singleServer(t))
	text := "\n| transactions/s | | p50 ms | p99 ms | p99.9 ms |\n|---:|---|---:|---:|---:|\n"
	for _, rate := range []int{200, 2000} {
		text += s.latency(k, rate, time.Duration(setting(t, "FFSTREAM_BENCH_SECONDS", 20))*time.Second)
	}
	t.Log(text)
}

func (s *source) latency(k *broker, rate int, long time.Duration) string {
	t := s.t
	ctx, stop := context.WithCancel(context.Background())
	s.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", origin)
	defer s.forget()
	slot, drop := s.slot()
	bareSlot, dropBare := s.slot()
	k.stream(t, slot)
	k.stream(t, bareSlot)
	nc, err := nats.Connect(k.url())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ours, theirs := &arrivals{at: map[uuid.UUID]time.Time{}}, &arrivals{at: map[uuid.UUID]time.Time{}}
	for subject, a := range map[string]*arrivals{slot + ".exec.>": ours, bareSlot + ".>": theirs} {
		if _, err := nc.Subscribe(subject, a.take); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd := start(t, &out, []string{"FFSTREAM_HTTP_ADDR=off", "FFSTREAM_BACKFILL=never", "FFSTREAM_DATABASE_URL=" + s.url, "FFSTREAM_NATS_URL=" + k.url(), "FFSTREAM_SLOT=" + slot, "FFSTREAM_STREAM=" + slot, "FFSTREAM_SUBJECT_PREFIX=" + slot}, program, "run")
	s.sender(slot)
	<-k.minimal(ctx, t, s, bareSlot, bareSlot)
	committed := s.commits(rate, long)
	await(t, "the last events", func() bool { return ours.count() >= len(committed) && theirs.count() >= len(committed) })
	stop()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("ffstream: %v: %s", err, out.String())
	}
	drop()
	dropBare()
	a, b := delays(committed, ours), delays(committed, theirs)
	line := func(name string, f func(at float64) string) string {
		return fmt.Sprintf("| %d | %s | %s | %s | %s |\n", rate, name, f(0.5), f(0.99), f(0.999))
	}
	ms := func(d []time.Duration, at float64) float64 { return d[int(at*float64(len(d)-1))].Seconds() * 1000 }
	return line("minimal consumer", func(at float64) string { return fmt.Sprintf("%.2f", ms(b, at)) }) +
		line("ffstream", func(at float64) string { return fmt.Sprintf("%.2f", ms(a, at)) }) +
		line("ratio", func(at float64) string { return fmt.Sprintf("%.2f", ms(a, at)/ms(b, at)) })
}

// commit runs one statement as a transaction, and gives when COMMIT was sent.
func (s *source) commit(sql string, args ...any) (at time.Time, err error) {
	ctx := context.Background()
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return at, err
	}
	if _, err := tx.Exec(ctx, sql, args...); err != nil {
		return at, err
	}
	at = time.Now()
	return at, tx.Commit(ctx)
}

// commits writes single executions at a rate, from four connections, and gives
// when each COMMIT was sent.
func (s *source) commits(rate int, long time.Duration) map[uuid.UUID]time.Time {
	const writers = 4
	const sql = `INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms, payload, raw_fields)
		VALUES ($1, $2, 'default', 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending', 1, $3, '{"namespace":"ns-a"}')`
	all := map[uuid.UUID]time.Time{}
	var mu sync.Mutex // guards all
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			tick := time.NewTicker(time.Second * writers / time.Duration(rate))
			defer tick.Stop()
			over := time.After(long)
			for n := w; ; n += writers {
				select {
				case <-over:
					return
				case <-tick.C:
				}
				id := uuid.New()
				now, err := s.commit(sql, n%256, id, make([]byte, 1024))
				if err != nil {
					s.t.Error(err)
					return
				}
				mu.Lock()
				all[id] = now
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return all
}

// delays are the times from commits to arrivals, in order.
func delays(committed map[uuid.UUID]time.Time, a *arrivals) []time.Duration {
	var d []time.Duration
	for id, at := range committed {
		d = append(d, a.at[id].Sub(at))
	}
	slices.Sort(d)
	return d
}
