package normalize

import (
	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

func (n *Normalizer) attemptRow(rel *relation, m *pgoutput.Message) error {
	if m.OldKind != 0 || m.Kind == pgoutput.KindDelete {
		old, err := rel.tuple(attemptColumns, m.Old)
		if err != nil {
			return err
		}
		was := n.attemptOfKey(&old)
		if old.err != nil {
			return old.err
		}
		was.gone = true // until the new tuple says that the key is the same
	}
	if m.Kind == pgoutput.KindDelete {
		return nil
	}
	t, err := rel.tuple(attemptColumns, m.New)
	if err != nil {
		return err
	}
	a := n.attemptOfKey(&t)
	if t.err != nil {
		return t.err
	}
	a.gone, a.present = false, 0
	a.inserted = a.inserted || m.Kind == pgoutput.KindInsert
	a.epoch = t.int64(attemptEpoch)
	for _, field := range [...]struct {
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
	n.nullable(&t, attemptWorker, &a.worker)
	n.nullable(&t, attemptInstance, &a.instance)
	n.nullable(&t, attemptOutcome, &a.outcome)
	return t.err
}

// nullable stores a text that may be NULL. One that was not sent keeps what an
// earlier change brought: attempts are not looked up, and the engine's texts are
// far too short to be TOASTed.
func (n *Normalizer) nullable(t *tuple, column int, to *ref) {
	v := t.value(column)
	switch {
	case v.Unchanged():
	case v.Null():
		*to = 0
	default:
		*to = n.texts.add(v.Data)
	}
}

// attemptOfKey returns the record of the row whose key a tuple holds, or a fault
// in t.err.
func (n *Normalizer) attemptOfKey(t *tuple) *attempt {
	partition, id, index := t.int16(attemptPartition), t.uuid(attemptExecution), t.int32(attemptIndex)
	if t.err != nil {
		return nil
	}
	return n.attempt(partition, id, index)
}

// attempt returns the record of one ff_attempt row, made when it is not there.
func (n *Normalizer) attempt(partition int16, id uuid.UUID, index int32) *attempt {
	c, _ := n.tx.find(partition, id)
	if a := n.shown(c, index); a != nil {
		return a
	}
	a, at := n.tx.attempts.add()
	a.index, a.next = index, c.attempts
	c.attempts = at + 1
	return a
}

// currentAttempt finds the attempt at the row's pointer, else the highest below
// it, among those that the transaction shows; nil when it shows neither.
func (n *Normalizer) currentAttempt(c *core) *attempt {
	var best *attempt
	for i := c.attempts; i != 0; {
		a := n.tx.attempts.at(i - 1)
		if !a.gone && a.index <= c.pointer() && (best == nil || a.index > best.index) {
			best = a
		}
		i = a.next
	}
	return best
}

// pointer is the index of the current attempt.
func (c *core) pointer() int32 { return max(c.attemptIndex, 0) }

// shown returns the record of one of the execution's attempts, nil when the
// transaction did not change it.
func (n *Normalizer) shown(c *core, index int32) *attempt {
	for i := c.attempts; i != 0; {
		a := n.tx.attempts.at(i - 1)
		if a.index == index {
			return a
		}
		i = a.next
	}
	return nil
}

// running reports whether the transaction did nothing to the execution's attempts
// but what a worker does that renews its lease.
func (n *Normalizer) running(c *core) bool {
	for i := c.attempts; i != 0; {
		a := n.tx.attempts.at(i - 1)
		if a.gone || a.inserted || a.outcome != 0 || a.present&hasTerminal != 0 {
			return false
		}
		i = a.next
	}
	return true
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
