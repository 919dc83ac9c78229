package main

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
)

// TestLastWords: what the other end said before it hung up is read, whether or not
// a message was on its way to it.
func TestLastWords(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	conn, err := natsDialer{}.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	other, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Write([]byte("bad certificate")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.(*net.TCPConn).SetLinger(0), other.Close()); err != nil { // which resets the connection
		t.Fatal(err)
	}
	for err = nil; err == nil; { // until the reset is here
		_, err = conn.(lastWords).TCPConn.Write([]byte("startup"))
	}
	if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatal(err)
	}
	if n, err := conn.Write([]byte("startup")); n != len("startup") || err != nil {
		t.Errorf("a write fails before the reason was read: %v", err)
	}
	if text, err := io.ReadAll(conn); string(text) != "bad certificate" {
		t.Errorf("read %q: %v", text, err)
	}
}
