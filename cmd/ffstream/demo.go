package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/shard"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// demoCmd runs everything on this machine.
type demoCmd struct {
	For     time.Duration `help:"End after this long and compare the stream with what the workload did; 0 goes on until Ctrl-C." default:"0s"`
	Rate    float64       `help:"Executions begun a second." default:"20"`
	Writers int           `help:"Concurrent writers." default:"4"`
	Quiet   bool          `help:"Print the summary alone."`
	Color   string        `help:"auto, always or never." default:"auto" enum:"auto,always,never"`
}

// demo is what one demonstration holds on to.
type demo struct {
	cmd   *demoCmd
	out   io.Writer
	live  bool // the terminal can redraw its last line
	shard *shard.Shard
	pool  *pgxpool.Pool
	js    jetstream.JetStream

	mu    sync.Mutex          // guards lives and count
	lives map[string][]string // by execution, the transitions that were committed
	count int
}

// Run starts the servers, plays the workload, prints what the stream brings, and
// compares. It leaves nothing behind.
func (c *demoCmd) Run(ctx context.Context, term terminal) (err error) {
	if c.Rate <= 0 || c.Writers < 1 || c.For < 0 {
		return usagef("demo: --rate and --writers must be above 0 and --for not below")
	}
	d := &demo{cmd: c, out: term.out, live: isTerminal(term.out) && !c.Quiet, lives: make(map[string][]string)}
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pg.Close()) }()
	dir, err := os.MkdirTemp("", "ffstream-demo-")
	if err != nil {
		return fmt.Errorf("make directory for NATS: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	srv, err := startEmbedded(ctx, &embeddedFlags{NATSEmbeddedDir: dir, NATSEmbeddedHost: "127.0.0.1", NATSEmbeddedSync: 2 * time.Minute}, &natsAuth{})
	if err != nil {
		return err
	}
	defer srv.close()
	database := pg.URL("postgres")
	d.say("Postgres on port %d, NATS at %s: FFSTREAM_DATABASE_URL=%s FFSTREAM_NATS_URL=%s ffstream tail", pg.Port, srv.url(), database, srv.url())
	if err := d.prepare(ctx, database); err != nil {
		return err
	}
	defer d.pool.Close()
	log := slog.New(slog.NewTextHandler(term.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	nc, err := connectNATS(srv.url(), &natsAuth{}, log)
	if err != nil {
		return err
	}
	defer nc.Close()
	return d.play(ctx, database, nc.Conn, log)
}

func (d *demo) say(format string, args ...any) {
	if !d.cmd.Quiet {
		_, _ = fmt.Fprintf(d.out, format+"\n", args...)
	}
}

// prepare makes the engine's tables and does to them what migrate does.
func (d *demo) prepare(ctx context.Context, database string) error {
	if err := migrations.EngineSchema(ctx, database, migrations.EngineNewest); err != nil {
		return err
	}
	var err error
	if d.pool, err = pgxpool.New(ctx, database); err != nil {
		return fmt.Errorf("open pool: %w", err)
	}
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connect to Postgres: %w", err)
	}
	defer conn.Release()
	cfg := migrations.Config{Publication: "ffstream", Identity: true}
	steps, err := migrations.Plan(ctx, conn, cfg)
	if err != nil {
		return err
	}
	d.say("preparing the database: a publication, and an index on each of 256 leaves")
	return migrations.Apply(ctx, conn.Conn(), cfg, steps, func(migrations.Progress) {})
}

// play runs service, workload and printer until the time is up.
func (d *demo) play(ctx context.Context, database string, nc *nats.Conn, log *slog.Logger) error {
	service := &serviceFlags{
		databaseFlags:    databaseFlags{DatabaseURL: database},
		publicationFlags: publicationFlags{Publication: "ffstream", ReplicaIdentity: identityIndex},
		streamFlags:      streamFlags{NATSURL: nc.ConnectedUrl(), Stream: "FFSTREAM", SubjectPrefix: ffstream.DefaultSubjectPrefix},
		Slot:             "ffstream", StreamReplicas: 1,
	}
	service.NATSEmbeddedHost = "127.0.0.1"
	source, err := service.check()
	if err != nil {
		return err
	}
	if d.js, err = jetstream.New(nc); err != nil {
		return fmt.Errorf("open JetStream: %w", err)
	}
	cfg, closeSource := service.shard(source, log)
	defer closeSource()
	d.shard = shard.New(nc, cfg)
	// The service outlives the workload: what that committed must be stored.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	served := make(chan error, 1)
	go func() { served <- d.shard.Run(serving) }()
	if err := d.awaitActive(ctx, served); err != nil {
		stopServing()
		return err
	}
	playing, stopPlaying := ctx, context.CancelFunc(func() {})
	if d.cmd.For > 0 {
		playing, stopPlaying = context.WithTimeout(ctx, d.cmd.For)
	}
	defer stopPlaying()
	var printing sync.WaitGroup
	printing.Go(func() { d.print(playing) })
	summary, err := engine.Run(playing, d.pool, engine.WorkloadConfig{
		Version: engine.Newest, Writers: d.cmd.Writers, Rate: d.cmd.Rate, Seed: uint64(time.Now().UnixNano()), Heartbeats: 2,
		Lanes: []string{"default", "workers", "reports"}, Namespaces: []string{"acme", "globex"}, OnTransition: d.note,
	})
	printing.Wait()
	if err == nil {
		err = d.compare(context.WithoutCancel(ctx), summary)
	}
	stopServing()
	return errors.Join(err, <-served)
}

func (d *demo) awaitActive(ctx context.Context, served <-chan error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for d.shard.Status().Role != shard.RoleActive {
		select {
		case <-tick.C:
		case err := <-served:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// note remembers a transition that the workload committed.
func (d *demo) note(t engine.Transition) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id := t.Exec.String()
	d.lives[id] = append(d.lives[id], string(t.From)+" -> "+string(t.To))
	d.count++
}

// print shows events as they come and, on a terminal, a status line below them.
func (d *demo) print(ctx context.Context) {
	if d.cmd.Quiet {
		return
	}
	p := printer{out: d.out, color: d.cmd.Color == "always" || d.cmd.Color == "auto" && d.live}
	consumer, err := d.js.OrderedConsumer(ctx, "FFSTREAM", jetstream.OrderedConsumerConfig{})
	if err != nil {
		d.say("cannot print events: %v", err)
		return
	}
	messages, err := consumer.Messages()
	if err != nil {
		d.say("cannot print events: %v", err)
		return
	}
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	for {
		m, err := messages.Next()
		if err != nil {
			break // ctx ended
		}
		e, err := ffstream.ParseEvent(m.Data())
		if err != nil {
			d.say("cannot read event: %v", err)
			break
		}
		if d.live {
			_, _ = fmt.Fprint(d.out, "\r\x1b[K")
		}
		if err := p.print(&e, m.Data()); err != nil {
			break
		}
		d.statusLine()
	}
	if d.live {
		_, _ = fmt.Fprint(d.out, "\r\x1b[K")
	}
}

func (d *demo) statusLine() {
	if !d.live {
		return
	}
	d.mu.Lock()
	executions, transitions := len(d.lives), d.count
	d.mu.Unlock()
	s := d.shard.Status()
	_, _ = fmt.Fprintf(d.out, "%d executions, %d transitions, %d stored, lag %d bytes, %d in flight", executions, transitions, s.Acked, s.Lag(), s.InFlight)
}

// errDiffers: the stream is not what the workload did. It would be a defect.
var errDiffers = errors.New("the stream differs from what the workload did")

// compare waits until the service has caught up and holds each execution's
// events against what was committed for it.
func (d *demo) compare(ctx context.Context, summary engine.Summary) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := d.catchUp(ctx); err != nil {
		return err
	}
	stored, err := d.stored(ctx)
	if err != nil {
		return err
	}
	var wrong []string
	events := 0
	for id, want := range d.lives {
		events += len(stored[id])
		if !slices.Equal(stored[id], want) {
			wrong = append(wrong, fmt.Sprintf("%s: committed %q, stored %q", id, want, stored[id]))
		}
		delete(stored, id)
	}
	for id, extra := range stored {
		events += len(extra)
		wrong = append(wrong, fmt.Sprintf("%s: committed nothing, stored %q", id, extra))
	}
	_, err = fmt.Fprintf(d.out, "workload: %d executions, %d transactions, %d row changes, %d transitions\nstream:   %d events, %d executions differ\n",
		summary.Executions, summary.Transactions, summary.CoreRows+summary.AttemptRows, summary.Transitions, events, len(wrong))
	if err != nil {
		return err
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s", errDiffers, strings.Join(wrong[:min(3, len(wrong))], "; "))
	}
	if events != summary.Transitions {
		return fmt.Errorf("%w: %d transitions, %d events", errDiffers, summary.Transitions, events)
	}
	return nil
}

// catchUp waits until the slot is confirmed up to what the workload wrote.
func (d *demo) catchUp(ctx context.Context) error {
	var text string
	if err := d.pool.QueryRow(ctx, "SELECT pg_current_wal_flush_lsn()::text").Scan(&text); err != nil {
		return fmt.Errorf("read end of WAL: %w", err)
	}
	end, err := ffstream.ParseLSN(text)
	if err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for s := d.shard.Status(); s.Confirmed < end || s.InFlight > 0; s = d.shard.Status() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the service: %w: %s is confirmed and the log ends at %s: %s", ctx.Err(), s.Confirmed, end, s.LastError)
		}
	}
	return nil
}

// stored reads the stream from its beginning: by execution, its transitions.
func (d *demo) stored(ctx context.Context) (map[string][]string, error) {
	stream, err := d.js.Stream(ctx, "FFSTREAM")
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	lives := make(map[string][]string)
	last := stream.CachedInfo().State.LastSeq
	if last == 0 {
		return lives, nil
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, fmt.Errorf("consume stream: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return nil, fmt.Errorf("consume stream: %w", err)
	}
	defer messages.Stop()
	for seq := uint64(0); seq < last; {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("consume stream: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("consume stream: %w", err)
		}
		seq = meta.Sequence.Stream
		e, err := ffstream.ParseEvent(m.Data())
		if err != nil {
			return nil, err
		}
		id := e.ExecutionID.String()
		lives[id] = append(lives[id], string(e.From)+" -> "+string(e.To))
	}
	return lives, nil
}
