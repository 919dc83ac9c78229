package shard

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
)

// TestTold: what a stream told before its gap may be untrue, and what it told of
// behind that is not.
func TestTold(t *testing.T) {
	t.Parallel()
	id := func(partition uint16, n byte) ffstream.ExecutionID {
		return ffstream.NewExecutionID(partition, uuid.UUID{n})
	}
	is := func(id ffstream.ExecutionID, state ffstream.PublicState) *ffstream.Event {
		return &ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: id, To: state}
	}
	made := func() *told {
		told := newTold(10, &ChunkQuery{Partition: 7}, 2, 100)
		for i, e := range []*ffstream.Event{
			is(id(8, 1), ffstream.StateWaiting), is(id(7, 3), ffstream.StateWaiting), is(id(7, 1), ffstream.StateWaiting), is(id(7, 2), ffstream.StateWaiting),
			is(id(7, 3), ffstream.StateActive), is(id(7, 2), ffstream.StatePurged), {Type: ffstream.TypeCorrupt, ExecutionID: id(7, 4)}, {Type: ffstream.TypeBackfill},
		} {
			told.fold(e, uint64(i+1))
		}
		told.order = told.states.Sorted()
		return told
	}
	m := made()
	for want, e := range map[string]*ffstream.Event{
		"active": is(id(7, 3), ffstream.StateCompleted), "purged": is(id(7, 2), ffstream.StateWaiting), "corrupt": is(id(7, 4), ffstream.StateWaiting),
		"waiting": {Type: ffstream.TypeCorrupt, ExecutionID: id(8, 1)},
	} {
		if known, yes := m.differs(e); !yes || known != want {
			t.Errorf("told was %s, and not %s (%v)", want, known, yes)
		}
	}
	for _, e := range []*ffstream.Event{is(id(7, 3), ffstream.StateActive), is(id(7, 9), ffstream.StateActive), {Type: ffstream.TypeCorrupt, ExecutionID: id(7, 4)}} {
		if known, yes := m.differs(e); yes {
			t.Errorf("%s as %s is not as told, which was %q", e.ExecutionID, e.To, known)
		}
	}
	for _, c := range []struct {
		after ffstream.Opt[uuid.UUID]
		last  uuid.UUID
		want  []ffstream.ExecutionID
	}{
		{last: lastUUID, want: []ffstream.ExecutionID{id(7, 1), id(7, 3), id(7, 4)}},
		{after: ffstream.Some(uuid.UUID{1}), last: uuid.UUID{3}, want: []ffstream.ExecutionID{id(7, 3)}},
		{after: ffstream.Some(uuid.UUID{4}), last: lastUUID},
	} {
		if got := m.between(7, c.after, c.last); !slices.Equal(got, c.want) {
			t.Errorf("behind %v up to %s are %v, want %v", c.after, c.last, got, c.want)
		}
	}
	m.fold(is(id(7, 3), ffstream.StateWaiting), 11)
	if known, yes := m.differs(is(id(7, 3), ffstream.StateCompleted)); yes {
		t.Errorf("what was told behind the gap is true, and not what was before: %s", known)
	}
	m.fold(&ffstream.Event{Type: ffstream.TypeTruncated}, 12)
	if left := m.states.Sorted(); len(left) > 0 {
		t.Errorf("behind a TRUNCATE that was told there are %v", left)
	}
	m = made()
	m.fold(&ffstream.Event{Type: ffstream.TypeTruncated}, 9)
	if known, yes := m.differs(is(id(8, 1), ffstream.StateWaiting)); !yes || known != "purged" {
		t.Errorf("behind a TRUNCATE %s is %s (%v)", id(8, 1), known, yes)
	}
}
