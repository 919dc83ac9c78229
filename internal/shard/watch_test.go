package shard

import (
	"context"
	"testing"

	"github.com/ffstream/ffstream/internal/publish"
)

// TestGlanceIsBounded: a look at an end that does not answer ends by itself.
func TestGlanceIsBounded(t *testing.T) {
	t.Parallel()
	nc, sink := broker(t, "glance")
	stream, err := publish.Open(testContext(t), nc, sink, true)
	if err != nil {
		t.Fatal(err)
	}
	asked := false
	s := New(nc, Config{Sink: sink, Lineage: func(ctx context.Context) ([]string, error) {
		_, bounded := ctx.Deadline()
		if asked = true; !bounded {
			t.Error("nothing bounds the look at the publication")
		}
		return []string{"edition"}, nil
	}})
	o, err := (&session{shard: s, stream: stream}).glance(context.Background())
	if err != nil || !asked || len(o.lineage) != 1 {
		t.Errorf("saw %+v, %v", o, err)
	}
}
