package migrations

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// MinLocksPerTransaction is the least max_locks_per_transaction that the engine asks
// for. It recommends 512; the default of Postgres is 64.
const MinLocksPerTransaction = 256

// LockTable has the settings that determine the size of Postgres's shared lock table.
type LockTable struct {
	PerTransaction int64 // max_locks_per_transaction
	Connections    int64 // max_connections
	Prepared       int64 // max_prepared_transactions
}

// ReadLockTable reads the settings. Every role may read them.
func ReadLockTable(ctx context.Context, q Querier) (LockTable, error) {
	const sql = `SELECT current_setting('max_locks_per_transaction')::bigint, current_setting('max_connections')::bigint,
		current_setting('max_prepared_transactions')::bigint`
	var t LockTable
	err := each(ctx, q, sql, nil, func(r pgx.Rows) error { return r.Scan(&t.PerTransaction, &t.Connections, &t.Prepared) })
	if err != nil {
		return t, fmt.Errorf("read the size of the lock table: %w", err)
	}
	return t, nil
}

// Slots returns for how many objects the table has room, by the formula of the Postgres
// manual. All sessions of all databases of the server share them.
func (t LockTable) Slots() int64 { return t.PerTransaction * (t.Connections + t.Prepared) }

// Small reports whether max_locks_per_transaction is below MinLocksPerTransaction.
func (t LockTable) Small() bool { return t.PerTransaction < MinLocksPerTransaction }

// String returns the settings and the size.
func (t LockTable) String() string {
	return fmt.Sprintf("max_locks_per_transaction is %d, max_connections %d, max_prepared_transactions %d: the shared lock table has room for %d objects",
		t.PerTransaction, t.Connections, t.Prepared, t.Slots())
}

// LockRemedy is the statement that makes a small lock table larger. It takes effect
// when Postgres restarts.
func LockRemedy() string {
	return fmt.Sprintf("ALTER SYSTEM SET max_locks_per_transaction = %d", MinLocksPerTransaction)
}

// LockCost is how many locks one statement holds that reads ff_exec_core and names no
// partition key: on the table, on each leaf, on each index of a leaf, and on the
// transaction itself.
type LockCost struct {
	Before int // as the table is
	After  int // as it is when all steps of a plan have been applied
}

// locksSQL counts the relations that the planner locks: from Postgres 16 on also the
// indexes of a partitioned table, of which no statement reads anything.
const locksSQL = `WITH RECURSIVE tree AS (SELECT to_regclass($1)::oid AS oid UNION ALL SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
	SELECT count(*) + coalesce(sum((SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid AND i.indislive
		AND (c.relkind <> 'p' OR current_setting('server_version_num')::int >= 160000))), 0)::bigint
	FROM tree JOIN pg_class c ON c.oid = tree.oid`

// ReadLockCost counts the locks before and after steps of Plan or PlanDown.
func ReadLockCost(ctx context.Context, q Querier, steps []Step) (LockCost, error) {
	var c LockCost
	if err := each(ctx, q, locksSQL, []any{coreTable}, func(r pgx.Rows) error { return r.Scan(&c.Before) }); err != nil {
		return c, fmt.Errorf("count the locks of a statement over %s: %w", coreTable, err)
	}
	c.Before++ // the transaction's own
	c.After = c.Before
	for i := range steps {
		c.After += steps[i].indexes
	}
	return c, nil
}
