package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// DefaultStream is the stream's name unless ffstream run was told another.
const DefaultStream = "FFSTREAM"

// What a caller may ask about an error.
var (
	// ErrPoison marks an event that no further try can handle. A handler returns
	// it, or an error that wraps it, to have the event given to Config.Poison.
	ErrPoison = errors.New("event cannot be handled")
	// ErrExpired: the stream no longer reaches back to where it should be read
	// from. What was missed must be read from the database.
	ErrExpired = errors.New("stream no longer reaches back to the position")
	// ErrPurged: the execution's row was deleted.
	ErrPurged = errors.New("execution was purged")
	// ErrStreamGone: someone deleted the stream while it was read. What was missed
	// must be read from the database.
	ErrStreamGone = errors.New("stream is gone")
	// ErrConsumerGone: someone deleted the durable consumer.
	ErrConsumerGone = errors.New("consumer is gone")
)

// Message is an event with the message that carried it.
type Message struct {
	ffstream.Event
	Subject  string
	Sequence uint64 // in the stream, from 1
	Try      int    // of the handler in this run, from 1
	Body     []byte // as stored; not to be changed
}

// Config says what to subscribe to and how. The zero value is every event from
// now on, by a consumer that the server forgets.
type Config struct {
	Stream string // default DefaultStream
	Prefix string // of subjects; default ffstream.DefaultSubjectPrefix

	// Durable is the name of a consumer that the server keeps: its next run goes
	// on where this one ended, and From means something for the first run only.
	// The processes of one name want the same Filter, Snapshots and Control. The
	// consumer of a Share has the share in its name: "billing-0of2".
	// Empty: the consumer goes when the run ends.
	Durable string
	// Ordered reads without acknowledgements and handles one event at a time, in
	// the order of the stream; every run begins at From. Durable must be empty.
	Ordered bool
	// UntilEnd ends an Ordered run when there is no more.
	UntilEnd bool
	From     Start
	Filter   Filter
	Share    Share

	// Workers is how many handlers run at a time. Default 16. An execution
	// occupies one at most, and none while it waits for its next try.
	Workers int
	// MaxPending bounds the events that are received and not acknowledged, and so
	// the memory of a run. Default 1024, at least 2; RunTransactions takes 2000 at
	// least.
	MaxPending int
	// AckWait is after how long without a sign the server gives an event to the
	// next. Default 30 s, at least 100 ms. Handlers may take longer: the signs are sent for them.
	AckWait time.Duration
	// Timeout bounds one try by its context. Default: none.
	Timeout time.Duration
	// Drain is how long a run that was told to stop, or whose consumer is gone, waits
	// for its handlers before it cancels their context. Default 10 s. For as long at
	// most, though 5 s at least, it then waits for the broker to hear what was not
	// handled, and to let another process begin.
	Drain time.Duration
	// RetryMin and RetryMax bound the delay before another try, which doubles from
	// the one to the other. Defaults 100 ms and 1 min.
	RetryMin, RetryMax time.Duration
	// Tries is after how many an event is poison. 0: never.
	Tries int

	// Retrying is told of each try that failed and is not the last: the event with
	// the number of the try, the error (a *PanicError when the handler panicked), and
	// after how long the next one begins, unless the run ends before. It is called by
	// the worker that tried, and for each event of a transaction; it should return at
	// once, and may be called by several workers at a time. One that panics ends the
	// run. Nil: nobody is told.
	Retrying func(m *Message, cause error, after time.Duration)
	// Waiting is told once in each outage that the run waits for an answer of the
	// broker, and why, when it has waited a second or for as long as a request may
	// take. It should return at once. One that panics ends the run. Nil: nobody is
	// told.
	Waiting func(cause error)
	// Poison is given what cannot be handled: a message that is no event, an
	// event whose handler returned ErrPoison, one that had its Tries. When it
	// returns nil the message is terminated and never comes again. An error, and
	// a nil Poison, end the run; nothing is dropped unseen.
	Poison func(ctx context.Context, m *Message, cause error) error
	// Snapshots is the handler of what a backfill tells of executions that exist:
	// their states, subject to Filter, in their places among the transitions of
	// the same executions. Nil: they are passed over.
	Snapshots Handler
	// Control is the handler of events that are neither.
	Control Handler
}

// Handler handles one event. It must return soon after its context ends.
type Handler func(ctx context.Context, m *Message) error

// Share is one of several equal parts of the partitions. The zero value is all.
// Each share of a durable name has a consumer of its own, and so has each share
// when Of changes: those begin at Config.From, which then must not be behind what
// the old ones have left. Delete the old ones when their share is done.
type Share struct {
	Index, Of  uint16 // 0 <= Index < Of
	Partitions uint16 // of the engine; default ffstream.Partitions
}

// shareKey is where a consumer's metadata names its share.
const shareKey = "ffstream.share"

// String is the share as metadata and errors name it; empty: all partitions.
func (s Share) String() string {
	if s.Of == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d, partitions %d", s.Index, s.Of, s.Partitions)
}

// durable is the name of the consumer, empty when the server is to forget it.
func (c *Config) durable() string {
	if c.Durable == "" || c.Share.Of == 0 {
		return c.Durable
	}
	return fmt.Sprintf("%s-%dof%d", c.Durable, c.Share.Index, c.Share.Of)
}

func (s Share) partitions() []uint16 {
	var list []uint16
	for p := uint32(s.Index); p < uint32(s.Partitions); p += uint32(s.Of) {
		list = append(list, uint16(p))
	}
	return list
}

// Subscriber gives events to handlers. It holds nothing but its configuration
// and may be run any number of times, one after the other when it is durable.
type Subscriber struct {
	js  jetstream.JetStream
	cfg Config
}

// New checks cfg. It starts nothing and touches no network. The connection of
// js stays the caller's; give it nats.MaxReconnects(-1) to outlive outages.
func New(js jetstream.JetStream, cfg Config) (*Subscriber, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("subscribe: %w", err)
	}
	return &Subscriber{js: js, cfg: cfg}, nil
}

func (c Config) withDefaults() Config {
	orDefault(&c.Stream, DefaultStream)
	orDefault(&c.Prefix, ffstream.DefaultSubjectPrefix)
	orDefault(&c.Workers, 16)
	orDefault(&c.MaxPending, 1024)
	orDefault(&c.AckWait, 30*time.Second)
	orDefault(&c.Drain, 10*time.Second)
	orDefault(&c.RetryMin, 100*time.Millisecond)
	orDefault(&c.RetryMax, max(time.Minute, c.RetryMin))
	if c.Share.Of > 0 {
		orDefault(&c.Share.Partitions, ffstream.Partitions)
	}
	return c
}

func orDefault[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

func (c *Config) check() error {
	switch {
	case c.Ordered && c.Durable != "":
		return errors.New("an ordered subscription cannot be durable")
	case c.UntilEnd && !c.Ordered:
		return errors.New("UntilEnd needs Ordered")
	case c.Workers < 1 || c.MaxPending < 2 || c.Tries < 0:
		return fmt.Errorf("workers %d, max pending %d, tries %d: want at least 1, 2 and 0", c.Workers, c.MaxPending, c.Tries)
	case c.AckWait < 100*time.Millisecond || c.RetryMin < 0 || c.RetryMax < c.RetryMin:
		return fmt.Errorf("ack wait %s, retry %s to %s: want at least 100ms, and a range", c.AckWait, c.RetryMin, c.RetryMax)
	case c.Share.Of > 0 && (c.Share.Index >= c.Share.Of || len(c.Filter.Partitions) > 0):
		return fmt.Errorf("share %d of %d: want an index below it, and no partitions in the filter", c.Share.Index, c.Share.Of)
	}
	return nil
}

// filter is the filter with the share in it.
func (c *Config) filter() Filter {
	f := c.Filter
	if c.Share.Of > 0 {
		f.Partitions = c.Share.partitions()
	}
	return f
}

// delay is what to wait after the given number of failed tries.
func (c *Config) delay(tries int) time.Duration {
	d := c.RetryMin
	for ; tries > 1 && d < c.RetryMax; tries-- {
		d *= 2
	}
	return min(d, c.RetryMax)
}
