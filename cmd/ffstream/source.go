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
	// attemptSQL reads the attempt up to the pointer and the one that ended the
	// execution.
	attemptSQL = `SELECT a.attempt_index IS NOT NULL, coalesce(a.attempt_index, 0), coalesce(a.outcome, ''), coalesce(a.xmin::text::bigint, 0),
		coalesce(e.outcome, ''), coalesce(e.attempt_index, 0)
	FROM ff_exec_core c
	LEFT JOIN LATERAL (
		SELECT attempt_index, outcome, xmin FROM ff_attempt
		WHERE partition_key = $1 AND execution_id = $2 AND attempt_index <= $3 ORDER BY attempt_index DESC LIMIT 1
	) AS a ON true
	LEFT JOIN LATERAL (
		SELECT attempt_index, outcome FROM ff_attempt
		WHERE partition_key = $1 AND execution_id = $2 AND attempt_index < $3 AND terminal_at_ms = c.terminal_at_ms
		AND outcome IN ('success', 'failed', 'failure', 'cancelled', 'expired', 'skipped') ORDER BY attempt_index DESC LIMIT 1
	) AS e ON true
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

// Attempt reads the attempt with the greatest index up to pointer.
func (l lookup) Attempt(partition int16, id uuid.UUID, pointer int32) (a normalize.LookedUpAttempt, found bool, err error) {
	var xid int64
	found, err = l.use(func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, attemptSQL, partition, [16]byte(id), pointer).Scan(&a.Exists, &a.Index, &a.Outcome, &xid, &a.Ended, &a.EndedIndex)
	})
	a.Xid = uint32(xid)
	return a, found, err
}

// Execution reads a complete execution.
func (l lookup) Execution(partition int16, id uuid.UUID) (e ffstream.Event, found bool, err error) {
	_, err = l.use(func(ctx context.Context, c *pgx.Conn) error {
		e, found, err = read.Execution(ctx, c, ffstream.NewExecutionID(uint16(partition), id))
		return err
	})
	return e, found, err
}

func nullable(s *string) ffstream.Opt[string] {
	if s == nil {
		return ffstream.Opt[string]{}
	}
	return ffstream.Some(*s)
}
