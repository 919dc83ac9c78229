package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Feed is a stream's messages in order, from one consumer of its own. It mends nothing:
// after an error of Next another one is to be opened. That messages come which a server
// has, it cannot know: what was on its way when a connection broke is lost, and a server
// that forgot the consumer does not say so. Who knows that there are more opens another.
type Feed struct {
	js       jetstream.JetStream
	consumer jetstream.Consumer
	messages jetstream.MessagesContext
	consumed uint64 // the consumer's sequence of the latest message
}

// FeedConfig says what is read.
type FeedConfig struct {
	Stream      string
	Subjects    []string // none: all
	From        uint64   // sequence in the stream
	HeadersOnly bool
	Window      int // most messages that are on their way
}

const (
	// forgetAfter is when a server removes a consumer whose reader is gone.
	forgetAfter = time.Minute
	// discarding bounds the wait for the answer that a consumer is removed.
	discarding = time.Second
)

var errSkipped = errors.New("messages were lost on the way")

// OpenFeed begins to read. The feed is the caller's to close.
func OpenFeed(ctx context.Context, js jetstream.JetStream, cfg FeedConfig) (*Feed, error) {
	consumer, err := js.CreateConsumer(ctx, cfg.Stream, jetstream.ConsumerConfig{
		FilterSubjects: cfg.Subjects, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: cfg.From,
		AckPolicy: jetstream.AckNonePolicy, Replicas: 1, MemoryStorage: true, InactiveThreshold: forgetAfter, HeadersOnly: cfg.HeadersOnly,
	})
	if err != nil {
		return nil, err
	}
	f := &Feed{js: js, consumer: consumer}
	if f.messages, err = consumer.Messages(jetstream.PullMaxMessages(cfg.Window)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Pending is how many messages there were when the feed was opened.
func (f *Feed) Pending() uint64 { return f.consumer.CachedInfo().NumPending }

// Next waits for a message until ctx ends.
func (f *Feed) Next(ctx context.Context) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	m, err := f.messages.Next(jetstream.NextContext(ctx))
	if err != nil {
		return nil, nil, err
	}
	meta, err := m.Metadata()
	if err != nil {
		return nil, nil, err
	}
	if f.consumed++; meta.Sequence.Consumer != f.consumed {
		return nil, nil, fmt.Errorf("%w: from the %d. on", errSkipped, f.consumed)
	}
	return m, meta, nil
}

// Close ends the feed, within a second. The server is told, so that no consumer is left.
func (f *Feed) Close() {
	if f.messages != nil {
		f.messages.Stop()
	}
	info := f.consumer.CachedInfo()
	ctx, cancel := context.WithTimeout(context.Background(), discarding)
	defer cancel()
	_ = f.js.DeleteConsumer(ctx, info.Stream, info.Name) // the server removes it too, later
}
