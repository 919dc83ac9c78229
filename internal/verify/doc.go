// Package verify compares what a stream tells with what the tables say.
//
// # How
//
// Some partitions at a time, all at once where memory allows: the stream's events of
// these are read to their end as its leader knows it, which gives what it told last of
// each execution; then the rows are read in pages. Where the two differ there is only a candidate, since
// both go on. The candidates are read once more, with the transactions that the read
// saw (read.Writers), the stream is awaited until its note says that it has everything
// up to the end of the log as of that read, and its newer events are taken in as far
// as the read knew them. What differs then differs.
//
// # Guarantees
//
// A difference that is reported is one: at the moment of the last read the stream
// had told another state, or none, of an execution for all that had committed. What
// could not be judged is counted. It ends however fast the stream grows. It reads
// alone, in short statements, and holds some partitions in memory, about 200 000
// executions or one partition, whatever the statistics of the tables say.
//
// # Not promised
//
// That an execution which the stream never told was lost: it may have existed before
// the stream. Where what told of it may have aged out, it is counted and not judged.
// And that every edit is seen: one that changed a state and changed it back leaves
// nothing to see.
package verify
