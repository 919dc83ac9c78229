package main

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestUseInTurn: who waits for a connection that another waits on, for a server
// without an answer, waits no longer than its own context.
func TestUseInTurn(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	cfg, err := pgconn.ParseConfig("postgres://u@" + listener.Addr().String() + "/d?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	s := newSource(cfg, "ffstream", identityIndex)
	nothing := func(*pgx.Conn) error { return nil }
	holding, release := context.WithCancel(context.Background())
	held := make(chan error, 1)
	go func() { held <- s.use(holding, nothing) }()
	conn, err := listener.Accept() // so the first has its turn
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	waiting, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	second := make(chan error, 1)
	go func() { second <- s.use(waiting, nothing) }()
	select {
	case err = <-second:
	case err = <-held:
		t.Fatalf("the first ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("the second waits beyond its context")
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second ended with %v", err)
	}
	release()
	if err := <-held; err == nil {
		t.Error("the first connected")
	}
	s.close()
}
