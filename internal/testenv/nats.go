package testenv

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATS is a server with JetStream inside this process, on loopback.
type NATS struct {
	srv  *server.Server
	opts server.Options
	file string
	temp bool // the directory is ours to remove
}

// NATSConfig says how a NATS server is started.
type NATSConfig struct {
	Dir         string // of JetStream's files; empty for a temporary one
	SyncAlways  bool   // sync before each acknowledgement
	NoJetStream bool
	File        string // configuration file, read at each start
}

const natsReady = 30 * time.Second

// StartNATS starts a server on a free port of loopback.
func StartNATS(cfg NATSConfig) (*NATS, error) {
	n := &NATS{temp: cfg.Dir == "", file: cfg.File}
	if n.temp {
		dir, err := os.MkdirTemp("", "ffstream-nats-")
		if err != nil {
			return nil, fmt.Errorf("make directory for NATS: %w", err)
		}
		cfg.Dir = dir
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	n.opts = server.Options{
		ServerName: "ffstream-test", Host: "127.0.0.1", Port: port,
		JetStream: !cfg.NoJetStream, StoreDir: cfg.Dir, SyncAlways: cfg.SyncAlways, NoSigs: true, NoLog: true,
	}
	if err := n.Start(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// NewNATS is StartNATS for one test, with whose end the server ends.
func NewNATS(tb testing.TB, cfg NATSConfig) *NATS {
	tb.Helper()
	n, err := StartNATS(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Error(err)
		}
	})
	return n
}

// Start starts the server, again on the same port and files.
func (n *NATS) Start() error {
	opts := n.opts
	if n.file != "" {
		if err := opts.ProcessConfigFile(n.file); err != nil {
			return fmt.Errorf("start NATS: %w", err)
		}
	}
	// A client that is slow to say who it is is given time, unless the file says how much.
	opts.AuthTimeout, opts.TLSTimeout = cmp.Or(opts.AuthTimeout, answer.Seconds()), cmp.Or(opts.TLSTimeout, answer.Seconds())
	srv, err := server.NewServer(&opts)
	if err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	n.srv = srv
	srv.Start()
	if !srv.ReadyForConnections(natsReady) {
		return fmt.Errorf("start NATS: not ready after %s", natsReady)
	}
	return nil
}

// Stop ends the server and waits until its files are written.
func (n *NATS) Stop() {
	n.srv.Shutdown()
	n.srv.WaitForShutdown()
}

// Reload has the server take its file again, beneath connections that stay.
func (n *NATS) Reload() error {
	opts := n.opts
	if err := opts.ProcessConfigFile(n.file); err != nil {
		return fmt.Errorf("reload NATS: %w", err)
	}
	if err := n.srv.ReloadOptions(&opts); err != nil {
		return fmt.Errorf("reload NATS: %w", err)
	}
	return nil
}

// URL is where clients connect.
func (n *NATS) URL() string { return fmt.Sprintf("nats://127.0.0.1:%d", n.opts.Port) }

// Close ends the server and removes a temporary directory.
func (n *NATS) Close() error {
	if n.srv != nil {
		n.Stop()
	}
	if n.temp {
		return os.RemoveAll(n.opts.StoreDir)
	}
	return nil
}
