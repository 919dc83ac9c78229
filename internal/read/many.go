package read

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ffstream/ffstream"
)

// keyRow is what the columns of key are scanned into.
type keyRow struct {
	partition int16
	id        pgtype.UUID
}

// asked is a list of ids, sorted for a statement and to find them again.
type asked struct {
	ids   []ffstream.ExecutionID
	order []int // of ids, by partition key and UUID
}

func ask(ids []ffstream.ExecutionID) *asked {
	a := &asked{ids: ids, order: make([]int, len(ids))}
	for i := range a.order {
		a.order[i] = i
	}
	slices.SortFunc(a.order, func(i, j int) int { return compare(ids[i], ids[j].PartitionKey(), ids[j].UUID()) })
	return a
}

func compare(id ffstream.ExecutionID, partition int16, u uuid.UUID) int {
	v := id.UUID()
	return cmp.Or(cmp.Compare(id.PartitionKey(), partition), bytes.Compare(v[:], u[:]))
}

// args gives the arguments of a statement for one partition, or, when there are
// more of them, of a spread one.
func (a *asked) args() (args []any, spread bool) {
	ids := make([]pgtype.UUID, len(a.order))
	var keys []int16
	var lo, hi []int32
	for n, i := range a.order {
		ids[n] = uuidArg(a.ids[i].UUID())
		if key := a.ids[i].PartitionKey(); len(keys) == 0 || keys[len(keys)-1] != key {
			keys, lo, hi = append(keys, key), append(lo, int32(n+1)), append(hi, 0)
		}
		hi[len(hi)-1] = int32(n + 1)
	}
	if len(keys) == 1 {
		return []any{keys[0], ids}, false
	}
	return []any{keys, lo, hi, ids}, true
}

// each calls f with the place of each id that a row is about: of several when an
// id was asked for repeatedly.
func (a *asked) each(row keyRow, f func(i int)) {
	n, _ := slices.BinarySearchFunc(a.order, row, func(i int, row keyRow) int { return compare(a.ids[i], row.partition, row.id.Bytes) })
	for ; n < len(a.order) && compare(a.ids[a.order[n]], row.partition, row.id.Bytes) == 0; n++ {
		f(a.order[n])
	}
}

// States reads the effective states of many executions in one statement. It
// calls set with the place in ids of each that exists, in any order.
func States(ctx context.Context, q Querier, ids []ffstream.ExecutionID, set func(i int, state ffstream.PublicState, err error)) error {
	const op = "read execution states"
	var row stateRow
	return many(ctx, q, ids, batch{op, statesSQL, spreadStatesSQL, row.appendTo, func(i int) {
		v, err := row.evaluate(ids[i])
		set(i, v.Vector.PublicState, explain(op, ids[i], err))
	}})
}

// Infos reads what ffstream.ExecutionInfo has of many executions in one
// statement. It calls set as States does.
func Infos(ctx context.Context, q Querier, ids []ffstream.ExecutionID, set func(i int, info ffstream.ExecutionInfo, err error)) error {
	const op = "read execution infos"
	var row infoRow
	return many(ctx, q, ids, batch{op, infosSQL, spreadInfosSQL, row.appendTo, func(i int) {
		info, err := row.info(ids[i])
		set(i, info, explain(op, ids[i], err))
	}})
}

// batch is a read of many executions.
type batch struct {
	op       string
	together string               // the statement for one partition
	spread   string               // the statement for several
	dest     func(to []any) []any // appends where a row's columns go, behind its key
	found    func(i int)          // told of each place of the row in dest
}

func many(ctx context.Context, q Querier, ids []ffstream.ExecutionID, b batch) error {
	if len(ids) == 0 {
		return nil
	}
	a := ask(ids)
	sql := b.together
	args, spread := a.args()
	if spread {
		sql = b.spread
	}
	rows, err := q.Query(ctx, sql, args...)
	if err == nil {
		var row keyRow
		_, err = pgx.ForEachRow(rows, b.dest([]any{&row.partition, &row.id}), func() error {
			a.each(row, b.found)
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.op, remedy(err))
	}
	return nil
}

// FlowInfos reads what ffstream.ExecutionInfo has of all executions of a flow on
// a partition, in one statement. It calls add with each, in the order of their
// UUIDs.
func FlowInfos(ctx context.Context, q Querier, partition uint16, flow ffstream.FlowID, add func(id ffstream.ExecutionID, info ffstream.ExecutionInfo, err error)) error {
	const op = "read executions of flow"
	rows, err := q.Query(ctx, flowSQL, int16(partition), uuidArg(flow))
	if err == nil {
		var key keyRow
		var row infoRow
		_, err = pgx.ForEachRow(rows, row.appendTo([]any{&key.partition, &key.id}), func() error {
			id := ffstream.NewExecutionID(uint16(key.partition), key.id.Bytes)
			info, err := row.info(id)
			add(id, info, explain(op, id, err))
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", op, flow, remedy(err))
	}
	return nil
}
