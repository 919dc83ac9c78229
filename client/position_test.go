package client_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/reader"
)

// lsn asks a database for a position in its log.
func lsn(ctx context.Context, pool *pgxpool.Pool, sql string) (ffstream.LSN, error) {
	var at ffstream.LSN
	var text string
	if err := pool.QueryRow(ctx, "SELECT "+sql+"::text").Scan(&text); err != nil {
		return 0, err
	}
	return at, at.UnmarshalText([]byte(text))
}

// TestWaitPosition: a standby that has stopped replaying is waited for, whether
// what is to be read is known by an event or is one's own write, and when the wait
// is over it is there. Nothing is written meanwhile that would push it on.
func TestWaitPosition(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	primary, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = primary.Close() }()
	prepare(t, primary.URL("postgres"))
	standby, err := primary.Standby(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = standby.Close() }()
	s := newService(t, primary.URL("postgres"), "position", testenv.NATSURL(t))
	defer s.stop()
	writes, reads := dial(t, primary.URL("postgres"), nil), dial(t, standby.URL("postgres"), nil)
	for _, own := range []bool{true, false} {
		x, id := newExecution(9)
		if _, err := reads.Exec(ctx, "SELECT pg_wal_replay_pause()"); err != nil {
			t.Fatal(err)
		}
		err := pgx.BeginFunc(ctx, writes, func(tx pgx.Tx) error { return create(ctx, &engine.Engine{Version: engine.Newest}, tx, x) })
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		replayed := func(ctx context.Context) (ffstream.LSN, error) {
			if asked++; asked == 3 {
				if _, err := reads.Exec(ctx, "SELECT pg_wal_replay_resume()"); err != nil {
					return 0, err
				}
			}
			return lsn(ctx, reads, "pg_last_wal_replay_lsn()")
		}
		if own {
			end, errLSN := lsn(ctx, writes, "pg_current_wal_lsn()")
			if errLSN != nil {
				t.Fatal(errLSN)
			}
			err = client.WaitLSN(ctx, end, replayed)
		} else {
			err = client.WaitPosition(ctx, s.position(ctx, id), replayed)
		}
		state, found, errRead := reader.New(reads).ExecutionState(ctx, id)
		if err != nil || errRead != nil || !found || state != ffstream.StateWaiting || asked < 3 {
			t.Errorf("own %t: asked %d times, read %q: %v, %v", own, asked, state, err, errRead)
		}
	}
	if _, err := reader.New(reads).SettledState(ctx, execution(1)); err == nil {
		t.Error("a standby says what is settled, and cannot know")
	}
}

// position is that of the first event of an execution.
func (s *service) position(ctx context.Context, id ffstream.ExecutionID) (p ffstream.Position) {
	s.t.Helper()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sub, err := client.New(s.js, client.Config{Stream: s.name, Prefix: s.name, Ordered: true, From: client.All(), Filter: client.Filter{Execution: id}})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := sub.Run(ctx, func(_ context.Context, m *client.Message) error { p = m.Position(); stop(); return nil }); err != nil || p.IsZero() {
		s.t.Fatal(p, err)
	}
	return p
}

// TestWaitPositionEdges: where the commit record begins is not enough for an
// event, the end of one's own write is for that; an error and the end of ctx end
// the wait.
func TestWaitPositionEdges(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(testContext(t))
	at, asked := ffstream.LSN(0x1000), 0
	replayed := func(context.Context) (ffstream.LSN, error) {
		asked++
		at += ffstream.LSN(asked - 1)
		return at, nil
	}
	if err := client.WaitLSN(ctx, 0x1000, replayed); err != nil || asked != 1 {
		t.Errorf("asked %d times for what is there: %v", asked, err)
	}
	asked = 0
	if err := client.WaitPosition(ctx, ffstream.Position{Commit: 0x1000}, replayed); err != nil || asked != 2 {
		t.Errorf("asked %d times, want 2: the commit was not replayed at first: %v", asked, err)
	}
	broken := errors.New("no connection")
	if err := client.WaitLSN(ctx, 1, func(context.Context) (ffstream.LSN, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := client.WaitLSN(ctx, 1, func(context.Context) (ffstream.LSN, error) { stop(); return 0, nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
