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
)

// connectNATS returns a connection that is tried for ever and that buffers
// nothing while it is down: a message that is not on its way fails, and the
// shard reads the stream's tail again.
func connectNATS(url string, log *slog.Logger) (*nats.Conn, error) {
	nc, err := nats.Connect(url,
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
		nats.ReconnectErrHandler(nil),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("NATS reported an error", "error", err)
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("NATS connection lost; reconnecting", "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("NATS connected") }),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return nc, nil
}

// embedded is a NATS server inside this process.
type embedded struct {
	srv *server.Server
}

const embeddedReady = 30 * time.Second

// startEmbedded starts a NATS server with JetStream in dir. It listens on host
// and port; port 0 takes a free one.
func startEmbedded(ctx context.Context, dir, host string, port int, sync time.Duration) (*embedded, error) {
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
	srv, err := server.NewServer(&server.Options{
		ServerName: "ffstream-embedded",
		Host:       host, Port: port,
		JetStream: true, StoreDir: dir,
		SyncInterval: sync,
		NoSigs:       true, NoLog: true,
		DontListen: false,
	})
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
