package verify

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/read"
)

// ErrBehind says that the stream does not get to where the tables are.
var ErrBehind = errors.New("stream is behind the database")

// Config says what is compared.
type Config struct {
	Stream, Prefix string
	Partitions     []uint16 // empty: all
	Sample         float64  // part of the executions that is looked at, above 0 and at most 1
	Seed           uint64   // which part
	// Timeout bounds each wait for the stream, and all waits together for rows that
	// somebody is changing.
	Timeout time.Duration
	// IgnoreMissing: an execution that the stream tells nothing of is not judged.
	IgnoreMissing bool
	// Held is how many executions are held in memory, some 200 bytes each; 0: 200 000.
	Held int
	// Progress is told of the partitions that are done. Optional.
	Progress func(done, of int)
}

// Kind is how an execution differs.
type Kind string

// The kinds of differences.
const (
	Missing   Kind = "missing"   // in the tables, and the stream never told of it
	Surplus   Kind = "surplus"   // the stream told of it, and it is not in the tables
	Differing Kind = "differing" // in another state
)

// Corrupt stands for the state of a row that no rule understands.
const Corrupt = "corrupt"

// Difference is an execution of which stream and tables say different things.
type Difference struct {
	Kind Kind                 `json:"kind"`
	ID   ffstream.ExecutionID `json:"execution_id"`
	// Told is the state that the stream told last, at Sequence and Position; empty
	// when it never told of it.
	Told     string            `json:"told"`
	Sequence uint64            `json:"sequence"`
	Position ffstream.Position `json:"position"`
	Is       string            `json:"is"` // the state by the tables; purged: there is no row
}

// Summary is what was looked at.
type Summary struct {
	Executions uint64          `json:"executions"` // in the tables, of those in the sample
	Events     uint64          `json:"events"`     // read from the stream
	Differ     map[Kind]uint64 `json:"differ"`
	// Unsettled were changed all the time and are not judged.
	Unsettled uint64 `json:"unsettled"`
	// AgedOut are those that the stream tells nothing of, and need not, or that are
	// ignored; they are not judged.
	AgedOut uint64 `json:"aged_out"`
	// First is the time of the stream's oldest event; zero: it holds none.
	First time.Time `json:"first_event,omitzero"`
}

// word is what the stream told last of an execution.
type word struct {
	state    string
	sequence uint64
	position ffstream.Position
}

// verifier compares one partition after the other.
type verifier struct {
	cfg     Config
	q       read.Querier
	js      jetstream.JetStream
	stream  jetstream.Stream
	found   func(Difference) error
	summary Summary
	hash    func(id uuid.UUID) bool
	// filled is what learn gave, once it was asked.
	filled  uint64
	learned bool
	// candidates differ, or differed a moment ago.
	candidates map[ffstream.ExecutionID]*candidate
	// patience is what is left of the time to wait for writers.
	patience time.Duration
}

const (
	// pageSize is how many rows one statement reads.
	pageSize = 1000
	// held is Config.Held where that says nothing. A 20th of it are the candidates that
	// are settled together: each time the stream has to be awaited.
	held, heldEach = 200_000, 20
	// eventsEach is about how many events an execution has at least.
	eventsEach = 3
	// maxGroup bounds the subjects that one consumer filters by.
	maxGroup = 64
)

// Run compares, and calls found with each difference, whose error ends it.
func Run(ctx context.Context, q read.Querier, js jetstream.JetStream, cfg Config, found func(Difference) error) (Summary, error) {
	if cfg.Held == 0 {
		cfg.Held = held
	}
	v := &verifier{
		cfg: cfg, q: q, js: js, found: found, summary: Summary{Differ: map[Kind]uint64{}}, hash: sampler(cfg.Sample, cfg.Seed),
		candidates: map[ffstream.ExecutionID]*candidate{}, patience: cfg.Timeout,
	}
	var err error
	if v.stream, err = js.Stream(ctx, cfg.Stream); err != nil {
		return v.summary, fmt.Errorf("open stream %s: %w", cfg.Stream, err)
	}
	v.summary.First = v.stream.CachedInfo().State.FirstTime
	keys, err := v.partitions(ctx)
	if err != nil {
		return v.summary, err
	}
	size, err := v.group(ctx, len(keys))
	if err != nil {
		return v.summary, err
	}
	var after ffstream.Opt[ffstream.ExecutionID] // of the first of the partitions that are left, if that is begun
	for done := 0; done < len(keys); {
		group := keys[done:min(done+size, len(keys))]
		if after.OK { // a crowded one goes alone, for the stream is read anew for each part of it
			group = group[:1]
		}
		to, err := v.compare(ctx, group, after, len(group) == len(keys) && len(v.cfg.Partitions) == 0)
		if err != nil {
			return v.summary, fmt.Errorf("verify partitions %d to %d: %w", uint16(group[0]), uint16(group[len(group)-1]), err)
		}
		n := len(group)
		if after = to; after.OK { // there are more than the statistics say
			n, _ = slices.BinarySearch(group, after.V.PartitionKey())
			size = min(maxGroup, size)
			if n > 0 {
				size = min(size, n)
			}
		}
		done += n
		if cfg.Progress != nil {
			cfg.Progress(done, len(keys))
		}
	}
	return v.summary, v.settle(ctx)
}

// group is how many partitions of so many are compared together: as many as memory
// allows, for the stream is read once for each group; all, if it allows that.
func (v *verifier) group(ctx context.Context, all int) (int, error) {
	n, err := read.Estimate(ctx, v.q)
	if err != nil {
		return 0, err
	}
	n = max(n, v.stream.CachedInfo().State.Msgs/eventsEach)
	if n <= uint64(v.cfg.Held) && len(v.cfg.Partitions) == 0 {
		return all, nil
	}
	return int(min(maxGroup, max(1, usual*uint64(v.cfg.Held)/max(1, n)))), nil
}

// sampler picks executions by their UUIDs, the same for the same seed.
func sampler(part float64, seed uint64) func(uuid.UUID) bool {
	if part >= 1 {
		return func(uuid.UUID) bool { return true }
	}
	limit := uint64(part * math.MaxUint64)
	return func(id uuid.UUID) bool { return mix(seed, id) <= limit }
}

// mix spreads a UUID over all numbers; version 7 begins with the time.
func mix(seed uint64, id uuid.UUID) uint64 {
	x := seed ^ binary.BigEndian.Uint64(id[:8])*0x9E3779B97F4A7C15 ^ binary.BigEndian.Uint64(id[8:])
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// usual is the number of partitions that the engine uses unless told otherwise.
const usual = 256

// partitions lists in order those that the engine uses, and others that have rows or
// that the stream tells of.
func (v *verifier) partitions(ctx context.Context) ([]int16, error) {
	var keys []int16
	if len(v.cfg.Partitions) > 0 {
		for _, p := range v.cfg.Partitions {
			keys = append(keys, int16(p))
		}
		slices.Sort(keys)
		return slices.Compact(keys), nil
	}
	keys, err := read.Unusual(ctx, v.q)
	if err != nil {
		return nil, err
	}
	told, err := publish.Partitions(ctx, v.js.Conn(), v.cfg.Stream, v.cfg.Prefix)
	if err != nil {
		return nil, err
	}
	for _, p := range told {
		keys = append(keys, int16(p))
	}
	for key := range int16(usual) {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

// compare looks at the executions behind one of some partitions, or of all: what differs
// becomes a candidate. It gives the last that memory allowed for; absent: it was all.
func (v *verifier) compare(ctx context.Context, keys []int16, after ffstream.Opt[ffstream.ExecutionID], all bool) (to ffstream.Opt[ffstream.ExecutionID], err error) {
	var subjects []string // of all partitions: the whole stream, in one go
	if !all {
		subjects = append(subjects, v.cfg.Prefix+".truncated")
		for _, key := range keys {
			subjects = append(subjects, fmt.Sprintf("%s.exec.%d.>", v.cfg.Prefix, uint16(key)), fmt.Sprintf("%s.corrupt.%d", v.cfg.Prefix, uint16(key)))
		}
	}
	told := backfill.NewNearest[word](after, v.cfg.Held)
	end, err := v.follow(ctx, subjects, 1, func(e *ffstream.Event, sequence uint64) error {
		w, tells := said(e, sequence)
		if tells {
			v.summary.Events++
		}
		switch {
		case !tells:
		case e.Type == ffstream.TypeTruncated:
			told.SetAll(w)
		case v.hash(e.ExecutionID.UUID()):
			told.Set(e.ExecutionID, w)
		}
		return nil
	})
	if err != nil {
		return to, err
	}
	reach, err := v.reaches(ctx)
	if err != nil {
		return to, err
	}
	add := func(id ffstream.ExecutionID, w word) { v.candidates[id] = &candidate{word: w, end: end} }
	row := func(r read.PageState) {
		if !told.Has(r.ID) || !v.hash(r.ID.UUID()) {
			return
		}
		v.summary.Executions++
		w, known := told.Get(r.ID)
		told.Delete(r.ID)
		switch {
		case !known && !reach.has(r.CreatedAt):
			v.summary.AgedOut++
		case w.state != stateOf(r.State, r.Err):
			add(r.ID, w)
		}
	}
	for _, key := range keys {
		if err := v.rows(ctx, key, after, told, row); err != nil {
			return to, err
		}
	}
	for _, id := range told.Sorted() { // those without a row
		if w, _ := told.Get(id); w.state != string(ffstream.StatePurged) {
			add(id, w)
		}
		if err := v.settleMany(ctx); err != nil {
			return to, err
		}
	}
	return told.To(), nil
}

// rows reads the rows of a partition behind an execution, as far as told has room.
func (v *verifier) rows(ctx context.Context, key int16, after ffstream.Opt[ffstream.ExecutionID], told *backfill.Nearest[word], row func(read.PageState)) (err error) {
	until, more := told.Until(key)
	var at ffstream.Opt[uuid.UUID]
	if after.OK && after.V.PartitionKey() == key {
		at = ffstream.Some(after.V.UUID())
	}
	for more {
		if at, err = read.StatePage(ctx, v.q, key, at, pageSize, row); err != nil {
			return err
		}
		if err := v.settleMany(ctx); err != nil {
			return err
		}
		more = at.OK && bytes.Compare(at.V[:], until[:]) < 0
	}
	return nil
}

// stateOf is a read's state, of a row that exists.
func stateOf(state ffstream.PublicState, err error) string {
	var corrupt *ffstream.CorruptionError
	if errors.As(err, &corrupt) {
		return Corrupt
	}
	return string(state)
}

// said is what an event tells of its execution, or of all; false: it tells of none.
func said(e *ffstream.Event, sequence uint64) (w word, tells bool) {
	w = word{sequence: sequence, position: e.ID.Position}
	switch e.Type {
	case ffstream.TypeTransitioned, ffstream.TypeSnapshotted:
		w.state = string(e.To)
	case ffstream.TypeCorrupt:
		w.state = Corrupt
	case ffstream.TypeTruncated:
		w.state = string(ffstream.StatePurged)
	default:
		return w, false
	}
	return w, true
}
