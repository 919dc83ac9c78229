// Package normalize knows which row changes are public and what they mean. It is
// the one place that knows states: the stream and the point reads both ask it,
// so they cannot disagree.
//
// # Guarantees
//
// Evaluate is a pure function of a row and its attempts. An event's position is a
// function of the WAL alone. State is evaluated at commit, over the complete
// transaction, so the order in which an execution's rows changed inside it does
// not matter. At most one event comes of one execution in one transaction.
//
// Every committed change of the effective state makes an event, whatever column
// causes it:
//
//   - A live row, and a terminal one that T1, T2 or T3 decide, has the same state
//     whatever its attempts and texts are. Without an old tuple it did not change.
//   - Any other terminal row is evaluated at each change of it. The attempts that
//     the rule consults come from the transaction, else from the memory of recent
//     states (Recent), else from a Lookup.
//   - An execution of which the transaction shows attempts alone is evaluated too,
//     unless it is known to be live, or they are known to decide the same.
//
// The state before the transaction comes from the old tuple where the state
// columns decide alone, else from the memory of recent states. Where it is known
// and equal there is no event. Where it is not known there is one without From,
// marked as a candidate when the two may be equal.
//
// A literal that no table knows is never guessed at: it becomes a corrupt event.
//
// # Memory
//
// A transaction is gathered in fixed-size records without pointers: 120 bytes an
// execution, 56 an attempt, 4 to 16 of an index, and the tags as they are
// written. Texts and vectors of state, of which there are few, are stored once.
// What a large transaction took is given back at its end; what a small one took
// is used again, so that a transaction without events allocates nothing.
//
// The memory of recent states takes some 200 bytes for each execution.
//
// # Not promised
//
// That a looked-up column which came as unchanged TOAST is as old as the
// transaction: it is read at its commit or later. Of attempts, and of rows whose
// attempts changed alone, what a later transaction wrote is recognised by its
// transaction id and not used: that transaction is evaluated in its turn. One with a
// smaller id that committed later, because it waited for a lock, is not recognised.
//
// That an attempt which runs (outcome and terminal_at_ms are NULL) did more than
// renew its lease, when it changes alone and the memory does not hold its
// execution: such changes are most of the WAL, and are not looked up.
//
// That a TRUNCATE of ff_attempt alone makes events: the WAL names no execution.
//
// That a normaliser can be used again after an error: the session
// ends there, and the next one begins with a new normaliser.
package normalize
