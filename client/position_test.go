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
		horizon := func(ctx context.Context) (ffstream.Horizon, error) {
			if asked++; asked == 3 {
				if _, err := reads.Exec(ctx, "SELECT pg_wal_replay_resume()"); err != nil {
					return ffstream.Horizon{}, err
				}
			}
			return reader.New(reads).Horizon(ctx)
		}
		if own {
			end, errLSN := lsn(ctx, writes, "pg_current_wal_lsn()")
			if errLSN != nil {
				t.Fatal(errLSN)
			}
			err = client.WaitLSN(ctx, end, horizon)
		} else {
			err = client.WaitPosition(ctx, s.first(ctx, id), horizon)
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

// first is the first event of an execution.
func (s *service) first(ctx context.Context, id ffstream.ExecutionID) *ffstream.Event {
	s.t.Helper()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	sub, err := client.New(s.js, client.Config{Stream: s.name, Prefix: s.name, Ordered: true, From: client.All(), Filter: client.Filter{Execution: id}})
	if err != nil {
		s.t.Fatal(err)
	}
	var e *ffstream.Event
	if err := sub.Run(ctx, func(_ context.Context, m *client.Message) error { e = &m.Event; stop(); return nil }); err != nil || e == nil {
		s.t.Fatal(e, err)
	}
	return e
}

// TestWaitPositionEdges: where the commit record begins is not enough for an
// event, the end of one's own write is for that; on the primary its transaction must
// have ended too; an error and the end of ctx end the wait.
func TestWaitPositionEdges(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(testContext(t))
	var steps []ffstream.Horizon
	asked := 0
	horizon := func(context.Context) (ffstream.Horizon, error) {
		asked++
		return steps[asked-1], nil
	}
	running, ended := ffstream.TxSnapshot{Xmin: 7, Xmax: 9, InProgress: []uint64{7}}, ffstream.TxSnapshot{Xmin: 9, Xmax: 9}
	event := func(xid uint32) *ffstream.Event {
		return &ffstream.Event{ID: ffstream.EventID{Position: ffstream.Position{Commit: 0x1000}}, Tx: ffstream.Tx{Xid: xid}}
	}
	for _, c := range []struct {
		name  string
		event *ffstream.Event // nil: an own write
		steps []ffstream.Horizon
	}{
		{"own write", nil, []ffstream.Horizon{{End: 0xfff}, {End: 0x1000, Saw: running}}},
		{"standby", event(7), []ffstream.Horizon{{End: 0x1000, Standby: true}, {End: 0x1001, Standby: true, Saw: running}}},
		{"primary", event(7), []ffstream.Horizon{{End: 0x1000, Saw: ended}, {End: 0x2000, Saw: running}, {End: 0x2000, Saw: ended}}},
		{"of no transaction", event(0), []ffstream.Horizon{{End: 0x1000}, {End: 0x2000, Saw: running}}},
	} {
		steps, asked = c.steps, 0
		var err error
		if c.event == nil {
			err = client.WaitLSN(ctx, 0x1000, horizon)
		} else {
			err = client.WaitPosition(ctx, c.event, horizon)
		}
		if err != nil || asked != len(c.steps) {
			t.Errorf("%s: asked %d times, want %d: %v", c.name, asked, len(c.steps), err)
		}
	}
	broken := errors.New("no connection")
	if err := client.WaitLSN(ctx, 1, func(context.Context) (ffstream.Horizon, error) { return ffstream.Horizon{}, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if err := client.WaitLSN(ctx, 1, func(context.Context) (ffstream.Horizon, error) { stop(); return ffstream.Horizon{}, nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
