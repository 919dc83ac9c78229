package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
)

// Config says what a shard follows and where it publishes.
type Config struct {
	Source repl.Config
	Sink   publish.Config // SystemID and Slot are filled in from the source
	// Identity is false for a source without replica identity, see
	// normalize.Config.
	Identity bool
	// Preflight checks the source before each session: its error is fatal when
	// it wraps one made by Permanent.
	Preflight func(ctx context.Context) error
	// Lineage names the editions of the publication that followed each other
	// without a break, the present one last. Nil: an edit is not noticed.
	Lineage func(ctx context.Context) ([]string, error)
	// Lookup reads rows for what the WAL does not contain. The context is the
	// session's.
	Lookup func(ctx context.Context) normalize.Lookup
	// RecentStates is the most executions whose latest state is held in memory, see
	// normalize.Recent. Default 0: none.
	RecentStates int
	// Probe looks at the slot for the status, every ProbeInterval (default 10 s)
	// while Run lives, from a goroutine of its own. Nil: nothing is known of it.
	Probe         func(ctx context.Context) (SlotHealth, error)
	ProbeInterval time.Duration
	// Heartbeat writes a logical message that belongs to no transaction into the
	// log, flushed, every HeartbeatInterval while the shard is active, so that the
	// end-to-end delay is known when nothing happens. Nil: it is not known.
	// Source.Messages must be set with it.
	Heartbeat         func(ctx context.Context, prefix, content string) error
	HeartbeatInterval time.Duration
	// Backfill runs what is ordered beside the stream. Nil: nothing is. Source.Messages
	// must be set with it.
	Backfill *BackfillConfig
	// ShutdownTimeout bounds what Run does after its context ended: storing what
	// was read, and confirming it. Default 10 s.
	ShutdownTimeout time.Duration
	// Holdback is how long what is stored is not confirmed yet, so that the slot
	// can refill a stream whose broker forgot it. Default 0.
	Holdback time.Duration
	// MaxBackoff caps the time between two tries. Default 15 s.
	MaxBackoff time.Duration
	Log        *slog.Logger
}

const (
	defaultShutdownTimeout = 10 * time.Second
	defaultMaxBackoff      = 15 * time.Second
	initialBackoff         = 100 * time.Millisecond
	// standbyInterval caps the time between two tries for a busy slot, so that
	// a takeover takes no longer than this.
	standbyInterval = time.Second
	connectTimeout  = 15 * time.Second
)

// Shard runs one slot into one stream.
type Shard struct {
	cfg   Config
	nc    *nats.Conn // the caller's; it must reconnect for ever and buffer nothing
	board board
	// known and acked are what the broker acknowledged to this process: the last
	// note, and the greatest sequence, as an answer or as the tail of a session told.
	// A broker that shows less forgot it.
	known *note
	acked uint64
	// suspect is the sign of the gap that the previous session believed to see.
	suspect string
	// silences is how many sessions in a row ended because the server was silent,
	// without having stored anything.
	silences int
	// stalled: the latest session to begin did not get on, so another one that begins
	// is no news before it does.
	stalled bool
	// established: a session reached the streaming state once, so the
	// configuration was right then.
	established bool
}

// New returns a shard that publishes over nc. It starts nothing.
func New(nc *nats.Conn, cfg Config) *Shard {
	if cfg.ShutdownTimeout == 0 {
		cfg.ShutdownTimeout = defaultShutdownTimeout
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = defaultMaxBackoff
	}
	if cfg.ProbeInterval == 0 {
		cfg.ProbeInterval = defaultProbeInterval
	}
	s := &Shard{cfg: cfg, nc: nc}
	s.board.count(func(b *Status) {
		b.Role, b.Slot, b.Stream, b.Since = RoleConnecting, cfg.Source.Slot, cfg.Sink.Stream, time.Now()
		b.Events, b.Retries = make(map[ffstream.PublicState]uint64), make(map[string]uint64)
	})
	return s
}

// Status returns what the shard is doing. It never blocks on a server.
func (s *Shard) Status() Status { return s.board.snapshot() }

// Run follows the slot until ctx ends, which returns nil, or until something
// happens that waiting cannot mend. When ctx ends it stops reading, waits up to
// ShutdownTimeout for what was read to be stored, confirms that, and returns.
func (s *Shard) Run(ctx context.Context) error {
	defer s.setRole(RoleStopped)
	if s.cfg.Probe != nil {
		probing, stop := context.WithCancel(ctx)
		probed := make(chan struct{}) // closed when D has ended
		go func() {
			defer close(probed)
			s.probe(probing)
		}()
		defer func() { stop(); <-probed }()
	}
	delay := backoff.NewExponentialBackOff()
	delay.InitialInterval, delay.MaxInterval = initialBackoff, s.cfg.MaxBackoff
	// said has the causes that were logged since a session got on: one line a change,
	// not one a try. Several may alternate: a full stream refuses one message as full,
	// and the next because that one is missing.
	said := make(map[string]bool)
	for {
		acked := s.acked
		var active time.Time // since when; zero: it was not
		err := s.cfg.Sink.Explain(s.session(ctx, func() {
			active, acked = time.Now(), s.acked
			s.established = true
			s.setRole(RoleActive)
		}))
		if ctx.Err() != nil {
			if !active.IsZero() && err != nil && !errors.Is(err, context.Canceled) {
				s.cfg.Log.Warn("stopped before everything was stored; the next start goes on from the stream's tail", "error", err)
			}
			return nil
		}
		if s.fatal(err) {
			return s.explain(err)
		}
		if s.nc.IsClosed() {
			return fmt.Errorf("the NATS client gave its connection up: %w", errors.Join(s.nc.LastError(), err))
		}
		if errors.Is(err, repl.ErrSlotBusy) {
			s.established = true // both ends were opened and checked: what a holder survives a standby does too
		}
		if !active.IsZero() && (s.acked > acked || time.Since(active) > s.cfg.MaxBackoff) {
			// It got on. One that only began, into a full stream for instance, did not.
			delay.Reset()
			clear(said)
			s.suspect = ""
		} else if !active.IsZero() {
			s.stalled = true
		}
		s.heed(err, s.acked > acked)
		wait := delay.NextBackOff()
		role := RoleConnecting
		if errors.Is(err, repl.ErrSlotBusy) {
			role, wait = RoleStandby, min(wait, standbyInterval)
		}
		s.board.update(func(b *Status) {
			if b.Role != role {
				b.Since = time.Now()
			}
			b.Role, b.LastError = role, err.Error()
			b.InFlight, b.InFlightBytes, b.Told = 0, 0, 0 // the session's window is gone with it
			cause := nameOf(err)
			b.Retries[cause]++
			if role != RoleStandby && !errors.Is(err, errUnsure) {
				b.LastFailure = Failure{At: time.Now(), Cause: cause, Error: err.Error()}
			}
		})
		if cause := causeOf(err); errors.Is(err, errUnsure) {
			s.cfg.Log.Debug(err.Error())
		} else if !said[cause] {
			said[cause] = true
			s.cfg.Log.Warn(waitingFor(role), "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// maxSilences bounds how often the time that a server may be silent is doubled: to
// 16 minutes, after which the kernel would give the connection up.
const maxSilences = 5

// heed counts the sessions that a silent server ended. One that is there may be busy
// in one place for longer than its silence is borne, and a session that gives up
// before that is over makes it begin anew: each try bears twice the silence.
func (s *Shard) heed(err error, stored bool) {
	switch silent := errors.Is(err, repl.ErrSilent); {
	case silent && !stored:
		s.silences = min(s.silences+1, maxSilences)
	case silent || stored:
		s.silences = 0
	}
}

// sourceConfig is the source's for the next session.
func (s *Shard) sourceConfig() repl.Config {
	cfg := s.cfg.Source
	if cfg.Silence == 0 {
		cfg.Silence = repl.DefaultSilence
	}
	cfg.Silence <<= s.silences
	return cfg
}

func waitingFor(role Role) string {
	if role == RoleStandby {
		return "standby: another process holds the slot; trying again until it is free"
	}
	return "session ended; trying again"
}

func (s *Shard) setRole(role Role) {
	s.board.update(func(b *Status) {
		b.Role, b.Since = role, time.Now()
		if role == RoleActive {
			b.LastError = ""
		}
	})
}

// explain adds the position to a fatal error.
func (s *Shard) explain(err error) error {
	if p := s.Status().Position; !p.IsZero() {
		return fmt.Errorf("%w (last event at %s)", err, p)
	}
	return err
}

// permanent marks an error that waiting cannot mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// Permanent marks err as one that waiting cannot mend, for Config.Preflight.
func Permanent(err error) error { return permanent{err} }

// fatalErrors end Run at any time.
var fatalErrors = []error{
	repl.ErrSlotLost, repl.ErrSlotForeign, repl.ErrPublicationMissing, repl.ErrNotPermitted,
	repl.ErrServerTooOld, repl.ErrWALLevel,
	publish.ErrStreamLost, publish.ErrStreamConfig, publish.ErrStreamForeign,
	normalize.ErrReplicaIdentity, normalize.ErrColumn, ErrGap, errUndecodable,
}

// typingErrors end Run until a first session was established: then they are
// taken for a mistake in the configuration, later for an accident.
var typingErrors = []error{
	repl.ErrAuthentication, repl.ErrDatabaseMissing, repl.ErrUnknownHost, repl.ErrUntrusted,
	publish.ErrNoJetStream, publish.ErrAuthentication, publish.ErrUntrusted, publish.ErrNotPermitted,
}

func (s *Shard) fatal(err error) bool {
	var p permanent
	return errors.As(err, &p) || isAny(err, fatalErrors) || !s.established && isAny(err, typingErrors)
}

func isAny(err error, kinds []error) bool {
	for _, k := range kinds {
		if errors.Is(err, k) {
			return true
		}
	}
	return false
}

// causes are the kinds of retryable errors, by their names in the status.
var causes = []struct {
	err  error
	name string
}{
	{repl.ErrSlotBusy, "slot_busy"},
	{publish.ErrNotPermitted, "nats_permission"}, // it wraps the one or the other of what follows
	{publish.ErrUnavailable, "nats_unavailable"},
	{publish.ErrFull, "stream_full"},
	{publish.ErrAmbiguous, "nats_ambiguous"},
	{repl.ErrAuthentication, "postgres_authentication"},
	{repl.ErrDatabaseMissing, "postgres_database"},
	{repl.ErrRecovery, "postgres_recovery"},
	{repl.ErrSilent, "postgres_silent"},
	{repl.ErrUnknownHost, "postgres_host"},
	{repl.ErrUntrusted, "postgres_tls"},
	{publish.ErrNoJetStream, "nats_jetstream"},
	{publish.ErrAuthentication, "nats_authentication"},
	{publish.ErrUntrusted, "nats_tls"},
	{errUnsure, "unsure"},
}

// Causes lists the keys that Status.Retries may have.
func Causes() []string {
	names := []string{causeOther}
	for _, c := range causes {
		names = append(names, c.name)
	}
	return names
}

// causeOther is every cause without a name, above all a connection to Postgres
// that could not be made or was lost.
const causeOther = "postgres"

func nameOf(err error) string {
	for _, c := range causes {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	return causeOther
}

// causeOf is what tells a retryable error from the one before, so that a
// repetition of the same with another number in its text, such as the port of a
// connection, is no news.
func causeOf(err error) string {
	if name := nameOf(err); name != causeOther && name != "unsure" {
		return name
	}
	text := err.Error()
	step, _, _ := strings.Cut(text, ": ") // what could not be done
	var pg *pgconn.PgError
	var errno syscall.Errno
	var network net.Error
	switch {
	case errors.As(err, &pg):
		return step + " " + pg.Code
	case errors.As(err, &errno):
		return step + " " + errno.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return step + " EOF"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		return step + " timeout"
	}
	return text
}

// CorruptColumns are the columns by which corrupt rows are counted.
func CorruptColumns() []string { return normalize.LiteralColumns() }
