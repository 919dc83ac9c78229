package reader_test

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/shard"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// prepareExamples makes what the examples read, and names it in the environment.
func prepareExamples(tb *mainTB) {
	ctx := context.Background()
	db := testenv.DB(tb, testenv.Schema{Version: migrations.EngineNewest})
	for name, value := range map[string]string{"FFSTREAM_DATABASE_URL": db.URL, "FFSTREAM_REPLICA_URL": db.URL, "FFSTREAM_NATS_URL": testenv.NATSURL(tb)} {
		if err := os.Setenv(name, value); err != nil {
			tb.Fatal(err)
		}
	}
	e := &engine.Engine{Version: engine.Newest}
	done := engine.Exec{Partition: 86, ID: uuid.MustParse("0190f5c2-0000-7000-8000-000000000001")}
	err := errors.Join(
		e.Create(ctx, db.Pool, engine.NewExecution{Exec: done}), e.Promote(ctx, db.Pool, done), e.Claim(ctx, db.Pool, done), e.Complete(ctx, db.Pool, done, []byte("42")),
		e.Create(ctx, db.Pool, engine.NewExecution{Exec: engine.Exec{Partition: 86, ID: uuid.MustParse("0190f5c2-0000-7000-8000-000000000002")}}),
		e.Create(ctx, db.Pool, engine.NewExecution{Exec: engine.Exec{Partition: 7, ID: uuid.MustParse("0190f5c2-0000-7000-8000-000000000003")}}),
	)
	if err == nil {
		js := testenv.JetStream(tb, testenv.Connect(tb, testenv.NATSURL(tb)))
		_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: "FFSTREAM", Subjects: []string{"ff.>"}})
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// playExample claims and completes an execution as the engine would, and
// publishes its events as ffstream run would.
func playExample(ctx context.Context, pool *pgxpool.Pool, js jetstream.JetStream, id ffstream.ExecutionID) {
	e := &engine.Engine{Version: engine.Newest}
	x := engine.Exec{Partition: id.PartitionKey(), ID: id.UUID()}
	if err := errors.Join(e.Promote(ctx, pool, x), e.Claim(ctx, pool, x), e.Complete(ctx, pool, x, nil)); err != nil {
		log.Fatal(err)
	}
	for i, to := range []ffstream.PublicState{ffstream.StateActive, ffstream.StateCompleted} {
		event := ffstream.Event{
			ID:   ffstream.EventID{System: 1, Position: ffstream.Position{Commit: ffstream.LSN(i + 1)}},
			Type: ffstream.TypeTransitioned, Source: "/ffstream/example", ExecutionID: id, LaneID: "default", To: to,
		}
		if _, err := js.Publish(ctx, event.Subject("ff"), event.AppendJSON(nil)); err != nil {
			log.Fatal(err)
		}
	}
}

// follow runs the service for a database until the test ends.
func follow(t *testing.T, db *testenv.Database) source {
	t.Helper()
	database, err := pgconn.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	nc := testenv.Connect(t, testenv.NATSURL(t))
	js := testenv.JetStream(t, nc)
	ctx, cancel := context.WithCancel(context.Background())
	s := shard.New(nc, shard.Config{
		Source:   repl.Config{Conn: database, Slot: db.Slot(), Publication: "ffstream"},
		Sink:     publish.Config{Stream: db.Name, Prefix: db.Name, Replicas: 1},
		Identity: true, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		err := <-ended
		if errDelete := js.DeleteStream(context.Background(), db.Name); errors.Join(err, errDelete) != nil {
			t.Error(err, errDelete)
		}
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s.Status().Role != shard.RoleActive {
		select {
		case err := <-ended:
			ended <- err
			t.Fatal(err)
		case <-tick.C:
		}
	}
	return source{js: js, stream: db.Name, prefix: db.Name}
}

// TestReadThenWatch: programs that begin to watch at any moment while the engine
// works get every state that follows the one they read, in order, to the end.
func TestReadThenWatch(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest, Prepared: true})
	from := follow(t, db)
	story := longest(engine.StoriesOf(engine.Newest))
	var wg sync.WaitGroup
	defer wg.Wait()
	for partition := range 4 {
		x := engine.Exec{Partition: int16(partition), ID: uuid.New(), Namespace: "ns-a"}
		id := ffstream.NewExecutionID(uint16(partition), x.ID)
		var states []ffstream.PublicState // of all events, the last one final
		for _, step := range story.Steps {
			if step.Event {
				states = append(states, step.State)
			}
		}
		e := &engine.Engine{Version: engine.Newest}
		for i := range story.Steps {
			step := &story.Steps[i]
			ready := make(chan struct{}) // closed by the watcher, when it has read
			wg.Go(func() { checkWatch(t, db.Pool, from, id, states, sync.OnceFunc(func() { close(ready) })) })
			if i%2 == 0 { // else the step comes while the watcher begins
				<-ready
			}
			if err := pgx.BeginFunc(context.Background(), db.Pool, func(tx pgx.Tx) error { return step.Do(context.Background(), e, tx, x) }); err != nil {
				t.Fatalf("%s step %d: %v", story.Name, i, err)
			}
		}
	}
}

// longest is the story with the most events whose last state no earlier one is.
func longest(stories []engine.Story) engine.Story {
	events := func(s *engine.Story) (n int) {
		for _, step := range s.Steps {
			if step.Event {
				n++
			}
		}
		return n
	}
	var best engine.Story
	for _, s := range stories {
		last := s.Steps[len(s.Steps)-1].State
		once := !slices.ContainsFunc(s.Steps[:len(s.Steps)-1], func(step engine.Step) bool { return step.State == last })
		if once && last != ffstream.StatePurged && events(&s) > events(&best) {
			best = s
		}
	}
	return best
}

// checkWatch watches an execution up to the last of its states. What comes must
// be an end of them that leaves out nothing behind the state that was read.
func checkWatch(t *testing.T, pool *pgxpool.Pool, from source, id ffstream.ExecutionID, states []ffstream.PublicState, ready func()) {
	defer ready()
	var got []ffstream.PublicState
	err := watch(context.Background(), from, reader.New(pool), id, func(state ffstream.PublicState) bool {
		got = append(got, state)
		ready()
		return state != states[len(states)-1]
	})
	if err != nil {
		t.Error(err)
		return
	}
	read, events := got[0], got[1:]
	first := len(states) - len(events) // of the states that were told
	if first < 0 || !slices.Equal(states[first:], events) {
		t.Errorf("after %q came %q, the engine went through %q", read, events, states)
		return
	}
	// The state that was read is the one before those, or one of them.
	if known := append([]ffstream.PublicState{""}, states...)[first:]; !slices.Contains(known, read) {
		t.Errorf("%q was read and %q came: the engine went through %q", read, events, states)
	}
}
