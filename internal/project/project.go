// Package project keeps a key-value bucket with the current state of each execution
// that a stream tells of.
//
// # Guarantees
//
// A value is what an event of the stream says, and is never replaced by what an
// earlier event says. The bucket keeps no position of its own: each message in it
// carries the sequence up to which the stream is taken in, so after a crash the
// last one tells where to go on. Writes are chained, each names the sequence of the
// one before, so of two projectors one fails and none writes what is older.
//
// A bucket that is behind the stream's first event, ahead of its last, of another
// stream of the same name, or edited is emptied and built anew from what the stream has; while that lasts it has the key
// ffstream.StateBuilding.
//
// # Not promised
//
// That the bucket has executions of which the stream tells no more: those need a
// backfill. That it is as new as the stream: it follows.
package project

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// Config says what is projected where.
type Config struct {
	Stream, Prefix string
	Bucket         string
	// Active reports whether this process is the one that publishes; only then it
	// projects. Another's writes would fail, and make this one's fail.
	Active func() bool
	Log    *slog.Logger
}

// Status is a projector at one moment.
type Status struct {
	Bucket   string
	Sequence uint64 // in the stream, up to which the bucket has everything
	Written  uint64 // values and deletions, since the process began
	Building bool
	Error    string // of the latest try; empty while all is well
}

// Projector keeps one bucket. Run does the work; Status may be called meanwhile.
type Projector struct {
	cfg Config
	nc  *nats.Conn
	js  jetstream.JetStream

	mu     sync.Mutex // guards status
	status Status
}

const (
	// batchSize bounds the events that are taken in together.
	batchSize = 512
	// linger is how long more events are waited for.
	linger         = 20 * time.Millisecond
	requestTimeout = 5 * time.Second
	idle           = 500 * time.Millisecond
	maxBackoff     = 15 * time.Second
)

// What a caller may ask about an error.
var (
	// ErrBucket says that the bucket is none that a projector could keep.
	ErrBucket = errors.New("state bucket cannot be kept")
	errMoved  = errors.New("another writer was in the bucket")
)

// Metadata of a bucket.
const metaStream = "ffstream.stream"

// Headers of each message in a bucket, beside ffstream.HeaderSequence: the id of the
// event at that sequence, empty where there is none, and when the stream was made.
// By these another stream of the same name is known.
const (
	headerEvent   = "Ffstream-Event"
	headerCreated = "Ffstream-Stream-Created"
)

// positionKey takes the place of an execution where a message tells of none.
const positionKey = "_position"

// New returns a projector over nc, which is the caller's. It starts nothing.
func New(nc *nats.Conn, cfg Config) (*Projector, error) {
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return &Projector{cfg: cfg, nc: nc, js: js, status: Status{Bucket: cfg.Bucket}}, nil
}

// Status returns what the projector is doing.
func (p *Projector) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *Projector) update(f func(s *Status)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.status)
}

// Run projects until ctx ends. It tries again for ever: nothing that is published
// depends on it. One line is logged a change.
func (p *Projector) Run(ctx context.Context) {
	delay := backoff.NewExponentialBackOff()
	delay.MaxInterval = maxBackoff
	for ctx.Err() == nil {
		wait := idle
		if p.cfg.Active() {
			before := p.Status().Written
			err := p.session(ctx)
			if p.Status().Written > before {
				delay.Reset()
			}
			if ctx.Err() == nil && err != nil {
				wait = delay.NextBackOff()
				p.fail(err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (p *Projector) fail(err error) {
	text := err.Error()
	p.update(func(s *Status) {
		if s.Error == "" && !errors.Is(err, errMoved) {
			p.cfg.Log.Warn("the state bucket is not kept; trying again", "bucket", p.cfg.Bucket, "error", text)
		}
		s.Error = text
	})
}

// session is one life of the projection. It ends without an error when the
// process is no longer the active one.
type session struct {
	*Projector
	kv       string // subject of the bucket, with a dot
	created  string // when the stream was made
	last     uint64 // sequence of the bucket's last message
	sequence uint64 // in the stream, taken in
	event    string // at sequence
	seen     uint64 // in the stream, read
	latest   string // event at seen
	building uint64 // built when the stream is taken in up to here; 0: it is
	replies  chan *nats.Msg
	inbox    string
}

func (p *Projector) session(ctx context.Context) error {
	stream, err := p.js.Stream(ctx, p.cfg.Stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", p.cfg.Stream, err)
	}
	s := &session{Projector: p, kv: "$KV." + p.cfg.Bucket + ".", created: stream.CachedInfo().Created.UTC().Format(time.RFC3339Nano)}
	if err := s.open(ctx, stream); err != nil {
		return err
	}
	s.replies, s.inbox = make(chan *nats.Msg, batchSize+1), p.nc.NewRespInbox()+"."
	sub, err := p.nc.ChanSubscribe(s.inbox+"*", s.replies)
	if err != nil {
		return fmt.Errorf("subscribe to answers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // a connection that is closed has none
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: s.sequence + 1})
	if err != nil {
		return fmt.Errorf("read stream %s: %w", p.cfg.Stream, err)
	}
	if consumer.CachedInfo().NumPending == 0 {
		if err := s.built(ctx); err != nil {
			return err
		}
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(batchSize))
	if err != nil {
		return fmt.Errorf("read stream %s: %w", p.cfg.Stream, err)
	}
	defer messages.Stop()
	p.update(func(st *Status) { st.Error, st.Sequence, st.Building = "", s.sequence, s.building > 0 })
	return s.follow(ctx, messages)
}

// built says that the bucket has everything that the stream had when it was begun.
func (s *session) built(ctx context.Context) error {
	if s.building == 0 {
		return nil
	}
	m := nats.NewMsg(s.kv + ffstream.StateBuilding)
	m.Header.Set("KV-Operation", "DEL")
	if err := s.write(ctx, m); err != nil {
		return err
	}
	s.building = 0
	s.update(func(st *Status) { st.Building = false })
	return nil
}

// write stores one message behind the last, which tells of no event.
func (s *session) write(ctx context.Context, m *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s.head(m, s.sequence, s.event, s.last)
	reply, err := s.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, err)
	}
	return s.ack(reply.Data, s.last+1)
}

func (s *session) head(m *nats.Msg, sequence uint64, event string, behind uint64) {
	m.Header.Set(ffstream.HeaderSequence, strconv.FormatUint(sequence, 10))
	m.Header.Set(headerEvent, event)
	m.Header.Set(headerCreated, s.created)
	m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(behind, 10))
}

// ack takes the answer to the message that was to become the bucket's want-th.
func (s *session) ack(data []byte, want uint64) error {
	var answer struct {
		Error    *jetstream.APIError `json:"error"`
		Sequence uint64              `json:"seq"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, errMoved)
	case answer.Error != nil:
		return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, answer.Error)
	case answer.Sequence != want:
		return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, errMoved)
	}
	s.last = answer.Sequence
	return nil
}

// pending is what a batch of events leaves to be written of one execution.
type pending struct {
	key      string
	value    []byte // nil: the execution is purged
	position string
	sequence uint64
	event    string // at sequence
}

// follow takes in the stream.
func (s *session) follow(ctx context.Context, messages jetstream.MessagesContext) error {
	batch := map[string]pending{}
	for {
		wait := idle
		if len(batch) > 0 {
			wait = linger
		}
		m, err := s.next(ctx, messages, wait)
		if err != nil {
			return err
		}
		flush := m == nil
		if m != nil {
			if flush, err = s.take(ctx, m, batch); err != nil {
				return err
			}
		}
		if flush || len(batch) >= batchSize {
			if err := s.flush(ctx, batch); err != nil {
				return err
			}
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case m == nil && !s.cfg.Active():
			return nil
		case m == nil:
			if err := s.look(ctx); err != nil {
				return err
			}
		}
	}
}

// look checks, while nothing happens, that the bucket is as it was left.
func (s *session) look(ctx context.Context) error {
	bucket, err := s.js.Stream(ctx, "KV_"+s.cfg.Bucket)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at bucket %s: %w", s.cfg.Bucket, err)
	}
	if last := bucket.CachedInfo().State.LastSeq; last != s.last {
		return fmt.Errorf("look at bucket %s: %w: it ends with message %d, not %d", s.cfg.Bucket, errMoved, last, s.last)
	}
	return nil
}

// next waits for a message; nil: none came.
func (s *session) next(ctx context.Context, messages jetstream.MessagesContext, wait time.Duration) (jetstream.Msg, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	m, err := messages.Next(jetstream.NextContext(waiting))
	switch {
	case err == nil:
		return m, nil
	case waiting.Err() != nil:
		return nil, nil
	}
	return nil, fmt.Errorf("read stream %s: %w", s.cfg.Stream, err)
}

// take adds an event to the batch, and reports whether that is to be written now:
// at the end of the stream.
func (s *session) take(ctx context.Context, m jetstream.Msg, batch map[string]pending) (flush bool, err error) {
	meta, err := m.Metadata()
	if err != nil {
		return false, fmt.Errorf("read stream %s: %w", s.cfg.Stream, err)
	}
	e, err := ffstream.ParseEvent(m.Data())
	if err != nil {
		return false, fmt.Errorf("read message %d of stream %s: %w", meta.Sequence.Stream, s.cfg.Stream, err)
	}
	if e.Type == ffstream.TypeTruncated { // it is not read before all it says is stored: a crash begins with it again
		if err := s.flush(ctx, batch); err != nil {
			return false, err
		}
		if err := s.truncate(ctx); err != nil {
			return false, err
		}
	}
	s.seen, s.latest = meta.Sequence.Stream, e.ID.String()
	if e.ExecutionID.IsZero() {
		return e.Type == ffstream.TypeTruncated || meta.NumPending == 0, nil
	}
	p, err := value(&e, meta.Sequence.Stream)
	if err != nil {
		return false, err
	}
	batch[p.key] = p
	return meta.NumPending == 0, nil
}

func value(e *ffstream.Event, sequence uint64) (pending, error) {
	p := pending{key: ffstream.StateKey(e.ExecutionID), position: e.ID.Position.String(), sequence: sequence, event: e.ID.String()}
	if e.To == ffstream.StatePurged {
		return p, nil
	}
	s := ffstream.CurrentState{
		ExecutionID: e.ExecutionID, State: e.To, Position: e.ID.Position, Sequence: sequence, EventID: p.event, Time: e.Time,
		Namespace: e.Namespace, LaneID: e.LaneID, Snapshot: e.Snapshot != nil,
	}
	if e.Type == ffstream.TypeCorrupt {
		s.State, s.Corrupt = "", e.Corrupt.Column
	}
	var err error
	p.value, err = json.Marshal(s)
	return p, err
}

// flush writes a batch and empties it. The values stand in the order of their
// events, so whatever part of them is stored, going on behind the last one's event
// meets the events of all others again.
func (s *session) flush(ctx context.Context, batch map[string]pending) error {
	if len(batch) > 0 || s.seen > s.sequence {
		all := make([]pending, 0, len(batch)+1)
		for _, p := range batch {
			all = append(all, p)
		}
		slices.SortFunc(all, func(a, b pending) int { return cmp.Compare(a.sequence, b.sequence) })
		if len(all) == 0 || all[len(all)-1].sequence < s.seen { // what was read last told of no execution
			all = append(all, pending{key: positionKey, value: []byte(`{}`), sequence: s.seen, event: s.latest})
		}
		if err := s.store(ctx, all); err != nil {
			return err
		}
		clear(batch)
		s.sequence, s.event = all[len(all)-1].sequence, all[len(all)-1].event
		s.update(func(st *Status) { st.Sequence, st.Written = s.sequence, st.Written+uint64(len(all)) })
	}
	if s.building > 0 && s.sequence >= s.building {
		return s.built(ctx)
	}
	return nil
}

// store writes values, chained, and waits for all answers.
func (s *session) store(ctx context.Context, all []pending) error {
	first := s.last
	for i := range all {
		m := nats.NewMsg(s.kv + all[i].key)
		if m.Data = all[i].value; m.Data == nil {
			m.Header.Set("KV-Operation", "DEL")
		}
		m.Header.Set(ffstream.HeaderPosition, all[i].position)
		s.head(m, all[i].sequence, all[i].event, first+uint64(i))
		m.Reply = s.inbox + strconv.Itoa(i)
		if err := s.nc.PublishMsg(m); err != nil {
			return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, err)
		}
	}
	timeout := time.NewTimer(requestTimeout)
	defer timeout.Stop()
	for range all {
		select {
		case m := <-s.replies:
			if m.Header.Get("Status") == "503" {
				return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, nats.ErrNoResponders)
			}
			i, err := strconv.Atoi(strings.TrimPrefix(m.Subject, s.inbox))
			if err != nil {
				return fmt.Errorf("write into bucket %s: answer to %s: %w", s.cfg.Bucket, m.Subject, err)
			}
			if err := s.ack(m.Data, first+uint64(i)+1); err != nil {
				return err
			}
		case <-timeout.C:
			return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, nats.ErrTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.last = first + uint64(len(all))
	return nil
}

// truncate deletes every key. The deletions carry the sequence of what stands before
// the TRUNCATE, whose own is written behind them.
func (s *session) truncate(ctx context.Context) error {
	kv, err := s.js.KeyValue(ctx, s.cfg.Bucket)
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", s.cfg.Bucket, err)
	}
	watcher, err := kv.WatchAll(ctx, jetstream.MetaOnly())
	if err != nil {
		return fmt.Errorf("list bucket %s: %w", s.cfg.Bucket, err)
	}
	defer func() { _ = watcher.Stop() }()
	var some []pending
	drop := func() error {
		if len(some) == 0 {
			return nil
		}
		err := s.store(ctx, some)
		some = some[:0]
		return err
	}
	from, whole := s.last, s.last == 0
	for entry := range watcher.Updates() {
		if entry == nil {
			break
		}
		whole = whole || entry.Revision() == from
		if entry.Operation() != jetstream.KeyValuePut || strings.HasPrefix(entry.Key(), "_") {
			continue
		}
		some = append(some, pending{key: entry.Key(), sequence: s.sequence, event: s.event})
		if len(some) == batchSize {
			if err := drop(); err != nil {
				return err
			}
		}
	}
	if !whole { // the replica that lists lacks what was written last
		return fmt.Errorf("list bucket %s: message %d is not among its keys: %w", s.cfg.Bucket, from, errMoved)
	}
	return drop()
}
