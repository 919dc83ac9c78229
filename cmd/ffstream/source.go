package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/doctor"
	"github.com/ffstream/ffstream/internal/normalize"
	"github.com/ffstream/ffstream/internal/read"
	"github.com/ffstream/ffstream/internal/shard"
	"github.com/ffstream/ffstream/migrations"
)

// source is the ordinary connection beside the replication one: it checks the
// catalog before each session and reads rows that came as unchanged TOAST.
type source struct {
	database *pgconn.Config
	cfg      migrations.Config

	// turn is held, by a value in it, by whoever uses conn. A mutex would let one
	// that waits for a server without an answer hold up others beyond their time.
	turn chan struct{}
	conn *pgx.Conn // nil until it is needed, and after a failure
}

func newSource(database *pgconn.Config, publication, identity string) *source {
	return &source{database: database, turn: make(chan struct{}, 1), cfg: migrations.Config{Publication: publication, Identity: identity == identityIndex}}
}

// connect opens an ordinary connection.
func connect(ctx context.Context, database *pgconn.Config) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	cfg.Config = *database.Copy()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		var connect *pgconn.ConnectError
		if errors.As(err, &connect) {
			err = connect.Unwrap() // without the connection string
		}
		return nil, fmt.Errorf("connect to Postgres: %w", err)
	}
	return conn, nil
}

// use runs f on the connection, which a failure closes. It waits for its turn no
// longer than ctx.
func (s *source) use(ctx context.Context, f func(*pgx.Conn) error) error {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection to Postgres: %w", ctx.Err())
	}
	if s.conn == nil || s.conn.IsClosed() {
		conn, err := connect(ctx, s.database)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	err := f(s.conn)
	var pg *pgconn.PgError
	if err != nil && !errors.As(err, &pg) {
		_ = s.conn.Close(ctx) // the error that matters is err
		s.conn = nil
	}
	return err
}

func (s *source) close() {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	if s.conn != nil {
		_ = s.conn.Close(context.Background())
	}
}

// preflight marks as permanent what the operator has to mend. Rights come first: a
// schema that the role may not use hides the tables.
func (s *source) preflight(ctx context.Context) error {
	var missing []string
	err := s.use(ctx, func(c *pgx.Conn) (err error) {
		if missing, err = doctor.Grants(ctx, c); err != nil || len(missing) > 0 {
			return err
		}
		return migrations.Check(ctx, c, s.cfg)
	})
	if len(missing) > 0 {
		return shard.Permanent(fmt.Errorf("role %s may not read what it needs: run: %s", s.database.User, strings.Join(missing, "; ")))
	}
	for _, fault := range []error{migrations.ErrTables, migrations.ErrPublication, migrations.ErrIdentity} {
		if errors.Is(err, fault) {
			return shard.Permanent(err)
		}
	}
	return err
}

// lineage names the editions of the publication, see migrations.Lineage.
func (s *source) lineage(ctx context.Context) (line []string, err error) {
	err = s.use(ctx, func(c *pgx.Conn) error {
		line, err = migrations.Lineage(ctx, c, s.cfg)
		return err
	})
	return line, err
}

// lookup returns a reader of rows for one session.
func (s *source) lookup(ctx context.Context) normalize.Lookup { return lookup{ctx: ctx, source: s} }

// lookup reads rows for the normaliser, whose interface knows no context: it is
// pure. The context is the session's.
type lookup struct {
	ctx    context.Context
	source *source
}

// lookupTimeout bounds one look-up.
const lookupTimeout = 5 * time.Second

const (
	lookupSQL = `SELECT raw_fields::text, blocking_reason, cancellation_reason, cancelled_by
	FROM ff_exec_core WHERE partition_key = $1 AND execution_id = $2`
	// attemptsSQL reads the attempt up to the pointer ($3) and the one that ended with
	// the execution ($4).
	attemptsSQL = `SELECT a.attempt_index, a.outcome, a.terminal_at_ms, a.xmin::text::bigint, e.attempt_index, e.outcome, e.terminal_at_ms, e.xmin::text::bigint
	FROM ff_exec_core c
	LEFT JOIN LATERAL (
		SELECT attempt_index, outcome, terminal_at_ms, xmin FROM ff_attempt
		WHERE partition_key = $1 AND execution_id = $2 AND attempt_index <= $3 ORDER BY attempt_index DESC LIMIT 1
	) AS a ON true
	LEFT JOIN LATERAL (
		SELECT attempt_index, outcome, terminal_at_ms, xmin FROM ff_attempt
		WHERE partition_key = $1 AND execution_id = $2 AND attempt_index < $3 AND terminal_at_ms = $4
		AND outcome IN ('success', 'failed', 'failure', 'cancelled', 'expired', 'skipped') ORDER BY attempt_index DESC LIMIT 1
	) AS e ON true
	WHERE c.partition_key = $1 AND c.execution_id = $2`
	// versionsSQL reads which transactions wrote an execution's rows.
	versionsSQL = `SELECT c.xmin::text::bigint, a.attempt_index, a.outcome, a.terminal_at_ms, a.xmin::text::bigint
	FROM ff_exec_core c LEFT JOIN ff_attempt a ON a.partition_key = $1 AND a.execution_id = $2
	WHERE c.partition_key = $1 AND c.execution_id = $2`
)

// use runs a query, and once more over a new connection when the first failed: it
// is idle for long, so that a firewall may have dropped the old one in silence. It
// returns false for no row.
func (l lookup) use(query func(ctx context.Context, c *pgx.Conn) error) (bool, error) {
	once := func() error {
		ctx, cancel := context.WithTimeout(l.ctx, lookupTimeout)
		defer cancel()
		return l.source.use(ctx, func(c *pgx.Conn) error { return query(ctx, c) })
	}
	err := once()
	if err != nil && !errors.Is(err, pgx.ErrNoRows) && l.ctx.Err() == nil {
		err = once()
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// Row reads the columns of one execution that may be TOASTed.
func (l lookup) Row(partition int16, id uuid.UUID) (normalize.LookedUp, bool, error) {
	var raw string
	var blocking, reason, by *string
	found, err := l.use(func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, lookupSQL, partition, [16]byte(id)).Scan(&raw, &blocking, &reason, &by)
	})
	if !found {
		return normalize.LookedUp{}, false, err
	}
	return normalize.LookedUp{
		RawFields: []byte(raw), BlockingReason: nullable(blocking), CancellationReason: nullable(reason), CancelledBy: nullable(by),
	}, true, nil
}

// attemptVersion is what the columns of an ff_attempt row are scanned into; all are
// NULL where there is none.
type attemptVersion struct {
	index    *int32
	outcome  *string
	terminal *int64
	xid      *int64
}

func (v *attemptVersion) appendTo(to []any) []any {
	return append(to, &v.index, &v.outcome, &v.terminal, &v.xid)
}

func (v *attemptVersion) attempt() (a normalize.LookedUpAttempt) {
	if v.index == nil {
		return a
	}
	a.Exists, a.Index, a.Xid = true, *v.index, uint32(*v.xid)
	a.Outcome = nullable(v.outcome).V
	if v.terminal != nil {
		a.Terminal = ffstream.Some(*v.terminal)
	}
	return a
}

// Attempts reads the attempts that the rule consults.
func (l lookup) Attempts(partition int16, id uuid.UUID, pointer int32, terminal ffstream.Opt[int64]) (normalize.LookedUpAttempts, bool, error) {
	var ends *int64
	if terminal.OK {
		ends = &terminal.V
	}
	var at, ended attemptVersion
	found, err := l.use(func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, attemptsSQL, partition, [16]byte(id), pointer, ends).Scan(ended.appendTo(at.appendTo(nil))...)
	})
	return normalize.LookedUpAttempts{Found: at.attempt(), Ended: ended.attempt()}, found, err
}

// Execution reads a complete execution, and after that which transactions wrote it.
func (l lookup) Execution(partition int16, id uuid.UUID) (x normalize.LookedUpExecution, found bool, err error) {
	_, err = l.use(func(ctx context.Context, c *pgx.Conn) error {
		if x.Event, found, err = read.Execution(ctx, c, ffstream.NewExecutionID(uint16(partition), id)); err != nil || !found {
			return err
		}
		rows, err := c.Query(ctx, versionsSQL, partition, [16]byte(id))
		if err != nil {
			return err
		}
		x.Attempts = nil
		var xid int64
		var v attemptVersion
		tag, err := pgx.ForEachRow(rows, v.appendTo([]any{&xid}), func() error {
			x.Xid = uint32(xid)
			if a := v.attempt(); a.Exists {
				x.Attempts = append(x.Attempts, a)
			}
			return nil
		})
		found = tag.RowsAffected() > 0
		return err
	})
	return x, found && err == nil, err
}

func nullable(s *string) ffstream.Opt[string] {
	if s == nil {
		return ffstream.Opt[string]{}
	}
	return ffstream.Some(*s)
}
