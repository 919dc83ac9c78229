package read

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
)

// Querier is a pool, connection or transaction of pgx.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func uuidArg(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }

// one scans the row of a statement that gives one at most, and reports whether
// it gave one.
func one(ctx context.Context, q Querier, id ffstream.ExecutionID, sql string, to ...any) (bool, error) {
	rows, err := q.Query(ctx, sql, id.PartitionKey(), uuidArg(id.UUID()))
	if err != nil {
		return false, err
	}
	return first(rows, to)
}

func first(rows pgx.Rows, to []any) (bool, error) {
	defer rows.Close()
	if !rows.Next() {
		return false, rows.Err()
	}
	if err := rows.Scan(to...); err != nil {
		return false, err
	}
	rows.Close() // what comes after the row, an error too, is read here
	return true, rows.Err()
}

// State reads the effective state.
func State(ctx context.Context, q Querier, id ffstream.ExecutionID) (ffstream.PublicState, bool, error) {
	const op = "read execution state"
	var row stateRow
	ok, err := one(ctx, q, id, stateSQL, row.appendTo(make([]any, 0, 12))...)
	if err != nil || !ok {
		return "", false, explain(op, id, err)
	}
	v, err := row.evaluate(id)
	if err != nil {
		return "", false, explain(op, id, err)
	}
	return v.Vector.PublicState, true, nil
}

// Info reads what ffstream.ExecutionInfo has.
func Info(ctx context.Context, q Querier, id ffstream.ExecutionID) (ffstream.ExecutionInfo, bool, error) {
	const op = "read execution info"
	var row infoRow
	ok, err := one(ctx, q, id, infoSQL, row.appendTo(make([]any, 0, 18))...)
	if err != nil || !ok {
		return ffstream.ExecutionInfo{}, false, explain(op, id, err)
	}
	info, err := row.info(id)
	return info, err == nil, explain(op, id, err)
}

// Snapshot reads what ffstream.ExecutionSnapshot has.
func Snapshot(ctx context.Context, q Querier, id ffstream.ExecutionID) (ffstream.ExecutionSnapshot, bool, error) {
	const op = "describe execution"
	var row snapshotRow
	ok, err := one(ctx, q, id, snapshotSQL, row.appendTo(make([]any, 0, 29))...)
	if err != nil || !ok {
		return ffstream.ExecutionSnapshot{}, false, explain(op, id, err)
	}
	s, err := row.snapshot(id)
	return s, err == nil, explain(op, id, err)
}

// Result reads the result; false stands for no execution and for NULL alike.
func Result(ctx context.Context, q Querier, id ffstream.ExecutionID) ([]byte, bool, error) {
	var result []byte
	ok, err := one(ctx, q, id, resultSQL, &result)
	return result, ok && result != nil, explain("read execution result", id, err)
}

// Context reads what ffstream.ExecutionContext has.
func Context(ctx context.Context, q Querier, id ffstream.ExecutionID) (ffstream.ExecutionContext, bool, error) {
	const op = "read execution context"
	var payload, raw []byte
	ok, err := one(ctx, q, id, contextSQL, &payload, &raw)
	if err != nil || !ok {
		return ffstream.ExecutionContext{}, false, explain(op, id, err)
	}
	fields, err := normalize.ReadFields(raw)
	if err != nil {
		return ffstream.ExecutionContext{}, false, explain(op, id, err)
	}
	return ffstream.ExecutionContext{Payload: payload, ExecutionKind: fields.ExecutionKind, Tags: fields.Tags}, true, nil
}

// AttemptIndex reads the index of the current attempt, 0 for a negative one.
func AttemptIndex(ctx context.Context, q Querier, id ffstream.ExecutionID) (uint32, bool, error) {
	var index int32
	ok, err := one(ctx, q, id, attemptIndexSQL, &index)
	return uint32(max(index, 0)), ok, explain("read current attempt index", id, err)
}

// AttemptCount counts the attempts.
func AttemptCount(ctx context.Context, q Querier, id ffstream.ExecutionID) (int64, bool, error) {
	var count int64
	ok, err := one(ctx, q, id, attemptCountSQL, &count)
	return count, ok, explain("read total attempt count", id, err)
}

// Namespace reads raw_fields.namespace; false stands for no execution and for no
// namespace alike.
func Namespace(ctx context.Context, q Querier, id ffstream.ExecutionID) (string, bool, error) {
	var namespace pgtype.Text
	_, err := one(ctx, q, id, namespaceSQL, &namespace)
	return namespace.String, namespace.Valid, explain("read execution namespace", id, err)
}

// Tag reads one tag; false stands for no execution and for no such tag alike.
func Tag(ctx context.Context, q Querier, id ffstream.ExecutionID, key string) (string, bool, error) {
	const op = "read execution tag"
	if err := ffstream.CheckTagKey(key); err != nil {
		return "", false, explain(op, id, err)
	}
	rows, err := q.Query(ctx, tagSQL, id.PartitionKey(), uuidArg(id.UUID()), key)
	if err != nil {
		return "", false, explain(op, id, err)
	}
	var value pgtype.Text
	_, err = first(rows, []any{&value})
	return value.String, value.Valid, explain(op, id, err)
}

// Attempts reads all attempts in the order of their indexes.
func Attempts(ctx context.Context, q Querier, id ffstream.ExecutionID) ([]ffstream.Attempt, bool, error) {
	const op = "read attempts"
	rows, err := q.Query(ctx, attemptsSQL, id.PartitionKey(), uuidArg(id.UUID()))
	if err != nil {
		return nil, false, explain(op, id, err)
	}
	var attempts []ffstream.Attempt
	var row attemptRow
	tag, err := pgx.ForEachRow(rows, row.appendTo(nil), func() error {
		if a, ok := row.attempt(); ok {
			attempts = append(attempts, a)
		}
		return nil
	})
	return attempts, err == nil && tag.RowsAffected() > 0, explain(op, id, err)
}

// MaxPage is the greatest number of ids in a page.
const MaxPage = 1000

var errLimit = errors.New("limit is negative")

// List reads the ids of a partition's executions behind the cursor, of which the
// UUID alone counts. limit is at most MaxPage; with 0 nothing is read.
func List(ctx context.Context, q Querier, partitionKey string, cursor ffstream.Opt[ffstream.ExecutionID], limit int) (ffstream.ExecutionPage, error) {
	page, err := list(ctx, q, partitionKey, cursor, limit)
	if err != nil {
		return ffstream.ExecutionPage{}, fmt.Errorf("list executions of %s: %w", partitionKey, remedy(err))
	}
	return page, nil
}

func list(ctx context.Context, q Querier, partitionKey string, cursor ffstream.Opt[ffstream.ExecutionID], limit int) (ffstream.ExecutionPage, error) {
	var page ffstream.ExecutionPage
	partition, err := ffstream.ParsePartitionKey(partitionKey)
	if err != nil {
		return page, err
	}
	if limit < 0 {
		return page, fmt.Errorf("%w: %d", errLimit, limit)
	}
	if limit == 0 {
		return page, nil
	}
	limit = min(limit, MaxPage)
	sql, args := listSQL, []any{int16(partition), int64(limit) + 1}
	if cursor.OK {
		sql, args = listAfterSQL, append(args, uuidArg(cursor.V.UUID()))
	}
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return page, err
	}
	var id pgtype.UUID
	_, err = pgx.ForEachRow(rows, []any{&id}, func() error {
		page.IDs = append(page.IDs, ffstream.NewExecutionID(partition, id.Bytes))
		return nil
	})
	if err == nil && len(page.IDs) > limit {
		page.IDs = page.IDs[:limit]
		page.Next = ffstream.Some(page.IDs[limit-1])
	}
	return page, err
}
