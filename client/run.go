package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// pinGroup is the one priority group of a durable consumer: the server hands its
// messages to one process at a time.
const pinGroup = "ffstream"

// A live process asks for messages every pullExpiry, idle or not, and the server
// gives it up when it has not asked for pinTTL at least.
const (
	pullExpiry = time.Second
	pinTTL     = 4 * time.Second
)

// signOfLife is how often a server that has no message says so. A request that is on
// its way while a consumer is deleted, or that a server forgets with the consumer, has
// no answer at all: the consumer is asked for after twice as long.
const signOfLife = 2 * time.Second

// forgetAfter is when the server forgets a consumer without a name that nobody asks.
const forgetAfter = 5 * time.Minute

// atomicEvents is how large a transaction is stored atomically.
const atomicEvents = 1000

// Run gives each wanted event to handle until ctx ends; then it takes no more,
// lets the handlers finish and returns nil. Outages of the broker are waited out,
// those at its start too, as long as the connection is not closed. An error is what
// waiting cannot mend: there is no such stream, or it was deleted (ErrStreamGone);
// the durable consumer was (ErrConsumerGone); JetStream is not enabled, or a right
// is missing; or an event is poison and nobody takes it. That nobody answers looks
// the same whether the broker is away or the JetStream domain or API prefix is wrong,
// or no server of a cluster has JetStream: it is waited out, and Config.Waiting told.
func (s *Subscriber) Run(ctx context.Context, handle Handler) error {
	if s.cfg.Ordered {
		return s.runOrdered(ctx, handle)
	}
	return s.run(ctx, func(ctx context.Context, batch []*Message) error { return handle(ctx, batch[0]) }, false)
}

// RunTransactions is Run with the wanted events of one Postgres transaction
// given together and acknowledged together, one transaction at a time, in the
// order of the stream. MaxPending is 2000 at least, so that the up to 1000 events
// that the stream stores atomically come whole. A transaction with more events than
// half of MaxPending comes in pieces, each acknowledged before the next is given:
// Tx.Last of the last event tells, where the filter takes that event. Everything is
// received, and the filter applied here. A durable name serves either Run or
// RunTransactions.
func (s *Subscriber) RunTransactions(ctx context.Context, handle func(ctx context.Context, events []*Message) error) error {
	if s.cfg.Ordered || s.cfg.Share.Of > 0 {
		return errors.New("subscribe to transactions: want neither Ordered nor Share, which would take them apart")
	}
	whole := *s
	whole.cfg.MaxPending = max(whole.cfg.MaxPending, 2*atomicEvents)
	return whole.run(ctx, handle, true)
}

func (s *Subscriber) run(ctx context.Context, handle batchHandler, grouped bool) error {
	var o opened
	var done history
	for {
		var err error
		if o, err = s.open(ctx, grouped, o, done.past.next()); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("subscribe to stream %s: %w", s.cfg.Stream, err)
		}
		err = newSession(s, o, handle, grouped, &done).run(ctx)
		switch {
		case s.cfg.Durable == "" && errors.Is(err, ErrConsumerGone) && ctx.Err() == nil:
			o.left = append(o.left, o.consumer.CachedInfo().Name) // where its server is away alone
			continue
		case s.cfg.Durable == "":
			s.forget(ctx, append(o.left, o.consumer.CachedInfo().Name))
		case errors.Is(err, ErrConsumerGone):
			return s.blame(ctx, o.stream, err)
		}
		return err
	}
}

// blame says why a durable consumer is gone: alone, or with its stream.
func (s *Subscriber) blame(ctx context.Context, stream jetstream.Stream, err error) error {
	lost := s.patient(ctx, true, func(ctx context.Context) error {
		_, err := s.find(ctx, stream)
		return err
	})
	if errors.Is(lost, ErrStreamGone) {
		return fmt.Errorf("consume stream %s: %w", s.cfg.Stream, lost)
	}
	return err
}

// forget removes ephemeral consumers, within a second; the server would, later. It
// returns those that may still stand, for want of an answer. One that may not be
// removed is left to the server.
func (s *Subscriber) forget(ctx context.Context, names []string) (left []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	for _, name := range names {
		refused := func(text string) bool { return strings.Contains(text, ".CONSUMER.DELETE."+s.cfg.Stream+"."+name+`"`) }
		err := nats.ErrDisconnected
		if s.js.Conn().IsConnected() {
			err = s.ask(ctx, refused, func(ctx context.Context) error { return s.js.DeleteConsumer(ctx, s.cfg.Stream, name) })
		}
		if err != nil && !gone(err) && !errors.Is(err, nats.ErrPermissionViolation) {
			left = append(left, name)
		}
	}
	return left
}

// crowded says of the refusal of a consumer that it is worth waiting while others of
// this run may still stand.
func crowded(err error, left []string) error {
	if errors.Is(err, jetstream.ErrMaximumConsumersLimit) && len(left) > 0 {
		return fmt.Errorf("%w: %w", errCrowded, err)
	}
	return err
}

// nameless is the name of a consumer that has none of its own.
func nameless() string { return strings.TrimPrefix(nats.NewInbox(), nats.InboxPrefix) }

// opened is what a session reads from.
type opened struct {
	stream   jetstream.Stream
	consumer jetstream.Consumer
	subjects []string // that the consumer was asked for; none is all
	left     []string // consumers of earlier sessions that may still stand
}

// open makes the consumer, or takes the durable one that is there. Before is what an
// earlier session of this run read from, and from where an ephemeral consumer
// resumes, nothing and 0 at first. Outages are waited out: an ephemeral consumer has one
// name in all that is asked meanwhile, so that one that was made, and the answer lost,
// is not made again beside it.
func (s *Subscriber) open(ctx context.Context, grouped bool, before opened, from uint64) (o opened, err error) {
	name := nameless()
	o.left = before.left
	err = s.patient(ctx, before.stream != nil, func(ctx context.Context) error {
		if o.stream, err = s.find(ctx, before.stream); err != nil {
			return err
		}
		o.left = s.forget(ctx, o.left) // first: a limit of consumers may leave no room for both
		want := s.consumerConfig(o.stream, grouped)
		o.subjects = want.FilterSubjects
		want.Name = cmp.Or(want.Durable, name)
		o.consumer, err = s.consumer(ctx, o.stream, want, from)
		return crowded(err, o.left)
	})
	return o, err
}

func (s *Subscriber) consumer(ctx context.Context, stream jetstream.Stream, want jetstream.ConsumerConfig, from uint64) (jetstream.Consumer, error) {
	if want.Durable != "" {
		there, err := stream.Consumer(ctx, want.Durable)
		if err == nil {
			return adopt(ctx, stream, there.CachedInfo().Config, want)
		}
		if !errors.Is(err, jetstream.ErrConsumerNotFound) {
			return nil, err
		}
	}
	if err := s.startAt(ctx, stream, &want, from); err != nil {
		return nil, err
	}
	consumer, err := stream.CreateConsumer(ctx, want)
	if !errors.Is(err, jetstream.ErrConsumerExists) {
		return consumer, err
	}
	there, err := stream.Consumer(ctx, want.Name) // another process was faster, or this one: the stream had another end then
	if err != nil || want.Durable == "" {
		return there, err
	}
	return adopt(ctx, stream, there.CachedInfo().Config, want)
}

func (s *Subscriber) startAt(ctx context.Context, stream jetstream.Stream, c *jetstream.ConsumerConfig, from uint64) error {
	var err error
	if from == 0 {
		if from, err = s.cfg.From.resolve(ctx, stream); err != nil {
			return err
		}
	}
	c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
	if from == 0 {
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &s.cfg.From.time
	}
	return nil
}

func (s *Subscriber) consumerConfig(stream jetstream.Stream, grouped bool) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Durable: s.cfg.durable(), AckPolicy: jetstream.AckExplicitPolicy, AckWait: s.cfg.AckWait,
		MaxAckPending: s.cfg.MaxPending, MaxDeliver: -1,
		FilterSubjects: s.cfg.subjects(stream),
	}
	if share := s.cfg.Share.String(); share != "" {
		c.Metadata = map[string]string{shareKey: share}
	}
	if s.cfg.Durable == "" {
		c.InactiveThreshold = forgetAfter
		c.MemoryStorage = stream.CachedInfo().Config.Replicas <= 1
	} else if pins(s.js) {
		c.PriorityPolicy, c.PriorityGroups, c.PinnedTTL = jetstream.PriorityPolicyPinned, []string{pinGroup}, max(s.cfg.AckWait, pinTTL)
	}
	if grouped { // an acknowledgement is of all up to it, so that no part of a transaction can come again alone
		c.AckPolicy = jetstream.AckAllPolicy
		c.FilterSubjects = unfiltered(stream, s.cfg.Prefix)
	}
	return c
}

// subjects is what the server is asked for: nothing in particular where the
// filter is left to the client anyway, because a server compares each message
// with each subject and that costs a third of everything.
func (c *Config) subjects(stream jetstream.Stream) []string {
	f := c.filter()
	subjects := f.Subjects(c.Prefix, c.Control != nil)
	if slices.Equal(subjects, new(Filter).Subjects(c.Prefix, c.Control != nil)) && unfiltered(stream, c.Prefix) == nil {
		return nil
	}
	return subjects
}

// unfiltered is what asks for all under a prefix: nothing when the stream holds
// nothing else.
func unfiltered(stream jetstream.Stream, prefix string) []string {
	all := []string{prefix + ".>"}
	if slices.Equal(stream.CachedInfo().Config.Subjects, all) {
		return nil
	}
	return all
}

// pins reports whether the server knows pinned clients: 2.11 or newer.
func pins(js jetstream.JetStream) bool {
	var major, minor int
	_, err := fmt.Sscanf(js.Conn().ConnectedServerVersion(), "%d.%d", &major, &minor)
	return err == nil && (major > 2 || major == 2 && minor >= 11)
}

// adopt gives a durable consumer what of its configuration may change. Where it
// began cannot, and so neither can its share: what another share would have been
// given before was acknowledged, or never asked for, by this one.
func adopt(ctx context.Context, stream jetstream.Stream, there, want jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	if is, wanted := there.Metadata[shareKey], want.Metadata[shareKey]; is != wanted {
		return nil, fmt.Errorf("consumer %s serves share %q, want %q: a consumer serves one share for good; choose another durable name, or delete the consumer if its share is done",
			there.Durable, is, wanted)
	}
	if there.AckPolicy != want.AckPolicy {
		return nil, fmt.Errorf("consumer %s acknowledges by %s, want %s: a durable name serves either Run or RunTransactions",
			there.Durable, there.AckPolicy, want.AckPolicy)
	}
	now := there
	now.FilterSubject, now.FilterSubjects = "", want.FilterSubjects
	now.AckWait, now.MaxAckPending, now.PinnedTTL = want.AckWait, want.MaxAckPending, want.PinnedTTL
	now.PriorityPolicy, now.PriorityGroups = want.PriorityPolicy, want.PriorityGroups
	if slices.Equal(filtersOf(there), want.FilterSubjects) && there.AckWait == now.AckWait && there.MaxAckPending == now.MaxAckPending &&
		there.PriorityPolicy == now.PriorityPolicy && slices.Equal(there.PriorityGroups, now.PriorityGroups) && there.PinnedTTL == now.PinnedTTL {
		return stream.Consumer(ctx, there.Durable)
	}
	return stream.UpdateConsumer(ctx, now)
}

func filtersOf(c jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return []string{c.FilterSubject}
	}
	return c.FilterSubjects
}
