package shard

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
)

// told is what the stream tells of the executions of some partitions since before
// its latest gap. Of what it told of behind the gap it tells the truth, so those
// executions are not in it. It belongs to goroutine E.
type told struct {
	gap         uint64 // sequence of the gap's event
	first, last int    // keys of the partitions
	at          uint64 // the stream was read up to here
	states      *backfill.Nearest[string]
	order       []ffstream.ExecutionID // of states; some may have left it
}

const (
	// toldExecutions is how many executions are held in memory, some 150 bytes each;
	// toldEvents is about how many events an execution has at least.
	toldExecutions, toldEvents = 200_000, 3
	// maxTold bounds the subjects that one consumer filters by.
	maxTold = 64
	// toldCorrupt stands for the state of a row that no rule understands.
	toldCorrupt = "corrupt"
)

// newTold begins behind the place where q goes on, and ends where memory does.
func newTold(gap uint64, q *ChunkQuery, partitions, limit int) *told {
	return &told{
		gap: gap, first: int(q.Partition), last: min(int(q.Partition)+partitions-1, math.MaxInt16),
		states: backfill.NewNearest[string](q.behind(), limit),
	}
}

// behind is the execution behind which a query of a partition goes on, if there is one.
func (q *ChunkQuery) behind() (id ffstream.Opt[ffstream.ExecutionID]) {
	if q.After.OK {
		id = ffstream.Some(ffstream.NewExecutionID(uint16(q.Partition), q.After.V))
	}
	return id
}

// fold takes an event in.
func (t *told) fold(e *ffstream.Event, sequence uint64) {
	switch e.Type {
	case ffstream.TypeTransitioned, ffstream.TypeSnapshotted, ffstream.TypeCorrupt:
	case ffstream.TypeTruncated:
		if sequence > t.gap {
			t.states.Clear()
		}
		t.states.SetAll(string(ffstream.StatePurged))
		return
	default:
		return
	}
	if sequence > t.gap {
		t.states.Delete(e.ExecutionID)
	} else {
		t.states.Set(e.ExecutionID, stateOf(e))
	}
}

// between gives those of a partition behind after and up to last that exist by what
// was told.
func (t *told) between(partition int16, after ffstream.Opt[uuid.UUID], last uuid.UUID) []ffstream.ExecutionID {
	from, found := slices.BinarySearchFunc(t.order, ffstream.NewExecutionID(uint16(partition), after.V), backfill.Compare)
	if found && after.OK {
		from++
	}
	end := ffstream.NewExecutionID(uint16(partition), last)
	var some []ffstream.ExecutionID
	for _, id := range t.order[from:] {
		if backfill.Compare(id, end) > 0 {
			break
		}
		if state, is := t.states.Get(id); is && state != string(ffstream.StatePurged) {
			some = append(some, id)
		}
	}
	return some
}

// differs reports whether the stream tells another state than a snapshot, and which.
func (t *told) differs(e *ffstream.Event) (known string, yes bool) {
	known, stale := t.states.Get(e.ExecutionID)
	return known, stale && known != stateOf(e)
}

// stateOf is the state that an event tells.
func stateOf(e *ffstream.Event) string {
	if e.Type == ffstream.TypeCorrupt {
		return toldCorrupt
	}
	return string(e.To)
}

// has reports whether it tells of what a query gives next.
func (t *told) has(q *ChunkQuery) bool {
	if int(q.Partition) < t.first || int(q.Partition) > t.last {
		return false
	}
	until, has := t.states.Until(q.Partition)
	return has && (!q.After.OK || bytes.Compare(q.After.V[:], until[:]) < 0)
}

// recall reads what the stream tells of a partition from where q goes on, and of so many
// behind it as memory allows, if there was a gap. A stream whose gaps have all aged out
// has nothing from before them.
func (b *backfiller) recall(ctx context.Context, q *ChunkQuery) error {
	if b.gap == 0 || b.told != nil && b.told.has(q) {
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
	limit := cmp.Or(b.cfg.Told, toldExecutions)
	t := newTold(b.gap, q, int(min(maxTold, max(1, (lastPartition+1)*uint64(limit)/max(1, n)))), limit)
	t.at = end
	prefix := b.shard.cfg.Sink.Prefix
	subjects := []string{prefix + ".truncated"}
	for key := t.first; key <= t.last; key++ {
		subjects = append(subjects, fmt.Sprintf("%s.exec.%d.>", prefix, uint16(key)), fmt.Sprintf("%s.corrupt.%d", prefix, uint16(key)))
	}
	b.told = nil // it need not be held while the next is read
	if err := b.recite(ctx, subjects, end, t.fold); err != nil {
		return err
	}
	t.order = t.states.Sorted()
	b.told = t
	return nil
}

// recite reads the stream from its beginning, which may take minutes. Every second it is
// told that this goes on, and looked whether it should.
func (b *backfiller) recite(ctx context.Context, subjects []string, end uint64, fold func(*ffstream.Event, uint64)) error {
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	run, heeded := b.order.Run, time.Now()
	err := b.stream.Read(reading, subjects, 1, end, func(e *ffstream.Event, sequence uint64) {
		fold(e, sequence)
		if now := time.Now(); now.Sub(heeded) >= orderInterval {
			heeded = now
			if err := b.heed(ctx, run, backfill.Waiting, "what the stream told before its gap, which is read"); err != nil {
				stop(err)
			}
		}
	})
	if errors.Is(context.Cause(reading), errWish) {
		return errWish
	}
	return err
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
// and the rest, so a filter other than of partitions leaves it out. It ends where
// what was told does.
func (b *backfiller) page(ctx context.Context, q ChunkQuery) ([]ffstream.Event, ffstream.Opt[uuid.UUID], error) {
	events, last, err := b.cfg.Source.Chunk(ctx, q)
	if err != nil || b.told == nil {
		return events, last, err
	}
	if end, _ := b.told.states.Until(q.Partition); end != lastUUID && (!last.OK || bytes.Compare(last.V[:], end[:]) > 0) {
		last = ffstream.Some(end)
		events = slices.DeleteFunc(events, func(e ffstream.Event) bool { id := e.ExecutionID.UUID(); return bytes.Compare(id[:], end[:]) > 0 })
	}
	if !b.order.Filter.Whole() {
		return events, last, nil
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
		slices.SortFunc(ids, backfill.Compare)
		end := ids[q.Limit-1]
		last = ffstream.Some(end.UUID())
		events = slices.DeleteFunc(events, func(e ffstream.Event) bool { return backfill.Compare(e.ExecutionID, end) > 0 })
		gone = slices.DeleteFunc(gone, func(id ffstream.ExecutionID) bool { return backfill.Compare(id, end) > 0 })
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
	slices.SortFunc(events, func(x, y ffstream.Event) int { return backfill.Compare(x.ExecutionID, y.ExecutionID) })
	return events, last, nil
}
