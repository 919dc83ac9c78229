package read

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream"
)

// Writers are transactions that may be changing executions, as of one moment.
// Where Settled waits for those of one execution, they let many be read in rounds.
type Writers struct{ xids []int64 }

// InProgress gives those of now.
func InProgress(ctx context.Context, q Querier) (Writers, error) {
	rows, err := q.Query(ctx, changingSQL)
	var w Writers
	if err == nil {
		w.xids, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	}
	if err != nil {
		return w, fmt.Errorf("read transactions in progress: %w", remedy(err))
	}
	return w, nil
}

// writersReadSQL is settledSQL for several executions of a partition.
const writersReadSQL = `SELECT pg_current_snapshot()::text, pg_is_in_recovery(),
	CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() - '0/0' ELSE 0 END::bigint, c.xmax::text = '0', c.execution_id, ` + literals + failure + `
	FROM (SELECT) AS always LEFT JOIN (ff_exec_core c` + found + `) ON c.partition_key = $1::smallint AND c.execution_id = ANY ($2::text[]::uuid[])`

// Settled reads executions of one partition, in one statement, as the function of
// that name does, but once: it calls set with each that is settled, and gives those
// that are not, since one of the writers that may be changing them goes on. corrupt
// is a row that no rule understands, whose state is empty as that of one which does
// not exist.
func (w Writers) Settled(ctx context.Context, q Querier, partition int16, ids []uuid.UUID, set func(id uuid.UUID, s ffstream.SettledState, corrupt bool)) (busy []uuid.UUID, err error) {
	absent := make(map[uuid.UUID]struct{}, len(ids))
	texts := make([]string, len(ids))
	for i, id := range ids {
		absent[id], texts[i] = struct{}{}, id.String()
	}
	var s ffstream.SettledState
	over := false // all of the writers had ended
	one := func(id uuid.UUID, quiet bool, s ffstream.SettledState, corrupt bool) {
		if quiet || over {
			set(id, s, corrupt)
		} else {
			busy = append(busy, id)
		}
	}
	rows, err := q.Query(ctx, writersReadSQL, pgx.QueryExecModeExec, partition, texts)
	if err == nil {
		var text string
		var standby bool
		var end int64
		var quiet *bool
		var key keyRow
		var row stateRow
		to := row.appendTo([]any{&text, &standby, &end, &quiet, &key.id})
		for rows.Next() {
			exists := rows.RawValues()[3] != nil
			row = stateRow{}
			if !exists {
				clear(to[3:]) // NULLs, which are not wanted
			}
			if err = rows.Scan(to...); err != nil {
				break
			}
			if standby {
				err = errStandby
				break
			}
			s.End, s.State = ffstream.LSN(end), ""
			if s.Saw, err = ffstream.ParseTxSnapshot(text); err != nil {
				break
			}
			over = sawAll(s.Saw, w.xids)
			if !exists {
				break
			}
			v, wrong := row.evaluate(ffstream.NewExecutionID(uint16(partition), key.id.Bytes))
			var corrupt *ffstream.CorruptionError
			if wrong != nil && !errors.As(wrong, &corrupt) {
				err = wrong
				break
			}
			known := s
			known.State = v.Vector.PublicState
			if corrupt != nil {
				known.State = ""
			}
			delete(absent, key.id.Bytes)
			one(key.id.Bytes, *quiet, known, corrupt != nil)
		}
		rows.Close()
		err = errors.Join(err, rows.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("read settled states of partition %d: %w", uint16(partition), remedy(err))
	}
	for _, id := range ids {
		if _, gone := absent[id]; gone {
			one(id, false, s, false)
		}
	}
	return busy, nil
}
