package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream/internal/repl"
)

// TestOneLineAChange: a server that resets every connection is named once, though
// each try has another port of its own in its error.
func TestOneLineAChange(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tries, closed := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(closed)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.(*net.TCPConn).SetLinger(0) // which makes closing it a reset
			_ = conn.Close()
			tries <- struct{}{}
		}
	}()
	cfg, err := pgconn.ParseConfig("postgres://u@" + listener.Addr().String() + "/d?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	nc, sink := broker(t, "")
	var out bytes.Buffer
	s := New(nc, Config{Source: repl.Config{Conn: cfg, Slot: "s"}, Sink: sink, MaxBackoff: time.Millisecond, Log: slog.New(slog.NewTextHandler(&out, nil))})
	ctx, cancel := context.WithCancel(testContext(t))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for range 20 {
		<-tries
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	_ = listener.Close()
	select {
	case <-tries:
	case <-closed:
	}
	<-closed
	if n := strings.Count(out.String(), "\n"); n != 1 || !strings.Contains(out.String(), "connection reset") {
		t.Errorf("%d lines of 20 tries: %s", n, out.String())
	}
}

// TestSilenceGrows: a server that is busy in one place is borne with for longer at
// each try, and one that let something be stored, no longer than at first.
func TestSilenceGrows(t *testing.T) {
	t.Parallel()
	s := New(nil, Config{})
	silent := fmt.Errorf("read: %w", repl.ErrSilent)
	for i, step := range []struct {
		err    error
		stored bool
		want   time.Duration
	}{
		{errors.New("refused"), false, 30 * time.Second},
		{silent, false, time.Minute},
		{silent, false, 2 * time.Minute},
		{errors.New("refused"), false, 2 * time.Minute},
		{silent, true, 30 * time.Second},
		{silent, false, time.Minute},
		{errors.New("reset"), true, 30 * time.Second},
		{silent, false, time.Minute}, {silent, false, 2 * time.Minute}, {silent, false, 4 * time.Minute}, {silent, false, 8 * time.Minute},
		{silent, false, 16 * time.Minute}, {silent, false, 16 * time.Minute},
	} {
		s.heed(step.err, step.stored)
		if got := s.sourceConfig().Silence; got != step.want {
			t.Errorf("step %d: %s are borne, want %s", i, got, step.want)
		}
	}
}
