package main

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// lastWords is a connection on which only reading fails when the other end hung up.
// A server that refuses a client's certificate says so and hangs up, after the
// client's own handshake: the client's next message finds the connection closed or
// not, as it happens, and the reason waits to be read in either case.
type lastWords struct{ *net.TCPConn }

// Write implements net.Conn.
func (c lastWords) Write(b []byte) (int, error) {
	n, err := c.TCPConn.Write(b)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return len(b), nil
	}
	return n, err
}

func listening(c net.Conn, err error) (net.Conn, error) {
	if tcp, ok := c.(*net.TCPConn); ok && err == nil {
		return lastWords{tcp}, nil
	}
	return c, err
}

// listenToPostgres makes connections that are made with cfg lastWords.
func listenToPostgres(cfg *pgconn.Config) {
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return listening(dial(ctx, network, addr))
	}
}

// natsDialer makes NATS connections lastWords. It implements nats.CustomDialer.
type natsDialer struct{ timeout time.Duration }

// Dial implements nats.CustomDialer.
func (d natsDialer) Dial(network, addr string) (net.Conn, error) {
	return listening((&net.Dialer{Timeout: d.timeout}).Dial(network, addr))
}
