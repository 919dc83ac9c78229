package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream/internal/project"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/shard"
	"github.com/ffstream/ffstream/internal/web"
)

// serviceFlags say what the service follows and where it publishes.
type serviceFlags struct {
	databaseFlags
	publicationFlags
	streamFlags
	embeddedFlags
	Slot           string        `help:"Name of the replication slot. The first run creates it; nothing else ever does." env:"FFSTREAM_SLOT" default:"ffstream"`
	StreamReplicas int           `help:"Replicas of the stream, when run creates it." env:"FFSTREAM_STREAM_REPLICAS" default:"1"`
	StreamMaxAge   time.Duration `help:"Age at which the stream forgets events, when run creates it; 0 keeps them for ever." env:"FFSTREAM_STREAM_MAX_AGE" default:"168h"`
}

// check checks what the flags' types do not say.
func (f *serviceFlags) check() (*pgconn.Config, error) {
	if err := checkSlot(f.Slot); err != nil {
		return nil, err
	}
	if err := f.publicationFlags.check(); err != nil {
		return nil, err
	}
	if err := f.streamFlags.check(); err != nil {
		return nil, err
	}
	if f.NATSURL == "" {
		if err := f.checkEmbedded(f.NATSEmbeddedHost); err != nil {
			return nil, err
		}
	}
	if f.StreamReplicas < 1 || f.StreamReplicas > 5 {
		return nil, usagef("--stream-replicas %d: want 1 to 5", f.StreamReplicas)
	}
	return f.config()
}

// runCmd follows the slot and publishes.
type runCmd struct {
	serviceFlags
	ConfirmHoldback time.Duration `help:"How long what is stored is kept in the slot all the same, to refill a stream whose broker forgot what it had acknowledged." env:"FFSTREAM_CONFIRM_HOLDBACK" default:"0s"`
	Heartbeat       time.Duration `help:"How often a logical message is written into the log, to measure the delay of the stream; 0 never." env:"FFSTREAM_HEARTBEAT" default:"10s"`
	Backfill        string        `help:"initial: when the slot is created, the state of every execution that exists comes into the stream; never: only what is ordered with ffstream backfill." env:"FFSTREAM_BACKFILL" default:"initial" enum:"initial,never"`
	BackfillRate    int           `help:"Most executions that a backfill reads in a second; 0 for any number." env:"FFSTREAM_BACKFILL_RATE" default:"2000"`
	RecentStates    int           `help:"Maximum number of executions whose latest state is kept in memory, about 200 bytes each. It sets the field from of events where the WAL does not contain the old state; 0 disables it." env:"FFSTREAM_RECENT_STATES" default:"40000"`
	StateBucket     string        `help:"Name of a JetStream key-value bucket that is kept with the current state of each execution; none without it." env:"FFSTREAM_STATE_BUCKET" placeholder:"BUCKET"`
	HTTPAddr        string        `name:"http-addr" help:"Where /healthz, /readyz, /status and /metrics are served; off for nowhere." env:"FFSTREAM_HTTP_ADDR" default:"127.0.0.1:9464"`
	HTTPPprof       bool          `name:"http-pprof" help:"Serve /debug/pprof/ too." env:"FFSTREAM_HTTP_PPROF"`
	ReadyMaxLag     uint64        `help:"Bytes of WAL that may be unconfirmed while /readyz says yes; 0 for any." env:"FFSTREAM_READY_MAX_LAG" default:"0"`
	ReadyMaxBehind  time.Duration `help:"How old the latest transaction read may be, while there is more, for /readyz to say yes; 0 for any." env:"FFSTREAM_READY_MAX_BEHIND" default:"0s"`
	ShutdownTimeout time.Duration `help:"How long a stop waits for what was read to be stored and confirmed." env:"FFSTREAM_SHUTDOWN_TIMEOUT" default:"10s"`
}

// check checks what the flags' types do not say.
func (c *runCmd) check() (*pgconn.Config, error) {
	if c.ConfirmHoldback < 0 {
		return nil, usagef("--confirm-holdback %s: want 0 or more", c.ConfirmHoldback)
	}
	if c.ShutdownTimeout <= 0 {
		return nil, usagef("--shutdown-timeout %s: want more than 0", c.ShutdownTimeout)
	}
	if c.Heartbeat < 0 || c.Heartbeat > 0 && c.Heartbeat < minHeartbeat {
		return nil, usagef("--heartbeat %s: want 0, or %s or more", c.Heartbeat, minHeartbeat)
	}
	if c.StateBucket != "" && (!streamName.MatchString(c.StateBucket) || c.StateBucket == publish.Bucket(c.Stream)) {
		return nil, usagef("--state-bucket %q: want letters, digits, dashes and underscores, and not the bucket of the stream's note", c.StateBucket)
	}
	if c.RecentStates < 0 {
		return nil, usagef("--recent-states %d: want 0 or more", c.RecentStates)
	}
	if c.BackfillRate < 0 {
		return nil, usagef("--backfill-rate %d: want 0 or more", c.BackfillRate)
	}
	if c.ReadyMaxBehind < 0 {
		return nil, usagef("--ready-max-behind %s: want 0 or more", c.ReadyMaxBehind)
	}
	if c.HTTPAddr != httpOff {
		if err := checkAddr("--http-addr", c.HTTPAddr); err != nil {
			return nil, err
		}
	}
	return c.serviceFlags.check()
}

// defaultRecentStates is some 8 MB.
const defaultRecentStates = 40_000

const (
	httpOff      = "off"
	minHeartbeat = 100 * time.Millisecond
)

// memoryLimit is where the garbage collector stops letting garbage stand. A
// transaction of a million executions is gathered in some 170 MiB, and the
// default would let the heap grow to twice that.
const memoryLimit = 208 << 20

// Run is the sidecar: it returns when ctx ends, or with what waiting cannot mend.
func (c *runCmd) Run(ctx context.Context, log *slog.Logger) error {
	database, err := c.check()
	if err != nil {
		return err
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	nc, closeNATS, err := c.connectNATS(ctx, log)
	if err != nil {
		return err
	}
	defer closeNATS()
	cfg, closeSource := c.shard(database, log)
	defer closeSource()
	cfg.Sink.Refusal = nc.refusal
	cfg.ShutdownTimeout, cfg.Holdback, cfg.RecentStates = c.ShutdownTimeout, c.ConfirmHoldback, c.RecentStates
	monitor := newSource(database, c.Publication, c.ReplicaIdentity)
	defer monitor.close()
	cfg.Lineage = monitor.lineage // what waits for the look-ups' connection delays events
	cfg.Probe = func(ctx context.Context) (shard.SlotHealth, error) { return monitor.probe(ctx, c.Slot) }
	if c.Heartbeat > 0 {
		cfg.Heartbeat, cfg.HeartbeatInterval = monitor.heartbeat, c.Heartbeat
	}
	filler := newSource(database, c.Publication, c.ReplicaIdentity)
	defer filler.close()
	cfg.Backfill = &shard.BackfillConfig{Source: backfillSource{filler, statementTimeout}, Initial: c.Backfill == backfillInitial, Rate: c.BackfillRate}
	cfg.Source.Messages = true // heartbeats and watermarks
	s := shard.New(nc.Conn, cfg)
	status, stop, err := c.states(ctx, nc.Conn, s, log)
	if err != nil {
		return err
	}
	defer stop()
	if c.HTTPAddr != httpOff {
		web, err := c.listen(ctx, status, log)
		if err != nil {
			return err
		}
		defer func() { _ = web.Close() }()
	}
	return s.Run(ctx)
}

// states keeps the state bucket, if one is named, and gives the status with it. The
// caller calls the returned function at the end.
func (c *runCmd) states(ctx context.Context, nc *nats.Conn, s *shard.Shard, log *slog.Logger) (func() shard.Status, func(), error) {
	if c.StateBucket == "" {
		return s.Status, func() {}, nil
	}
	p, err := project.New(nc, project.Config{
		Stream: c.Stream, Prefix: c.SubjectPrefix, Bucket: c.StateBucket, Log: log,
		Active: func() bool { return s.Status().Role == shard.RoleActive },
	})
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{}) // closed when the projector has ended
	go func() {
		defer close(ended)
		p.Run(ctx)
	}()
	status := func() shard.Status {
		st := s.Status()
		st.States = shard.States(p.Status())
		return st
	}
	return status, func() { cancel(); <-ended }, nil
}

// listen serves what the service does.
func (c *runCmd) listen(ctx context.Context, status func() shard.Status, log *slog.Logger) (*web.Server, error) {
	srv, err := web.Listen(ctx, c.HTTPAddr, web.Config{
		Status: status, Version: version(), Pprof: c.HTTPPprof, Log: log,
		Limits: web.Limits{Lag: c.ReadyMaxLag, Behind: c.ReadyMaxBehind},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: name another address (--http-addr), or off", err)
	}
	log.Info("HTTP is served", "addr", srv.Addr())
	return srv, nil
}

// connectNATS connects to the broker, and starts the embedded one when no other is
// named. The caller calls the returned function at the end.
func (f *serviceFlags) connectNATS(ctx context.Context, log *slog.Logger, more ...nats.Option) (*natsConn, func(), error) {
	url, end := f.NATSURL, func() {}
	if url == "" {
		srv, err := startEmbedded(ctx, &f.embeddedFlags, &f.natsAuth)
		if err != nil {
			return nil, nil, err
		}
		url, end = srv.url(), srv.close
		log.Info("embedded NATS server is ready", "url", url)
	}
	nc, err := connectNATS(url, &f.natsAuth, log, more...)
	if err != nil {
		end()
		return nil, nil, err
	}
	return nc, func() { nc.Close(); end() }, nil
}

// shard is the configuration that the flags describe. The caller calls the
// returned function when the shard has ended.
func (f *serviceFlags) shard(database *pgconn.Config, log *slog.Logger) (shard.Config, func()) {
	src := newSource(database, f.Publication, f.ReplicaIdentity)
	return shard.Config{
		Source:    repl.Config{Conn: database, Slot: f.Slot, Publication: f.Publication},
		Sink:      publish.Config{Stream: f.Stream, Prefix: f.SubjectPrefix, Replicas: f.StreamReplicas, MaxAge: f.StreamMaxAge},
		Identity:  f.ReplicaIdentity == identityIndex,
		Preflight: src.preflight,
		Lineage:   src.lineage,
		Lookup:    src.lookup,
		Log:       log,

		RecentStates: defaultRecentStates,
	}, src.close
}

const (
	identityIndex   = "index"
	backfillInitial = "initial"
)

// versionCmd prints the version.
type versionCmd struct{}

// Run prints one line: the version comes first.
func (versionCmd) Run(term terminal) error {
	_, err := fmt.Fprintln(term.out, "ffstream", thisBuild())
	return err
}
