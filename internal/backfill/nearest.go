package backfill

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
)

// Compare compares by partitions' keys, which are signed, and UUIDs: the order in which
// executions are looked at.
func Compare(x, y ffstream.ExecutionID) int {
	a, b := x.UUID(), y.UUID()
	return cmp.Or(cmp.Compare(x.PartitionKey(), y.PartitionKey()), bytes.Compare(a[:], b[:]))
}

// Nearest is what is known of the executions behind one, as many as it may hold: those
// that come first. A stream has events of any number of executions in any order; of what
// one reading has no room for, the next begins where this one ends.
type Nearest[V any] struct {
	known map[ffstream.ExecutionID]V
	limit int
	after ffstream.Opt[ffstream.ExecutionID]
	// to is the last that has room. Absent: there is room for all behind after.
	to ffstream.Opt[ffstream.ExecutionID]
}

// NewNearest holds at most limit executions behind after, of all when that is absent.
func NewNearest[V any](after ffstream.Opt[ffstream.ExecutionID], limit int) *Nearest[V] {
	return &Nearest[V]{known: map[ffstream.ExecutionID]V{}, limit: max(1, limit), after: after}
}

// To is the last execution that it has room for; absent: it has room for all.
func (n *Nearest[V]) To() ffstream.Opt[ffstream.ExecutionID] { return n.to }

// Until is up to which UUID it has room for executions of a partition; false: it has none.
func (n *Nearest[V]) Until(partition int16) (uuid.UUID, bool) {
	switch {
	case !n.to.OK || partition < n.to.V.PartitionKey():
		return uuid.Max, true
	case partition > n.to.V.PartitionKey():
		return uuid.UUID{}, false
	}
	return n.to.V.UUID(), true
}

// Has reports whether it has room for an execution.
func (n *Nearest[V]) Has(id ffstream.ExecutionID) bool {
	return (!n.after.OK || Compare(id, n.after.V) > 0) && (!n.to.OK || Compare(id, n.to.V) <= 0)
}

// Get gives what is known of an execution.
func (n *Nearest[V]) Get(id ffstream.ExecutionID) (V, bool) {
	v, is := n.known[id]
	return v, is
}

// Set notes what is known of an execution, if it has room for that. Where it becomes too
// much, a quarter goes, and is not taken again.
func (n *Nearest[V]) Set(id ffstream.ExecutionID, v V) {
	if !n.Has(id) {
		return
	}
	if n.known[id] = v; len(n.known) <= n.limit {
		return
	}
	ids := n.Sorted()
	kept := max(1, n.limit-n.limit/4)
	for _, id := range ids[kept:] {
		delete(n.known, id)
	}
	n.to = ffstream.Some(ids[kept-1])
}

// SetAll notes the same of all that is known.
func (n *Nearest[V]) SetAll(v V) {
	for id := range n.known {
		n.known[id] = v
	}
}

// Delete forgets an execution.
func (n *Nearest[V]) Delete(id ffstream.ExecutionID) { delete(n.known, id) }

// Clear forgets all.
func (n *Nearest[V]) Clear() { clear(n.known) }

// Sorted gives all of which something is known, in order.
func (n *Nearest[V]) Sorted() []ffstream.ExecutionID {
	return slices.SortedFunc(maps.Keys(n.known), Compare)
}
