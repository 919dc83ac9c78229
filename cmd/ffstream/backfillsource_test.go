package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/shard"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

func backfills(t *testing.T, url string, timeout time.Duration) backfillSource {
	t.Helper()
	flags := databaseFlags{DatabaseURL: url}
	database, err := flags.config()
	if err != nil {
		t.Fatal(err)
	}
	s := backfillSource{newSource(database, "p", identityIndex), timeout}
	t.Cleanup(s.close)
	return s
}

func (s backfillSource) all(ctx context.Context) map[string]error {
	_, _, next := s.NextPartition(ctx, 0)
	_, _, chunk := s.Chunk(ctx, shard.ChunkQuery{Partition: 1, Limit: 10})
	_, listed := s.Listed(ctx, 1, []uuid.UUID{{1}}, nil)
	_, estimate := s.Estimate(ctx)
	return map[string]error{"next partition": next, "chunk": chunk, "listed": listed, "estimate": estimate, "watermark": s.Watermark(ctx, "p", "c")}
}

// TestBackfillSourceDeadlines: no statement of a backfill waits for ever, for a lock
// or for a server that has gone silent, and the next is none the worse for it.
func TestBackfillSourceDeadlines(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	for what, err := range backfills(t, fmt.Sprintf("postgres://u@%s/d?sslmode=disable", silent.Addr()), 20*time.Millisecond).all(ctx) {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s of a server that says nothing: %v", what, err)
		}
	}

	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	s := backfills(t, db.URL, time.Minute)
	if _, _, err := s.NextPartition(ctx, 0); err != nil { // it is connected
		t.Fatal(err)
	}
	s.timeout = time.Second
	holder, err := pgx.Connect(ctx, db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Close(context.Background()) }()
	if _, err := holder.Exec(ctx, "BEGIN; LOCK TABLE ff_exec_core"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Chunk(ctx, shard.ChunkQuery{Partition: 1, Limit: 10}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a chunk of a table that is locked: %v", err)
	}
	if _, err := holder.Exec(ctx, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	s.timeout = time.Minute
	for what, err := range s.all(ctx) {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
