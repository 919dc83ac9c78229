package normalize

import (
	"errors"
	"fmt"
	"slices"
	"strings"

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
	if m.OldKind != 0 {
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
	partition := image.int16(corePartition)
	id, idErr := image.value(coreID).UUID()
	image.fail(coreID, idErr)
	if image.err != nil {
		return image.err
	}
	var c *core
	var at uint32
	switch {
	case m.OldKind != 0 && !old.value(corePartition).Null() && old.int16(corePartition) != partition:
		c, at = n.tx.find(old.int16(corePartition), id)
		n.rekey(c, at, partition)
	case m.Kind == pgoutput.KindInsert:
		c, at = n.insertTarget(partition, id)
	default:
		c, at = n.tx.find(partition, id)
	}
	if old.err != nil {
		return old.err
	}
	first := n.touch(c, at)
	if err := n.before(c, m, &old, first); err != nil {
		return err
	}
	c.flags &^= flagGone
	return n.load(c, &image)
}

// before notes what the change tells of the state before the transaction.
func (n *Normalizer) before(c *core, m *pgoutput.Message, old *tuple, first bool) error {
	if m.Kind == pgoutput.KindInsert {
		if first {
			c.flags |= flagNew
		}
		c.flags |= flagCandidate
		return nil
	}
	stateful := m.OldKind != 0 && !old.value(corePhase).Null()
	switch {
	case stateful:
		c.flags |= flagCandidate
		if c.flags&(flagNew|flagOldKnown) == 0 {
			row := n.oldState(old)
			if old.err != nil {
				return old.err
			}
			n.setFrom(c, &row)
		}
	case n.cfg.Identity && m.OldKind != 0:
		return fmt.Errorf("%w: the old tuple of execution %s has no state: run: ffstream migrate",
			ErrReplicaIdentity, ffstream.NewExecutionID(uint16(c.partition), c.id))
	case !n.cfg.Identity:
		c.flags |= flagCandidate | flagUnidentified
	}
	return nil
}

// oldState reads the five state columns of an old tuple.
func (n *Normalizer) oldState(t *tuple) Row {
	text := func(column int) string { return n.texts.get(n.texts.add(t.text(column))) }
	return Row{
		LifecyclePhase: text(corePhase), OwnershipState: text(coreOwnership), EligibilityState: text(coreEligibility),
		PublicState: text(corePublic), AttemptState: text(coreAttemptState),
	}
}

func (n *Normalizer) deleteCore(old *tuple) error {
	partition := old.int16(corePartition)
	id, err := old.value(coreID).UUID()
	old.fail(coreID, err)
	if old.err != nil {
		return old.err
	}
	c, at := n.tx.find(partition, id)
	n.touch(c, at)
	c.flags |= flagGone | flagCandidate
	n.tx.moved[id] = int(at)
	delete(n.cache, cacheKey{partition, id})
	if old.value(corePhase).Null() {
		if n.cfg.Identity {
			return fmt.Errorf("%w: the deletion of execution %s does not say its state: run: ffstream migrate",
				ErrReplicaIdentity, ffstream.NewExecutionID(uint16(partition), id))
		}
		return nil
	}
	t := &n.texts
	c.phase, c.ownership, c.eligibility = t.add(old.text(corePhase)), t.add(old.text(coreOwnership)), t.add(old.text(coreEligibility))
	c.public, c.attemptState = t.add(old.text(corePublic)), t.add(old.text(coreAttemptState))
	if lane := old.value(coreLane); !lane.Null() {
		c.lane = t.add(lane.Data)
	}
	c.blocking, c.reason, c.by = 0, 0, 0
	if c.flags&(flagNew|flagOldKnown) == 0 {
		row := n.row(c)
		n.setFrom(c, &row)
	}
	return old.err
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
	c.phase, c.ownership, c.eligibility = t.add(image.text(corePhase)), t.add(image.text(coreOwnership)), t.add(image.text(coreEligibility))
	c.public, c.attemptState = t.add(image.text(corePublic)), t.add(image.text(coreAttemptState))
	c.lane = t.add(image.text(coreLane))
	c.attemptIndex, c.priority = image.int32(coreAttemptIndex), image.int32(corePriority)
	c.created = image.int64(coreCreated)
	started, hasStart := image.optInt64(coreStarted)
	terminal, hasEnd := image.optInt64(coreTerminal)
	c.started, c.terminal = started, terminal
	c.setFlag(flagStarted, hasStart)
	c.setFlag(flagTerminal, hasEnd)
	flow := image.value(coreFlow)
	c.setFlag(flagFlow, !flow.Null())
	if !flow.Null() {
		var err error
		c.flow, err = flow.UUID()
		image.fail(coreFlow, err)
	}
	n.loadText(c, &c.blocking, image.value(coreBlocking))
	n.loadText(c, &c.reason, image.value(coreReason))
	n.loadText(c, &c.by, image.value(coreBy))
	if image.err != nil {
		return image.err
	}
	raw := image.value(coreRaw)
	if raw.Unchanged() {
		if c.namespace == 0 { // no earlier change brought it
			c.flags |= flagRawUnsent
		}
		return nil
	}
	text, err := raw.JSON()
	if err != nil {
		return fmt.Errorf("read column raw_fields: %w", err)
	}
	if len(n.cache) > 0 {
		delete(n.cache, cacheKey{c.partition, c.id})
	}
	return n.loadRaw(c, text)
}

func (c *core) setFlag(flag uint16, on bool) {
	if on {
		c.flags |= flag
	} else {
		c.flags &^= flag
	}
}

func (n *Normalizer) loadText(c *core, to *ref, v pgoutput.Value) {
	switch {
	case v.Unchanged():
		if *to == 0 {
			c.flags |= flagTextsUnsent
		}
	case v.Null():
		*to = 0
	default:
		*to = n.texts.add(v.Data)
	}
}

// loadRaw takes what an event needs out of raw_fields.
func (n *Normalizer) loadRaw(c *core, text []byte) error {
	f, err := scanRaw(text)
	if err != nil {
		return checkRaw(err, ffstream.NewExecutionID(uint16(c.partition), c.id))
	}
	c.flags &^= flagRawUnsent
	c.namespace, c.kind, c.detail = n.quoted(f.namespace), n.quoted(f.kind), n.quoted(f.detail)
	failure, _ := unquote(f.failure)
	c.setFlag(flagTimedOut, string(failure) == "attempt_timeout" || string(failure) == "execution_deadline")
	if len(f.tags) > 0 && f.tags[0] != '{' || len(f.tags) == len("{}") {
		f.tags = nil // no object, or an empty one
	}
	c.tagsAt, c.tagsLen = n.tx.tags.add(f.tags), uint32(len(f.tags))
	return nil
}

// quoted stores a JSON string; anything else counts as the empty string.
func (n *Normalizer) quoted(v []byte) ref {
	s, _ := unquote(v)
	return n.texts.add(s)
}

// appendTags reads the string-valued members of a JSON object, sorted by key.
func appendTags(tags []ffstream.Tag, object []byte) []ffstream.Tag {
	if len(object) == 0 {
		return tags
	}
	// The object was walked over when its row was read, so it has no fault.
	_ = eachMember(object, func(key, value []byte) {
		k, ok := unquote(key)
		v, isString := unquote(value)
		if ok && isString {
			tags = append(tags, ffstream.Tag{Key: string(k), Value: string(v)})
		}
	})
	slices.SortFunc(tags, func(a, b ffstream.Tag) int { return strings.Compare(a.Key, b.Key) })
	return tags
}
