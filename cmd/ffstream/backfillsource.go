package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/read"
	"github.com/ffstream/ffstream/internal/shard"
)

// backfillSource reads executions for backfills, on a connection of its own.
type backfillSource struct {
	*source
	// timeout bounds each statement, and the making of a connection. A read that waits
	// for transactions is many statements.
	timeout time.Duration
}

// statementTimeout bounds one statement of a backfill.
const statementTimeout = 15 * time.Second

// use runs f with a connection whose statements are bounded.
func (s backfillSource) use(ctx context.Context, f func(q read.Querier) error) error {
	connecting, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.source.use(connecting, func(*pgx.Conn) error { return nil }); err != nil {
		return err
	}
	return s.source.use(ctx, func(c *pgx.Conn) error { return f(bounded{c, s.timeout}) })
}

// bounded gives each query a deadline, until its rows are closed.
type bounded struct {
	*pgx.Conn
	timeout time.Duration
}

// Query is pgx's.
func (b bounded) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	rows, err := b.Conn.Query(ctx, sql, args...)
	if err != nil {
		cancel()
		return nil, err
	}
	return boundedRows{rows, cancel}, nil
}

type boundedRows struct {
	pgx.Rows
	cancel context.CancelFunc
}

// Close ends the deadline too.
func (r boundedRows) Close() {
	r.Rows.Close()
	r.cancel()
}

// Watermark writes a logical message, as a heartbeat does.
func (s backfillSource) Watermark(ctx context.Context, prefix, content string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := s.emit(ctx, prefix, content)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return fmt.Errorf("write watermark: %w: run: GRANT EXECUTE ON FUNCTION %s TO %s", err, s.emitters(ctx), pgx.Identifier{s.database.User}.Sanitize())
	}
	if err != nil {
		return fmt.Errorf("write watermark: %w", err)
	}
	return nil
}

// emittersSQL names the functions that write a message with their arguments, of which
// Postgres 17 has one more.
const emittersSQL = `SELECT string_agg(oid::regprocedure::text, ', ' ORDER BY oid) FROM pg_catalog.pg_proc
	WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = 'pg_logical_emit_message'`

// emitters names them as GRANT wants it.
func (s backfillSource) emitters(ctx context.Context) string {
	names := "pg_logical_emit_message" // which is enough where there is one of that name
	_ = s.source.use(ctx, func(c *pgx.Conn) error { return c.QueryRow(ctx, emittersSQL).Scan(&names) })
	return names
}

// NextPartition is read.NextPartition.
func (s backfillSource) NextPartition(ctx context.Context, from int16) (key int16, found bool, err error) {
	err = s.use(ctx, func(q read.Querier) error {
		key, found, err = read.NextPartition(ctx, q, from)
		return err
	})
	return key, found, err
}

// Chunk is read.Chunk.
func (s backfillSource) Chunk(ctx context.Context, c shard.ChunkQuery) (events []ffstream.Event, last ffstream.Opt[uuid.UUID], err error) {
	err = s.use(ctx, func(q read.Querier) error {
		events, last, err = read.Chunk(ctx, q, read.ChunkQuery{Partition: c.Partition, After: c.After, Lanes: c.Lanes, Limit: c.Limit, Waiting: c.Waiting})
		return err
	})
	return events, last, err
}

// Listed is read.Listed.
func (s backfillSource) Listed(ctx context.Context, partition int16, ids []uuid.UUID, waiting func(xids []int64) error) (events []ffstream.Event, err error) {
	err = s.use(ctx, func(q read.Querier) error {
		events, err = read.Listed(ctx, q, partition, ids, waiting)
		return err
	})
	return events, err
}

// Estimate is read.Estimate.
func (s backfillSource) Estimate(ctx context.Context) (n uint64, err error) {
	err = s.use(ctx, func(q read.Querier) error {
		n, err = read.Estimate(ctx, q)
		return err
	})
	return n, err
}
