package publish_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

// TestPartitions: those of executions, by whatever event tells of one, and nothing else.
func TestPartitions(t *testing.T) {
	t.Parallel()
	ctx, b := testContext(t), sharedBench(t)
	if _, err := b.js.CreateStream(ctx, b.promised()); err != nil {
		t.Fatal(err)
	}
	partitions := func(want ...uint16) {
		t.Helper()
		if got, err := publish.Partitions(ctx, b.nc, b.cfg.Stream, b.cfg.Prefix); err != nil || !slices.Equal(got, want) {
			t.Errorf("partitions %v, want %v (%v)", got, want, err)
		}
	}
	partitions()
	for _, e := range []ffstream.Event{
		{Type: ffstream.TypeTransitioned, ExecutionID: ffstream.NewExecutionID(300, uuid.New()), To: ffstream.StateActive, LaneID: "a.b"},
		{Type: ffstream.TypeTransitioned, ExecutionID: ffstream.NewExecutionID(300, uuid.New()), To: ffstream.StateWaiting},
		{Type: ffstream.TypeSnapshotted, ExecutionID: ffstream.NewExecutionID(7, uuid.New()), To: ffstream.StatePurged, Snapshot: &ffstream.Snapshot{}},
		{Type: ffstream.TypeCorrupt, ExecutionID: ffstream.NewExecutionID(65535, uuid.New())},
		{Type: ffstream.TypeTruncated},
		{Type: ffstream.TypeGap, Gap: &ffstream.Gap{}},
	} {
		if _, err := b.js.Publish(ctx, e.Subject(b.cfg.Prefix), e.AppendJSON(nil)); err != nil {
			t.Fatal(err)
		}
	}
	partitions(7, 300, 65535)
	if _, err := publish.Partitions(ctx, b.nc, "nothing", b.cfg.Prefix); err == nil {
		t.Error("of a stream that is not there it gives some")
	}
}
