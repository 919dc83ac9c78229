// Package client subscribes to the event stream: typed events, given to a
// handler and acknowledged when it returns nil.
//
//	s, err := client.New(js, client.Config{Durable: "billing", Filter: client.Filter{Terminal: true}})
//	err = s.Run(ctx, func(ctx context.Context, m *client.Message) error { ... })
//
// # Guarantees
//
// At least once: an event is acknowledged after its handler returned nil, and
// not otherwise. A handler that fails or panics is called again, with a growing
// delay, for as long as Config.Tries allows, and Config.Retrying is told. One that
// ends its goroutine, as a test's FailNow does, ends the run with an error; so does a
// hook that panics.
//
// Order per execution: the events of one execution are handled one at a time, in
// the order of the stream. What fails is tried again in place, while the later
// events of its execution wait behind it and other executions go on; the server
// is told that work is in progress, and hands nothing out twice meanwhile. What
// the server handed out and the client did not receive (a crash before this
// start, a broken connection) is waited for, up to Config.AckWait, before
// anything newer is begun. What comes again although this run has handled it is
// acknowledged and not handled.
//
// Outages are waited out, at the start of a subscription as later: a broker that is
// away, starts, or elects a leader. What waiting cannot mend is told at once: a right
// within a second of its first use, and that JetStream is not enabled any more, which
// a server says as well while it closes its streams, after ten. A consumer without a
// name that the server forgot meanwhile, or that stood on a server of a cluster that
// is away alone, is made again, behind what this run has handled.
//
// A filter is exact: what subjects can express is left to the server, the rest
// is decided here. An event that lost fields for want of room (Truncated) is
// matched by its subject in place of a lost namespace or lane, and is let
// through in place of lost tags.
//
// # Not promised
//
// That an event is handled once. A handler that ended as the process crashed is
// called again at the next start, and a broker that crashes can forget
// acknowledgements. See Idempotency.
//
// That an event is given which the stream's limits removed before it was: a run that is
// away, or behind, for longer than the stream keeps events goes on with what is left, as
// every consumer of the broker does, and is not told. A program that must know keeps
// the position of its last effect and begins with After, which says so by ErrExpired.
// Waiter, with a reader, and Watch read the database again where that may have happened.
//
// That a process which was paused for longer than AckWait and 4 s knows that
// another took over: its handler may still run. It learns it within a second of
// going on, and then gives back what it has not begun.
//
// # Idempotency
//
// An effect that must happen once is stored with what tells that it has happened,
// in one transaction of the database that holds it. There are two ways.
//
// By Event.ID, which names an event for ever: a table with the id as its key, and an
// effect only where the id is new. It works for every effect and in any order. A row
// must be kept for as long as the stream can give its event again, which is the
// stream's max_age at most.
//
// By Event.Position, which grows along the stream: with each execution the position
// of the latest event that had its effect, and an effect only for a greater one, in
// the same statement:
//
//	UPDATE bill SET state = $2, position = $3 WHERE execution_id = $1 AND position < $3
//
// It needs one row an execution and nothing is to be cleared. The mark is one of
// each execution and not one of all: executions overtake each other, while one waits
// for another try. One for all is right for Ordered and RunTransactions, which take
// the stream's own order; there it is also where After resumes. Positions compare
// within one database and timeline: where Event.ID.System changes, or a standby was
// promoted that had not replayed everything, the marks are void.
//
// Several processes change nothing of it, because the database that holds the effect
// decides. Of the processes of one durable name one is given events, and its
// successor begins with what it did not acknowledge. The predecessor's handler may
// still run, for the same event or an earlier one of the execution: whichever
// transaction comes second finds the id there, or the mark not below its position.
// An execution is of one partition and so of one share, and its order is kept within
// that. When Share.Of changes, an execution has an old consumer and a new one: with
// ids nothing happens twice, though perhaps out of order; with marks what the old one
// still brings is refused once the new one is ahead. Let the old shares finish first.
//
// # Events that are no transition
//
// What a backfill tells of executions that exist goes to Config.Snapshots, under
// the filter, and is passed over when that is nil: it is no transition, and who
// counts transitions must not count it. Corrupt rows, a TRUNCATE, gaps, the
// progress of a backfill, and whatever type a later release adds, go to
// Config.Control, and are acknowledged and passed over when that is nil. Filters
// say nothing of them. Those without an execution are a barrier: handled when
// all before them is done, and before all behind them.
//
// # One execution
//
// Waiter.Wait returns when an execution has ended, Watch tells its state and each
// transition that follows, and WaitPosition waits until reads of a database see what
// an event tells of: a standby lags behind the stream, and so, for a moment, does the
// primary. WaitLSN does the same for one's own write. None of them can miss what
// happens between subscribing and reading.
//
// # Several processes
//
// Processes that run one durable name are one active and the others standbys
// (nats-server 2.11 or newer; with older ones run one process a name). To share
// the work give each a share of the partitions: Config.Share. Each share has a
// consumer of its own, which serves no other share.
//
// A process that is handed what its Filter does not ask the server for does not
// acknowledge it: when another process has changed the consumer's filter, its run
// ends with an error that says so.
package client
