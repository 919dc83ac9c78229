package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
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

// TestBackfillSourceForbidden: a role that may not write watermarks is told what the
// server has to be told, whichever functions that has.
func TestBackfillSourceForbidden(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	exec := func(sql string) {
		t.Helper()
		if _, err := db.Pool.Exec(context.WithoutCancel(ctx), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	role := `r"_` + db.Name
	quoted := pgx.Identifier{role}.Sanitize()
	exec("CREATE ROLE " + quoted + " LOGIN PASSWORD 'p'")
	t.Cleanup(func() { exec("DROP OWNED BY " + quoted + "; DROP ROLE " + quoted) })
	exec("REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC")
	// Postgres 17 has these arguments.
	exec("SET allow_system_table_mods = on; CREATE FUNCTION pg_catalog.pg_logical_emit_message(boolean, text, text, boolean) RETURNS pg_lsn LANGUAGE sql RETURN NULL::pg_lsn; RESET allow_system_table_mods")
	u, err := url.Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "p")
	s := backfills(t, u.String(), time.Minute)
	err = s.Watermark(ctx, "p", "c")
	if err == nil {
		t.Fatal("a watermark is written without the right to")
	}
	_, remedy, found := strings.Cut(err.Error(), "run: ")
	if !found || !strings.Contains(remedy, "(boolean,text,text)") || !strings.Contains(remedy, "(boolean,text,text,boolean)") {
		t.Fatalf("%v", err)
	}
	exec(remedy)
	if err := s.Watermark(ctx, "p", "c"); err != nil {
		t.Errorf("after what was said to run: %v", err)
	}
}
