package reader

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/read"
)

// DB is what a Reader reads from: a *pgxpool.Pool, *pgxpool.Conn, *pgx.Conn or
// pgx.Tx. It stays the caller's: a Reader neither opens nor closes one.
type DB interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Reader reads executions. It has no state of its own but DB and options, so it
// costs nothing to make one for each transaction. It may be used by many
// goroutines when its DB may, as a pool may.
type Reader struct {
	db             DB
	flowPartitions uint16
}

// Option changes how a Reader reads.
type Option func(*Reader)

// FlowPartitions tells a Reader the engine's number of flow partitions
// (FF_FLOW_PARTITIONS), from which it knows where a flow's executions are. It is
// 256 unless told otherwise, as in the engine, and must be above 0. Only
// FlowInfos needs it: ids of executions name their partition themselves.
func FlowPartitions(n uint16) Option {
	return func(r *Reader) {
		if n > 0 {
			r.flowPartitions = n
		}
	}
}

// New returns a Reader of db. It starts nothing and touches no network.
func New(db DB, options ...Option) *Reader {
	r := &Reader{db: db, flowPartitions: ffstream.Partitions}
	for _, option := range options {
		option(r)
	}
	return r
}

// ExecutionState returns the effective state of an execution; false means that
// there is no such execution. A row with a literal that no rule knows is a
// *ffstream.CorruptionError.
//
// The engine's own read of that name gives the stored label, which many of its
// write paths leave stale; ExecutionInfo has both.
func (r *Reader) ExecutionState(ctx context.Context, id ffstream.ExecutionID) (ffstream.PublicState, bool, error) {
	return read.State(ctx, r.db, id)
}

// SettledState returns the effective state of an execution with the transactions
// that the read saw, so that every event of it can be placed before or after the
// read: see client.Watch. An event that is in the stream when SettledState is
// called came before. Therefore it waits, which a plain read does not: while
// transactions that may be changing the execution are about to become visible,
// at most until those end that were changing the table when it was called.
//
// It must read from the primary, and outside of a transaction of REPEATABLE READ
// or SERIALIZABLE, which keeps one snapshot for ever.
func (r *Reader) SettledState(ctx context.Context, id ffstream.ExecutionID) (ffstream.SettledState, error) {
	return read.Settled(ctx, r.db, id)
}

// Horizon returns how far the database is, of which client.WaitPosition and
// client.WaitLSN make a wait: every read that begins after it sees what it covers. It
// works on the primary and on standbys, outside of a transaction of REPEATABLE READ
// or SERIALIZABLE, which keeps one snapshot for ever.
func (r *Reader) Horizon(ctx context.Context) (ffstream.Horizon, error) {
	return read.Horizon(ctx, r.db)
}

// ExecutionInfo returns what is known of an execution; false means that there is
// no such execution. A row with a literal that no rule knows is a
// *ffstream.CorruptionError. The id is given back as the caller spelt it.
func (r *Reader) ExecutionInfo(ctx context.Context, id ffstream.ExecutionID) (ffstream.ExecutionInfo, bool, error) {
	return read.Info(ctx, r.db, id)
}

// ExecutionResult returns the result of an execution, whatever its state; false
// means that there is no such execution, or that its result is NULL. An empty
// result is an empty slice and true. The slice is the caller's.
func (r *Reader) ExecutionResult(ctx context.Context, id ffstream.ExecutionID) ([]byte, bool, error) {
	return read.Result(ctx, r.db, id)
}

// DescribeExecution returns the fullest read of an execution; false means that
// there is no such execution. Unlike the engine's own it works for every row
// that ExecutionInfo works for: labels are normalised, attempts are counted in
// their table, and keys that raw_fields lacks are absent.
func (r *Reader) DescribeExecution(ctx context.Context, id ffstream.ExecutionID) (ffstream.ExecutionSnapshot, bool, error) {
	return read.Snapshot(ctx, r.db, id)
}

// ExecutionContext returns payload, kind and tags of an execution; false means
// that there is no such execution. A NULL payload is an empty one.
func (r *Reader) ExecutionContext(ctx context.Context, id ffstream.ExecutionID) (ffstream.ExecutionContext, bool, error) {
	return read.Context(ctx, r.db, id)
}

// CurrentAttemptIndex returns the row's pointer to its current attempt, 0 where
// it is negative; false means that there is no such execution. An attempt of
// that index need not exist.
func (r *Reader) CurrentAttemptIndex(ctx context.Context, id ffstream.ExecutionID) (uint32, bool, error) {
	return read.AttemptIndex(ctx, r.db, id)
}

// TotalAttemptCount returns the number of attempts of an execution, counted in
// their table, because the engine's own counter stays 0; false means that there
// is no such execution.
func (r *Reader) TotalAttemptCount(ctx context.Context, id ffstream.ExecutionID) (int64, bool, error) {
	return read.AttemptCount(ctx, r.db, id)
}

// ExecutionAttempts returns all attempts of an execution in the order of their
// indexes; false means that there is no such execution.
func (r *Reader) ExecutionAttempts(ctx context.Context, id ffstream.ExecutionID) ([]ffstream.Attempt, bool, error) {
	return read.Attempts(ctx, r.db, id)
}

// ExecutionTag returns the value of one tag, as text when it is no string; false
// means that there is no such execution or that it has no such tag. A key that
// breaks the engine's rule (ffstream.CheckTagKey) is ffstream.ErrTagKey.
func (r *Reader) ExecutionTag(ctx context.Context, id ffstream.ExecutionID, key string) (string, bool, error) {
	return read.Tag(ctx, r.db, id, key)
}

// ExecutionNamespace returns the namespace of an execution, as text when it is
// no string; false means that there is no such execution or that it has none.
func (r *Reader) ExecutionNamespace(ctx context.Context, id ffstream.ExecutionID) (string, bool, error) {
	return read.Namespace(ctx, r.db, id)
}

// MaxPage is the greatest number of ids that ListExecutions returns.
const MaxPage = read.MaxPage

// ListExecutions returns the ids of a partition's executions that come after the
// cursor, in the order of their UUIDs: at most limit and at most MaxPage of them,
// none with limit 0. A negative limit is an error.
//
// The partition is the text of its key, "{fp:7}"; the family is ignored, as the
// engine does. The error wraps what ffstream.ParsePartitionKey gives. Of the
// cursor the UUID alone counts, and it need not exist any more. Pages are no
// snapshot: executions that are created behind the cursor are missed.
func (r *Reader) ListExecutions(ctx context.Context, partition string, cursor ffstream.Opt[ffstream.ExecutionID], limit int) (ffstream.ExecutionPage, error) {
	return read.List(ctx, r.db, partition, cursor, limit)
}
