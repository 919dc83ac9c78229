package main

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream/internal/testenv"
)

// TestCautious: a connection of doctor's can neither write nor hold anything up,
// whatever a check would try.
func TestCautious(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{})
	flags := databaseFlags{DatabaseURL: db.URL}
	database, err := flags.config()
	if err != nil {
		t.Fatal(err)
	}
	cautious(database, "test")
	conn, err := connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	for sql, code := range map[string]string{
		"CREATE TABLE written ()": "25006", // read-only
		"SELECT pg_sleep(60)":     "57014", // the statement's time is up
	} {
		_, err := conn.Exec(t.Context(), sql)
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != code {
			t.Errorf("%s: %v, want SQLSTATE %s", sql, err, code)
		}
	}
	var limit string
	if err := conn.QueryRow(t.Context(), "SHOW lock_timeout").Scan(&limit); err != nil || limit != "100ms" {
		t.Errorf("lock_timeout is %q: %v", limit, err)
	}
}
