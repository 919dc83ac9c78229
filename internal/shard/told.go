package shard

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
)

// told is what the stream tells of the executions of some partitions since before
// its latest gap. Of what it told of behind the gap it tells the truth, so those
// executions are not in it. It belongs to goroutine E.
type told struct {
	gap         uint64 // sequence of the gap's event
	first, last int    // keys of the partitions
	at          uint64 // the stream was read up to here
	states      map[ffstream.ExecutionID]string
	order       []ffstream.ExecutionID // of states, by partitions' keys and UUIDs; some may have left it
}

const (
	// toldExecutions is about how many executions are held in memory, some 100 bytes
	// each; toldEvents is about how many events an execution has at least.
	toldExecutions, toldEvents = 200_000, 3
	// maxTold bounds the subjects that one consumer filters by.
	maxTold = 64
	// toldCorrupt stands for the state of a row that no rule understands.
	toldCorrupt = "corrupt"
)

// fold takes an event in.
func (t *told) fold(e *ffstream.Event, sequence uint64) {
	state := string(e.To)
	switch e.Type {
	case ffstream.TypeTransitioned, ffstream.TypeSnapshotted:
	case ffstream.TypeCorrupt:
		state = toldCorrupt
	case ffstream.TypeTruncated:
		if sequence > t.gap {
			clear(t.states)
		}
		for id := range t.states {
			t.states[id] = string(ffstream.StatePurged)
		}
		return
	default:
		return
	}
	if sequence > t.gap {
		delete(t.states, e.ExecutionID)
	} else {
		t.states[e.ExecutionID] = state
	}
}

// sort puts what was folded in order.
func (t *told) sort() {
	t.order = t.order[:0]
	for id := range t.states {
		t.order = append(t.order, id)
	}
	slices.SortFunc(t.order, inOrder)
}

// inOrder compares by partitions' keys, which are signed, and UUIDs.
func inOrder(x, y ffstream.ExecutionID) int {
	a, b := x.UUID(), y.UUID()
	return cmp.Or(cmp.Compare(x.PartitionKey(), y.PartitionKey()), bytes.Compare(a[:], b[:]))
}

// between gives those of a partition behind after and up to last that exist by what
// was told.
func (t *told) between(partition int16, after ffstream.Opt[uuid.UUID], last uuid.UUID) []ffstream.ExecutionID {
	from, found := slices.BinarySearchFunc(t.order, ffstream.NewExecutionID(uint16(partition), after.V), inOrder)
	if found && after.OK {
		from++
	}
	end := ffstream.NewExecutionID(uint16(partition), last)
	var some []ffstream.ExecutionID
	for _, id := range t.order[from:] {
		if inOrder(id, end) > 0 {
			break
		}
		if state, is := t.states[id]; is && state != string(ffstream.StatePurged) {
			some = append(some, id)
		}
	}
	return some
}

// differs reports whether the stream tells another state than a snapshot, and which.
func (t *told) differs(e *ffstream.Event) (known string, yes bool) {
	is := string(e.To)
	if e.Type == ffstream.TypeCorrupt {
		is = toldCorrupt
	}
	known, stale := t.states[e.ExecutionID]
	return known, stale && known != is
}

func (t *told) has(partition int16) bool {
	return int(partition) >= t.first && int(partition) <= t.last
}

// recall reads what the stream tells of a partition, and of so many behind it as
// memory allows, if there was a gap. A stream whose gaps have all aged out has
// nothing from before them.
func (b *backfiller) recall(ctx context.Context, partition int16) error {
	if b.gap == 0 || b.told != nil && b.told.has(partition) {
		return nil
	}
	state, err := b.stream.ReadState(ctx)
	if err != nil {
		return err
	}
	end := b.shard.Status().Acked
	n := b.estimate
	if end > state.First {
		n = max(n, (end-state.First)/toldEvents)
	}
	size := int(min(maxTold, max(1, (lastPartition+1)*toldExecutions/max(1, n))))
	t := &told{gap: b.gap, first: int(partition), last: min(int(partition)+size-1, math.MaxInt16), at: end, states: map[ffstream.ExecutionID]string{}}
	prefix := b.shard.cfg.Sink.Prefix
	subjects := []string{prefix + ".truncated"}
	for key := t.first; key <= t.last; key++ {
		subjects = append(subjects, fmt.Sprintf("%s.exec.%d.>", prefix, uint16(key)), fmt.Sprintf("%s.corrupt.%d", prefix, uint16(key)))
	}
	b.told = nil // it need not be held while the next is read
	if err := b.stream.Read(ctx, subjects, 1, end, t.fold); err != nil {
		return err
	}
	t.sort()
	b.told = t
	return nil
}

// compare marks what repairs: executions of which the stream told another state
// last. What it told since it was read is read before that is said, up to the low
// watermark; what it tells behind that supersedes the snapshot.
func (b *backfiller) compare(ctx context.Context, events []ffstream.Event) error {
	t := b.told
	if t == nil || !slices.ContainsFunc(events, func(e ffstream.Event) bool { _, yes := t.differs(&e); return yes }) {
		return nil
	}
	end, err := b.window.awaitLow(ctx, b.number)
	if err != nil {
		return err
	}
	if err := b.stream.Read(ctx, nil, t.at+1, end, t.fold); err != nil {
		return err
	}
	t.at = max(t.at, end)
	for i := range events {
		e := &events[i]
		known, yes := t.differs(e)
		switch {
		case e.Snapshot == nil:
		case yes:
			e.Snapshot.Repair, e.Snapshot.Known = true, ffstream.PublicState(known)
		case e.To == ffstream.StatePurged: // that was told meanwhile
			e.Snapshot = nil
		}
	}
	return nil
}

// page reads the next executions of a partition and, behind a gap, looks for those
// among them that exist by the stream alone. Of such a one nobody knows the lane
// and the rest, so a filter other than of partitions leaves it out.
func (b *backfiller) page(ctx context.Context, q ChunkQuery) ([]ffstream.Event, ffstream.Opt[uuid.UUID], error) {
	events, last, err := b.cfg.Source.Chunk(ctx, q)
	if err != nil || b.told == nil || !b.order.Filter.Whole() {
		return events, last, err
	}
	until := lastUUID
	if last.OK {
		until = last.V
	}
	read := make(map[ffstream.ExecutionID]struct{}, len(events))
	for i := range events {
		read[events[i].ExecutionID] = struct{}{}
	}
	gone := slices.DeleteFunc(b.told.between(q.Partition, q.After, until), func(id ffstream.ExecutionID) bool { _, is := read[id]; return is })
	if len(gone) == 0 {
		return events, last, nil
	}
	if n := len(events) + len(gone); n > q.Limit { // what does not fit is for the next
		ids := slices.Clone(gone)
		for i := range events {
			ids = append(ids, events[i].ExecutionID)
		}
		slices.SortFunc(ids, inOrder)
		end := ids[q.Limit-1]
		last = ffstream.Some(end.UUID())
		events = slices.DeleteFunc(events, func(e ffstream.Event) bool { return inOrder(e.ExecutionID, end) > 0 })
		gone = slices.DeleteFunc(gone, func(id ffstream.ExecutionID) bool { return inOrder(id, end) > 0 })
	}
	ids := make([]uuid.UUID, len(gone))
	for i, id := range gone {
		ids[i] = id.UUID()
	}
	more, err := b.again(ctx, q.Partition, ids)
	if err != nil {
		return nil, last, err
	}
	events = append(events, more...)
	slices.SortFunc(events, func(x, y ffstream.Event) int { return inOrder(x.ExecutionID, y.ExecutionID) })
	return events, last, nil
}
