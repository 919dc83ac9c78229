package reader_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/reader"
)

// TestStories: after each transaction of each life, at either version of the
// engine, every read says what the last event of the stream says.
func TestStories(t *testing.T) {
	t.Parallel()
	for version := range schemas {
		pool := shared[version].Pool
		for i, story := range engine.StoriesOf(version) {
			t.Run(version.String()+" "+story.Name, func(t *testing.T) {
				t.Parallel()
				playStory(t, pool, version, &story, engine.Exec{Partition: int16(i), ID: uuid.New(), Namespace: "ns-a"})
			})
		}
	}
}

func playStory(t *testing.T, pool *pgxpool.Pool, version engine.Version, story *engine.Story, x engine.Exec) {
	ctx := context.Background()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	e := &engine.Engine{Version: version}
	id := ffstream.NewExecutionID(uint16(x.Partition), x.ID)
	r := reader.New(conn)
	for i := range story.Steps {
		step := &story.Steps[i]
		if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return step.Do(ctx, e, tx, x) }); err != nil {
			t.Fatalf("step %d %s: %v", i, step.Op, err)
		}
		state, found, err := r.ExecutionState(ctx, id)
		if err != nil {
			t.Fatalf("step %d %s: %v", i, step.Op, err)
		}
		if step.State == ffstream.StatePurged {
			if found {
				t.Errorf("step %d %s: %s, the story says it is gone", i, step.Op, state)
			}
			continue
		}
		stored, err := ffstream.ParsePublicState(step.Stored[version])
		if err != nil { // "running" is the one that is stored under another name
			stored = ffstream.StateActive
		}
		if !found || state != step.State {
			t.Errorf("step %d %s: %q, the story says %s", i, step.Op, state, step.State)
		}
		info := mustInfo(t, r, id)
		if info.PublicState != step.State || info.StoredPublicState != stored || info.Consistent != (stored == step.State) ||
			info.CurrentAttemptIndex != uint32(step.Pointer) || info.Namespace != "ns-a" || info.EvidenceMissing {
			t.Errorf("step %d %s: %+v, the story says %s, stored %s, attempt %d", i, step.Op, info, step.State, stored, step.Pointer)
		}
	}
}

// TestManyStories: a snapshot of a mix of lives in one statement agrees with
// reading each by itself.
func TestManyStories(t *testing.T) {
	t.Parallel()
	for version := range schemas {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			pool := shared[version].Pool
			var ids []ffstream.ExecutionID
			e := &engine.Engine{Version: version}
			for i, story := range engine.StoriesOf(version) {
				x := engine.Exec{Partition: int16(i % 5), ID: uuid.New(), Namespace: "ns-a"}
				for n := range story.Steps[:1+i%len(story.Steps)] { // ended at any point
					if story.Steps[n].State == ffstream.StatePurged {
						break
					}
					if err := pgx.BeginFunc(context.Background(), pool, func(tx pgx.Tx) error { return story.Steps[n].Do(context.Background(), e, tx, x) }); err != nil {
						t.Fatal(err)
					}
				}
				ids = append(ids, ffstream.NewExecutionID(uint16(x.Partition), x.ID))
			}
			checkOneMind(t, pool, ids...)
		})
	}
}
