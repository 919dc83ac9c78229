// Package read holds the SQL of point reads: which rows are read, and how their
// columns become the contract's types. What the columns mean it asks normalize,
// as the stream does.
//
// # One statement
//
// Every read is one SELECT, so it sees one snapshot of both tables whatever the
// isolation level of the transaction around it. Nothing is locked but the tables
// against a change of their shape, nothing is written, and no setting is needed.
//
// # Both engine schemas
//
// Since the engine's migration 0016 ff_exec_core has a column started_at_ms, and
// since 0017 lease_reclaim_count. The statements that want them read
//
//	FROM (SELECT NULL::bigint AS started_at_ms, ...) AS absent
//	CROSS JOIN LATERAL (SELECT ..., started_at_ms FROM ff_exec_core WHERE ...) AS c
//
// Inside the lateral subquery the unqualified name means the table's column where
// there is one; where there is none it means that of the enclosing query, NULL.
// So nothing is detected and nothing can be out of date: Postgres resolves names
// anew, under the table's lock, when a table has changed since the statement was
// prepared. The types of the result are the same either way, which is what it
// demands of a prepared statement then.
//
// # One partition
//
// Both tables have 256 leaves. The partition key is a parameter that each table
// is compared with directly, so a custom plan opens one leaf of each, and a
// generic plan removes the other 255 when it starts. Postgres finds the custom
// plan cheaper, because it costs a generic one as if it read all leaves; it makes
// the generic plan once, when a connection runs a statement for the sixth time,
// to learn that. A connection with plan_cache_mode = force_custom_plan is spared
// that.
//
// Reading many executions is the exception when they do not share a partition:
// then the leaves are chosen while the statement runs, once for each partition,
// and the generic plan is what is wanted. That statement is written so that its
// estimated cost stays far below the limit from which on Postgres compiles
// expressions (jit_above_cost), which for 512 leaves takes seconds.
package read
