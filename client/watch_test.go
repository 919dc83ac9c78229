package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// around is a reader with something that happens before and after it reads.
type around struct {
	client.StateReader
	before, after func()
}

func (a around) SettledState(ctx context.Context, id ffstream.ExecutionID) (ffstream.SettledState, error) {
	if a.before != nil {
		a.before()
	}
	s, err := a.StateReader.SettledState(ctx, id)
	if a.after != nil {
		a.after()
	}
	return s, err
}

// states collects what Watch tells up to the last of the wanted states.
func states(ctx context.Context, t *testing.T, s *service, r client.StateReader, id ffstream.ExecutionID, last ffstream.PublicState) []ffstream.PublicState {
	t.Helper()
	var got []ffstream.PublicState
	for c, err := range client.Watch(ctx, s.js, s.config(), r, id) {
		if err != nil {
			t.Errorf("after %q: %v", got, err)
			break
		}
		got = append(got, c.State)
		if c.State == last {
			break
		}
	}
	return got
}

// TestWatch: a transaction commits before the read, after it, or spans it: each
// state is told once.
func TestWatch(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest, Prepared: true})
	s := newService(t, db.URL, db.Name, testenv.NATSURL(t))
	ctx := testContext(t)
	e := &engine.Engine{Version: engine.Newest}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	whole := func(op func(context.Context, engine.Tx, engine.Exec) error, x engine.Exec) {
		t.Helper()
		must(pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error { return op(ctx, tx, x) }))
	}
	completes := func(ctx context.Context, tx engine.Tx, x engine.Exec) error { return e.Complete(ctx, tx, x, nil) }
	creates := func(ctx context.Context, tx engine.Tx, x engine.Exec) error { return create(ctx, e, tx, x) }
	const waiting, active, completed = ffstream.StateWaiting, ffstream.StateActive, ffstream.StateCompleted
	for name, c := range map[string]struct {
		before, after func(x engine.Exec, tx pgx.Tx)
		want          []ffstream.PublicState
	}{
		"before": {
			before: func(x engine.Exec, _ pgx.Tx) { whole(e.Claim, x) },
			want:   []ffstream.PublicState{active, completed},
		},
		"after": {
			after: func(x engine.Exec, _ pgx.Tx) { whole(e.Claim, x) },
			want:  []ffstream.PublicState{waiting, active, completed},
		},
		"spanning": { // with another that began later and ended before the read
			before: func(x engine.Exec, tx pgx.Tx) {
				_, err := tx.Exec(ctx, "SELECT pg_current_xact_id()")
				must(err)
				_, err = db.Pool.Exec(ctx, "SELECT pg_current_xact_id()")
				must(err)
			},
			after: func(x engine.Exec, tx pgx.Tx) { must(e.Claim(ctx, tx, x)); must(tx.Commit(ctx)) },
			want:  []ffstream.PublicState{waiting, active, completed},
		},
	} {
		t.Run(name, func(t *testing.T) {
			x, id := newExecution(3)
			whole(creates, x)
			tx, err := db.Pool.Begin(ctx)
			must(err)
			defer func() { _ = tx.Rollback(ctx) }()
			a := around{StateReader: reader.New(db.Pool)}
			if c.before != nil {
				a.before = func() { c.before(x, tx) }
			}
			a.after = func() {
				if c.after != nil {
					c.after(x, tx)
				}
				whole(completes, x)
			}
			if got := states(ctx, t, s, a, id, completed); !slices.Equal(got, c.want) {
				t.Errorf("told %q, want %q", got, c.want)
			}
		})
	}
	t.Run("truncated", func(t *testing.T) {
		x, id := newExecution(3)
		var got []ffstream.PublicState
		for c, err := range client.Watch(ctx, s.js, s.config(), reader.New(db.Pool), id) {
			must(err)
			if got = append(got, c.State); len(got) == 1 {
				whole(creates, x)
				_, err := db.Pool.Exec(ctx, "TRUNCATE ff_exec_core, ff_attempt")
				must(err)
			}
			if len(got) == 3 {
				break
			}
		}
		if want := []ffstream.PublicState{"", waiting, ffstream.StatePurged}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
	})
	t.Run("corrupt", func(t *testing.T) {
		x, id := newExecution(3)
		whole(creates, x)
		var corrupt *ffstream.CorruptionError
		for _, err := range client.Watch(ctx, s.js, s.config(), reader.New(db.Pool), id) {
			if errors.As(err, &corrupt) {
				break
			}
			must(err)
			_, err = db.Pool.Exec(ctx, "UPDATE ff_exec_core SET lifecycle_phase = 'nonsense' WHERE execution_id = $1", x.ID)
			must(err)
		}
		if corrupt == nil || corrupt.Literal != "nonsense" {
			t.Errorf("a row that cannot be understood is told as %v", corrupt)
		}
	})
}

// TestWatchChurn: watches begin at any moment while executions live.
func TestWatchChurn(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest, Prepared: true})
	s := newService(t, db.URL, db.Name, testenv.NATSURL(t))
	ctx := testContext(t)
	story := engine.StoriesOf(engine.Newest)[0]
	for _, other := range engine.StoriesOf(engine.Newest) {
		if len(told(&other)) > len(told(&story)) && once(told(&other)) {
			story = other
		}
	}
	want := told(&story)
	var running sync.WaitGroup
	defer running.Wait()
	for n := range 6 {
		x, id := newExecution(n)
		running.Go(func() {
			var watches sync.WaitGroup
			defer watches.Wait()
			for i := range story.Steps {
				for range 3 { // some begin before the step, some while it is done
					watches.Go(func() {
						got := states(ctx, t, s, reader.New(db.Pool), id, want[len(want)-1])
						first := len(want) - len(got)
						if first < 0 || !slices.Equal(got, want[first:]) {
							t.Errorf("%s: told %q, the engine went through %q", story.Name, got, want)
						}
					})
				}
				err := pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
					return story.Steps[i].Do(ctx, &engine.Engine{Version: engine.Newest}, tx, x)
				})
				if err != nil {
					t.Errorf("%s, step %d: %v", story.Name, i, err)
				}
			}
		})
	}
}

// told is what a watch tells that began before a story.
func told(story *engine.Story) []ffstream.PublicState {
	all := []ffstream.PublicState{""}
	for _, step := range story.Steps {
		if step.Event {
			all = append(all, step.State)
		}
	}
	return all
}

// once reports whether the last state is no earlier one.
func once(all []ffstream.PublicState) bool {
	return !slices.Contains(all[:len(all)-1], all[len(all)-1])
}

// tracer tells of the queries of a pool.
type tracer func(sql string)

func (f tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	f(q.SQL)
	return ctx
}

func (f tracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TestWatchUnseen: a commit waits for a standby that is away. Its event is in the
// stream, and no read sees it. A watch that begins now waits and tells it all the
// same, whether the row was changed or made; and a wait for the event's position
// ends when reads see it.
func TestWatchUnseen(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	pg, err := testenv.StartPostgres(ctx, testenv.PostgresConfig{Settings: map[string]string{
		"synchronous_standby_names": "'away'", "synchronous_commit": "local",
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pg.Close() }()
	url := pg.URL("postgres")
	prepare(t, url)
	s := newService(t, url, "unseen", testenv.NATSURL(t))
	defer s.stop()
	e := &engine.Engine{Version: engine.Newest}
	pool, reads := dial(t, url, nil), make(chan struct{}, 1)
	watching := dial(t, url, func(sql string) {
		if strings.Contains(sql, "pg_locks") {
			reads <- struct{}{}
		}
	})
	for _, made := range []bool{false, true} {
		x, id := newExecution(5)
		want := ffstream.StateWaiting
		if !made {
			want = ffstream.StateActive
			if err := create(ctx, e, pool, x); err != nil {
				t.Fatal(err)
			}
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			t.Fatal(err)
		}
		committed := make(chan error, 1)
		go func() {
			committed <- pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
				if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err != nil {
					return err
				}
				if made {
					return create(ctx, e, tx, x)
				}
				return e.Claim(ctx, tx, x)
			})
		}()
		sub, err := client.New(s.js, client.Config{Stream: s.name, Prefix: s.name, Ordered: true, From: client.All(), Filter: client.Filter{Execution: id, States: []ffstream.PublicState{want}}})
		if err != nil {
			t.Fatal(err)
		}
		inner, stop := context.WithCancel(ctx)
		var event *ffstream.Event
		if err := sub.Run(inner, func(_ context.Context, m *client.Message) error { event = &m.Event; stop(); return nil }); err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		stop()
		asked, waited := make(chan struct{}, 1), make(chan error, 1)
		go func() {
			waited <- client.WaitPosition(ctx, event, func(ctx context.Context) (ffstream.Horizon, error) {
				select {
				case asked <- struct{}{}:
				default:
				}
				return reader.New(pool).Horizon(ctx)
			})
		}()
		for range 2 { // so it was asked once and answered
			select {
			case <-asked:
			case err := <-waited:
				t.Fatalf("made %t: the wait is over and no read sees the event: %v", made, err)
			}
		}
		go func() {
			<-reads // the watch waits for the commit, which now gives the standby up
			if _, err := pool.Exec(ctx, "SELECT pg_cancel_backend($1)", int64(conn.PgConn().PID())); err != nil {
				t.Error(err)
			}
		}()
		for c, err := range client.Watch(ctx, s.js, s.config(), reader.New(watching), id) {
			if err != nil || c.State != want {
				t.Errorf("made %t: told %q, want %q: %v", made, c.State, want, err)
			}
			break
		}
		if err := <-committed; err != nil {
			t.Error(err)
		}
		err = <-waited
		if state, _, errRead := reader.New(pool).ExecutionState(ctx, id); err != nil || errRead != nil || state != want {
			t.Errorf("made %t: read %q after the wait, want %q: %v, %v", made, state, want, err, errRead)
		}
		_ = conn.Close(ctx)
	}
}

// prepare makes the engine's tables as ffstream wants them.
func prepare(t *testing.T, url string) {
	t.Helper()
	ctx := testContext(t)
	if err := migrations.EngineSchema(ctx, url, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	cfg := migrations.Config{Publication: "ffstream", Identity: true}
	steps, err := migrations.Plan(ctx, conn, cfg)
	if err == nil {
		err = migrations.Apply(ctx, conn, cfg, steps, func(migrations.Progress) {})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// dial opens a pool, which tells of its queries when trace is not nil.
func dial(t *testing.T, url string, trace func(sql string)) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	if trace != nil {
		cfg.ConnConfig.Tracer = tracer(trace)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}
