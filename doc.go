// Package ffstream is the contract of the FlowFabric event stream: identifiers,
// states, positions and the event that a subscriber receives.
//
// ffstream follows the engine's two tables ff_exec_core and ff_attempt through
// a logical replication slot and publishes each change of an execution's
// public state as one message to NATS JetStream. The stream is, at every
// moment, an exact prefix of one sequence: the public-state transitions that
// Postgres committed, in commit order, each once.
//
// The package is pure: values in, values out, with no I/O, no goroutine and no
// clock. Everything in it is safe to copy. Errors say which input broke which
// rule.
package ffstream
