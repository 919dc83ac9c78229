// Package normalize knows which row changes are public and what they mean. It is
// the one place that knows states: the stream and the point reads both ask it,
// so they cannot disagree.
//
// # Guarantees
//
// Evaluate is a pure function of a row and its attempts. A Normalizer's events
// are a function of the WAL alone (and, for columns that the WAL did not carry,
// of a Lookup): a replay gives the same events at the same positions. State is
// evaluated at commit, over the whole transaction, so the order in which an
// execution's rows changed inside it does not matter. At most one event comes of
// one execution in one transaction.
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
// # Not promised
//
// That the attempt which decides is the table's: it is the transaction's. The
// stream does not look attempts up, so where one of the engine's defects ends an
// execution without touching the attempt that the row points at, a point read
// may know more.
//
// That a looked-up column is as old as the transaction: it is read at its commit
// or later. And that a normaliser can be used again after an error: the session
// ends there, and the next one begins with a new normaliser.
package normalize
