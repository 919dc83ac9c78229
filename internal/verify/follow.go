package verify

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// follow reads the events of some subjects from a sequence on to the stream's end as
// it is now, and gives that end: a stream that grows as fast as it is read has no
// other. An error of f ends it.
func (v *verifier) follow(ctx context.Context, subjects []string, from uint64, f func(e *ffstream.Event, sequence uint64) error) (end uint64, err error) {
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
		if meta.Sequence.Stream > end {
			return end, nil
		}
		if err := f(&e, meta.Sequence.Stream); err != nil {
			return 0, err
		}
		if meta.Sequence.Stream == end || meta.NumPending == 0 {
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
