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
// delay, for as long as Config.Tries allows. One that ends its goroutine, as a
// test's FailNow does, ends the run with an error; so does a Poison that panics.
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
// A filter is exact: what subjects can express is left to the server, the rest
// is decided here. An event that lost fields for want of room (Truncated) is
// matched by its subject in place of a lost namespace or lane, and is let
// through in place of lost tags.
//
// # Not promised
//
// That an event is handled once. A handler that ended as the process crashed is
// called again at the next start, and a broker that crashes can forget
// acknowledgements. Event.ID tells an event by; Event.Position grows along the
// stream, so an effect that is stored with the position can refuse what is not
// above it.
//
// That a process which was paused for longer than AckWait and 4 s knows that
// another took over: its handler may still run. Store the position with the
// effect. It learns it within a second of going on, and then gives back what it
// has not begun.
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
