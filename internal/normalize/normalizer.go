package normalize

import (
	"errors"
	"fmt"
	"maps"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// Config says whose changes these are and what is known of the source.
type Config struct {
	SystemID uint64 // of every event's id
	Source   string // of every event
	// Identity: the leaves of ff_exec_core log the old state, so an update
	// without an old tuple changed no state column. Without it every update is
	// published as a candidate, with an unknown From.
	Identity bool
	// Skip is the position behind which events are yielded; those at or before
	// it are stored already.
	Skip ffstream.Position
	// Lookup reads what the WAL does not contain. Where it is nil a row that
	// needs it ends the session.
	Lookup Lookup
	// Recent holds the latest states of recent executions. Nil: none are held.
	// The Normalizer owns it.
	Recent *Recent
	// CacheSize bounds the rows of Lookup that are kept. 0 means 10 000, below 0
	// none.
	CacheSize int
}

const defaultCacheSize = 10_000

// Lookup reads from the tables what the WAL does not contain. What it returns is
// as of the call, which may be later than the transaction. False means that
// there is no such execution. It may block; an error ends the session.
type Lookup interface {
	// Row reads the columns of ff_exec_core that may be TOASTed.
	Row(partition int16, id uuid.UUID) (LookedUp, bool, error)
	// Attempts reads what the rule consults of an execution's ff_attempt rows, for a
	// row with this attempt_index, not below 0, and terminal_at_ms.
	Attempts(partition int16, id uuid.UUID, pointer int32, terminal ffstream.Opt[int64]) (LookedUpAttempts, bool, error)
	// Execution reads a complete execution.
	Execution(partition int16, id uuid.UUID) (LookedUpExecution, bool, error)
}

// LookedUpAttempts is what the rule consults of ff_attempt.
type LookedUpAttempts struct {
	Found LookedUpAttempt // with the greatest index up to the pointer
	Ended LookedUpAttempt // see Attempts
}

// LookedUpAttempt is what the rule needs of an ff_attempt row.
type LookedUpAttempt struct {
	Exists   bool
	Index    int32
	Outcome  string // empty for NULL
	Terminal ffstream.Opt[int64]
	Xid      uint32 // of the transaction that wrote it last
}

// LookedUpExecution is an execution as it is at the look-up.
type LookedUpExecution struct {
	// Event is as a backfill contains it, with the type TypeSnapshotted or
	// TypeCorrupt.
	Event    ffstream.Event
	Xid      uint32            // of the transaction that wrote the ff_exec_core row last
	Attempts []LookedUpAttempt // all that exist
}

// LookedUp holds the columns of ff_exec_core that may be TOASTed.
type LookedUp struct {
	RawFields                                       []byte // JSON text
	BlockingReason, CancellationReason, CancelledBy ffstream.Opt[string]
}

// Stats counts what a normaliser has seen since it was made.
type Stats struct {
	Transactions uint64
	CoreRows     uint64 // changes of ff_exec_core
	AttemptRows  uint64 // changes of ff_attempt
	Events       uint64 // yielded
	Skipped      uint64 // events that are stored already
	NoCandidate  uint64 // executions touched without an old tuple, whose state hangs on the state columns alone
	SameState    uint64 // executions whose state might have changed and did not
	Transient    uint64 // executions that began and ended inside one transaction
	Inconsistent uint64 // events whose row bears another label
	NoEvidence   uint64 // events of clause T10
	Lookups      uint64
	CacheHits    uint64
	Recalled     uint64            // previous states that the memory of recent states held
	Unrecalled   uint64            // previous states that neither the WAL nor the memory held
	Uncertain    uint64            // executions of which the WAL alone does not decide whether there is an event
	Corrupt      map[string]uint64 // events of rows with an unknown literal, by column
}

// Plus adds the counters of two normalisers.
func (s Stats) Plus(o Stats) Stats {
	s.Transactions += o.Transactions
	s.CoreRows += o.CoreRows
	s.AttemptRows += o.AttemptRows
	s.Events += o.Events
	s.Skipped += o.Skipped
	s.NoCandidate += o.NoCandidate
	s.SameState += o.SameState
	s.Transient += o.Transient
	s.Inconsistent += o.Inconsistent
	s.NoEvidence += o.NoEvidence
	s.Lookups += o.Lookups
	s.CacheHits += o.CacheHits
	s.Recalled += o.Recalled
	s.Unrecalled += o.Unrecalled
	s.Uncertain += o.Uncertain
	corrupt := make(map[string]uint64, len(s.Corrupt))
	maps.Copy(corrupt, s.Corrupt)
	for column, n := range o.Corrupt {
		corrupt[column] += n
	}
	s.Corrupt = corrupt
	return s
}

// Normalizer turns a slot's messages into events. It belongs to one goroutine.
type Normalizer struct {
	cfg       Config
	relations map[uint32]*relation // by oid; rows name the root; nil: not followed
	paired    string               // coreTable when its description came last: a leaf's may follow
	unlogged  error                // of a leaf, if the next row is one of ff_exec_core
	tx        gathered
	texts     texts
	begin     pgoutput.Begin
	open      bool // between Begin and Commit
	cache     map[executionKey]facts
	recent    *Recent
	stats     Stats
	events    [2]ffstream.Event // one is held back until it is known whether it is the last
	scratch   []byte            // for a JSON string without its escapes
}

// New returns a normaliser at the start of a session: relations come anew with
// each connection.
func New(cfg Config) *Normalizer {
	if cfg.CacheSize == 0 {
		cfg.CacheSize = defaultCacheSize
	}
	n := &Normalizer{cfg: cfg, relations: make(map[uint32]*relation), cache: make(map[executionKey]facts), recent: cfg.Recent}
	n.tx.init()
	n.stats.Corrupt = make(map[string]uint64)
	n.texts.reset()
	return n
}

// Stats returns a copy of the counters.
func (n *Normalizer) Stats() Stats {
	s := n.stats
	s.Corrupt = maps.Clone(n.stats.Corrupt)
	return s
}

var errOrder = errors.New("message out of order")

// Begin opens a transaction.
func (n *Normalizer) Begin(b *pgoutput.Begin) error {
	if n.open {
		return fmt.Errorf("begin transaction %d: %w: transaction %d is open", b.Xid, errOrder, n.begin.Xid)
	}
	n.begin, n.open = *b, true
	return nil
}

// Row gathers one insert, update or delete.
func (n *Normalizer) Row(m *pgoutput.Message) error {
	if !n.open {
		return fmt.Errorf("read row change: %w: no transaction is open", errOrder)
	}
	rel, ok := n.relations[m.RelationID]
	if !ok {
		return fmt.Errorf("read row change: %w: relation %d was not described", errOrder, m.RelationID)
	}
	if rel == nil {
		return nil
	}
	if rel.leaf != "" {
		return fmt.Errorf("%w: a row came under the name of the leaf %s: the publication has publish_via_partition_root off: run: ffstream migrate", ErrColumn, rel.leaf)
	}
	var err error
	if rel.table == coreTable {
		if n.unlogged != nil {
			return fmt.Errorf("read change of %s in transaction %d: %w", rel.table, n.begin.Xid, n.unlogged)
		}
		n.stats.CoreRows++
		err = n.coreRow(rel, m)
	} else {
		n.stats.AttemptRows++
		err = n.attemptRow(rel, m)
	}
	if err != nil {
		return fmt.Errorf("read change of %s in transaction %d: %w", rel.table, n.begin.Xid, err)
	}
	return nil
}

// Truncate gathers a TRUNCATE. Executions that the transaction touched before it
// are known by name and become purged; the others are gone without a trace, so
// an event says that.
func (n *Normalizer) Truncate(t *pgoutput.Truncate) error {
	if !n.open {
		return fmt.Errorf("read truncate: %w: no transaction is open", errOrder)
	}
	n.paired, n.unlogged = "", nil
	for _, id := range t.RelationIDs {
		rel, ok := n.relations[id]
		switch {
		case !ok:
			return fmt.Errorf("read truncate: %w: relation %d was not described", errOrder, id)
		case rel == nil || rel.leaf != "":
		case rel.table == coreTable:
			n.truncateCore()
		default:
			n.tx.attemptsTruncated = true
			for i := range uint32(n.tx.attempts.n) {
				n.tx.attempts.at(i).gone = true
			}
		}
	}
	return nil
}

// truncated stands in the order of touched executions for a TRUNCATE.
const truncated = ^uint32(0)

func (n *Normalizer) truncateCore() {
	for _, i := range n.tx.order {
		if i == truncated {
			continue
		}
		c := n.tx.cores.at(i)
		// Without an old tuple so far the state is what it was, where one would
		// have said otherwise.
		if n.cfg.Identity && c.old == 0 && !c.has(flagNew) {
			c.old = c.image
		}
		c.flags |= flagGone | flagCandidate
	}
	n.tx.order = append(n.tx.order, truncated)
	clear(n.cache)
}

// Commit evaluates the executions that the transaction touched, in the order of
// first touch, and gives yield their events. The event is valid during the call.
// An error of yield ends the commit and is returned.
func (n *Normalizer) Commit(c *pgoutput.Commit, yield func(e *ffstream.Event) error) error {
	if !n.open || c.CommitLSN != n.begin.FinalLSN {
		return fmt.Errorf("commit at %s: %w: the open transaction is to commit at %s", ffstream.LSN(c.CommitLSN), errOrder, ffstream.LSN(n.begin.FinalLSN))
	}
	n.open = false
	n.stats.Transactions++
	if n.tx.empty() {
		return nil
	}
	defer n.end()
	out := output{n: n}
	for ordinal, i := range n.tx.order {
		made, err := n.event(out.event(), uint32(ordinal), i)
		if err := out.add(made, err, yield); err != nil {
			return err
		}
	}
	if err := n.commitAttempts(&out, yield); err != nil {
		return err
	}
	return out.end(yield)
}

// commitAttempts evaluates the executions of which the transaction shows attempts
// alone. Their ordinals follow those of the executions whose row it touched.
func (n *Normalizer) commitAttempts(out *output, yield func(e *ffstream.Event) error) error {
	if n.tx.attempts.n == 0 && !n.tx.attemptsTruncated {
		return nil
	}
	ordinal := uint32(len(n.tx.order))
	for i := range uint32(n.tx.cores.n) {
		c := n.tx.cores.at(i)
		if c.attempts == 0 || c.has(flagTouched|flagDetached) {
			continue
		}
		made, err := n.attemptEvent(out.event(), ordinal, c)
		if err := out.add(made, err, yield); err != nil {
			return err
		}
		ordinal++
	}
	if n.tx.attemptsTruncated {
		n.clearRecent()
	}
	return nil
}

// output passes a transaction's events on. It holds one back until it is known
// whether it is the last. It does not hold the function that takes them, which
// would then be allocated for each transaction.
type output struct {
	n    *Normalizer
	held *ffstream.Event
	next int // of n.events
}

// event returns the event to fill in next.
func (o *output) event() *ffstream.Event { return &o.n.events[o.next] }

// add passes on what was filled in, if it is an event.
func (o *output) add(made bool, err error, yield func(e *ffstream.Event) error) error {
	if err != nil {
		return fmt.Errorf("evaluate transaction %d: %w", o.n.begin.Xid, err)
	}
	if !made {
		return nil
	}
	if err := o.pass(yield); err != nil {
		return err
	}
	o.held, o.next = o.event(), 1-o.next
	return nil
}

// pass yields the event that is held back.
func (o *output) pass(yield func(e *ffstream.Event) error) error {
	if o.held == nil {
		return nil
	}
	if o.n.stored(o.held.ID.Position) {
		o.n.stats.Skipped++
		return nil
	}
	o.n.stats.Events++
	return yield(o.held)
}

// end yields the transaction's last event.
func (o *output) end(yield func(e *ffstream.Event) error) error {
	if o.held == nil {
		return nil
	}
	o.held.Tx.Last = true
	return o.pass(yield)
}

// stored reports whether an event at p is in the stream already.
func (n *Normalizer) stored(p ffstream.Position) bool { return p.Compare(n.cfg.Skip) <= 0 }

// Uncertain is that of Stats.
func (n *Normalizer) Uncertain() uint64 { return n.stats.Uncertain }

// Record takes in an event that was published between transactions: a snapshot.
// What the WAL contained of the execution's attempts is newer than it.
func (n *Normalizer) Record(e *ffstream.Event) {
	if x, found := n.recent.get(keyOf(e.ExecutionID)); found && x.state == e.To {
		return
	}
	n.recent.record(e)
}

// end forgets the transaction.
func (n *Normalizer) end() {
	n.tx.reset()
	if n.texts.full() {
		n.texts.reset()
	}
}
