package normalize

import (
	"encoding/binary"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
)

// ref names a string of the text table; 0 is NULL, 1 the empty string.
type ref uint32

// texts stores each distinct string once. Most columns hold one of a few.
type texts struct {
	index map[string]ref
	list  []string
}

const maxTexts = 1 << 16

func (t *texts) reset() {
	t.index, t.list = map[string]ref{"": 1}, []string{"", ""}
}

func (t *texts) add(b []byte) ref {
	if r, ok := t.index[string(b)]; ok {
		return r
	}
	s, r := string(b), ref(len(t.list))
	t.index[s], t.list = r, append(t.list, s)
	return r
}

func (t *texts) get(r ref) string { return t.list[r] }

func (t *texts) opt(r ref) ffstream.Opt[string] {
	return ffstream.Opt[string]{V: t.list[r], OK: r != 0}
}

// How an execution's row stands in the transaction.
const (
	flagTouched   = 1 << iota // its ff_exec_core row changed
	flagNew                   // it did not exist before the transaction
	flagGone                  // it does not exist behind it
	flagCandidate             // the state may have changed
	flagOldKnown              // from holds the state before, which may be unknown
	flagFlow
	flagStarted
	flagTerminal
	flagRawUnsent    // raw_fields came as unchanged TOAST
	flagTextsUnsent  // one of the reasons did
	flagTimedOut     // last_failure_message is one of T7's texts
	flagUnidentified // an update without an old tuple, on a source without replica identity
)

// core is what one execution's row and its history in the transaction come to.
// It holds no pointer, so the garbage collector does not walk a million of them.
type core struct {
	id, flow                                                  uuid.UUID
	created, started, terminal                                int64
	tagsAt                                                    uint64
	tagsLen                                                   uint32
	phase, ownership, eligibility, public, attemptState, lane ref
	blocking, reason, by, namespace, kind, detail             ref
	attempts                                                  uint32 // 1 + index of the first attempt, 0 for none
	attemptIndex, priority                                    int32
	partition                                                 int16
	flags                                                     uint16
	from                                                      stateCode
}

// attempt is one ff_attempt row of the transaction.
type attempt struct {
	epoch, lease, started, terminal int64
	next                            uint32 // 1 + index of the execution's next attempt
	index                           int32
	worker, instance, outcome       ref
	present                         uint8 // of lease, started, terminal
	gone                            bool
}

const (
	hasLease = 1 << iota
	hasStarted
	hasTerminal
)

// stateCode is a PublicState in one byte; 0 is none.
type stateCode uint8

var (
	stateOf = append([]ffstream.PublicState{""}, ffstream.PublicStates()...)
	codeOf  = func() map[ffstream.PublicState]stateCode {
		m := make(map[ffstream.PublicState]stateCode)
		for i, s := range stateOf {
			m[s] = stateCode(i)
		}
		return m
	}()
)

// chunk is how many records are allocated at once: growing never copies.
const chunk = 1024

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
	if len(s.chunks) > 8 {
		s.chunks = s.chunks[:8:8]
	}
}

// blob is an append-only byte store in chunks.
type blob struct {
	chunks [][]byte
	n      uint64 // bytes in use, counting what chunks waste at their ends
}

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
	order    []uint32          // touched executions, in the order of their first touch
	table    []uint32          // open addressing: 1 + index into cores
	tags     blob              // raw_fields.tags as they are written
	moved    map[uuid.UUID]int // executions deleted in this transaction: index into cores
}

// minTable is the table's least size, a power of 2.
const minTable = 64

func (g *gathered) reset() {
	if len(g.table) > 1<<14 || g.table == nil {
		g.table, g.order = make([]uint32, minTable), nil
	} else if g.cores.n > 0 {
		clear(g.table)
	}
	g.order = g.order[:0]
	g.cores.reset()
	g.attempts.reset()
	g.tags.reset()
	clear(g.moved)
}

// slot returns where the key is in the table, or where it belongs.
func (g *gathered) slot(partition int16, id uuid.UUID) uint64 {
	mask := uint64(len(g.table) - 1)
	h := (binary.LittleEndian.Uint64(id[:8]) ^ binary.LittleEndian.Uint64(id[8:]) ^ uint64(uint16(partition))) * 0x9E3779B97F4A7C15
	for i := h >> 20 & mask; ; i = (i + 1) & mask {
		at := g.table[i]
		if at == 0 {
			return i
		}
		if c := g.cores.at(at - 1); c.id == id && c.partition == partition {
			return i
		}
	}
}

// find returns the execution's record, made when it is not there.
func (g *gathered) find(partition int16, id uuid.UUID) (*core, uint32) {
	if i := g.slot(partition, id); g.table[i] != 0 {
		at := g.table[i] - 1
		return g.cores.at(at), at
	}
	c, at := g.cores.add()
	c.id, c.partition = id, partition
	g.insert(at)
	return c, at
}

func (g *gathered) insert(at uint32) {
	if 2*g.cores.n > len(g.table) {
		g.table = make([]uint32, 2*len(g.table))
		for i := range uint32(g.cores.n) {
			c := g.cores.at(i)
			if j := g.slot(c.partition, c.id); g.table[j] == 0 {
				g.table[j] = i + 1
			}
		}
		return
	}
	c := g.cores.at(at)
	g.table[g.slot(c.partition, c.id)] = at + 1
}
