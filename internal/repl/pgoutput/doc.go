// Package pgoutput decodes the messages of Postgres's logical replication
// plugin pgoutput, protocol version 1, with values in text or binary form.
//
// Guarantees. No input makes it panic or read outside the input. A message is
// decoded whole or refused with a *DecodeError that names the message, the
// field and the offset; trailing bytes are refused too. Rows, begins and commits
// are decoded without an allocation into a Message that is used again.
//
// It keeps nothing: what a row means depends on the Relation message that came
// before it, and remembering those is the caller's. It knows no column types; the
// accessors of Value read what the caller expects there.
package pgoutput
