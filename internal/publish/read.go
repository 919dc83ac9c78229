package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// LastGap gives the sequence of the latest accepted gap whose event the stream
// holds, as its leader knows; 0: it holds none.
func (s *Stream) LastGap(ctx context.Context) (uint64, error) {
	subject := (&ffstream.Event{Type: ffstream.TypeGap}).Subject(s.cfg.Prefix)
	msg, err := s.getMessage(ctx, s.cfg.Stream, messageRequest{LastBySubject: subject})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read latest gap of stream %s: %w", s.cfg.Stream, classify(err))
	}
	return msg.Sequence, nil
}

// Last gives the sequence of the latest message of a stream on subjects, as its leader
// knows; 0: it holds none.
func Last(ctx context.Context, nc *nats.Conn, stream, subjects string) (uint64, error) {
	msg, err := getMessage(ctx, nc, stream, messageRequest{LastBySubject: subjects})
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read last message of stream %s: %w", stream, classify(err))
	}
	return msg.Sequence, nil
}

// Read calls f with the events on some subjects, in order, from one sequence to
// another. With no subjects it is all events, and then the last is waited for.
func (s *Stream) Read(ctx context.Context, subjects []string, from, to uint64, f func(e *ffstream.Event, sequence uint64)) error {
	r := Reading{Stream: s.cfg.Stream, Subjects: subjects, From: from, To: to, Patience: s.cfg.AckTimeout}
	return r.Events(ctx, s.js, func(e *ffstream.Event, sequence uint64) error {
		f(e, sequence)
		return nil
	})
}

// Reading says which events of a stream are read.
type Reading struct {
	Stream string
	// Subjects of which the events are; with none it is all events, and that at To has to
	// exist. Whichever replica reads, it is waited for what the leader has of them.
	Subjects []string
	From, To uint64 // sequences, both included
	// Patience bounds the wait for each event.
	Patience time.Duration
}

// Events calls f with the events, in order. An error of f ends it and is wrapped.
func (r *Reading) Events(ctx context.Context, js jetstream.JetStream, f func(e *ffstream.Event, sequence uint64) error) error {
	if r.From > r.To {
		return nil
	}
	if err := r.events(ctx, js, f); err != nil {
		return fmt.Errorf("read stream %s: %w", r.Stream, classify(err))
	}
	return nil
}

// end is the sequence at which the reading ends: the leader has one of the events
// there, or at To and further on; 0: it has none. A consumer may be of a replica that is
// behind, so that it has no more to give says nothing of what the stream has.
func (r *Reading) end(ctx context.Context, nc *nats.Conn) (uint64, error) {
	if len(r.Subjects) == 0 {
		return r.To, nil
	}
	end := uint64(0)
	for _, subject := range r.Subjects {
		last, err := Last(ctx, nc, r.Stream, subject)
		if err != nil {
			return 0, err
		}
		if end = max(end, last); end >= r.To {
			return r.To, nil
		}
	}
	return end, nil
}

func (r *Reading) events(ctx context.Context, js jetstream.JetStream, f func(e *ffstream.Event, sequence uint64) error) error {
	end, err := r.end(ctx, js.Conn())
	if err != nil || end < r.From {
		return err
	}
	w := awaited{r: r, js: js}
	defer w.close()
	for at := r.From - 1; at < end; {
		m, meta, err := w.next(ctx, at+1)
		if err != nil {
			if still, failed := r.end(ctx, js.Conn()); failed == nil && still <= at { // the others have aged out
				return nil
			}
			return err
		}
		if at = meta.Sequence.Stream; at > r.To {
			return nil
		}
		e, err := ffstream.ParseEvent(m.Data())
		if err != nil {
			return fmt.Errorf("message %d: %w", at, err)
		}
		if err := f(&e, at); err != nil {
			return err
		}
	}
	return nil
}

const (
	// window bounds the messages of a reading that are on their way.
	window = 500
	// silence is how long a feed may give nothing that the leader has before another is
	// opened, which may for twice as long.
	silence = 2 * time.Second
	// reopening is the pause before what could not be opened is tried again.
	reopening = 200 * time.Millisecond
)

// awaited gives messages that are known to come, by as many feeds as it takes.
type awaited struct {
	r    *Reading
	js   jetstream.JetStream
	feed *Feed // nil: none is open
}

func (w *awaited) close() {
	if w.feed != nil {
		w.feed.Close()
		w.feed = nil
	}
}

// next waits for the first message from a sequence on, as long as the reading's patience
// lasts and its stream exists.
func (w *awaited) next(ctx context.Context, from uint64) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	waiting, cancel := context.WithTimeout(ctx, w.r.Patience)
	defer cancel()
	for silence := silence; ; silence *= 2 {
		m, meta, err := w.try(waiting, from, silence)
		if err == nil {
			return m, meta, nil
		}
		w.close()
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return nil, nil, err
		}
		select {
		case <-waiting.Done():
			return nil, nil, err
		case <-time.After(reopening):
		}
	}
}

func (w *awaited) try(ctx context.Context, from uint64, silence time.Duration) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	if w.feed == nil {
		opening, cancel := context.WithTimeout(ctx, apiTimeout)
		defer cancel()
		feed, err := OpenFeed(opening, w.js, FeedConfig{Stream: w.r.Stream, Subjects: w.r.Subjects, From: from, Window: window})
		if err != nil {
			return nil, nil, err
		}
		w.feed = feed
	}
	ctx, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	return w.feed.Next(ctx)
}
