package normalize

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// tuple reads columns by their constants. After the first fault it gives zeros,
// and err holds what went wrong.
type tuple struct {
	rel    *relation
	names  []string
	values []pgoutput.Value
	err    error
}

func (t *tuple) value(column int) pgoutput.Value {
	at := t.rel.at[column]
	if at < 0 {
		return pgoutput.Value{Kind: pgoutput.ValueNull}
	}
	return t.values[at]
}

func (t *tuple) fail(column int, err error) {
	if t.err == nil && err != nil {
		t.err = fmt.Errorf("read column %s: %w", t.names[column], err)
	}
}

func (t *tuple) int16(column int) int16 {
	v, err := t.value(column).Int16()
	t.fail(column, err)
	return v
}

func (t *tuple) int32(column int) int32 {
	v, err := t.value(column).Int32()
	t.fail(column, err)
	return v
}

func (t *tuple) int64(column int) int64 {
	v, err := t.value(column).Int64()
	t.fail(column, err)
	return v
}

func (t *tuple) optInt64(column int) (int64, bool) {
	if t.value(column).Null() {
		return 0, false
	}
	return t.int64(column), true
}

func (t *tuple) uuid(column int) uuid.UUID {
	v, err := t.value(column).UUID()
	t.fail(column, err)
	return v
}

// text reads a column that is always sent: NOT NULL and never TOASTed.
func (t *tuple) text(column int) []byte {
	b, err := t.value(column).Text()
	t.fail(column, err)
	return b
}

var errTuple = errors.New("tuple has another number of columns than its relation")

func (rel *relation) tuple(names []string, values []pgoutput.Value) (tuple, error) {
	if len(values) != rel.columns {
		return tuple{}, fmt.Errorf("%w: %d, not %d", errTuple, len(values), rel.columns)
	}
	return tuple{rel: rel, names: names, values: values}, nil
}

func (n *Normalizer) coreRow(rel *relation, m *pgoutput.Message) error {
	var old, image tuple
	var err error
	if m.OldKind != 0 || m.Kind == pgoutput.KindDelete {
		if old, err = rel.tuple(coreColumns, m.Old); err != nil {
			return err
		}
	}
	if m.Kind == pgoutput.KindDelete {
		return n.deleteCore(&old)
	}
	if image, err = rel.tuple(coreColumns, m.New); err != nil {
		return err
	}
	partition, id := image.int16(corePartition), image.uuid(coreID)
	if image.err != nil {
		return image.err
	}
	var c *core
	var at uint32
	if m.Kind == pgoutput.KindInsert {
		if c, at, err = n.insertTarget(partition, id); err != nil {
			return err
		}
	} else if c, at, err = n.updateTarget(&old, partition, id); err != nil {
		return err
	}
	first := n.touch(c, at)
	if m.Kind == pgoutput.KindInsert {
		c.flags |= flagCandidate
		if first {
			c.flags |= flagNew
		}
	} else if err := n.before(c, &old); err != nil {
		return err
	}
	c.flags &^= flagGone
	return n.load(c, &image)
}

// updateTarget finds the record of an updated execution: that of its old key,
// where there is one. An old tuple that has no relation is none.
func (n *Normalizer) updateTarget(old *tuple, partition int16, id uuid.UUID) (*core, uint32, error) {
	from := partition
	if old.rel != nil {
		if from = old.int16(corePartition); old.err != nil {
			return nil, 0, old.err
		}
	}
	c, at := n.tx.find(from, id)
	return c, at, n.rekey(c, partition)
}

// insertTarget finds the record of an inserted execution. One that the
// transaction deleted under another partition key is the same execution, which
// an UPDATE of that key moved to another leaf.
func (n *Normalizer) insertTarget(partition int16, id uuid.UUID) (*core, uint32, error) {
	if c, at := n.tx.get(partition, id); c != nil && c.has(flagTouched) {
		return c, at, nil
	}
	if c, at := n.tx.departed(id); c != nil {
		return c, at, n.rekey(c, partition)
	}
	c, at := n.tx.find(partition, id)
	return c, at, nil
}

// rekey moves an execution to another partition key, with what is known of it but
// for its attempts, which may be left where they were.
func (n *Normalizer) rekey(c *core, partition int16) error {
	if c.partition == partition {
		return nil
	}
	key := executionKey{c.partition, c.id}
	x, found := n.recent.get(key)
	if !found && ffstream.LSN(n.begin.FinalLSN) > n.cfg.Skip.Commit {
		var err error
		if x, found, err = n.recent.recall(key); err != nil {
			return err
		}
	}
	n.tx.rekey(c, partition)
	if found {
		n.recent.set(executionKey{partition, c.id}, recent{state: x.state, evidence: unknownEvidence})
	}
	return nil
}

// before notes what an update or a deletion tells of the state before the
// transaction; the first one that does counts.
func (n *Normalizer) before(c *core, old *tuple) error {
	switch {
	case old.rel == nil && n.cfg.Identity: // none of the state columns changed
	case old.rel == nil:
		c.flags |= flagUnidentified | flagCandidate
	case old.value(corePhase).Null() && n.cfg.Identity:
		return fmt.Errorf("%w: the old tuple of execution %s has no state", ErrReplicaIdentity, c.executionID())
	case old.value(corePhase).Null():
		c.flags |= flagUnidentified | flagCandidate
	default:
		c.flags |= flagCandidate
		if c.old == 0 && !c.has(flagNew) {
			c.old = n.vectorOf(old)
		}
	}
	return old.err
}

// vectorOf stores the five state columns of a tuple.
func (n *Normalizer) vectorOf(t *tuple) vectorRef {
	return n.texts.addVector(&[5][]byte{
		t.text(corePhase), t.text(coreOwnership), t.text(coreEligibility), t.text(corePublic), t.text(coreAttemptState),
	})
}

func (n *Normalizer) deleteCore(old *tuple) error {
	partition, id := old.int16(corePartition), old.uuid(coreID)
	if old.err != nil {
		return old.err
	}
	c, at := n.tx.find(partition, id)
	n.touch(c, at)
	if err := n.before(c, old); err != nil {
		return err
	}
	c.flags |= flagGone
	n.forget(c)
	if lane := old.value(coreLane); !lane.Null() {
		c.lane = n.texts.add(lane.Data)
	}
	return nil
}

// touch gives an execution its ordinal, and reports whether this is its first
// change in the transaction.
func (n *Normalizer) touch(c *core, at uint32) bool {
	if c.flags&flagTouched != 0 {
		return false
	}
	c.flags |= flagTouched
	n.tx.order = append(n.tx.order, at)
	return true
}

// load takes over the row's new image. Columns that were not sent keep what an
// earlier change of the transaction brought, or are looked up.
func (n *Normalizer) load(c *core, image *tuple) error {
	t := &n.texts
	c.image = n.vectorOf(image)
	c.lane = t.add(image.text(coreLane))
	c.attemptIndex, c.priority = image.int32(coreAttemptIndex), image.int32(corePriority)
	c.created = image.int64(coreCreated)
	started, hasStart := image.optInt64(coreStarted)
	terminal, hasEnd := image.optInt64(coreTerminal)
	c.started, c.terminal = started, terminal
	c.setFlag(flagStarted, hasStart)
	c.setFlag(flagTerminal, hasEnd)
	hasFlow := !image.value(coreFlow).Null()
	c.setFlag(flagFlow, hasFlow)
	if hasFlow {
		c.flow = image.uuid(coreFlow)
	}
	n.loadText(c, &c.blocking, flagBlockingUnsent, image.value(coreBlocking))
	n.loadText(c, &c.reason, flagReasonUnsent, image.value(coreReason))
	n.loadText(c, &c.by, flagByUnsent, image.value(coreBy))
	if image.err != nil {
		return image.err
	}
	raw := image.value(coreRaw)
	if raw.Unchanged() {
		c.setFlag(flagRawUnsent, c.namespace == 0) // unless an earlier change brought it
		return nil
	}
	text, err := raw.JSON()
	if err != nil {
		return fmt.Errorf("read column raw_fields: %w", err)
	}
	n.forget(c)
	return n.loadRaw(c, text)
}

// loadText takes over a text that may be NULL or unsent. A reference that is set
// came with an earlier change of the transaction, and still holds.
func (n *Normalizer) loadText(c *core, to *ref, unsent uint16, v pgoutput.Value) {
	switch {
	case v.Unchanged():
		c.setFlag(unsent, *to == 0)
		return
	case v.Null():
		*to = 0
	default:
		*to = n.texts.add(v.Data)
	}
	c.setFlag(unsent, false)
}

// loadRaw takes what an event needs out of raw_fields.
func (n *Normalizer) loadRaw(c *core, text []byte) error {
	raw, err := scanRaw(text)
	if err != nil {
		return fmt.Errorf("read raw_fields of %s: %w", c.executionID(), err)
	}
	c.namespace = n.texts.add(n.unquoted(raw.namespace))
	c.kind = n.texts.add(n.unquoted(raw.kind))
	c.detail = n.texts.add(n.unquoted(raw.detail))
	c.tagsAt, c.tagsLen = n.tx.tags.add(raw.tags), uint32(len(raw.tags))
	c.setFlag(flagTimedOut, timedOutText(n.unquoted(raw.failure)))
	c.setFlag(flagRawUnsent, false)
	return nil
}

// unquoted returns the text of a JSON string, and none for any other value. It is
// valid until the next call.
func (n *Normalizer) unquoted(v []byte) []byte {
	s, _ := unquote(v, &n.scratch)
	return s
}

// appendTags reads the string-valued members of a JSON object, sorted by key.
func (n *Normalizer) appendTags(tags []ffstream.Tag, object []byte) []ffstream.Tag {
	// The object was walked over when its row was read, so it has no fault.
	_ = eachMember(object, func(key, value []byte) {
		if len(value) == 0 || value[0] != '"' {
			return
		}
		k := n.texts.intern(n.unquoted(key))
		tags = append(tags, ffstream.Tag{Key: k, Value: string(n.unquoted(value))})
	})
	slices.SortFunc(tags, func(a, b ffstream.Tag) int { return strings.Compare(a.Key, b.Key) })
	return tags
}
