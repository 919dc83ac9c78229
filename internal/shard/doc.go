// Package shard runs one slot from socket to acknowledgement. It is the only
// place where the stages meet.
//
// # The path of a change
//
// Goroutine A (repl.Stream.Run) owns the replication connection. It reads whole
// messages in bulk and hands them over a batch at a time; while the consumer is
// busy it keeps sending standby status. Goroutine B (session.run) owns the
// normaliser, the publisher and the ledger. It decodes in place, gathers a
// transaction, evaluates it at its commit, publishes the events, and takes the
// acknowledgements. The ledger turns those into the position to confirm, which
// A reports.
//
// # Guarantees
//
// What is confirmed is stored: the position handed to Confirm is the end of a
// commit, or a keepalive outside a transaction, before which every event was
// acknowledged. After any error the session ends, because later events must not
// overtake; the next one takes the slot first, then reads the stream's tail from
// its leader, and drops what the slot replays up to there.
//
// # Continuity
//
// The stream's tail says how far events went. How far an idle log was dealt with
// says a note beside the stream (publish.Bucket): the slot is confirmed only to
// where a stored note says that everything before is in the stream, so a slot
// that stands behind it was moved by somebody else, and one that a crash of
// Postgres moved back was not. Before each session one pure function, judge,
// compares slot, log, stream, note and publication; what it misses ends Run, and
// Accept records it in the stream and goes on. Goroutine C (session.watch) looks
// at stream and publication while the session lasts.
//
// # Retry
//
// Run alone retries: for ever, with capped exponential backoff and jitter, for
// what waiting can mend. What it cannot mend ends Run with an error that names
// the thing, the rule and the remedy. Some faults are the operator's typing when
// the service starts and an accident of the environment later (a refused
// password, an unknown host, a missing database): those are fatal until a first
// session was established, and waited for afterwards.
//
// A slot that another process holds makes this one a standby: it keeps trying,
// without a lease or a clock, because Postgres gives a slot to one process only.
package shard
