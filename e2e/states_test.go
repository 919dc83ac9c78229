package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// TestStateBucket: the bucket has every execution's state as a point read gives it,
// also those that existed before, over a kill of the service and a deleted bucket,
// and a watch tells what changes.
func TestStateBucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	bucket := w.stream + "_states"
	t.Cleanup(func() { _ = w.js.DeleteKeyValue(context.Background(), bucket) })
	w.populate(300)
	env := w.with(map[string]string{"FFSTREAM_BACKFILL": "initial", "FFSTREAM_STATE_BUCKET": bucket})
	p := start(t, env, "run")
	w.awaitActive(p)
	w.backfilled(p)
	w.sameStates(bucket, p)
	w.populate(5)
	p.kill()
	w.exec("DELETE FROM ff_exec_core WHERE lane_id = 'bulk' AND partition_key < 100")
	p = start(t, env, "run")
	w.awaitActive(p)
	w.populate(5)
	w.sameStates(bucket, p)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	states, err := client.OpenStates(ctx, w.js, bucket)
	w.must(err)
	x := engine.Exec{Partition: 9, ID: uuid.New()}
	story := engine.StoriesOf(engine.Newest)[0]
	told := 0
	for c, err := range states.Watch(ctx, ffstream.Some(uint16(9))) {
		w.must(err)
		if c.Initial {
			if told == 0 {
				w.play(&engine.Engine{Version: engine.Newest}, &story, x)
			}
			told++
			continue
		}
		if c.ID.UUID() == x.ID && c.State.State == story.Steps[len(story.Steps)-1].State {
			break
		}
	}
	if told == 0 {
		t.Error("the watch tells nothing of what stands there")
	}

	w.must(w.js.DeleteKeyValue(ctx, bucket))
	await(t, "the bucket to be there again", func() (bool, string) {
		_, err := w.js.KeyValue(ctx, bucket)
		return err == nil, p.output()
	})
	w.sameStates(bucket, p)
	p.stop()
}

// sameStates waits until the bucket has what the stream has, and compares it with
// point reads.
func (w *world) sameStates(bucket string, p *process) {
	t := w.t
	t.Helper()
	w.caughtUp(p)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	states, err := client.OpenStates(ctx, w.js, bucket)
	w.must(err)
	w.must(states.Ready(ctx))
	read := reader.New(w.db.Pool)
	rows, err := w.db.Pool.Query(ctx, "SELECT '{fp:' || partition_key || '}:' || execution_id FROM ff_exec_core")
	w.must(err)
	var ids []ffstream.ExecutionID
	for rows.Next() {
		var text string
		w.must(rows.Scan(&text))
		id, err := ffstream.ParseExecutionID(text)
		w.must(err)
		ids = append(ids, id)
	}
	w.must(rows.Err())
	for _, id := range ids {
		want, _, err := read.ExecutionState(ctx, id)
		if err != nil {
			want = "" // it cannot be understood
		}
		await(t, "the state of "+id.String(), func() (bool, string) {
			got, found, err := states.Get(ctx, id)
			w.must(err)
			return found && got.State == want && got.ExecutionID == id, string(got.State) + " and not " + string(want) + ": " + p.output()
		})
	}
	kv, err := w.js.KeyValue(ctx, bucket)
	w.must(err)
	await(t, "what is gone to leave the bucket", func() (bool, string) {
		keys, err := kv.Keys(ctx)
		w.must(err)
		n := 0
		for _, k := range keys {
			if k[0] != '_' {
				n++
			}
		}
		return n == len(ids), p.output()
	})
}
