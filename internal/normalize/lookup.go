package normalize

import (
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
)

type cacheKey struct {
	partition int16
	id        uuid.UUID
}

// facts is what an event needs of raw_fields, read out of it.
type facts struct {
	namespace, kind, detail string
	tags                    string // a JSON object, or empty
	timedOut                bool
}

var errNoLookup = errors.New("a column came as unchanged TOAST, and there is no lookup")

// lookUp brings the columns that the WAL did not carry. What it brings is as of
// now, which may be later than the transaction.
func (n *Normalizer) lookUp(c *core) error {
	key := cacheKey{c.partition, c.id}
	// The reasons are not cached: any later change may rewrite them unseen.
	if f, cached := n.cache[key]; cached && !c.has(flagsTextUnsent) {
		n.stats.CacheHits++
		n.setFacts(c, &f)
		return nil
	}
	n.stats.Lookups++
	if n.cfg.Lookup == nil {
		return fmt.Errorf("look up execution %s: %w", c.executionID(), errNoLookup)
	}
	row, found, err := n.cfg.Lookup.Row(c.partition, c.id)
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

// remember caches facts; the cache forgets any other entry when it is full.
func (n *Normalizer) remember(key cacheKey, f facts) {
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
		delete(n.cache, cacheKey{c.partition, c.id})
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
