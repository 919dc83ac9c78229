package shard

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
)

// examinations is how many looks Examine takes at most.
const examinations = 3

// Examine judges both ends as Run does before it begins, without taking the slot
// or making anything, and returns what Run would stop with: an error that wraps
// ErrGap when continuity is lost. A service may be at work meanwhile, so a gap that
// the next look does not see is none.
func Examine(ctx context.Context, nc *nats.Conn, cfg Config) error {
	s := New(nc, cfg)
	gaps := 0
	for range examinations {
		err := s.examine(ctx)
		if errors.Is(err, ErrGap) {
			if gaps++; gaps == 2 {
				return err
			}
		} else if !errors.Is(err, errUnsure) {
			return s.cfg.Sink.Explain(err)
		}
	}
	return nil
}

// examine is one look of Examine, with a connection of its own: what one that is
// open tells of the slot and the log's end is as old as the connection.
func (s *Shard) examine(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	source, err := repl.Open(ctx, s.cfg.Source)
	if err != nil {
		return err
	}
	defer func() {
		if closed := source.Close(ctx); err == nil {
			err = closed
		}
	}()
	sink, slot := s.cfg.Sink, source.Slot()
	sink.SystemID, sink.Slot = source.System().ID, s.cfg.Source.Slot
	n, err := readNoteOf(ctx, s.nc, sink.Stream)
	if err != nil {
		return err
	}
	e := &ends{source: source}
	e.stream, err = publish.Look(ctx, s.nc, sink)
	switch beginning := n == nil && !slot.Exists; {
	case errors.Is(err, publish.ErrStreamLost) && beginning:
		return nil
	case errors.Is(err, publish.ErrStreamLost):
		e.sight.note, e.sight.slot.Confirmed = n, max(slot.Confirmed, source.System().End)
		return e.sight.err(&loss{
			reason: ffstream.GapStreamMissing, what: fmt.Sprintf("stream %s does not exist, and slot %s or the stream's note says that it had a past", sink.Stream, sink.Slot),
			restore: "restore the stream",
		}, sink.Stream, sink.Slot)
	case err != nil:
		return err
	case beginning && e.stream.LastSequence() == 0:
		return nil
	case !slot.Exists || slot.Invalidated != "":
		return s.slotLoss(ctx, e, n)
	}
	if n != nil && n.Timeline != source.System().Timeline {
		if e.sight.fork, e.sight.forked, err = source.Fork(ctx, n.Timeline); err != nil {
			return err
		}
	}
	if err := s.look(ctx, e); err != nil {
		return err
	}
	_, err = s.plan(e)
	return err
}

// readNoteOf reads the note of a stream that may not be there, nor its bucket.
func readNoteOf(ctx context.Context, nc *nats.Conn, stream string) (*note, error) {
	data, err := publish.ReadNoteOf(ctx, nc, stream)
	if errors.Is(err, publish.ErrStreamLost) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeNote(data)
}
