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
	// without an old tuple changed none. Without it every update is published
	// as a candidate, with an unknown from.
	Identity bool
	// Skip is the position behind which events are yielded; those at or before
	// it are stored already.
	Skip ffstream.Position
	// Lookup reads rows whose columns came as unchanged TOAST. Where it is nil
	// such a row ends the session.
	Lookup Lookup
	// CacheSize bounds the rows of Lookup that are kept. 0 means 10 000, below 0
	// none.
	CacheSize int
}

const defaultCacheSize = 10_000

// Lookup reads the columns of a row that the WAL did not carry. False means that
// the row is gone. It may block; an error ends the session.
type Lookup interface {
	Row(partition int16, id uuid.UUID) (LookedUp, bool, error)
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
	NoCandidate  uint64 // executions touched without an old tuple: the state did not change
	SameState    uint64 // executions whose vector changed and whose state did not
	Transient    uint64 // executions that began and ended inside one transaction
	Inconsistent uint64 // events whose row bears another label
	NoEvidence   uint64 // events of clause T10
	Lookups      uint64
	CacheHits    uint64
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
	cache     map[cacheKey]facts
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
	n := &Normalizer{cfg: cfg, relations: make(map[uint32]*relation), cache: make(map[cacheKey]facts)}
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
	var held *ffstream.Event
	next := 0
	for ordinal, i := range n.tx.order {
		e := &n.events[next]
		made, err := n.event(e, uint32(ordinal), i)
		if err != nil {
			return fmt.Errorf("evaluate transaction %d: %w", n.begin.Xid, err)
		}
		if !made {
			continue
		}
		if err := n.yield(held, yield); err != nil {
			return err
		}
		held, next = e, 1-next
	}
	if held == nil {
		return nil
	}
	held.Tx.Last = true
	return n.yield(held, yield)
}

func (n *Normalizer) yield(e *ffstream.Event, yield func(e *ffstream.Event) error) error {
	if e == nil {
		return nil
	}
	if e.ID.Position.Compare(n.cfg.Skip) <= 0 {
		n.stats.Skipped++
		return nil
	}
	n.stats.Events++
	return yield(e)
}

// end forgets the transaction.
func (n *Normalizer) end() {
	n.tx.reset()
	if n.texts.full() {
		n.texts.reset()
	}
}
