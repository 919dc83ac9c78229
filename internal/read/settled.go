package read

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream"
)

var errStandby = errors.New("the server is a standby, which does not know the transactions in progress: read from the primary")

// Settled reads the effective state with the snapshot that it was read in.
//
// A transaction's commit is in the log, and its events can be in the stream,
// before it leaves the list of those in progress: for a moment, or with
// synchronous replication for as long as a standby is away. A read in between
// would miss what the stream has told already. Such a transaction has left its
// number in the row's xmax, unless it made the row. So where that is set, or there
// is no row, the transactions that hold a writer's lock on the table are waited
// for. One that comes later has its commit, and so its events, after the call.
func Settled(ctx context.Context, q Querier, id ffstream.ExecutionID) (ffstream.SettledState, error) {
	const op = "read settled state"
	state, quiet, err := settled(ctx, q, id)
	if err != nil || quiet {
		return state, explain(op, id, err)
	}
	rows, err := q.Query(ctx, changingSQL)
	if err != nil {
		return ffstream.SettledState{}, explain(op, id, err)
	}
	changing, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for wait := time.Millisecond; err == nil; wait = min(2*wait, time.Second) {
		if state, quiet, err = settled(ctx, q, id); err != nil || quiet || sawAll(state.Saw, changing) {
			break
		}
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(wait):
		}
	}
	return state, explain(op, id, err)
}

// sawAll reports whether all of the transactions had ended.
func sawAll(s ffstream.TxSnapshot, xids []int64) bool {
	for _, xid := range xids {
		if !s.Saw(uint32(xid)) {
			return false
		}
	}
	return true
}

// settled reads once; quiet says that nobody is changing the row.
func settled(ctx context.Context, q Querier, id ffstream.ExecutionID) (s ffstream.SettledState, quiet bool, err error) {
	rows, err := q.Query(ctx, settledSQL, id.PartitionKey(), uuidArg(id.UUID()))
	if err != nil {
		return s, false, err
	}
	var text string
	var standby bool
	var end int64
	var row stateRow
	to := row.appendTo([]any{&text, &standby, &end, &quiet})
	found := false
	if rows.Next() {
		if found = rows.RawValues()[3] != nil; !found {
			clear(to[3:]) // NULLs, which are not wanted
		}
		err = rows.Scan(to...)
	}
	rows.Close()
	if err = errors.Join(err, rows.Err()); err != nil {
		return s, false, err
	}
	if standby {
		return s, false, errStandby
	}
	s.End = ffstream.LSN(end)
	if s.Saw, err = ffstream.ParseTxSnapshot(text); err != nil || !found {
		return s, false, err
	}
	v, err := row.evaluate(id)
	if err != nil {
		return ffstream.SettledState{}, false, err
	}
	s.State = v.Vector.PublicState
	return s, quiet, nil
}

// Horizon reads how far the database is.
func Horizon(ctx context.Context, q Querier) (ffstream.Horizon, error) {
	var h ffstream.Horizon
	rows, err := q.Query(ctx, horizonSQL)
	if err != nil {
		return h, fmt.Errorf("read position: %w", err)
	}
	var end int64
	var text string
	if _, err := pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (struct{}, error) {
		return struct{}{}, row.Scan(&h.Standby, &end, &text)
	}); err != nil {
		return h, fmt.Errorf("read position: %w", err)
	}
	h.End = ffstream.LSN(end)
	if h.Saw, err = ffstream.ParseTxSnapshot(text); err != nil {
		return ffstream.Horizon{}, err
	}
	return h, nil
}
