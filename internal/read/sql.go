package read

// The statements. $1 is the partition key throughout, but in spread ones.

// Fragments for the columns of ff_exec_core.
const (
	// literals are what the rule needs of the row c, and of the attempts that it
	// consults, whose columns are called found_index, found_outcome and ended.
	literals = `c.lifecycle_phase, c.ownership_state, c.eligibility_state, c.public_state, c.attempt_state,
	coalesce(c.blocking_reason, ''), c.cancellation_reason, c.cancelled_by,
	c.attempt_index, found_index, coalesce(found_outcome, ''), coalesce(ended, '')`

	// failure is raw_fields.last_failure_message. The rule knows no text as long
	// as this, and a user's may be of any length.
	failure = `, coalesce(left(c.raw_fields->>'last_failure_message', 32), '')`

	// details are what else an ExecutionInfo has; first_started is the start of the
	// attempt with the smallest index that has one.
	details = `, c.raw_fields::text, c.lane_id, c.priority, c.flow_id,
	c.created_at_ms, coalesce(c.started_at_ms, first_started), c.terminal_at_ms`

	// key says of which execution a row of many is.
	key = `c.partition_key, c.execution_id, `
)

// Fragments for where rows come from.
const (
	// absent stands in for the columns that older schemas lack.
	absent = `(SELECT NULL::bigint AS started_at_ms, NULL::integer AS lease_reclaim_count) AS absent`

	// core is the table's row under names that absent can stand in for.
	core = `SELECT partition_key, execution_id, flow_id, lane_id, attempt_index, lifecycle_phase, ownership_state,
		eligibility_state, public_state, attempt_state, blocking_reason, cancellation_reason, cancelled_by, priority,
		created_at_ms, terminal_at_ms, deadline_at_ms, raw_fields, started_at_ms, lease_reclaim_count
	FROM ff_exec_core`

	attemptColumns = `a.attempt_index, a.worker_id, a.worker_instance_id, a.lease_epoch, a.lease_expires_at_ms,
	a.started_at_ms, a.terminal_at_ms, a.outcome`

	// endedIs is true of an attempt a that ended the execution, if it is below the
	// pointer (T4c).
	endedIs = `a.attempt_index < c.attempt_index AND a.terminal_at_ms = c.terminal_at_ms
			AND a.outcome IN ('success', 'failed', 'failure', 'cancelled', 'expired', 'skipped')`

	// ended is that attempt, looked for where the row has ended. A scan of all attempts
	// would cost live executions with many.
	ended = `
	LEFT JOIN LATERAL (
		SELECT a.outcome AS ended FROM ff_attempt a
		WHERE c.lifecycle_phase = 'terminal' AND c.attempt_index > 0 AND a.partition_key = $1 AND a.execution_id = c.execution_id
			AND ` + endedIs + ` ORDER BY a.attempt_index DESC LIMIT 1
	) AS d ON true`

	// found is the attempt at the row's pointer, else the one with the greatest
	// index below it.
	found = `
	LEFT JOIN LATERAL (
		SELECT a.attempt_index AS found_index, a.outcome AS found_outcome FROM ff_attempt a
		WHERE a.partition_key = $1 AND a.execution_id = c.execution_id AND a.attempt_index <= greatest(c.attempt_index, 0)
		ORDER BY a.attempt_index DESC LIMIT 1
	) AS f ON true` + ended

	// started is looked for where the row itself does not say when it started.
	started = `
	LEFT JOIN LATERAL (
		SELECT b.started_at_ms AS first_started FROM ff_attempt b
		WHERE c.started_at_ms IS NULL AND b.partition_key = $1 AND b.execution_id = c.execution_id AND b.started_at_ms IS NOT NULL
		ORDER BY b.attempt_index LIMIT 1
	) AS s ON true`

	fromCore     = ` FROM ` + absent + ` CROSS JOIN LATERAL (` + core
	isOne        = ` WHERE partition_key = $1::smallint AND execution_id = $2::uuid`
	isAny        = ` WHERE partition_key = $1::smallint AND execution_id = ANY ($2::uuid[])`
	isOfFlow     = ` WHERE partition_key = $1::smallint AND flow_id = $2::uuid`
	ofCore       = ` FROM ff_exec_core c`
	whereOne     = ` WHERE c.partition_key = $1::smallint AND c.execution_id = $2::uuid`
	infoOf       = literals + details
	withEvidence = `) AS c` + found + started
)

// Reads of one execution: $2 is its UUID.
const (
	stateSQL  = `SELECT ` + literals + failure + ofCore + found + whereOne
	infoSQL   = `SELECT ` + infoOf + fromCore + isOne + withEvidence
	resultSQL = `SELECT c.result` + ofCore + whereOne

	snapshotSQL = `SELECT ` + infoOf + `,
	c.deadline_at_ms, c.lease_reclaim_count,
	(SELECT count(*) FROM ff_attempt n WHERE n.partition_key = $1 AND n.execution_id = $2::uuid),
	` + attemptColumns + fromCore + isOne + withEvidence + `
	LEFT JOIN ff_attempt a ON a.partition_key = $1 AND a.execution_id = $2::uuid AND a.attempt_index = f.found_index`

	contextSQL      = `SELECT coalesce(c.payload, ''), c.raw_fields::text` + ofCore + whereOne
	attemptIndexSQL = `SELECT c.attempt_index` + ofCore + whereOne
	attemptCountSQL = `SELECT (SELECT count(*) FROM ff_attempt a WHERE a.partition_key = $1 AND a.execution_id = $2::uuid)` + ofCore + whereOne
	tagSQL          = `SELECT c.raw_fields->'tags'->>$3::text` + ofCore + whereOne
	namespaceSQL    = `SELECT c.raw_fields->>'namespace'` + ofCore + whereOne

	// attemptsSQL gives one row of NULLs for an execution without attempts.
	attemptsSQL = `SELECT ` + attemptColumns + ofCore + `
	LEFT JOIN ff_attempt a ON a.partition_key = $1 AND a.execution_id = $2::uuid` + whereOne + ` ORDER BY a.attempt_index`
)

// The read of a settled state. A row that nobody is changing has no xmax; a row
// that does not exist may be one that somebody is making.
const (
	settledSQL = `SELECT pg_current_snapshot()::text, pg_is_in_recovery(),
	CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn() - '0/0' ELSE 0 END::bigint, c.xmax::text = '0', ` + literals + failure + `
	FROM (SELECT) AS always LEFT JOIN (ff_exec_core c` + found + `) ON c.partition_key = $1::smallint AND c.execution_id = $2::uuid`

	horizonSQL = `SELECT pg_is_in_recovery(), (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0')::bigint,
	pg_current_snapshot()::text`

	// changingSQL gives the transactions that may be changing executions. They hold
	// their locks until reads see them.
	changingSQL = changing + ` AND l.relation = 'ff_exec_core'::regclass`
	changing    = `SELECT x.transactionid::text::bigint FROM pg_locks l JOIN pg_locks x USING (virtualtransaction)
	WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
	AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock'`
)

// Reads for a backfill: rows of one partition with their current attempts, with
// the snapshot that they are of, and whether nobody is changing them; a row of
// NULLs when there is none. They are planned for each call: a plan for any
// partition would look at all 256 leaves.
const (
	chunkOf = `, ` + key + infoOf + `, ` + attemptColumns + `
	FROM (SELECT pg_current_snapshot()::text AS saw) AS w LEFT JOIN (` + absent + ` CROSS JOIN LATERAL (
		SELECT partition_key, execution_id, flow_id, lane_id, attempt_index, lifecycle_phase, ownership_state, eligibility_state,
			public_state, attempt_state, blocking_reason, cancellation_reason, cancelled_by, priority, created_at_ms, terminal_at_ms,
			raw_fields, started_at_ms, xmax::text = '0' AS settled, tableoid AS leaf FROM ff_exec_core WHERE partition_key = $1::smallint`
	chunkEnd = `
	) AS c LEFT JOIN LATERAL (
		SELECT ` + attemptColumns + `, a.attempt_index AS found_index, a.outcome AS found_outcome FROM ff_attempt a
		WHERE a.partition_key = $1 AND a.execution_id = c.execution_id AND a.attempt_index <= greatest(c.attempt_index, 0)
		ORDER BY a.attempt_index DESC LIMIT 1
	) AS a ON true` + ended + started + `) ON true ORDER BY c.execution_id`

	chunkSQL = `SELECT w.saw, c.leaf, c.settled` + chunkOf + `
		AND ($3::text IS NULL OR execution_id > $3::text::uuid) AND ($4::text[] IS NULL OR lane_id = ANY ($4::text[]))
		ORDER BY execution_id LIMIT $2::bigint` + chunkEnd
	// listedSQL takes every row that it finds for settled: its caller knows better.
	listedSQL = `SELECT w.saw, c.leaf, CASE WHEN c.settled IS NOT NULL THEN true END` + chunkOf + ` AND execution_id = ANY ($2::text[]::uuid[])` + chunkEnd

	pageSQL = `SELECT ` + key + `c.created_at_ms, ` + literals + failure + ofCore + found + ` WHERE c.partition_key = $1::smallint
		AND ($3::text IS NULL OR c.execution_id > $3::text::uuid) ORDER BY c.execution_id LIMIT $2::bigint`

	// writersSQL is changingSQL for one leaf: who changed a row there holds a lock on
	// the leaf too.
	writersSQL = changing + ` AND l.relation = $1::oid`

	nextPartitionSQL = `SELECT min(partition_key) FROM ff_exec_core WHERE partition_key >= $1::smallint`

	// estimateSQL is what ANALYZE and VACUUM left of the number of rows.
	estimateSQL = `SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint FROM pg_catalog.pg_class
	WHERE oid IN (SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = 'ff_exec_core'::regclass)`

	// laneSQL looks into each partition by the engine's index on lanes, laneOfSQL into
	// some.
	laneSQL   = `SELECT EXISTS (SELECT FROM generate_series(0, 255) AS p (key)` + inLane
	laneOfSQL = `SELECT EXISTS (SELECT FROM unnest($2::smallint[]) AS p (key)` + inLane
	inLane    = `
	CROSS JOIN LATERAL (SELECT FROM ff_exec_core WHERE partition_key = p.key::smallint AND lane_id = $1::text LIMIT 1) AS x)`
)

// Reads of a partition's executions.
const (
	statesSQL = `SELECT ` + key + literals + failure + ofCore + found + ` WHERE c.partition_key = $1::smallint AND c.execution_id = ANY ($2::uuid[])`
	infosSQL  = `SELECT ` + key + infoOf + fromCore + isAny + withEvidence
	flowSQL   = `SELECT ` + key + infoOf + fromCore + isOfFlow + withEvidence + ` ORDER BY c.execution_id`

	listSQL      = `SELECT c.execution_id` + ofCore + ` WHERE c.partition_key = $1::smallint ORDER BY c.execution_id LIMIT $2::bigint`
	listAfterSQL = `SELECT c.execution_id` + ofCore + ` WHERE c.partition_key = $1::smallint AND c.execution_id > $3::uuid ORDER BY c.execution_id LIMIT $2::bigint`
)

// Reads of executions spread over partitions: $4 has the UUIDs, sorted by
// partition; $1 has each partition once, and $2 and $3 where its part of $4
// begins and ends, counted from 1.
//
// The outer loop is over partitions, not executions, because Postgres looks at
// all 256 leaves whenever it goes to another one. DISTINCT ON, which takes the
// attempt that the rule consults, also keeps the planner from turning the loop
// inside out and reading whole tables. The condition on lo is always true; it
// makes Postgres expect one or two partitions, and what it expects to spend
// decides only whether it compiles expressions.
const (
	partOf = ` WHERE partition_key = g.key AND execution_id = ANY (($4::uuid[])[g.lo:g.hi])`

	spreadOf = ` FROM unnest($1::smallint[], $2::integer[], $3::integer[]) AS g (key, lo, hi)
	CROSS JOIN ` + absent + `
	CROSS JOIN LATERAL (
		SELECT DISTINCT ON (c.execution_id) c.*, a.attempt_index AS found_index, a.outcome AS found_outcome,
			substr(max(CASE WHEN ` + endedIs + ` THEN lpad(a.attempt_index::text, 10, '0') || a.outcome COLLATE "C" END)
				OVER (PARTITION BY c.execution_id), 11) AS ended`
	spreadRows = `
		FROM (` + core + partOf + `) AS c
		LEFT JOIN (SELECT execution_id, attempt_index, outcome, terminal_at_ms FROM ff_attempt` + partOf + `) AS a
			ON a.execution_id = c.execution_id AND a.attempt_index <= greatest(c.attempt_index, 0)`
	spreadStarted = `
		LEFT JOIN (
			SELECT DISTINCT ON (execution_id) execution_id, started_at_ms AS first_started
			FROM ff_attempt` + partOf + ` AND ff_attempt.started_at_ms IS NOT NULL ORDER BY execution_id, attempt_index
		) AS s ON s.execution_id = c.execution_id`
	spreadEnd = `
		ORDER BY c.execution_id, a.attempt_index DESC
	) AS c
	WHERE g.lo BETWEEN 1 AND cardinality($4::uuid[])`

	spreadStatesSQL = `SELECT ` + key + literals + failure + spreadOf + spreadRows + spreadEnd
	spreadInfosSQL  = `SELECT ` + key + infoOf + spreadOf + `, s.first_started` + spreadRows + spreadStarted + spreadEnd
)
