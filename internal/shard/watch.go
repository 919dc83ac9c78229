package shard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ffstream/ffstream/internal/publish"
)

// watchInterval is how often a session looks whether somebody else edits the
// stream or the publication. What it misses at its end the next one sees.
const watchInterval = 5 * time.Second

// observation is what one look saw.
type observation struct {
	state   publish.State
	lineage []string
	err     error // the stream is gone
}

// watch is goroutine C: it looks at both ends, and writes heartbeats, until ctx
// ends. A look that fails, or takes too long, says nothing; the session has its own
// connections to fail by.
func (ss *session) watch(ctx context.Context, seen chan<- observation) {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var beats <-chan time.Time
	if ss.shard.cfg.Heartbeat != nil {
		ss.beat(ctx) // the delay is known soon after the start
		heart := time.NewTicker(ss.shard.cfg.HeartbeatInterval)
		defer heart.Stop()
		beats = heart.C
	}
	for {
		select {
		case <-tick.C:
		case <-beats:
			ss.beat(ctx)
			continue
		case <-ctx.Done():
			return
		}
		o, err := ss.glance(ctx)
		if err != nil {
			continue
		}
		select {
		case seen <- o:
		case <-ctx.Done():
			return
		}
	}
}

// glance looks once, for a bounded time: an end that does not answer would keep what
// the look uses from others.
func (ss *session) glance(ctx context.Context) (o observation, err error) {
	looking, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if o.state, err = ss.stream.ReadState(looking); errors.Is(err, publish.ErrStreamLost) {
		o.err, err = err, nil
	}
	if lineage := ss.shard.cfg.Lineage; err == nil && lineage != nil {
		o.lineage, err = lineage(looking)
	}
	return o, err
}

// observe compares a look with the note.
func (ss *session) observe(o *observation) error {
	if o.err != nil {
		return fmt.Errorf("%w: %s", errUnsure, o.err.Error()) // the next session says what is lost
	}
	n := &ss.journal.note
	ss.journal.state = o.state
	l := n.checkState(&o.state, time.Now())
	if l == nil {
		l = n.checkLineage(o.lineage)
	}
	if l == nil {
		return nil
	}
	g := &sighting{note: n}
	g.slot.Confirmed = ss.received
	return g.err(l, ss.shard.cfg.Sink.Stream, ss.shard.cfg.Source.Slot)
}
