package read

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
)

// MaxChunk is the greatest number of executions in a chunk: with the event that
// counts them they are one atomic batch.
const MaxChunk = 999

// ChunkQuery says which executions of one partition a chunk has.
type ChunkQuery struct {
	Partition int16
	After     ffstream.Opt[uuid.UUID] // those behind it, in the order of UUIDs
	Lanes     []string                // those of these lanes; empty: of all
	Limit     int                     // at most MaxChunk
	// Waiting is told of transactions that are waited for, and with none when that
	// is over. Its error ends the wait. Optional.
	Waiting func(xids []int64) error
}

// Chunk reads the next executions of a partition as events, in the order of their
// UUIDs: ExecutionID and everything that data has, of type TypeSnapshotted, or
// TypeCorrupt for a row that cannot be understood. It returns too the last UUID
// that it looked at, which is absent when nothing is behind it.
//
// Each row is as of a moment during the call, and what it misses is committed,
// in the log, after the call began: see Settled. A row that is not visible at all is
// left out, even if its commit is in the log already: of that its event tells, to
// who follows the log from before that commit. Who does not calls Listed first, with
// no UUIDs. Rows that somebody is changing
// are read again when the transactions that held a writer's lock have ended,
// however long that takes; no statement waits.
func Chunk(ctx context.Context, q Querier, c ChunkQuery) (events []ffstream.Event, last ffstream.Opt[uuid.UUID], err error) {
	const op = "read chunk"
	c.Limit = min(c.Limit, MaxChunk)
	args := []any{c.Partition, int64(c.Limit), nil, nil}
	if c.After.OK {
		args[2] = c.After.V.String()
	}
	if len(c.Lanes) > 0 {
		args[3] = c.Lanes
	}
	p, err := readPage(ctx, q, chunkSQL, args)
	if err != nil {
		return nil, last, fmt.Errorf("%s of partition %d: %w", op, uint16(c.Partition), remedy(err))
	}
	if p.rows >= c.Limit { // those that are gone when they are read again count too
		last = ffstream.Some(p.last)
	}
	if len(p.busy) > 0 {
		rows, err := q.Query(ctx, writersSQL, p.leaf)
		if err == nil {
			err = p.settle(ctx, q, &c, p.busy, rows)
		}
		if err != nil {
			return nil, last, fmt.Errorf("%s of partition %d: %w", op, uint16(c.Partition), remedy(err))
		}
	}
	return p.events, last, nil
}

// Listed reads listed executions of one partition as Chunk does, when it sees all
// transactions that were changing any execution as it was called. Those that do not
// exist are left out.
func Listed(ctx context.Context, q Querier, partition int16, ids []uuid.UUID, waiting func(xids []int64) error) ([]ffstream.Event, error) {
	var p page
	rows, err := q.Query(ctx, changingSQL) // of a row that is not there nobody knows the leaf
	if err == nil {
		err = p.settle(ctx, q, &ChunkQuery{Partition: partition, Waiting: waiting}, ids, rows)
	}
	if err != nil {
		return nil, fmt.Errorf("read executions of partition %d: %w", uint16(partition), remedy(err))
	}
	return p.events, nil
}

// Execution reads one execution as a chunk contains it, as of the call. It
// returns false for one that does not exist.
func Execution(ctx context.Context, q Querier, id ffstream.ExecutionID) (ffstream.Event, bool, error) {
	p, err := readPage(ctx, q, listedSQL, []any{id.PartitionKey(), []string{id.UUID().String()}})
	if err != nil {
		return ffstream.Event{}, false, explain("read execution", id, err)
	}
	if len(p.events) == 0 {
		return ffstream.Event{}, false, nil
	}
	return p.events[0], true, nil
}

// page is what one statement read.
type page struct {
	events []ffstream.Event
	saw    ffstream.TxSnapshot
	busy   []uuid.UUID // of rows that somebody is changing, which are not among the events
	leaf   uint32      // that has them
	rows   int
	last   uuid.UUID
}

func readPage(ctx context.Context, q Querier, sql string, args []any) (page, error) {
	rows, err := q.Query(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
	if err != nil {
		return page{}, err
	}
	defer rows.Close()
	var p page
	var saw string
	var leaf pgtype.Uint32
	var settled pgtype.Bool
	var id keyRow
	var row chunkRow
	to := row.appendTo([]any{&saw, &leaf, &settled, &id.partition, &id.id})
	var skip [1 << 6]any // for a row of NULLs
	for rows.Next() {
		if rows.RawValues()[2] == nil {
			if err := rows.Scan(append([]any{&saw}, skip[:len(to)-1]...)...); err != nil {
				return p, err
			}
			break
		}
		row = chunkRow{}
		if err := rows.Scan(row.appendTo(to[:5])...); err != nil {
			return p, err
		}
		p.rows, p.last = p.rows+1, id.id.Bytes
		if !settled.Bool {
			p.busy, p.leaf = append(p.busy, id.id.Bytes), leaf.Uint32
			continue
		}
		e, err := row.event(ffstream.NewExecutionID(uint16(id.partition), id.id.Bytes))
		if err != nil {
			return p, err
		}
		p.events = append(p.events, e)
	}
	rows.Close()
	if err := rows.Err(); err != nil {
		return p, err
	}
	p.saw, err = ffstream.ParseTxSnapshot(saw)
	return p, err
}

// settle reads executions again until the transactions that may have been
// changing them have ended, and adds them to the events in their places.
func (p *page) settle(ctx context.Context, q Querier, c *ChunkQuery, ids []uuid.UUID, writers pgx.Rows) error {
	changing, err := pgx.CollectRows(writers, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		again, err := readPage(ctx, q, listedSQL, []any{c.Partition, texts})
		if err != nil {
			return err
		}
		if sawAll(again.saw, changing) {
			p.merge(again.events)
			return c.waiting(nil)
		}
		if wait > time.Millisecond {
			if err := c.waiting(changing); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

func (c *ChunkQuery) waiting(xids []int64) error {
	if c.Waiting == nil {
		return nil
	}
	return c.Waiting(xids)
}

// merge adds events in the order of UUIDs.
func (p *page) merge(more []ffstream.Event) {
	merged := make([]ffstream.Event, 0, len(p.events)+len(more))
	old := p.events
	for len(old) > 0 && len(more) > 0 {
		a, b := old[0].ExecutionID.UUID(), more[0].ExecutionID.UUID()
		if bytes.Compare(a[:], b[:]) < 0 {
			merged, old = append(merged, old[0]), old[1:]
		} else {
			merged, more = append(merged, more[0]), more[1:]
		}
	}
	p.events = append(append(merged, old...), more...)
}

// chunkRow is what the columns of chunkSQL behind the key are scanned into.
type chunkRow struct {
	infoRow
	attempt attemptRow
}

func (r *chunkRow) appendTo(to []any) []any { return r.attempt.appendTo(r.infoRow.appendTo(to)) }

// event describes the row as an event does.
func (r *chunkRow) event(id ffstream.ExecutionID) (ffstream.Event, error) {
	e := ffstream.Event{Type: ffstream.TypeSnapshotted, ExecutionID: id, LaneID: r.lane}
	info, err := r.info(id)
	var corrupt *ffstream.CorruptionError
	if errors.As(err, &corrupt) {
		e.Type, e.Corrupt = ffstream.TypeCorrupt, ffstream.Corruption{Column: corrupt.Column, Literal: corrupt.Literal}
		return e, nil
	}
	if err != nil {
		return e, err
	}
	fields, err := normalize.ReadFields(r.raw)
	if err != nil {
		return e, err
	}
	e.FlowID, e.Namespace, e.ExecutionKind, e.Priority = info.FlowID, info.Namespace, info.ExecutionKind, info.Priority
	e.To, e.StateVector, e.StoredPublicState = info.PublicState, info.StateVector, info.StoredPublicState
	e.Consistent, e.EvidenceMissing = info.Consistent, info.EvidenceMissing
	e.CurrentAttemptIndex, e.BlockingDetail, e.Tags = info.CurrentAttemptIndex, info.BlockingDetail, fields.Tags
	e.CreatedAtMs, e.StartedAtMs, e.TerminalAtMs = ffstream.Some(info.CreatedAtMs), info.StartedAtMs, info.CompletedAtMs
	e.CancellationReason, e.CancelledBy = optText(r.reason), optText(r.by)
	if a, ok := r.attempt.attempt(); ok {
		e.Attempt = ffstream.Some(a)
	}
	return e, nil
}

// PageState is what StatePage reads of an execution.
type PageState struct {
	ID        ffstream.ExecutionID
	State     ffstream.PublicState
	CreatedAt time.Time // as the row says
	Err       error     // a *ffstream.CorruptionError where no rule understands the row
}

// StatePage reads the effective states of the next executions of a partition, in
// the order of their UUIDs, and calls set with each. It returns the last, absent
// when nothing is behind it.
func StatePage(ctx context.Context, q Querier, partition int16, after ffstream.Opt[uuid.UUID], limit int, set func(PageState)) (last ffstream.Opt[uuid.UUID], err error) {
	const op = "read states"
	args := []any{pgx.QueryExecModeExec, partition, int64(limit), nil}
	if after.OK {
		args[3] = after.V.String()
	}
	rows, err := q.Query(ctx, pageSQL, args...)
	n := 0
	if err == nil {
		var key keyRow
		var created int64
		var row stateRow
		_, err = pgx.ForEachRow(rows, row.appendTo([]any{&key.partition, &key.id, &created}), func() error {
			id := ffstream.NewExecutionID(uint16(key.partition), key.id.Bytes)
			v, err := row.evaluate(id)
			set(PageState{id, v.Vector.PublicState, time.UnixMilli(created), explain(op, id, err)})
			n, last.V = n+1, key.id.Bytes
			return nil
		})
	}
	if err != nil {
		return last, fmt.Errorf("%s of partition %d: %w", op, uint16(partition), remedy(err))
	}
	last.OK = n == limit
	return last, nil
}

// NextPartition gives the smallest partition key from which on rows exist, and
// false when there is none.
func NextPartition(ctx context.Context, q Querier, from int16) (int16, bool, error) {
	rows, err := q.Query(ctx, nextPartitionSQL, pgx.QueryExecModeExec, from)
	if err != nil {
		return 0, false, fmt.Errorf("find next partition: %w", remedy(err))
	}
	var key pgtype.Int2
	if _, err := first(rows, []any{&key}); err != nil {
		return 0, false, fmt.Errorf("find next partition: %w", remedy(err))
	}
	return key.Int16, key.Valid, nil
}

// Estimate is about how many executions there are; 0 when the tables were never
// analysed.
func Estimate(ctx context.Context, q Querier) (uint64, error) {
	rows, err := q.Query(ctx, estimateSQL)
	if err != nil {
		return 0, fmt.Errorf("estimate executions: %w", remedy(err))
	}
	var n int64
	if _, err := first(rows, []any{&n}); err != nil {
		return 0, fmt.Errorf("estimate executions: %w", remedy(err))
	}
	return uint64(max(0, n)), nil
}

// Unusual gives the partition keys with rows that the engine does not use unless it was
// told otherwise: those beyond 0 to 255.
func Unusual(ctx context.Context, q Querier) (keys []int16, err error) {
	for from := int16(math.MinInt16); ; {
		key, more, err := NextPartition(ctx, q, from)
		switch {
		case err != nil || !more:
			return keys, err
		case key >= 0 && key < ffstream.Partitions:
			from = ffstream.Partitions
			continue
		}
		if keys = append(keys, key); key == math.MaxInt16 {
			return keys, nil
		}
		from = key + 1
	}
}

// HasLane reports whether an execution is in a lane.
func HasLane(ctx context.Context, q Querier, lane string) (has bool, err error) {
	look := func(sql string, args ...any) error {
		rows, err := q.Query(ctx, sql, args...)
		if err == nil {
			_, err = first(rows, []any{&has})
		}
		if err != nil {
			return fmt.Errorf("look for lane %s: %w", lane, remedy(err))
		}
		return nil
	}
	if err := look(laneSQL, lane); err != nil || has {
		return has, err
	}
	keys, err := Unusual(ctx, q)
	if err != nil || len(keys) == 0 {
		return false, err
	}
	return has, look(laneOfSQL, lane, keys)
}
