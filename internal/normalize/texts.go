package normalize

import "github.com/ffstream/ffstream"

// ref names a string of the text table; 0 is NULL, 1 the empty string.
type ref uint32

// texts stores each distinct string once. Most columns hold one of a few.
type texts struct {
	index map[string]ref
	list  []string
	bytes int

	vectors    map[string]vectorRef // by the literals, each ended by a zero byte
	vectorList []vector
	key        []byte
}

// What the table may hold at the end of a transaction; it is emptied beyond.
const (
	maxTexts     = 1 << 16
	maxTextBytes = 8 << 20
)

func (t *texts) reset() {
	*t = texts{
		index: map[string]ref{"": 1}, list: []string{"", ""},
		vectors: make(map[string]vectorRef), vectorList: []vector{{}},
	}
}

func (t *texts) full() bool {
	return len(t.list)+len(t.vectorList) > maxTexts || t.bytes > maxTextBytes
}

func (t *texts) add(b []byte) ref {
	if r, ok := t.index[string(b)]; ok {
		return r
	}
	s, r := string(b), ref(len(t.list))
	t.index[s], t.list, t.bytes = r, append(t.list, s), t.bytes+len(s)
	return r
}

func (t *texts) get(r ref) string { return t.list[r] }

func (t *texts) intern(b []byte) string { return t.list[t.add(b)] }

func (t *texts) opt(r ref) ffstream.Opt[string] {
	return ffstream.Opt[string]{V: t.list[r], OK: r != 0}
}

// addOpt stores a string that may be absent.
func (t *texts) addOpt(v ffstream.Opt[string]) ref {
	if !v.OK {
		return 0
	}
	return t.add([]byte(v.V))
}

// vectorRef names a combination of state literals; 0 is none.
type vectorRef uint32

// vector is the literals of the five state columns and what they decide alone.
type vector struct {
	row   Row                  // with these five columns
	state ffstream.PublicState // Before; empty where they do not decide
	valid bool                 // each literal is a known one
}

// addVector stores the five state literals: phase, ownership, eligibility,
// public state and attempt state.
func (t *texts) addVector(literals *[5][]byte) vectorRef {
	t.key = t.key[:0]
	for _, l := range literals {
		t.key = append(append(t.key, l...), 0) // a Postgres text holds no zero byte
	}
	if r, ok := t.vectors[string(t.key)]; ok {
		return r
	}
	var v vector
	columns := [5]*string{
		&v.row.LifecyclePhase, &v.row.OwnershipState, &v.row.EligibilityState, &v.row.PublicState, &v.row.AttemptState,
	}
	for i, l := range literals {
		*columns[i] = string(l)
	}
	v.state, _, v.valid = Before(&v.row)
	r := vectorRef(len(t.vectorList))
	t.vectors[string(t.key)], t.vectorList, t.bytes = r, append(t.vectorList, v), t.bytes+2*len(t.key)
	return r
}

func (t *texts) vector(r vectorRef) *vector { return &t.vectorList[r] }
