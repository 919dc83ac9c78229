// Package engine plays the FlowFabric engine against a Postgres that has its
// tables, for tests, the demo and benchmarks.
//
// An Engine has one method for each of the engine's operations. A method is the
// body of one transaction: the engine's own statements in the engine's order,
// touching the columns that the engine touches at that version and no others.
// The caller begins and ends the transaction. Stories gives whole lives as data,
// with what each step leaves in the row and which event it must make. Run and
// Backlog write many lives at once.
//
// # Guarantees
//
// What reaches the log of ff_exec_core and ff_attempt is what the engine's
// statement would have put there, change for change and in its order. An
// operation that the engine would refuse or that finds no row is ErrRefused; the
// transaction must then be rolled back, for statements may have run.
//
// # Not promised
//
// Besides these two tables only the lane registry and the lease and completion
// outboxes are written. Suspensions, waitpoints, signals, grants, flows, edges and
// operator events are not, so an idempotency key or a stale timer is the caller's
// to play. Handles do not exist: an operation does not check the lease epoch.
package engine
