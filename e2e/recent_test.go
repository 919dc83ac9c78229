package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// TestWithoutRecentStates: without the memory of recent states every transition has
// the event that it has with it. Only from may be null, where the old tuple does not
// decide, and candidates come beside them: updates of terminal executions that change
// nothing.
func TestWithoutRecentStates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	p := w.run("--recent-states=0")
	sum, err := engine.Run(context.Background(), w.db.Pool, engine.WorkloadConfig{Version: engine.Newest, Writers: 4, Executions: 400, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	w.caughtUp(p)
	o.read()
	got, unknown, candidates := o.withoutStates(w.stored())
	if v := check(got, o.want); !v.exact() {
		t.Errorf("of %d events that were committed: %s", len(o.want), &v)
	}
	if unknown == 0 || candidates == 0 {
		t.Errorf("%d events without from, %d candidates: the workload has no second ending, or the memory was not off", unknown, candidates)
	}
	t.Logf("%d transactions, %d transitions, %d of them without from, and %d candidates", sum.Transactions, sum.Transitions, unknown, candidates)
	p.stop()
}

// withoutStates takes from what is expected the previous states that a service does not
// know whose memory of recent states lacks an execution, and from messages the
// candidates that it publishes therefore. It returns the other messages, and how many
// there are of both.
func (o *oracle) withoutStates(all []message) (got []message, unknown, candidates int) {
	t := o.w.t
	t.Helper()
	want := make(map[string]*expected, len(o.want))
	for i := range o.want {
		want[o.want[i].id] = &o.want[i]
	}
	for _, m := range all {
		var e struct {
			Data struct {
				From      *string
				To        string
				Candidate bool
			}
		}
		if err := json.Unmarshal(m.body, &e); err != nil {
			t.Fatal(err)
		}
		x := want[m.header.Get("Nats-Msg-Id")]
		switch {
		case x == nil && e.Data.Candidate && e.Data.From == nil:
			if state := o.same[m.header.Get("Nats-Msg-Id")]; e.Data.To != state {
				t.Errorf("a candidate leads to %s, and the state is %q: %s", e.Data.To, state, m.body)
			}
			candidates++
			continue
		case x != nil && e.Data.From == nil && x.undecided:
			unknown++
			x.withoutState(e.Data.To, e.Data.Candidate)
		}
		got = append(got, m)
	}
	return got, unknown, candidates
}

// withoutState takes the previous state from what is expected.
func (x *expected) withoutState(to string, candidate bool) {
	data := x.body["data"].(map[string]any)
	data["from"] = nil
	if candidate {
		data["candidate"] = true
	}
	if to == "purged" {
		data["consistent"] = true
		vector := data["state_vector"].(map[string]any)
		vector["public_state"], vector["terminal_outcome"] = nil, nil
	}
}

// TestEndingsInBacklog: what a service that was killed finds when it comes back are
// lives that have gone on. The state before each transaction is the one at its commit,
// not the one that the tables have by now.
func TestEndingsInBacklog(t *testing.T) {
	t.Parallel()
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, v.schema)
			o := newOracle(w)
			p := w.run()
			e := &engine.Engine{Version: v.engine}
			stories := engine.StoriesOf(v.engine)
			type life struct {
				x    engine.Exec
				done int
			}
			// Each story once for each of its steps, to be cut off before it.
			var lives [][]life
			for i := range stories {
				var cut []life
				for range stories[i].Steps {
					cut = append(cut, life{x: engine.Exec{Partition: int16(i % 256), ID: uuid.New(), Lane: "default", Namespace: "ns-a"}})
				}
				lives = append(lives, cut)
			}
			play := func(story *engine.Story, l *life, until int) {
				for ; l.done < until; l.done++ {
					step := &story.Steps[l.done]
					if err := pgx.BeginFunc(context.Background(), w.db.Pool, func(tx pgx.Tx) error { return step.Do(context.Background(), e, tx, l.x) }); err != nil {
						t.Fatalf("%s, step %d %s: %v", story.Name, l.done, step.Op, err)
					}
				}
			}
			for i := range stories {
				for n := range lives[i] {
					play(&stories[i], &lives[i][n], n)
				}
			}
			w.caughtUp(p)
			p.kill()
			for i := range stories {
				for n := range lives[i] {
					play(&stories[i], &lives[i][n], len(stories[i].Steps))
				}
			}
			p = start(t, w.env(), "run")
			w.awaitActive(p)
			w.caughtUp(p)
			o.compare()
			if bytes.Contains([]byte(p.output()), []byte("session ended")) {
				t.Errorf("a session ended: %s", p.output())
			}
			p.stop()
		})
	}
}

// TestRecentStatesOfSnapshots: of executions that ended before the service followed
// them the state before comes from the snapshots of the backfill, in the session that
// published them and in later ones. An attempt that changes alone is looked up.
func TestRecentStatesOfSnapshots(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	e := &engine.Engine{Version: engine.Newest}
	ended := engine.StoriesOf(engine.Newest)[0] // the happy path
	var xs []engine.Exec
	for i := range int16(6) {
		xs = append(xs, engine.Exec{Partition: i, ID: uuid.New(), Lane: "default", Namespace: "ns-a"})
		w.play(e, &ended, xs[i])
	}
	o.forget()
	env := w.with(map[string]string{"FFSTREAM_BACKFILL": "initial"})
	p := start(t, env, "run")
	w.awaitActive(p)
	w.backfilled(p)
	change := func(xs []engine.Exec) {
		if err := pgx.BeginFunc(context.Background(), w.db.Pool, func(tx pgx.Tx) error { return e.Replay(context.Background(), tx, xs[0]) }); err != nil {
			t.Fatal(err)
		}
		w.exec("UPDATE ff_attempt SET outcome = 'failed' WHERE execution_id = $1", xs[1].ID)
		w.exec("UPDATE ff_exec_core SET priority = 5 WHERE execution_id = $1", xs[2].ID) // no transition
		w.exec("DELETE FROM ff_exec_core WHERE execution_id = $1", xs[2].ID)
	}
	change(xs[:3])
	w.caughtUp(p)
	p.kill()
	p = start(t, env, "run")
	w.awaitActive(p)
	change(xs[3:])
	w.caughtUp(p)
	transitions, _ := split(t, w.stored())
	o.compareWith(transitions)
	if len(transitions) != 6 {
		t.Errorf("%d transitions, want 6", len(transitions))
	}
	p.stop()
}
