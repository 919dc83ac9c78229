package testenv

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// NATSProcess is a NATS server in a process of its own, so that it can be
// killed. The process is this test binary, which Main makes a server when the
// environment says so.
type NATSProcess struct {
	cfg    childConfig
	cmd    *exec.Cmd
	exited chan struct{} // closed by the goroutine that waits for the process
}

// childConfig is what the environment tells the child.
type childConfig struct {
	Name, Dir   string
	Port        int
	ClusterPort int      // 0: no cluster
	Routes      []string // of the whole cluster
	SyncAlways  bool
}

// childVariable holds a childConfig as JSON.
const childVariable = "FFSTREAM_TEST_NATS_CHILD"

// Server starts a server process on a free port of loopback, with its files in a
// temporary directory, and removes both when the test ends.
func Server(tb testing.TB) *NATSProcess {
	tb.Helper()
	return startAll(tb, []childConfig{{Name: "single"}})[0]
}

// SyncingServer is Server with sync_interval: always: what it acknowledges is on disk.
func SyncingServer(tb testing.TB) *NATSProcess {
	tb.Helper()
	return startAll(tb, []childConfig{{Name: "syncing", SyncAlways: true}})[0]
}

// Cluster starts n server processes that form one JetStream cluster.
func Cluster(tb testing.TB, n int) []*NATSProcess {
	tb.Helper()
	configs := make([]childConfig, n)
	var routes []string
	for i := range configs {
		port, err := freePort()
		if err != nil {
			tb.Fatal(err)
		}
		configs[i] = childConfig{Name: "n" + strconv.Itoa(i+1), ClusterPort: port}
		routes = append(routes, "nats://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	for i := range configs {
		configs[i].Routes = routes
	}
	return startAll(tb, configs)
}

func startAll(tb testing.TB, configs []childConfig) []*NATSProcess {
	tb.Helper()
	var all []*NATSProcess
	for _, cfg := range configs {
		dir, err := os.MkdirTemp("", "ffstream-nats-")
		if err != nil {
			tb.Fatal(err)
		}
		cfg.Dir = dir
		if cfg.Port, err = freePort(); err != nil {
			tb.Fatal(err)
		}
		p := &NATSProcess{cfg: cfg}
		tb.Cleanup(func() {
			p.Kill()
			if err := os.RemoveAll(dir); err != nil {
				tb.Errorf("remove files of NATS: %v", err)
			}
		})
		if err := p.Start(); err != nil {
			tb.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// URL is where clients connect.
func (p *NATSProcess) URL() string { return "nats://127.0.0.1:" + strconv.Itoa(p.cfg.Port) }

// Name is the server's name in its cluster.
func (p *NATSProcess) Name() string { return p.cfg.Name }

// Pid is the number of the process.
func (p *NATSProcess) Pid() int { return p.cmd.Process.Pid }

// Dir is where the server keeps its files.
func (p *NATSProcess) Dir() string { return p.cfg.Dir }

// Start starts the process, again on the same port and files. It does not wait
// until the server is ready.
func (p *NATSProcess) Start() error {
	text, err := json.Marshal(p.cfg)
	if err != nil {
		return fmt.Errorf("start NATS: %w", err)
	}
	cmd := exec.Command(os.Args[0]) //nolint:noctx // Kill ends it
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = child(nil, syscall.SIGKILL)
	started := make(chan error, 1)
	exited := make(chan struct{})
	go func() {
		runtime.LockOSThread() // which the child ends with; see child
		defer close(exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	p.cmd, p.exited = cmd, exited
	return <-started
}

// Kill ends the process as kill -9 does and waits until it is gone.
func (p *NATSProcess) Kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Signal sends a signal, SIGSTOP for instance.
func (p *NATSProcess) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal NATS: %w", err)
	}
	return nil
}

// serveNATS is the child's whole life.
func serveNATS(text string) int {
	var cfg childConfig
	if err := json.NewDecoder(bytes.NewReader([]byte(text))).Decode(&cfg); err != nil {
		fmt.Fprintln(os.Stderr, "nats child:", err)
		return 1
	}
	opts := &server.Options{
		ServerName: cfg.Name, Host: "127.0.0.1", Port: cfg.Port, JetStream: true, StoreDir: cfg.Dir,
		SyncAlways: cfg.SyncAlways, NoSigs: true, NoLog: true,
	}
	if cfg.ClusterPort != 0 {
		// A client goes by the addresses that it was given, which may be a proxy's.
		opts.Cluster = server.ClusterOpts{Name: "ffstream", Host: "127.0.0.1", Port: cfg.ClusterPort, NoAdvertise: true}
		var err error
		if opts.Routes, err = parseRoutes(cfg.Routes); err != nil {
			fmt.Fprintln(os.Stderr, "nats child:", err)
			return 1
		}
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, "nats child:", err)
		return 1
	}
	srv.Start()
	if !srv.ReadyForConnections(time.Minute) {
		fmt.Fprintln(os.Stderr, "nats child: not ready")
		return 1
	}
	srv.WaitForShutdown()
	return 0
}

func parseRoutes(texts []string) ([]*url.URL, error) {
	var routes []*url.URL
	for _, text := range texts {
		u, err := url.Parse(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("parse route: %w", err)
		}
		routes = append(routes, u)
	}
	return routes, nil
}
