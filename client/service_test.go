package client_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/shard"
	"github.com/ffstream/ffstream/internal/testenv/engine"
)

// service is a run of the service that a test can end and begin again.
type service struct {
	t      *testing.T
	url    string // of the database
	name   string // of slot, stream and prefix
	nc     *nats.Conn
	js     jetstream.JetStream
	cancel context.CancelFunc
	ended  chan error
}

// newService starts the service for a database until the test ends.
func newService(t *testing.T, url, name, natsURL string) *service {
	t.Helper()
	nc, err := nats.Connect(natsURL, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0), nats.Timeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	s := &service{t: t, url: url, name: name, nc: nc, js: js}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *service) config() client.Config { return client.Config{Stream: s.name, Prefix: s.name} }

// start returns when the service holds the slot, so that it misses nothing.
func (s *service) start() {
	s.t.Helper()
	database, err := pgconn.ParseConfig(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	shard1 := shard.New(s.nc, shard.Config{
		Source:   repl.Config{Conn: database, Slot: s.name, Publication: "ffstream"},
		Sink:     publish.Config{Stream: s.name, Prefix: s.name, Replicas: 1},
		Identity: true, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	s.cancel, s.ended = cancel, make(chan error, 1)
	go func() { s.ended <- shard1.Run(ctx) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for shard1.Status().Role != shard.RoleActive {
		select {
		case err := <-s.ended:
			s.ended <- err
			s.t.Fatal(err)
		case <-tick.C:
		}
	}
}

func (s *service) stop() {
	s.cancel()
	if err := <-s.ended; err != nil {
		s.t.Error(err)
	}
	s.ended <- nil
}

// newExecution names an execution that does not exist yet.
func newExecution(partition int) (engine.Exec, ffstream.ExecutionID) {
	x := engine.Exec{Partition: int16(partition), ID: uuid.New(), Namespace: "ns-a", Lane: "default"}
	return x, ffstream.NewExecutionID(uint16(partition), x.ID)
}

// create makes an execution that waits for a worker.
func create(ctx context.Context, e *engine.Engine, tx engine.Tx, x engine.Exec) error {
	return errors.Join(e.Create(ctx, tx, engine.NewExecution{Exec: x, Lane: x.Lane, Namespace: x.Namespace}), e.Promote(ctx, tx, x))
}
