package testenv

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

func TestMain(m *testing.M) { os.Exit(Main(m.Run)) }

// TestPorts: a port is one process's, is none that the system gives to who asks for any,
// and nobody listens on it.
func TestPorts(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for range 20 {
		port, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || takePort(port) == nil { // which asks the system, as another process does
			t.Errorf("port %d is given twice", port)
		}
		seen[port] = true
	}
	first := firstPort()
	var others []net.Listener
	for range 200 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		others = append(others, l)
		if port := l.Addr().(*net.TCPAddr).Port; port >= first && port < first+portCount {
			t.Errorf("the system gives away port %d of %d and those behind it", port, first)
		}
	}
	if err := takePort(others[0].Addr().(*net.TCPAddr).Port); err == nil {
		t.Error("a port on which a program listens is taken")
	}
	for _, l := range others {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestConnectSlowly: a client and a server that take longer to find each other than
// either waits by default do find each other, and a wrong password is refused.
func TestConnectSlowly(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte("authorization { user: u, password: right }"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := NewNATS(t, NATSConfig{File: file})
	as := func(url, password string) string { return strings.Replace(url, "//", "//u:"+password+"@", 1) }
	nc := Connect(t, as(slowly(t, server.URL()), "right"))
	if _, err := JetStream(t, nc).AccountInfo(t.Context()); err != nil {
		t.Error(err)
	}
	if nc, err := nats.Connect(as(server.URL(), "wrong"), nats.Timeout(answer)); !errors.Is(err, nats.ErrAuthorization) {
		nc.Close()
		t.Errorf("a wrong password: %v", err)
	}
}

// TestJetStreamSlowly: an answer of JetStream's that takes longer than a client waits by
// default is waited for.
func TestJetStreamSlowly(t *testing.T) {
	t.Parallel()
	nc := Connect(t, NewNATS(t, NATSConfig{NoJetStream: true}).URL())
	if _, err := nc.Subscribe("$JS.API.INFO", func(m *nats.Msg) {
		select {
		case <-time.After(6 * time.Second):
			_ = m.Respond([]byte("{}"))
		case <-t.Context().Done():
		}
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := JetStream(t, nc).AccountInfo(t.Context()); err != nil {
		t.Error(err)
	}
}

// slowly is the URL of a server for one client, for whom its first words come late.
func slowly(t *testing.T, server string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var copying sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); copying.Wait() })
	copying.Go(func() {
		client, err := l.Accept()
		if err != nil {
			return
		}
		upstream, err := net.Dial("tcp", strings.TrimPrefix(server, "nats://"))
		if err != nil {
			t.Error(err)
			return
		}
		over := func() { _, _ = client.Close(), upstream.Close() }
		copying.Go(func() { defer over(); _, _ = io.Copy(upstream, client) })
		defer over()
		select {
		case <-time.After(3 * time.Second): // more than the two seconds of both ends
		case <-t.Context().Done():
		}
		_, _ = io.Copy(client, upstream)
	})
	return "nats://" + l.Addr().String()
}
