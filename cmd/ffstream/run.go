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

	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/shard"
)

// runCmd follows the slot and publishes.
type runCmd struct {
	databaseFlags
	publicationFlags
	streamFlags
	Slot            string        `help:"Name of the replication slot. The first run creates it; nothing else ever does." env:"FFSTREAM_SLOT" default:"ffstream"`
	StreamReplicas  int           `help:"Replicas of the stream, when run creates it." env:"FFSTREAM_STREAM_REPLICAS" default:"1"`
	StreamMaxAge    time.Duration `help:"Age at which the stream forgets events, when run creates it; 0 keeps them for ever." env:"FFSTREAM_STREAM_MAX_AGE" default:"168h"`
	ConfirmHoldback time.Duration `help:"How long what is stored is kept in the slot all the same, to refill a stream whose broker forgot what it had acknowledged." env:"FFSTREAM_CONFIRM_HOLDBACK" default:"0s"`
	ShutdownTimeout time.Duration `help:"How long a stop waits for what was read to be stored and confirmed." env:"FFSTREAM_SHUTDOWN_TIMEOUT" default:"10s"`

	NATSEmbeddedDir  string        `name:"nats-embedded-dir" help:"Directory of the embedded NATS server. Default: below the user's cache directory." env:"FFSTREAM_NATS_EMBEDDED_DIR" placeholder:"DIR"`
	NATSEmbeddedHost string        `name:"nats-embedded-host" help:"Address the embedded NATS server listens on." env:"FFSTREAM_NATS_EMBEDDED_HOST" default:"127.0.0.1"`
	NATSEmbeddedPort int           `name:"nats-embedded-port" help:"Port of the embedded NATS server; 0 takes a free one." env:"FFSTREAM_NATS_EMBEDDED_PORT" default:"4222"`
	NATSEmbeddedSync time.Duration `name:"nats-embedded-sync" help:"How often the embedded NATS server syncs its files to disk." env:"FFSTREAM_NATS_EMBEDDED_SYNC" default:"2m"`
}

// Validate checks what the flags' types do not say.
func (c *runCmd) check() (*pgconn.Config, error) {
	if err := checkSlot(c.Slot); err != nil {
		return nil, err
	}
	if err := c.publicationFlags.check(); err != nil {
		return nil, err
	}
	if err := c.streamFlags.check(); err != nil {
		return nil, err
	}
	if c.StreamReplicas < 1 || c.StreamReplicas > 5 {
		return nil, usagef("--stream-replicas %d: want 1 to 5", c.StreamReplicas)
	}
	if c.ConfirmHoldback < 0 {
		return nil, usagef("--confirm-holdback %s: want 0 or more", c.ConfirmHoldback)
	}
	if c.ShutdownTimeout <= 0 {
		return nil, usagef("--shutdown-timeout %s: want more than 0", c.ShutdownTimeout)
	}
	return c.config()
}

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
	url := c.NATSURL
	if url == "" {
		srv, err := startEmbedded(ctx, c.NATSEmbeddedDir, c.NATSEmbeddedHost, c.NATSEmbeddedPort, c.NATSEmbeddedSync)
		if err != nil {
			return err
		}
		defer srv.close()
		url = srv.url()
		log.Info("embedded NATS server is ready", "url", url)
	}
	nc, err := connectNATS(url, log)
	if err != nil {
		return err
	}
	defer nc.Close()
	s, closeSource := c.shard(database, nc, log)
	defer closeSource()
	return s.Run(ctx)
}

// shard builds the shard that the flags describe. The caller calls the returned
// function when the shard has ended.
func (c *runCmd) shard(database *pgconn.Config, nc *nats.Conn, log *slog.Logger) (*shard.Shard, func()) {
	src := newSource(database, c.Publication, c.ReplicaIdentity)
	return shard.New(nc, shard.Config{
		Source:          repl.Config{Conn: database, Slot: c.Slot, Publication: c.Publication},
		Sink:            publish.Config{Stream: c.Stream, Prefix: c.SubjectPrefix, Replicas: c.StreamReplicas, MaxAge: c.StreamMaxAge},
		Identity:        c.ReplicaIdentity == identityIndex,
		Preflight:       src.preflight,
		Lookup:          src.lookup,
		ShutdownTimeout: c.ShutdownTimeout,
		Holdback:        c.ConfirmHoldback,
		Log:             log,
	}), src.close
}

const identityIndex = "index"

// versionCmd prints the version.
type versionCmd struct{}

// Run prints one line.
func (versionCmd) Run(term terminal) error {
	_, err := fmt.Fprintln(term.out, "ffstream", version())
	return err
}
