// Package verify compares what a stream tells with what the tables say.
//
// # How
//
// Some partitions at a time, all at once where memory allows: the stream's events of
// these are read to their end as its leader knows it, which gives what it told last of
// each execution; then the rows are read in pages. Where there are more executions than
// memory has room for, those that come first are compared, and the stream is read anew
// for the next. Where the two differ there is only a candidate, since both go on. The
// candidates are read once more, with the transactions that the read saw (read.Writers),
// the stream is awaited until its note says that it has everything up to the end of the
// log as of that read, and its newer events are taken in as far as the read knew them.
// What differs then differs.
//
// # Guarantees
//
// A difference that is reported is one: at the moment of the last read the stream
// had told another state, or none, of an execution for all that had committed. What
// could not be judged is counted. It ends however fast the stream grows. It reads
// alone, in short statements, and holds 200 000 executions in memory at most, whatever
// the statistics of the tables say and however many are in one partition.
//
// # Not promised
//
// That an execution which the stream never told was lost: it may have existed before
// the stream. Where what told of it may have aged out, it is counted and not judged.
// It is judged where it was created too late for that, by its row, whose clock may be
// ahead of the broker's by some minutes; a maximum age that was raised makes what aged
// out by the old one missing. And that every edit is seen: one that changed a
// state and changed it back leaves nothing to see. An UPDATE of the partition key, which
// the engine never does, makes another execution of a row, and no event: the old one is
// surplus then, and the new one missing.
package verify
