package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/read"
	"github.com/ffstream/ffstream/internal/shard"
)

// candidate is an execution that may differ.
type candidate struct {
	word
	end  uint64 // the stream was looked at up to here
	read ffstream.SettledState
	is   string // by the read; empty before that
	over bool   // an event came that the read did not know
}

// settleMany settles when there are so many candidates that it is time to.
func (v *verifier) settleMany(ctx context.Context) error {
	if len(v.candidates) < max(1, v.cfg.Held/heldEach) {
		return nil
	}
	return v.settle(ctx)
}

// settle judges the candidates and forgets them.
func (v *verifier) settle(ctx context.Context) error {
	if len(v.candidates) == 0 {
		return nil
	}
	if err := v.read(ctx); err != nil {
		return err
	}
	var log ffstream.LSN
	from := uint64(math.MaxUint64)
	for id, c := range v.candidates {
		if c.is == "" {
			v.summary.Unsettled++
			delete(v.candidates, id)
			continue
		}
		log, from = max(log, c.read.End), min(from, c.end+1)
	}
	if len(v.candidates) == 0 {
		return nil
	}
	if err := v.await(ctx, log, from); err != nil {
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

// read reads the candidates, and those that somebody is changing again until that is
// over or patience has ended.
func (v *verifier) read(ctx context.Context) error {
	writers, err := read.InProgress(ctx, v.q)
	if err != nil {
		return err
	}
	parts := map[int16][]uuid.UUID{}
	for id := range v.candidates {
		parts[id.PartitionKey()] = append(parts[id.PartitionKey()], id.UUID())
	}
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		began := time.Now()
		for partition, ids := range parts {
			if ids, err = v.readSome(ctx, writers, partition, ids); err != nil {
				return err
			}
			if parts[partition] = ids; len(ids) == 0 {
				delete(parts, partition)
			}
		}
		if wait > time.Millisecond { // the first time all are read, however long it takes
			v.patience -= time.Since(began)
		}
		if len(parts) == 0 || v.patience <= 0 {
			return nil
		}
		wait = min(wait, v.patience)
		v.patience -= wait
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// readSome reads candidates of a partition, and gives those that are not settled.
func (v *verifier) readSome(ctx context.Context, writers read.Writers, partition int16, ids []uuid.UUID) (busy []uuid.UUID, err error) {
	for some := range slices.Chunk(ids, pageSize) {
		left, err := writers.Settled(ctx, v.q, partition, some, func(id uuid.UUID, s ffstream.SettledState, corrupt bool) {
			c := v.candidates[ffstream.NewExecutionID(uint16(partition), id)]
			switch c.read, c.is = s, string(s.State); {
			case corrupt:
				c.is = Corrupt
			case c.is == "":
				c.is = string(ffstream.StatePurged)
			}
		})
		if err != nil {
			return nil, err
		}
		busy = append(busy, left...)
	}
	return busy, nil
}

// newer takes an event into what candidates are told to be, as far as their reads
// knew it.
func (v *verifier) newer(e *ffstream.Event, sequence uint64) {
	v.summary.Events++
	one := func(c *candidate) {
		if sequence <= c.end || c.over {
			return
		}
		if c.over = !c.knew(e); c.over {
			return
		}
		if w, tells := said(e, sequence); tells {
			c.word = w
		}
	}
	if e.Type == ffstream.TypeTruncated {
		for _, c := range v.candidates {
			one(c)
		}
	} else if c := v.candidates[e.ExecutionID]; c != nil {
		one(c)
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

// awaitInterval is how often the stream and its note are looked at.
const awaitInterval = 200 * time.Millisecond

// errPassed ends the reading at an event of what committed behind all reads.
var errPassed = errors.New("passed")

// await takes in the events from a sequence on, until the stream has everything that
// committed before end: an event that stands behind it says so, and where nothing
// happens the note does.
func (v *verifier) await(ctx context.Context, end ffstream.LSN, from uint64) error {
	deadline := time.Now().Add(v.cfg.Timeout)
	tick := time.NewTicker(awaitInterval)
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
		last, err := v.follow(ctx, nil, from, func(e *ffstream.Event, sequence uint64) error {
			if e.ID.Position.Commit >= end {
				return errPassed
			}
			v.newer(e, sequence)
			return nil
		})
		switch {
		case errors.Is(err, errPassed), err == nil && at >= end:
			return nil
		case err != nil:
			return err
		case time.Now().After(deadline):
			return fmt.Errorf("%w: the log goes to %s, and the service has dealt with it to %s, %s later: start it (ffstream run), or await it (--timeout)", ErrBehind, end, at, v.cfg.Timeout)
		}
		from = max(from, last+1)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
