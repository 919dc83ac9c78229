// Package reader reads executions of the FlowFabric engine from Postgres: their
// state, and what else a program wants to know of one, of many, or of a flow.
//
// # Guarantees
//
// What a read says is what an event of the stream would say of the same rows: both
// ask one rule. The state is the effective one; the stored label, which the engine
// leaves stale on many paths, travels beside it in ExecutionInfo. A literal that
// no rule knows is an error, a *ffstream.CorruptionError, and never a guess.
//
// Every read is one SELECT, in one snapshot: what it says of several executions
// was true at one moment. It locks no rows and writes nothing. It works in any
// transaction of the caller, on a hot standby, with a role that has SELECT on
// ff_exec_core and ff_attempt and nothing else, and on every schema of the
// engine since 0.11, also while the engine's migrations change it.
//
// An execution that does not exist is no error: reads say so with a bool.
//
// # Not promised
//
// That a read and an event agree about which came first. An event follows its
// commit at a distance, so a read may know more than the events received so far.
// Subscribe first and read second, and nothing falls between: see the example
// readThenWatch.
//
// On a replica, that a commit is already there.
//
// # Connections
//
// pgx prepares each statement on each connection; the texts never change. Through
// a pooler in transaction mode set pgx's DefaultQueryExecMode to
// QueryExecModeExec, or the URL's default_query_exec_mode=exec: no read depends on
// a prepared statement. A connection with the setting
// plan_cache_mode=force_custom_plan is spared one slow planning of each statement
// (tens of milliseconds, at its sixth use), but not when it reads many executions
// of different partitions: those reads live on the cached plan.
//
// The tables are found on the connection's search_path.
package reader
