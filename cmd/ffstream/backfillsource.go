package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/read"
	"github.com/ffstream/ffstream/internal/shard"
)

// backfillSource reads executions for backfills, on a connection of its own.
type backfillSource struct{ *source }

// Watermark writes a logical message, as a heartbeat does.
func (s backfillSource) Watermark(ctx context.Context, prefix, content string) error {
	err := s.emit(ctx, prefix, content)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		return fmt.Errorf("write watermark: %w: run: GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO %q", err, s.database.User)
	}
	if err != nil {
		return fmt.Errorf("write watermark: %w", err)
	}
	return nil
}

// NextPartition is read.NextPartition.
func (s backfillSource) NextPartition(ctx context.Context, from int16) (key int16, found bool, err error) {
	err = s.use(ctx, func(c *pgx.Conn) error {
		key, found, err = read.NextPartition(ctx, c, from)
		return err
	})
	return key, found, err
}

// Chunk is read.Chunk.
func (s backfillSource) Chunk(ctx context.Context, q shard.ChunkQuery) (events []ffstream.Event, last ffstream.Opt[uuid.UUID], err error) {
	err = s.use(ctx, func(c *pgx.Conn) error {
		events, last, err = read.Chunk(ctx, c, read.ChunkQuery{Partition: q.Partition, After: q.After, Lanes: q.Lanes, Limit: q.Limit, Waiting: q.Waiting})
		return err
	})
	return events, last, err
}

// Listed is read.Listed.
func (s backfillSource) Listed(ctx context.Context, partition int16, ids []uuid.UUID, waiting func(xids []int64) error) (events []ffstream.Event, err error) {
	err = s.use(ctx, func(c *pgx.Conn) error {
		events, err = read.Listed(ctx, c, partition, ids, waiting)
		return err
	})
	return events, err
}

// Estimate is read.Estimate.
func (s backfillSource) Estimate(ctx context.Context) (n uint64, err error) {
	err = s.use(ctx, func(c *pgx.Conn) error {
		n, err = read.Estimate(ctx, c)
		return err
	})
	return n, err
}
