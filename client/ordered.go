package client

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// runOrdered reads without acknowledgements, one event at a time.
func (s *Subscriber) runOrdered(ctx context.Context, handle Handler) error {
	messages, any, err := s.openOrdered(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("subscribe to stream %s: %w", s.cfg.Stream, err)
	}
	defer messages.Stop()
	if s.cfg.UntilEnd && !any {
		return nil
	}
	return s.readOrdered(ctx, messages, handle)
}

// openOrdered begins to read, and tells whether there is something to read.
func (s *Subscriber) openOrdered(ctx context.Context) (jetstream.MessagesContext, bool, error) {
	stream, err := s.js.Stream(ctx, s.cfg.Stream)
	if err != nil {
		return nil, false, err
	}
	c := jetstream.ConsumerConfig{}
	if err := s.startAt(ctx, stream, &c, 0); err != nil {
		return nil, false, err
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects: s.cfg.subjects(stream), DeliverPolicy: c.DeliverPolicy, OptStartSeq: c.OptStartSeq, OptStartTime: c.OptStartTime,
	})
	if err != nil {
		return nil, false, err
	}
	pending := uint64(1)
	if s.cfg.UntilEnd {
		info, err := consumer.Info(ctx)
		if err != nil {
			return nil, false, err
		}
		pending = info.NumPending
	}
	messages, err := consumer.Messages()
	return messages, pending > 0, err
}

func (s *Subscriber) readOrdered(ctx context.Context, messages jetstream.MessagesContext, handle Handler) error {
	defer context.AfterFunc(ctx, messages.Stop)()
	ss := session{s: s, cfg: &s.cfg, filter: s.cfg.filter(), failed: make(chan error, 1), handle: func(ctx context.Context, b []*Message) error { return handle(ctx, b[0]) }}
	for {
		d, pending, err := ss.nextOrdered(ctx, messages)
		if err != nil || d == nil {
			return err
		}
		if d.broken != nil || ss.wants(d) {
			if err := ss.insist(ctx, d); err != nil {
				return err
			}
		}
		if ctx.Err() != nil || s.cfg.UntilEnd && pending == 0 {
			return nil
		}
	}
}

// nextOrdered is the next message, nil when ctx has ended, and how many are behind it.
func (ss *session) nextOrdered(ctx context.Context, messages jetstream.MessagesContext) (*delivery, uint64, error) {
	m, err := messages.Next()
	if ctx.Err() != nil {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("consume stream %s: %w", ss.cfg.Stream, err)
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, 0, fmt.Errorf("read message on %s: %w", m.Subject(), err)
	}
	return ss.read(m, meta.Sequence.Stream), meta.NumPending, nil
}

// insist tries one event until it is handled, given up, or ctx ends.
func (ss *session) insist(ctx context.Context, d *delivery) error {
	for d.Try = 1; ; d.Try++ {
		o := ss.try(ctx, []*delivery{d}, d.Try)
		if o.verdict != again || ctx.Err() != nil {
			return nil
		}
		select {
		case err := <-ss.failed:
			return err
		case <-ctx.Done():
			return nil
		case <-time.After(ss.cfg.delay(d.Try)):
		}
	}
}
