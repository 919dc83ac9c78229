package verify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/read"
	"github.com/ffstream/ffstream/internal/shard"
)

// ErrBehind says that the stream does not get to where the tables are.
var ErrBehind = errors.New("stream is behind the database")

// Config says what is compared.
type Config struct {
	Stream, Prefix string
	Partitions     []uint16 // empty: all
	Sample         float64  // part of the executions that is looked at, above 0 and at most 1
	Seed           uint64   // which part
	// Timeout bounds the wait for the stream, and for a row that somebody is changing.
	Timeout time.Duration
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
	// candidates differ, or differed a moment ago.
	candidates map[ffstream.ExecutionID]*candidate
}

const (
	// pageSize is how many rows one statement reads.
	pageSize = 1000
	// groupExecutions is about how many executions are held in memory, some 200 bytes
	// each; eventsEach is about how many events an execution has at least.
	groupExecutions, eventsEach = 200_000, 3
	// maxGroup bounds the subjects that one consumer filters by.
	maxGroup = 64
	// maxCandidates are settled together, and some of one more partition: each time
	// the stream has to be awaited.
	maxCandidates = 10_000
)

// Run compares, and calls found with each difference, whose error ends it.
func Run(ctx context.Context, q read.Querier, js jetstream.JetStream, cfg Config, found func(Difference) error) (Summary, error) {
	v := &verifier{cfg: cfg, q: q, js: js, found: found, summary: Summary{Differ: map[Kind]uint64{}}, hash: sampler(cfg.Sample, cfg.Seed), candidates: map[ffstream.ExecutionID]*candidate{}}
	var err error
	if v.stream, err = js.Stream(ctx, cfg.Stream); err != nil {
		return v.summary, fmt.Errorf("open stream %s: %w", cfg.Stream, err)
	}
	v.summary.First = v.stream.CachedInfo().State.FirstTime
	keys, err := v.partitions(ctx)
	if err != nil {
		return v.summary, err
	}
	size, err := v.group(ctx)
	if err != nil {
		return v.summary, err
	}
	done := 0
	for group := range slices.Chunk(keys, size) {
		if err := v.compare(ctx, group); err != nil {
			return v.summary, fmt.Errorf("verify partitions %d to %d: %w", uint16(group[0]), uint16(group[len(group)-1]), err)
		}
		done += len(group)
		if len(v.candidates) >= maxCandidates || done == len(keys) {
			if err := v.settle(ctx); err != nil {
				return v.summary, err
			}
		}
		if cfg.Progress != nil {
			cfg.Progress(done, len(keys))
		}
	}
	return v.summary, nil
}

// group is how many partitions are compared together: as many as memory allows, for
// the stream is read once for each group.
func (v *verifier) group(ctx context.Context) (int, error) {
	n, err := read.Estimate(ctx, v.q)
	if err != nil {
		return 0, err
	}
	n = max(n, v.stream.CachedInfo().State.Msgs/eventsEach)
	return int(min(maxGroup, max(1, usual*groupExecutions/max(1, n)))), nil
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

// partitions lists those that the engine uses, and others that have rows.
func (v *verifier) partitions(ctx context.Context) ([]int16, error) {
	var keys []int16
	if len(v.cfg.Partitions) > 0 {
		for _, p := range v.cfg.Partitions {
			keys = append(keys, int16(p))
		}
		slices.Sort(keys)
		return slices.Compact(keys), nil
	}
	for key := range int16(usual) {
		keys = append(keys, key)
	}
	for from := int16(math.MinInt16); ; {
		key, more, err := read.NextPartition(ctx, v.q, from)
		switch {
		case err != nil:
			return nil, err
		case !more:
			return keys, nil
		case key >= 0 && key < usual:
			from = usual
			continue
		}
		keys = append(keys, key)
		if key == math.MaxInt16 {
			return keys, nil
		}
		from = key + 1
	}
}

// compare looks at some partitions: what differs becomes a candidate.
func (v *verifier) compare(ctx context.Context, keys []int16) error {
	subjects := []string{v.cfg.Prefix + ".truncated"}
	for _, key := range keys {
		subjects = append(subjects, fmt.Sprintf("%s.exec.%d.>", v.cfg.Prefix, uint16(key)), fmt.Sprintf("%s.corrupt.%d", v.cfg.Prefix, uint16(key)))
	}
	told := map[ffstream.ExecutionID]word{}
	end, err := v.follow(ctx, subjects, 1, func(e *ffstream.Event, sequence uint64) { fold(told, e, sequence, v.hash) })
	if err != nil {
		return err
	}
	add := func(id ffstream.ExecutionID, w word) { v.candidates[id] = &candidate{word: w, end: end} }
	row := func(id ffstream.ExecutionID, state ffstream.PublicState, err error) {
		if !v.hash(id.UUID()) {
			return
		}
		v.summary.Executions++
		w, known := told[id]
		delete(told, id)
		if !known || w.state != stateOf(state, err) {
			add(id, w)
		}
	}
	for _, key := range keys {
		var after ffstream.Opt[uuid.UUID]
		for more := true; more; more = after.OK {
			if after, err = read.StatePage(ctx, v.q, key, after, pageSize, row); err != nil {
				return err
			}
		}
	}
	for id, w := range told { // those without a row
		if w.state != string(ffstream.StatePurged) {
			add(id, w)
		}
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

// fold takes an event into what is told.
func fold(told map[ffstream.ExecutionID]word, e *ffstream.Event, sequence uint64, wanted func(uuid.UUID) bool) {
	w := word{sequence: sequence, position: e.ID.Position}
	switch e.Type {
	case ffstream.TypeTransitioned, ffstream.TypeSnapshotted:
		w.state = string(e.To)
	case ffstream.TypeCorrupt:
		w.state = Corrupt
	case ffstream.TypeTruncated:
		w.state = string(ffstream.StatePurged)
		for id := range told {
			told[id] = w
		}
		return
	default:
		return
	}
	if wanted(e.ExecutionID.UUID()) {
		told[e.ExecutionID] = w
	}
}

// candidate is an execution that may differ.
type candidate struct {
	word
	end  uint64 // the stream was looked at up to here
	read ffstream.SettledState
	is   string
	over bool // an event came that the read did not know
}

// settle judges the candidates and forgets them.
func (v *verifier) settle(ctx context.Context) error {
	if len(v.candidates) == 0 {
		return nil
	}
	var log ffstream.LSN
	from := uint64(math.MaxUint64)
	for id, c := range v.candidates {
		settled, err := v.read(ctx, id, c)
		if err != nil {
			return err
		}
		if !settled {
			v.summary.Unsettled++
			delete(v.candidates, id)
			continue
		}
		log, from = max(log, c.read.End), min(from, c.end+1)
	}
	if len(v.candidates) == 0 {
		return nil
	}
	if err := v.await(ctx, log); err != nil {
		return err
	}
	all := []string{v.cfg.Prefix + ".exec.>", v.cfg.Prefix + ".corrupt.>", v.cfg.Prefix + ".truncated"}
	if _, err := v.follow(ctx, all, from, v.newer); err != nil {
		return err
	}
	ids := slices.SortedFunc(maps.Keys(v.candidates), func(a, b ffstream.ExecutionID) int { return strings.Compare(a.String(), b.String()) })
	for _, id := range ids {
		if err := v.judge(id, v.candidates[id]); err != nil {
			return err
		}
	}
	clear(v.candidates)
	return nil
}

// newer takes an event into what candidates are told to be, as far as their reads
// knew it.
func (v *verifier) newer(e *ffstream.Event, sequence uint64) {
	one := func(id ffstream.ExecutionID, c *candidate) {
		if sequence <= c.end || c.over {
			return
		}
		if c.over = !c.knew(e); c.over {
			return
		}
		words := map[ffstream.ExecutionID]word{id: c.word}
		fold(words, e, sequence, func(uuid.UUID) bool { return true })
		c.word = words[id]
	}
	if e.Type == ffstream.TypeTruncated {
		for id, c := range v.candidates {
			one(id, c)
		}
	} else if c := v.candidates[e.ExecutionID]; c != nil {
		one(e.ExecutionID, c)
	}
}

// knew reports whether a read saw what an event tells. A snapshot is of no
// transaction: behind an event that the read did not know nothing is looked at
// any more, and before one, the snapshot's place in the log decides.
func (c *candidate) knew(e *ffstream.Event) bool {
	if e.Snapshot != nil {
		return e.ID.Position.Commit < c.read.End
	}
	return c.read.Knew(e)
}

// judge reports a candidate that differs.
func (v *verifier) judge(id ffstream.ExecutionID, c *candidate) error {
	d := Difference{ID: id, Told: c.state, Sequence: c.sequence, Position: c.position, Is: c.is}
	switch gone := string(ffstream.StatePurged); {
	case c.state == c.is, c.state == "" && c.is == gone:
		return nil
	case c.state == "":
		d.Kind = Missing
	case c.is == gone:
		d.Kind = Surplus
	default:
		d.Kind = Differing
	}
	v.summary.Differ[d.Kind]++
	return v.found(d)
}

// read reads a candidate again; false when somebody is changing it for too long,
// or what it is now is no state that an event could be compared with.
func (v *verifier) read(ctx context.Context, id ffstream.ExecutionID, c *candidate) (bool, error) {
	reading, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	var err error
	c.read, err = read.Settled(reading, v.q, id)
	var corrupt *ffstream.CorruptionError
	switch {
	case errors.As(err, &corrupt), err != nil && reading.Err() != nil && ctx.Err() == nil:
		return false, nil
	case err != nil:
		return false, err
	}
	if c.is = string(c.read.State); c.is == "" {
		c.is = string(ffstream.StatePurged)
	}
	return true, nil
}

// noteInterval is how often the note is looked at.
const noteInterval = 200 * time.Millisecond

// await waits until the stream has everything that committed before end.
func (v *verifier) await(ctx context.Context, end ffstream.LSN) error {
	if end == 0 {
		return nil
	}
	deadline := time.Now().Add(v.cfg.Timeout)
	tick := time.NewTicker(noteInterval)
	defer tick.Stop()
	for {
		note, err := publish.ReadNoteOf(ctx, v.js.Conn(), v.cfg.Stream)
		if err != nil {
			return fmt.Errorf("read note: %w", err)
		}
		at, err := shard.Noted(note)
		if err != nil {
			return err
		}
		switch {
		case at >= end:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%w: the log goes to %s, and the service has dealt with it to %s, %s later: start it (ffstream run), or await it (--timeout)", ErrBehind, end, at, v.cfg.Timeout)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow reads the events of some subjects from a sequence on to the stream's end,
// and gives that end.
func (v *verifier) follow(ctx context.Context, subjects []string, from uint64, f func(e *ffstream.Event, sequence uint64)) (end uint64, err error) {
	info, err := v.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("read stream %s: %w", v.cfg.Stream, err)
	}
	end = info.State.LastSeq
	if from > end {
		return end, nil
	}
	consumer, err := v.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if err != nil {
		return 0, fmt.Errorf("read stream %s: %w", v.cfg.Stream, err)
	}
	defer func() { // it may have been made anew, under another name
		deleting, cancel := context.WithTimeout(context.WithoutCancel(ctx), v.cfg.Timeout)
		defer cancel()
		_ = v.stream.DeleteConsumer(deleting, consumer.CachedInfo().Name) // the server removes it too, later
	}()
	if left := consumer.CachedInfo().NumPending; left == 0 {
		return end, nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return 0, fmt.Errorf("read stream %s: %w", v.cfg.Stream, err)
	}
	defer messages.Stop()
	for {
		m, err := v.next(ctx, messages)
		if err != nil {
			return 0, fmt.Errorf("read stream %s: %w", v.cfg.Stream, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return 0, fmt.Errorf("read stream %s: %w", v.cfg.Stream, err)
		}
		e, err := ffstream.ParseEvent(m.Data())
		if err != nil {
			return 0, fmt.Errorf("read message %d: %w", meta.Sequence.Stream, err)
		}
		v.summary.Events++
		f(&e, meta.Sequence.Stream)
		end = max(end, meta.Sequence.Stream)
		if meta.NumPending == 0 {
			return end, nil
		}
	}
}

// next waits for a message, though not for one that has aged out meanwhile.
func (v *verifier) next(ctx context.Context, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	waiting, cancel := context.WithTimeout(ctx, v.cfg.Timeout)
	defer cancel()
	return messages.Next(jetstream.NextContext(waiting))
}
