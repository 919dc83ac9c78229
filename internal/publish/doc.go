// Package publish stores events in one JetStream stream: in order, each once,
// until acknowledged.
//
// # Guarantees
//
// The stream holds what was added, as a prefix: every message names the sequence
// and the id of the one before it, so a message that was lost makes those behind
// it fail instead of leaving a hole, and a message of another writer is noticed.
// The events of one Postgres transaction, up to 1000, become visible at once on
// servers that know atomic batches (nats-server 2.12).
//
// An acknowledgement of a message acknowledges all before it: that is what the
// chain means. So only some messages ask for one.
//
// # Failure
//
// A publisher lives for one session. After an error, which may be an ambiguous
// answer (a timeout, a wrong last sequence, a duplicate, a connection that was
// cut), nothing is known but what was acknowledged: the caller makes a new
// publisher, whose Resume reads the stream's tail from the stream's leader, and
// drops what the tail shows to be stored. A straggler of the old session that is
// stored after that read breaks the new session's chain, and the tail is read
// again.
//
// # The note
//
// Beside the stream there is a key-value bucket with one small value, which says
// how far the log was dealt with. What it means is its writer's business; here it
// is replaced only by whoever knows the value before it.
//
// # Not promised
//
// That a message which the broker acknowledged survives the broker: JetStream
// syncs to disk every two minutes unless told otherwise.
package publish
