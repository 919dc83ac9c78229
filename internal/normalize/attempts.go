package normalize

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

func (n *Normalizer) attemptRow(rel *relation, m *pgoutput.Message) error {
	values := m.New
	if m.Kind == pgoutput.KindDelete {
		values = m.Old
	}
	t, err := rel.tuple(attemptColumns, values)
	if err != nil {
		return err
	}
	partition, index := t.int16(attemptPartition), t.int32(attemptIndex)
	id, err := t.value(attemptExecution).UUID()
	t.fail(attemptExecution, err)
	if t.err != nil {
		return t.err
	}
	a := n.attempt(partition, id, index)
	if a.gone = m.Kind == pgoutput.KindDelete; a.gone {
		return nil
	}
	a.epoch = t.int64(attemptEpoch)
	a.present = 0
	for _, field := range []struct {
		column int
		to     *int64
		flag   uint8
	}{{attemptLease, &a.lease, hasLease}, {attemptStarted, &a.started, hasStarted}, {attemptTerminal, &a.terminal, hasTerminal}} {
		v, ok := t.optInt64(field.column)
		*field.to = v
		if ok {
			a.present |= field.flag
		}
	}
	a.worker, a.instance, a.outcome = n.nullable(&t, attemptWorker), n.nullable(&t, attemptInstance), n.nullable(&t, attemptOutcome)
	return t.err
}

// nullable stores a text that may be NULL. One that was not sent counts as NULL:
// the engine's are far too short to be TOASTed.
func (n *Normalizer) nullable(t *tuple, column int) ref {
	v := t.value(column)
	if v.Null() || v.Unchanged() {
		return 0
	}
	return n.texts.add(v.Data)
}

// attempt returns the record of one ff_attempt row, made when it is not there.
func (n *Normalizer) attempt(partition int16, id uuid.UUID, index int32) *attempt {
	c, _ := n.tx.find(partition, id)
	for i := c.attempts; i != 0; {
		a := n.tx.attempts.at(i - 1)
		if a.index == index {
			return a
		}
		i = a.next
	}
	a, at := n.tx.attempts.add()
	a.index, a.next = index, c.attempts
	c.attempts = at + 1
	return a
}

// currentAttempt finds the attempt at the row's pointer, else the highest below
// it, among those that the transaction shows.
func (n *Normalizer) currentAttempt(c *core) (Outcome, *attempt) {
	pointer := max(c.attemptIndex, 0)
	var best *attempt
	for i := c.attempts; i != 0; {
		a := n.tx.attempts.at(i - 1)
		if !a.gone && a.index <= pointer && (best == nil || a.index > best.index) {
			best = a
		}
		i = a.next
	}
	if best == nil || best.index != pointer {
		return Outcome{}, best
	}
	return Outcome{Exists: true, Literal: n.texts.get(best.outcome)}, best
}

func (n *Normalizer) attemptOf(a *attempt) ffstream.Attempt {
	return ffstream.Attempt{
		Index: uint32(max(a.index, 0)), LeaseEpoch: a.epoch,
		WorkerID: n.texts.opt(a.worker), WorkerInstanceID: n.texts.opt(a.instance), Outcome: n.texts.opt(a.outcome),
		LeaseExpiresAtMs: optional(a.lease, a.present&hasLease != 0),
		StartedAtMs:      optional(a.started, a.present&hasStarted != 0),
		TerminalAtMs:     optional(a.terminal, a.present&hasTerminal != 0),
	}
}

// insertTarget finds the record of an inserted execution. One that the
// transaction deleted under another partition key is the same execution, which
// an UPDATE of that key moved to another leaf.
func (n *Normalizer) insertTarget(partition int16, id uuid.UUID) (*core, uint32) {
	at, ok := n.tx.moved[id]
	if !ok {
		return n.tx.find(partition, id)
	}
	delete(n.tx.moved, id)
	c := n.tx.cores.at(uint32(at))
	if c.partition != partition && c.flags&flagGone != 0 {
		n.rekey(c, uint32(at), partition)
		return c, uint32(at)
	}
	return n.tx.find(partition, id)
}

// rekey moves an execution's record to another partition. Its attempts come
// under the new key, perhaps before it.
func (n *Normalizer) rekey(c *core, at uint32, partition int16) {
	i := n.tx.slot(partition, c.id)
	if waiting := n.tx.table[i]; waiting != 0 {
		c.attempts = n.tx.cores.at(waiting - 1).attempts
		n.tx.cores.at(waiting - 1).id = uuid.UUID{} // nothing finds it any more
	} else {
		c.attempts = 0
	}
	c.partition = partition
	n.tx.table[i] = at + 1
}

// lookUp brings the columns that the WAL did not carry.
func (n *Normalizer) lookUp(c *core) error {
	if c.flags&(flagRawUnsent|flagTextsUnsent) == 0 {
		return nil
	}
	key := cacheKey{c.partition, c.id}
	row, cached := n.cache[key]
	if cached {
		n.stats.CacheHits++
	} else {
		var err error
		n.stats.Lookups++
		var found bool
		if row, found, err = n.cfg.Lookup.Row(c.partition, c.id); err != nil {
			return fmt.Errorf("look up execution %s: %w", ffstream.NewExecutionID(uint16(c.partition), c.id), err)
		}
		if !found {
			row = LookedUp{}
		}
		if len(n.cache) >= n.cfg.CacheSize {
			clear(n.cache)
		}
		n.cache[key] = row
	}
	if c.flags&flagTextsUnsent != 0 {
		c.blocking, c.reason, c.by = n.optional(row.BlockingReason), n.optional(row.CancellationReason), n.optional(row.CancelledBy)
	}
	if c.flags&flagRawUnsent == 0 {
		return nil
	}
	if row.RawFields == nil {
		row.RawFields = []byte("{}")
	}
	return n.loadRaw(c, row.RawFields)
}

func (n *Normalizer) optional(v ffstream.Opt[string]) ref {
	if !v.OK {
		return 0
	}
	return n.texts.add([]byte(v.V))
}
