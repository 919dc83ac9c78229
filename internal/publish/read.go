package publish

import (
	"context"
	"errors"
	"fmt"

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

// Read calls f with the events on some subjects, in order, from one sequence to
// another. With no subjects it is all events, and then the last is waited for.
func (s *Stream) Read(ctx context.Context, subjects []string, from, to uint64, f func(e *ffstream.Event, sequence uint64)) error {
	if from > to {
		return nil
	}
	if err := s.read(ctx, subjects, from, to, f); err != nil {
		return fmt.Errorf("read stream %s: %w", s.cfg.Stream, classify(err))
	}
	return nil
}

func (s *Stream) read(ctx context.Context, subjects []string, from, to uint64, f func(e *ffstream.Event, sequence uint64)) error {
	consumer, err := s.js.OrderedConsumer(ctx, s.cfg.Stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from,
	})
	if err != nil {
		return err
	}
	defer func() { // it may have been made anew, under another name
		deleting, cancel := context.WithTimeout(context.WithoutCancel(ctx), apiTimeout)
		defer cancel()
		_ = s.js.DeleteConsumer(deleting, s.cfg.Stream, consumer.CachedInfo().Name) // the server removes it too, later
	}()
	if len(subjects) > 0 && consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		waiting, cancel := context.WithTimeout(ctx, s.cfg.AckTimeout)
		m, err := messages.Next(jetstream.NextContext(waiting))
		cancel()
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Stream > to {
			return nil
		}
		e, err := ffstream.ParseEvent(m.Data())
		if err != nil {
			return fmt.Errorf("message %d: %w", meta.Sequence.Stream, err)
		}
		f(&e, meta.Sequence.Stream)
		if meta.Sequence.Stream == to || len(subjects) > 0 && meta.NumPending == 0 {
			return nil
		}
	}
}
