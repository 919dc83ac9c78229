// Package repl holds a logical replication slot, owns its connection, sends
// what it says and confirms what it is told.
//
// Guarantees. A slot is created by CreateSlot alone. What Run hands over is
// every byte that the slot sends, in order, in whole messages. Standby status
// goes out on its own schedule, also while the consumer blocks, and carries
// what Confirm was given and never what was merely received. Confirmations do
// not go backwards. A server that vanished without a word ends Run: it reads, asks
// for a reply, and takes none within Config.Silence for an answer.
//
// It does not look into the WAL data, it does not retry, and it does not decide
// where a stream resumes: the caller drops what it has already.
package repl
