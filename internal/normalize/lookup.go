package normalize

import (
	"errors"
	"fmt"

	"github.com/ffstream/ffstream"
)

// facts is what an event needs of raw_fields, read out of it.
type facts struct {
	namespace, kind, detail string
	tags                    string // a JSON object, or empty
	timedOut                bool
}

var errNoLookup = errors.New("the WAL does not contain what an event needs, and there is no look-up")

// lookUpColumns brings the columns that the WAL did not carry. What it brings is as of
// now, which may be later than the transaction.
func (n *Normalizer) lookUpColumns(c *core) error {
	key := executionKey{c.partition, c.id}
	// The reasons are not cached: any later change may rewrite them unseen.
	if f, cached := n.cache[key]; cached && !c.has(flagsTextUnsent) {
		n.stats.CacheHits++
		n.setFacts(c, &f)
		return nil
	}
	lookup, err := n.tables(c)
	if err != nil {
		return err
	}
	row, found, err := lookup.Row(c.partition, c.id)
	if err != nil {
		return fmt.Errorf("look up execution %s: %w", c.executionID(), err)
	}
	if !found {
		row = LookedUp{}
	}
	for _, column := range [...]struct {
		flag uint16
		to   *ref
		v    ffstream.Opt[string]
	}{
		{flagBlockingUnsent, &c.blocking, row.BlockingReason},
		{flagReasonUnsent, &c.reason, row.CancellationReason},
		{flagByUnsent, &c.by, row.CancelledBy},
	} {
		if c.has(column.flag) {
			*column.to = n.texts.addOpt(column.v)
		}
	}
	if !c.has(flagRawUnsent) {
		return nil
	}
	f, err := n.readFacts(row.RawFields)
	if err != nil {
		return fmt.Errorf("read looked up raw_fields of %s: %w", c.executionID(), err)
	}
	n.remember(key, f)
	n.setFacts(c, &f)
	return nil
}

// tables returns what reads the tables, for one look-up of an execution.
func (n *Normalizer) tables(c *core) (Lookup, error) {
	if n.cfg.Lookup == nil {
		return nil, fmt.Errorf("look up execution %s: %w", c.executionID(), errNoLookup)
	}
	n.stats.Lookups++
	return n.cfg.Lookup, nil
}

// lookUpAttempts reads the attempts that the rule consults. It reports whether
// they are what they were at the transaction's commit: false when the execution is
// gone, or a later transaction wrote one of them.
func (n *Normalizer) lookUpAttempts(c *core, pointer int32) (a LookedUpAttempts, current bool, err error) {
	lookup, err := n.tables(c)
	if err != nil {
		return a, false, err
	}
	a, found, err := lookup.Attempts(c.partition, c.id, pointer, optional(c.terminal, c.has(flagTerminal)))
	if err != nil {
		return a, false, fmt.Errorf("look up attempts of execution %s: %w", c.executionID(), err)
	}
	at := n.shown(c, pointer) // of which the transaction contains what it was
	return a, found && (at != nil && !at.gone || n.current(c, &a.Found)) && n.current(c, &a.Ended), nil
}

// lookUpExecution reads an execution of which the transaction shows attempts
// alone. It reports whether it exists, and is what it was at the commit.
func (n *Normalizer) lookUpExecution(c *core) (e ffstream.Event, current bool, err error) {
	lookup, err := n.tables(c)
	if err != nil {
		return e, false, err
	}
	x, found, err := lookup.Execution(c.partition, c.id)
	if err != nil {
		return e, false, fmt.Errorf("look up execution %s: %w", c.executionID(), err)
	}
	current = found && !n.later(x.Xid)
	for i := range x.Attempts {
		current = current && n.current(c, &x.Attempts[i])
	}
	return x.Event, current, nil
}

// current reports whether a looked-up attempt is what it was at the transaction's
// commit, as far as the rule goes. The transaction id of one that the transaction
// shows may be that of a savepoint, so its content is compared.
func (n *Normalizer) current(c *core, a *LookedUpAttempt) bool {
	switch shown := n.shown(c, a.Index); {
	case !a.Exists:
		return true
	case shown == nil:
		return !n.later(a.Xid)
	default:
		return !shown.gone && n.texts.get(shown.outcome) == a.Outcome && optional(shown.terminal, shown.present&hasTerminal != 0) == a.Terminal
	}
}

// later reports whether a transaction began after the one that is evaluated.
// Transaction ids wrap around.
func (n *Normalizer) later(xid uint32) bool { return int32(xid-n.begin.Xid) > 0 }

// remember caches facts; the cache forgets any other entry when it is full.
func (n *Normalizer) remember(key executionKey, f facts) {
	if n.cfg.CacheSize < 1 {
		return
	}
	if len(n.cache) >= n.cfg.CacheSize {
		for other := range n.cache {
			delete(n.cache, other)
			break
		}
	}
	n.cache[key] = f
}

// forget drops what is cached of a row that the WAL tells anew.
func (n *Normalizer) forget(c *core) {
	if len(n.cache) > 0 {
		delete(n.cache, executionKey{c.partition, c.id})
	}
}

func (n *Normalizer) readFacts(text []byte) (facts, error) {
	raw, err := scanRaw(text)
	if err != nil {
		return facts{}, err
	}
	return facts{
		namespace: string(n.unquoted(raw.namespace)), kind: string(n.unquoted(raw.kind)), detail: string(n.unquoted(raw.detail)),
		tags: string(raw.tags), timedOut: timedOutText(n.unquoted(raw.failure)),
	}, nil
}

func (n *Normalizer) setFacts(c *core, f *facts) {
	c.namespace, c.kind, c.detail = n.texts.add([]byte(f.namespace)), n.texts.add([]byte(f.kind)), n.texts.add([]byte(f.detail))
	c.tagsAt, c.tagsLen = n.tx.tags.add([]byte(f.tags)), uint32(len(f.tags))
	c.setFlag(flagTimedOut, f.timedOut)
}
