package main

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// TestHeartbeatFlushed: a heartbeat is in the flushed part of the log when the
// statement returns, so the WAL sender sees it at once on an idle server too.
func TestHeartbeatFlushed(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	conn, err := connect(t.Context(), mustConfig(t, db.URL))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	for range 20 { // the WAL writer may happen to flush some
		var set, message, xid string
		var flushed bool
		if err := conn.QueryRow(t.Context(), emitSQL, "ffstream/x", "content").Scan(&set, &message, &xid); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(t.Context(), "SELECT pg_current_wal_flush_lsn() >= $1::pg_lsn", message).Scan(&flushed); err != nil {
			t.Fatal(err)
		}
		if !flushed {
			t.Fatalf("the message that ends at %s is not flushed", message)
		}
	}
}

// TestProbe: the slot is told from one that does not exist.
func TestProbe(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	s := newSource(mustConfig(t, db.URL), "ffstream", identityIndex)
	defer s.close()
	if h, err := s.probe(t.Context(), "no_such_slot"); err != nil || h.Exists || h.WALStatus != "" || h.End == 0 || h.Retained() != 0 {
		t.Errorf("%+v, %v", h, err)
	}
}

func mustConfig(t *testing.T, url string) *pgconn.Config {
	t.Helper()
	cfg, err := (&databaseFlags{DatabaseURL: url}).config()
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
