package normalize

import (
	"errors"
	"fmt"
	"maps"
	"time"

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
	// Lookup reads rows whose columns came as unchanged TOAST. It must not be
	// nil where such rows can come.
	Lookup Lookup
	// CacheSize bounds the rows of Lookup that are kept. Default 10 000.
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

// Normalizer turns a slot's messages into events. It belongs to one goroutine.
type Normalizer struct {
	cfg       Config
	relations map[uint32]relation // by oid; rows name the root
	tx        gathered
	texts     texts
	begin     pgoutput.Begin
	open      bool // between Begin and Commit
	cache     map[cacheKey]LookedUp
	stats     Stats
	events    [2]ffstream.Event // one is held back until it is known whether it is the last
}

type cacheKey struct {
	partition int16
	id        uuid.UUID
}

// New returns a normaliser at the start of a session: relations come anew with
// each connection.
func New(cfg Config) *Normalizer {
	if cfg.CacheSize == 0 {
		cfg.CacheSize = defaultCacheSize
	}
	n := &Normalizer{cfg: cfg, relations: make(map[uint32]relation), cache: make(map[cacheKey]LookedUp)}
	n.tx.moved = make(map[uuid.UUID]int)
	n.stats.Corrupt = make(map[string]uint64)
	n.texts.reset()
	n.tx.reset()
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
	var err error
	switch rel.table {
	case coreTable:
		n.stats.CoreRows++
		err = n.coreRow(&rel, m)
	case attemptTable:
		n.stats.AttemptRows++
		err = n.attemptRow(&rel, m)
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
	for _, id := range t.RelationIDs {
		switch n.relations[id].table {
		case coreTable:
			for _, i := range n.tx.order {
				if i != truncated {
					n.remove(n.tx.cores.at(i))
				}
			}
			n.tx.order = append(n.tx.order, truncated)
			clear(n.cache)
		case attemptTable:
			for i := range uint32(n.tx.attempts.n) {
				n.tx.attempts.at(i).gone = true
			}
		}
	}
	return nil
}

// truncated stands in the order of touched executions for a TRUNCATE.
const truncated = ^uint32(0)

func (n *Normalizer) remove(c *core) {
	if c.flags&(flagNew|flagOldKnown) == 0 {
		row := n.row(c)
		n.setFrom(c, &row)
	}
	c.flags |= flagGone | flagCandidate
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
	if n.tx.cores.n == 0 && len(n.tx.order) == 0 {
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
	if len(n.texts.list) > maxTexts {
		n.texts.reset()
	}
}

// event fills e with what became of one entry of the order, and reports whether
// that is an event.
func (n *Normalizer) event(e *ffstream.Event, ordinal, i uint32) (bool, error) {
	tags := e.Tags[:0]
	*e = ffstream.Event{
		ID:     ffstream.EventID{System: n.cfg.SystemID, Position: ffstream.Position{Commit: ffstream.LSN(n.begin.FinalLSN), Index: ordinal}},
		Source: n.cfg.Source,
		Time:   time.UnixMicro(n.begin.CommitTime),
		Tags:   tags,
		Tx:     ffstream.Tx{Xid: n.begin.Xid},
	}
	if i == truncated {
		e.Type = ffstream.TypeTruncated
		return true, nil
	}
	c := n.tx.cores.at(i)
	e.Type = ffstream.TypeTransitioned
	e.ExecutionID = ffstream.NewExecutionID(uint16(c.partition), c.id)
	e.LaneID = n.texts.get(c.lane)
	if c.flags&flagOldKnown != 0 {
		e.From = stateOf[c.from]
	}
	switch {
	case c.flags&flagGone != 0 && c.flags&flagNew != 0:
		n.stats.Transient++
		return false, nil
	case c.flags&flagGone != 0:
		n.purge(e, c)
		return true, nil
	case c.flags&flagCandidate == 0:
		n.stats.NoCandidate++
		return false, nil
	}
	return n.transition(e, c)
}

func (n *Normalizer) transition(e *ffstream.Event, c *core) (bool, error) {
	if err := n.lookUp(c); err != nil {
		return false, err
	}
	row := n.row(c)
	at, current := n.currentAttempt(c)
	below := Outcome{}
	if current != nil && !at.Exists {
		below = Outcome{Exists: true, Literal: n.texts.get(current.outcome)}
	}
	v, err := Evaluate(&row, at, below)
	var bad *ffstream.CorruptionError
	if errors.As(err, &bad) {
		e.Type, e.From = ffstream.TypeCorrupt, ""
		e.Corrupt = ffstream.Corruption{Column: bad.Column, Literal: bad.Literal}
		n.stats.Corrupt[bad.Column]++
		return true, nil
	}
	if err != nil {
		return false, err
	}
	e.To = v.Vector.PublicState
	if e.From == e.To {
		n.stats.SameState++
		return false, nil
	}
	e.StateVector, e.StoredPublicState, e.Consistent, e.EvidenceMissing = v.Vector, v.Stored, v.Consistent, v.EvidenceMissing
	e.Candidate = c.flags&flagUnidentified != 0 && c.flags&(flagOldKnown|flagNew) == 0
	if !v.Consistent {
		n.stats.Inconsistent++
	}
	if v.EvidenceMissing {
		n.stats.NoEvidence++
	}
	n.describe(e, c)
	if current != nil {
		e.Attempt = ffstream.Some(n.attemptOf(current))
	}
	return true, nil
}

// describe fills in what is not state.
func (n *Normalizer) describe(e *ffstream.Event, c *core) {
	e.FlowID = ffstream.Opt[ffstream.FlowID]{V: c.flow, OK: c.flags&flagFlow != 0}
	e.Namespace, e.ExecutionKind, e.BlockingDetail = n.texts.get(c.namespace), n.texts.get(c.kind), n.texts.get(c.detail)
	e.Priority = c.priority
	e.CurrentAttemptIndex = uint32(max(c.attemptIndex, 0))
	e.CreatedAtMs = ffstream.Some(c.created)
	e.StartedAtMs = optional(c.started, c.flags&flagStarted != 0)
	e.TerminalAtMs = optional(c.terminal, c.flags&flagTerminal != 0)
	e.CancellationReason, e.CancelledBy = n.texts.opt(c.reason), n.texts.opt(c.by)
	e.Tags = appendTags(e.Tags, n.tx.tags.get(c.tagsAt, c.tagsLen))
}

func optional(v int64, ok bool) ffstream.Opt[int64] {
	if !ok {
		return ffstream.Opt[int64]{}
	}
	return ffstream.Some(v)
}

// purge describes a row that is gone as far as its last old tuple tells.
func (n *Normalizer) purge(e *ffstream.Event, c *core) {
	e.To, e.Consistent = ffstream.StatePurged, true
	row := n.row(c)
	e.StateVector = ffstream.StateVector{
		LifecyclePhase:   phases[row.LifecyclePhase],
		OwnershipState:   ownerships[row.OwnershipState],
		EligibilityState: eligibilities[row.EligibilityState],
		AttemptState:     attemptStates[row.AttemptState],
	}
	e.StoredPublicState = labels[row.PublicState]
	if state, ok := Before(&row); ok {
		e.StateVector.PublicState, e.StateVector.TerminalOutcome = state, state.Outcome()
		e.Consistent = state == e.StoredPublicState
	}
}

// row returns the literals of an execution's latest image.
func (n *Normalizer) row(c *core) Row {
	t := &n.texts
	r := Row{
		LifecyclePhase: t.get(c.phase), OwnershipState: t.get(c.ownership), EligibilityState: t.get(c.eligibility),
		PublicState: t.get(c.public), AttemptState: t.get(c.attemptState), BlockingReason: t.get(c.blocking),
		CancellationReason: t.opt(c.reason), CancelledBy: t.opt(c.by),
	}
	if c.flags&flagTimedOut != 0 {
		r.LastFailureMessage = "attempt_timeout"
	}
	return r
}

// setFrom notes the state before the transaction, once.
func (n *Normalizer) setFrom(c *core, old *Row) {
	c.flags |= flagOldKnown
	if state, ok := Before(old); ok {
		c.from = codeOf[state]
	}
}
