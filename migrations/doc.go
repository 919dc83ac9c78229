// Package migrations prepares a database that the engine already uses, online:
// a publication over its two tables, and on each leaf of ff_exec_core a unique
// index over key and state that serves as replica identity. It can also make
// the engine's tables themselves, for development and tests.
//
// Nothing is recorded in the database: Plan looks at the catalog and returns
// what is missing, so preparing is idempotent and goes on after an interrupt
// where it stopped. Down removes what Apply adds and nothing else.
package migrations
