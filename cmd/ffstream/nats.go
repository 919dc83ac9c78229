package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream/internal/publish"
)

// connectNATS returns a connection that is tried for ever and that buffers
// nothing while it is down: a message that is not on its way fails, and the
// shard reads the stream's tail again. With RetryOnFailedConnect(false) in more the
// first try is the only one.
func connectNATS(url string, auth *natsAuth, log *slog.Logger, more ...nats.Option) (*natsConn, error) {
	options, err := auth.options(log)
	if err != nil {
		return nil, err
	}
	var refused refusals
	var logged novelties
	options = append(options,
		nats.Name("ffstream"),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(500*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.IgnoreAuthErrorAbort(),        // a password may be rotated here first
		nats.FlusherTimeout(5*time.Second), // a publish into a broker that stopped reading ends
		nats.Timeout(5*time.Second),
		nats.PingInterval(5*time.Second),
		nats.MaxPingsOutstanding(2),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { refused.set(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			refused.set(err)
			if logged.add(err) {
				log.Warn("NATS reported an error", "error", publish.Refused(err))
			}
		}),
		nats.ConnectHandler(func(*nats.Conn) { refused.set(nil) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS connection lost; reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			refused.set(nil)
			logged.forget() // rights may have been granted
			log.Info("NATS connected")
		}),
	)
	nc, err := nats.Connect(url, append(options, more...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", publish.Refused(err))
	}
	return &natsConn{nc, &refused}, nil
}

// embedded is a NATS server inside this process.
type embedded struct {
	srv *server.Server
}

const embeddedReady = 30 * time.Second

// embeddedFlags say where the embedded NATS server listens and keeps its files.
type embeddedFlags struct {
	NATSEmbeddedDir  string        `name:"nats-embedded-dir" help:"Directory of the embedded NATS server. Default: below the user's cache directory." env:"FFSTREAM_NATS_EMBEDDED_DIR" placeholder:"DIR"`
	NATSEmbeddedHost string        `name:"nats-embedded-host" help:"Address the embedded NATS server listens on. Beyond loopback it asks its clients for the token, password or NKey that the other flags name." env:"FFSTREAM_NATS_EMBEDDED_HOST" default:"127.0.0.1"`
	NATSEmbeddedPort int           `name:"nats-embedded-port" help:"Port of the embedded NATS server; 0 takes a free one." env:"FFSTREAM_NATS_EMBEDDED_PORT" default:"4222"`
	NATSEmbeddedSync time.Duration `name:"nats-embedded-sync" help:"How often the embedded NATS server syncs its files to disk." env:"FFSTREAM_NATS_EMBEDDED_SYNC" default:"2m"`
}

// startEmbedded starts a NATS server with JetStream, whose clients have to be as
// auth says. Port 0 takes a free one.
func startEmbedded(ctx context.Context, f *embeddedFlags, auth *natsAuth) (*embedded, error) {
	dir, port := f.NATSEmbeddedDir, f.NATSEmbeddedPort
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("find a directory for the embedded NATS server: %w: name one (--nats-embedded-dir)", err)
		}
		dir = filepath.Join(cache, "ffstream", "nats")
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	options := server.Options{
		ServerName: "ffstream-embedded",
		Host:       f.NATSEmbeddedHost, Port: port,
		JetStream: true, StoreDir: dir,
		SyncInterval: f.NATSEmbeddedSync,
		NoSigs:       true, NoLog: true,
		DontListen: false,
	}
	if err := auth.guard(&options); err != nil {
		return nil, err
	}
	srv, err := server.NewServer(&options)
	if err != nil {
		return nil, fmt.Errorf("start embedded NATS server: %w", err)
	}
	srv.Start()
	ready := make(chan bool, 1)
	go func() { ready <- srv.ReadyForConnections(embeddedReady) }()
	select {
	case ok := <-ready:
		if ok && srv.JetStreamEnabled() {
			return &embedded{srv}, nil
		}
		srv.Shutdown()
		return nil, fmt.Errorf("start embedded NATS server in %s: it is not ready after %s: is another process using the directory or port %d?", dir, embeddedReady, port)
	case <-ctx.Done():
		srv.Shutdown()
		return nil, ctx.Err()
	}
}

func (e *embedded) url() string { return e.srv.ClientURL() }

// close stops the server and waits until its files are written.
func (e *embedded) close() {
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
}
