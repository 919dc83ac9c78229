package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ffstream/ffstream/internal/shard"
)

// Limits are how far an active shard may be behind and still be ready.
type Limits struct {
	Lag    uint64        // bytes of WAL; 0: any
	Behind time.Duration // 0: any
}

// Config says what is shown.
type Config struct {
	Status  func() shard.Status
	Version string
	Limits  Limits
	Pprof   bool // serve /debug/pprof/, which tells much and costs much
	Log     *slog.Logger
}

// What a request may take. Profiles are longer than the rest.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	writeTimeout   = 10 * time.Second
	profileTimeout = 2 * time.Minute
	idleTimeout    = time.Minute
	headerBytes    = 16 << 10
	bodyBytes      = 4 << 10
	// concurrent bounds scrapes at a time.
	concurrent = 4
)

// Handler returns the handler of all paths.
func Handler(cfg Config) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", cfg.ready)
	mux.HandleFunc("GET /status", cfg.status)
	mux.Handle("GET /metrics", cfg.metrics())
	if cfg.Pprof { // without the command line, which may hold a password
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return http.MaxBytesHandler(mux, bodyBytes)
}

func (c *Config) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collector{c.Status, c.Version},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: concurrent, Timeout: writeTimeout})
}

func (c *Config) ready(w http.ResponseWriter, _ *http.Request) {
	status := c.Status()
	reasons := c.Limits.reasons(&status, time.Now())
	code := http.StatusOK
	if len(reasons) > 0 {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, readiness{Ready: len(reasons) == 0, Role: string(status.Role), Reasons: reasons})
}

// readiness is the body of /readyz.
type readiness struct {
	Ready   bool     `json:"ready"`
	Role    string   `json:"role"`
	Reasons []string `json:"reasons,omitempty"`
}

// reasons says why a shard is not ready; none when it is. A standby is ready: it
// does what it is there for.
func (l *Limits) reasons(s *shard.Status, now time.Time) (reasons []string) {
	switch s.Role {
	case shard.RoleStandby:
		return nil
	case shard.RoleActive:
	default:
		reason := "the service is " + string(s.Role)
		if s.LastError != "" {
			reason += ": " + s.LastError
		}
		return []string{reason}
	}
	if lag := s.Lag(); l.Lag > 0 && lag > l.Lag {
		reasons = append(reasons, fmt.Sprintf("%d bytes of WAL are not confirmed, and %d may be", lag, l.Lag))
	}
	if behind := s.Behind(now); l.Behind > 0 && behind > l.Behind {
		reasons = append(reasons, fmt.Sprintf("the stream is %s behind, and %s are allowed", behind.Round(time.Millisecond), l.Behind))
	}
	return reasons
}

func (c *Config) status(w http.ResponseWriter, _ *http.Request) {
	status := c.Status()
	writeJSON(w, http.StatusOK, NewReport(&status, c.Version, time.Now()))
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(body) // the client is gone
}

// Server serves Handler on one listener.
type Server struct {
	http     http.Server
	listener net.Listener
	ended    chan struct{} // closed by the goroutine that serves, when it has ended
}

// Listen serves on addr, host:port, until Close. Port 0 takes a free one.
func Listen(ctx context.Context, addr string, cfg Config) (*Server, error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for HTTP: %w", err)
	}
	s := &Server{listener: listener, ended: make(chan struct{}), http: http.Server{
		Handler:           Handler(cfg),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: headerBytes,
		ErrorLog: slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}}
	if cfg.Pprof {
		s.http.WriteTimeout = profileTimeout
	}
	go func() {
		defer close(s.ended)
		if err := s.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			cfg.Log.Error("HTTP is served no longer", "error", err)
		}
	}()
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close ends the server and every request.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.ended
	if err != nil {
		return fmt.Errorf("close HTTP: %w", err)
	}
	return nil
}
