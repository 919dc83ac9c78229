package normalize

import (
	"hash/maphash"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
)

// How an execution's row stands in the transaction.
const (
	flagTouched   uint16 = 1 << iota // its ff_exec_core row changed
	flagNew                          // it did not exist before the transaction
	flagGone                         // it does not exist behind it
	flagCandidate                    // the state may have changed
	flagFlow
	flagStarted
	flagTerminal
	flagRawUnsent // raw_fields came as unchanged TOAST, and so the next three
	flagBlockingUnsent
	flagReasonUnsent
	flagByUnsent
	flagTimedOut     // last_failure_message is one of T7's texts
	flagUnidentified // an update without an old tuple, on a source without replica identity
	flagDetached     // another record has taken over its key
)

const flagsTextUnsent = flagBlockingUnsent | flagReasonUnsent | flagByUnsent

// core is what one execution's row and its history in the transaction come to.
// It holds no pointer, so the garbage collector does not walk a million of them.
type core struct {
	id, flow                   uuid.UUID
	created, started, terminal int64
	tagsAt                     uint64
	tagsLen                    uint32
	image                      vectorRef // of the last row; 0 when none came
	old                        vectorRef // of the first old tuple; 0 when none came
	lane, blocking, reason, by ref
	namespace, kind, detail    ref    // 0 when raw_fields did not come
	attempts                   uint32 // 1 + index of the first attempt, 0 for none
	attemptIndex, priority     int32
	partition                  int16
	flags                      uint16
}

func (c *core) has(flags uint16) bool { return c.flags&flags != 0 }

func (c *core) setFlag(flag uint16, on bool) {
	if on {
		c.flags |= flag
	} else {
		c.flags &^= flag
	}
}

func (c *core) executionID() ffstream.ExecutionID {
	return ffstream.NewExecutionID(uint16(c.partition), c.id)
}

// attempt is one ff_attempt row of the transaction.
type attempt struct {
	epoch, lease, started, terminal int64
	next                            uint32 // 1 + index of the execution's next attempt
	index                           int32
	worker, instance, outcome       ref
	present                         uint8 // of lease, started, terminal
	gone                            bool
	inserted                        bool // by this transaction
}

const (
	hasLease = 1 << iota
	hasStarted
	hasTerminal
)

// chunk is how many records are allocated at once: growing never copies.
const chunk = 1024

const keptChunks = 4

// slab is an append-only list of records in chunks.
type slab[T any] struct {
	chunks [][]T
	n      int
}

func (s *slab[T]) add() (*T, uint32) {
	if s.n == len(s.chunks)*chunk {
		s.chunks = append(s.chunks, make([]T, chunk))
	}
	p := s.at(uint32(s.n))
	var zero T
	*p = zero
	s.n++
	return p, uint32(s.n - 1)
}

func (s *slab[T]) at(i uint32) *T { return &s.chunks[i/chunk][i%chunk] }

// reset forgets the records and keeps the memory of a small transaction.
func (s *slab[T]) reset() {
	s.n = 0
	if len(s.chunks) > keptChunks {
		clear(s.chunks[keptChunks:]) // or the list's array would hold them
		s.chunks = s.chunks[:keptChunks:keptChunks]
	}
}

// blob is an append-only byte store in chunks.
type blob struct{ chunks [][]byte }

const blobChunk = 64 << 10

func (b *blob) add(v []byte) uint64 {
	if len(v) == 0 {
		return 0
	}
	last := len(b.chunks) - 1
	if last < 0 || cap(b.chunks[last])-len(b.chunks[last]) < len(v) {
		b.chunks = append(b.chunks, make([]byte, 0, max(blobChunk, len(v))))
		last++
	}
	at := len(b.chunks[last])
	b.chunks[last] = append(b.chunks[last], v...)
	return uint64(last)<<32 | uint64(at)
}

func (b *blob) get(at uint64, n uint32) []byte {
	if n == 0 {
		return nil
	}
	c := b.chunks[at>>32]
	return c[uint32(at) : uint32(at)+n]
}

func (b *blob) reset() {
	if len(b.chunks) > 1 {
		clear(b.chunks[1:])
		b.chunks = b.chunks[:1:1]
	}
	if len(b.chunks) == 1 {
		b.chunks[0] = b.chunks[0][:0]
		if cap(b.chunks[0]) > blobChunk {
			b.chunks = nil
		}
	}
}

// gathered is one transaction's changes.
type gathered struct {
	cores    slab[core]
	attempts slab[attempt]
	order    []uint32 // touched executions, in the order of their first touch
	tags     blob     // raw_fields.tags as they are written
	// attemptsTruncated: ff_attempt was truncated, so of no execution the attempts are known.
	attemptsTruncated bool
	// table finds records by open addressing: 1 + index into cores. The hash is
	// of the UUID alone, so a record that gets another partition key stays where
	// it is. Invariant: at least half of it is free.
	table []uint32
	seed  maphash.Seed
}

const (
	minTable  = 64 // a power of 2, as every length of the table
	keptTable = 4096
)

func (g *gathered) init() {
	g.table, g.seed = make([]uint32, minTable), maphash.MakeSeed()
}

// reset forgets the transaction and keeps the memory of a small one.
func (g *gathered) reset() {
	if len(g.table) > keptTable {
		g.table = make([]uint32, minTable)
	} else if g.cores.n > 0 {
		clear(g.table)
	}
	if cap(g.order) > keptTable {
		g.order = nil
	}
	g.order, g.attemptsTruncated = g.order[:0], false
	g.cores.reset()
	g.attempts.reset()
	g.tags.reset()
}

func (g *gathered) empty() bool { return g.cores.n == 0 && len(g.order) == 0 && !g.attemptsTruncated }

func (g *gathered) home(id *uuid.UUID) uint64 {
	return maphash.Bytes(g.seed, id[:]) & uint64(len(g.table)-1)
}

// match returns the first record of a UUID that fits, or nil.
func (g *gathered) match(id uuid.UUID, fits func(c *core) bool) (*core, uint32) {
	for i := g.home(&id); g.table[i] != 0; i = (i + 1) & uint64(len(g.table)-1) {
		at := g.table[i] - 1
		if c := g.cores.at(at); c.id == id && !c.has(flagDetached) && fits(c) {
			return c, at
		}
	}
	return nil, 0
}

// get returns the record of a key, or nil.
func (g *gathered) get(partition int16, id uuid.UUID) (*core, uint32) {
	return g.match(id, func(c *core) bool { return c.partition == partition })
}

// departed returns the record of an execution with this UUID that the
// transaction deleted, or nil.
func (g *gathered) departed(id uuid.UUID) (*core, uint32) {
	return g.match(id, func(c *core) bool { return c.has(flagGone) })
}

// find returns the record of a key, made when it is not there.
func (g *gathered) find(partition int16, id uuid.UUID) (*core, uint32) {
	if c, at := g.get(partition, id); c != nil {
		return c, at
	}
	c, at := g.cores.add()
	c.id, c.partition = id, partition
	if 2*g.cores.n > len(g.table) {
		g.table = make([]uint32, 2*len(g.table))
		for i := range at {
			g.place(i)
		}
	}
	g.place(at)
	return c, at
}

// place enters a record into the table.
func (g *gathered) place(at uint32) {
	i := g.home(&g.cores.at(at).id)
	for g.table[i] != 0 {
		i = (i + 1) & uint64(len(g.table)-1)
	}
	g.table[i] = at + 1
}

// rekey moves an execution's record to another partition key. Its attempts come
// under the new key too, perhaps before it; those of the old key are no more its
// own.
func (g *gathered) rekey(c *core, partition int16) {
	if c.partition == partition {
		return
	}
	attempts := uint32(0)
	if waiting, _ := g.get(partition, c.id); waiting != nil {
		attempts = waiting.attempts
		waiting.flags |= flagDetached
	}
	c.partition, c.attempts = partition, attempts
}
