package shard

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/publish"
)

// fill reads from q on until the chunk is full, over partitions as far as
// chunkTime allows, and gives the last execution that was looked at.
func (b *backfiller) fill(ctx context.Context, q ChunkQuery) (all []ffstream.Event, after ffstream.Opt[ffstream.ExecutionID], err error) {
	limit, began := q.Limit, time.Now()
	for first, more := true, true; more && len(all) < limit && (first || time.Since(began) < chunkTime); first = false {
		q.Limit = limit - len(all)
		events, last, err := b.page(ctx, q)
		if err != nil {
			return nil, after, err
		}
		if !last.OK {
			last.V = lastUUID // the partition is done
		}
		after = ffstream.Some(ffstream.NewExecutionID(uint16(q.Partition), last.V))
		for i := range events {
			if b.order.Filter.Allows(&events[i]) {
				events[i].Snapshot = &ffstream.Snapshot{Run: b.order.Run}
			}
		}
		all = append(all, events...)
		if q, more, err = b.next(ctx, after); err != nil {
			return nil, after, err
		}
		more = more && (b.told == nil || b.told.has(&q))
	}
	return all, after, b.compare(ctx, all)
}

var lastUUID = uuid.Max

// The partitions that the engine uses unless it was told otherwise. Which others
// have rows is asked of the table, which takes as long as reading many chunks.
const firstPartition, lastPartition = 0, 255

// unread are partitions that are looked at though they may have no rows: behind a gap
// those that the stream tells of, since what it tells may be gone. Of those that the
// engine uses the first leads to all.
func (b *backfiller) unread(ctx context.Context) ([]uint16, error) {
	f := &b.order.Filter
	if b.gap == 0 || b.order.Lists > 0 || !f.Whole() || len(f.Partitions) > 0 {
		return nil, nil
	}
	told, err := publish.Partitions(ctx, b.shard.nc, b.shard.cfg.Sink.Stream, b.shard.cfg.Sink.Prefix)
	return append(told, firstPartition), err
}

// next is where a run goes on behind an execution; false at its end.
func (b *backfiller) next(ctx context.Context, after ffstream.Opt[ffstream.ExecutionID]) (ChunkQuery, bool, error) {
	q := ChunkQuery{Lanes: b.order.Filter.Lanes, Limit: backfill.MaxList, Waiting: b.waiting(ctx)}
	// A transition that commits behind a chunk waits until that is stored, so where
	// there is a rate the chunks are few, and none is larger than that makes it.
	if b.per > 0 && b.per < backfill.MaxList*chunksPerSecond {
		q.Limit = max(1, b.per/chunksPerSecond)
	}
	from := math.MinInt16
	if after.OK {
		from = int(after.V.PartitionKey())
		if after.V.UUID() != lastUUID {
			q.Partition, q.After = int16(from), ffstream.Some(after.V.UUID())
			return q, true, nil
		}
		from++
	}
	if len(b.order.Filter.Partitions) > 0 {
		key, more := following(b.order.Filter.Partitions, from)
		q.Partition = key
		return q, more, nil
	}
	switch {
	case from >= firstPartition && from <= lastPartition:
		q.Partition = int16(from)
		return q, true, nil
	case from > math.MaxInt16:
		return q, false, nil
	}
	key, more, err := b.cfg.Source.NextPartition(ctx, int16(from))
	if told, has := following(b.visit, from); has && (!more || told < key) {
		key, more = told, true
	}
	q.Partition = key
	return q, more, err
}

// following gives the smallest of the partitions whose key is not below from.
func following(partitions []uint16, from int) (key int16, found bool) {
	for _, p := range partitions {
		if k := int16(p); int(k) >= from && (!found || k < key) {
			key, found = k, true
		}
	}
	return key, found
}

// readList reads the next list of executions. One that does not exist is told as
// purged, if the stream knows it.
func (b *backfiller) readList(ctx context.Context) error {
	if b.at.Chunks >= b.order.Lists {
		return b.end(ctx, ffstream.BackfillCompleted)
	}
	list, err := b.store.List(ctx, b.order.Run, b.at.Chunks)
	if err != nil {
		return err
	}
	return b.chunk(ctx, func(ctx context.Context) ([]ffstream.Event, ffstream.Opt[ffstream.ExecutionID], error) {
		events, err := b.listed(ctx, list)
		return events, ffstream.Opt[ffstream.ExecutionID]{}, err
	})
}

func (b *backfiller) listed(ctx context.Context, list []backfill.Listed) ([]ffstream.Event, error) {
	known := make(map[ffstream.ExecutionID]string, len(list))
	parts := map[int16][]uuid.UUID{}
	for _, l := range list {
		known[l.ID] = l.Known
		parts[l.ID.PartitionKey()] = append(parts[l.ID.PartitionKey()], l.ID.UUID())
	}
	var all []ffstream.Event
	for partition, ids := range parts {
		events, err := b.again(ctx, partition, ids)
		if err != nil {
			return nil, err
		}
		all = append(all, events...)
	}
	for i := range all {
		e, told := &all[i], known[all[i].ExecutionID]
		e.Snapshot = &ffstream.Snapshot{Run: b.order.Run}
		if told != stateOf(e) { // else it came to be what the stream tells of it
			e.Snapshot.Repair, e.Snapshot.Known = true, ffstream.PublicState(told)
		}
	}
	all = slices.DeleteFunc(all, func(e ffstream.Event) bool {
		return e.To == ffstream.StatePurged && e.Snapshot.Known == "" // nothing, or that, was told
	})
	slices.SortFunc(all, func(x, y ffstream.Event) int { return strings.Compare(x.ExecutionID.String(), y.ExecutionID.String()) })
	return all, nil
}

// again reads executions of a partition; those that do not exist come as purged.
func (b *backfiller) again(ctx context.Context, partition int16, ids []uuid.UUID) ([]ffstream.Event, error) {
	events, err := b.cfg.Source.Listed(ctx, partition, ids, b.waiting(ctx))
	if err != nil {
		return nil, err
	}
	found := make(map[uuid.UUID]struct{}, len(events))
	for i := range events {
		found[events[i].ExecutionID.UUID()] = struct{}{}
	}
	for _, id := range ids {
		if _, is := found[id]; !is {
			events = append(events, ffstream.Event{
				Type: ffstream.TypeSnapshotted, ExecutionID: ffstream.NewExecutionID(uint16(partition), id), To: ffstream.StatePurged, Consistent: true,
			})
		}
	}
	return events, nil
}
