package normalize

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/ffstream/ffstream"
)

// Recent is a bounded memory of the latest states of recent executions: what an
// execution was before a transaction whose WAL does not contain it, by the
// execution's previous event. The executions that were used least recently are
// evicted first.
//
// A Recent belongs to one Normalizer, and begins empty with it. What the stream
// contained before is loaded when it is first needed.
type Recent struct {
	size    int
	entries *simplelru.LRU[uuid.UUID, recent]
	// load reads the end of the stream; nil: it was read, or does not count any more.
	load func(record func(e *ffstream.Event)) error
}

// NewRecent returns an empty memory of at most size executions, some 200 bytes
// each, or nil, which holds none, when size is below 1.
//
// load calls its argument with the stream's last events up to the position that
// the Normalizer skips to, oldest first. It is called once at most, and may
// block; its error ends the session. Nil: the stream has nothing to load.
func NewRecent(size int, load func(record func(e *ffstream.Event)) error) *Recent {
	entries, err := simplelru.NewLRU[uuid.UUID, recent](size, nil)
	if err != nil { // a size below 1
		return nil
	}
	return &Recent{size: size, entries: entries, load: load}
}

// executionKey names an execution as its rows do.
type executionKey struct {
	partition int16
	id        uuid.UUID
}

// recent is what is known of an execution after the transactions read so far.
//
// The memory finds it by the UUID alone: a row that gets another partition key
// keeps its UUID, and makes no event when its state is the same. So what is known
// under another key may be old.
type recent struct {
	partition int16
	skipped   bool                 // the row has the label skipped
	state     ffstream.PublicState // empty: not known
	evidence  evidence
}

// stateCorrupt is the state of a row that no clause of the rule understands. No
// event has it.
const stateCorrupt ffstream.PublicState = "corrupt"

// get returns what the memory holds, without loading.
func (r *Recent) get(key executionKey) (recent, bool) {
	if r == nil {
		return recent{}, false
	}
	x, found := r.entries.Get(key.id)
	if found && x.partition != key.partition {
		return recent{evidence: unknownEvidence}, true
	}
	return x, found
}

// moved reports whether the memory holds an execution of the same UUID under
// another partition key.
func (r *Recent) moved(key executionKey) bool {
	if r == nil {
		return false
	}
	x, found := r.entries.Peek(key.id)
	return found && x.partition != key.partition
}

// recall returns what the memory holds, after loading what the stream held
// before the session.
func (r *Recent) recall(key executionKey) (recent, bool, error) {
	if x, found := r.get(key); found || r == nil || r.load == nil {
		return x, found, nil
	}
	load, session := r.load, r.entries
	older := NewRecent(r.size, nil)
	if err := load(older.record); err != nil {
		return recent{}, false, fmt.Errorf("load recent states: %w", err)
	}
	for _, id := range session.Keys() { // what the session knows is newer
		x, _ := session.Peek(id)
		older.entries.Add(id, x)
	}
	r.entries, r.load = older.entries, nil
	x, found := r.get(key)
	return x, found, nil
}

// set stores what is known of an execution after a transaction.
func (r *Recent) set(key executionKey, x recent) {
	if r == nil {
		return
	}
	x.partition = key.partition
	if r.entries.Add(key.id, x) {
		r.load = nil // what left the memory is newer than what the stream held before
	}
}

// drop removes an execution of which the stream's end knows more.
func (r *Recent) drop(key executionKey) {
	if r != nil {
		r.entries.Remove(key.id)
	}
}

// clear removes all executions.
func (r *Recent) clear() {
	if r != nil {
		r.entries.Purge()
	}
}

// record stores what an event of the stream contains.
func (r *Recent) record(e *ffstream.Event) {
	switch e.Type {
	case ffstream.TypeTruncated, ffstream.TypeGap: // what was known before does not hold after it
		r.clear()
	case ffstream.TypeCorrupt:
		r.set(keyOf(e.ExecutionID), recent{state: stateCorrupt, evidence: unknownEvidence})
	case ffstream.TypeTransitioned, ffstream.TypeSnapshotted:
		r.set(keyOf(e.ExecutionID), recentOf(e))
	}
}

func keyOf(id ffstream.ExecutionID) executionKey {
	return executionKey{id.PartitionKey(), id.UUID()}
}

// recentOf is what an event contains of its execution.
func recentOf(e *ffstream.Event) recent {
	if e.To == ffstream.StatePurged {
		return recent{evidence: unknownEvidence}
	}
	return recent{state: e.To, evidence: evidenceOf(e), skipped: e.StoredPublicState == ffstream.StateSkipped}
}
