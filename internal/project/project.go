// Package project keeps a key-value bucket with the current state of each execution
// that a stream tells of.
//
// # Guarantees
//
// A value is what an event of the stream says, and is never replaced by what an
// earlier event says. The bucket keeps no position of its own: each message in it
// carries how far the stream is taken in, so after a crash the last one tells where to
// go on. Of each execution the bucket has, at any moment, what the stream told up to
// the sequence that its last message carries, or something newer. Writes are chained:
// each names the sequence of the one before and, but for a session's first, its id. So
// of two projectors one fails and none writes what is older, and of what a killed one
// has on its way nothing is stored behind the next one's.
//
// A bucket that is behind the stream's first event, ahead of its last, of another
// stream of the same name, or edited is emptied and built anew from what the stream has; while that lasts it has the key
// ffstream.StateBuilding.
//
// That an execution was purged is told for an hour; then nothing of it is left.
//
// # Not promised
//
// That the bucket has executions of which the stream tells no more: those need a
// backfill. That it is as new as the stream: it follows.
package project

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

// Config says what is projected where.
type Config struct {
	Stream, Prefix string
	Bucket         string
	// Active reports whether this process is the one that publishes; only then it
	// projects. Another's writes would fail, and make this one's fail.
	Active func() bool
	// KeepDeletions is for how long at least a deletion is told before it is removed;
	// 0: an hour.
	KeepDeletions time.Duration
	Log           *slog.Logger
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
	// lostLooks is at how many looks, an idle time apart, an event may be missed.
	lostLooks  = 4
	maxBackoff = 15 * time.Second
)

// What a caller may ask about an error.
var (
	// ErrBucket says that the bucket is none that a projector could keep.
	ErrBucket = errors.New("state bucket cannot be kept")
	errMoved  = errors.New("another writer was in the bucket")
	errSilent = errors.New("an event that it has does not come")
)

// Metadata of a bucket.
const metaStream = "ffstream.stream"

// Headers of each message in a bucket, beside ffstream.HeaderSequence: the rest of its
// mark, and when the stream was made. By that and the event's id, which is empty where
// there is none, another stream of the same name is known.
const (
	headerResume  = "Ffstream-Resume"
	headerUntil   = "Ffstream-Until"
	headerEvent   = "Ffstream-Event"
	headerCreated = "Ffstream-Stream-Created"
)

// positionKey takes the place of an execution where a message tells of none.
const positionKey = "_position"

// New returns a projector over nc, which is the caller's. It starts nothing.
func New(nc *nats.Conn, cfg Config) (*Projector, error) {
	if cfg.KeepDeletions == 0 {
		cfg.KeepDeletions = keepDeletions
	}
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
	var sweeping sync.WaitGroup
	sweeping.Go(func() { p.sweep(ctx) })
	defer sweeping.Wait()
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

// fail shows what went wrong; one line is logged a change. A bucket that another has
// written into is no news: it is looked at again.
func (p *Projector) fail(err error) {
	text := err.Error()
	p.update(func(s *Status) {
		if s.Error != text && !errors.Is(err, errMoved) {
			p.cfg.Log.Warn("the state bucket is not kept; trying again", "bucket", p.cfg.Bucket, "error", text)
		}
		s.Error = text
	})
}

// mark is how far the stream is taken in, as each message in the bucket says.
type mark struct {
	// complete: the bucket has everything up to here, or has something newer.
	complete uint64
	sequence uint64 // the projection goes on behind it
	event    string // at sequence
	// until is where a batch ends of which a part may be stored: what goes on behind
	// sequence is complete when it has taken in so much.
	until uint64
}

// session is one life of the projection. It ends without an error when the
// process is no longer the active one.
type session struct {
	*Projector
	kv       string // subject of the bucket, with a dot
	created  string // when the stream was made
	nonce    string // begins the ids of what this session writes
	found    uint64 // sequence of the bucket's last message when the session began
	last     uint64 // and now
	at       mark
	seen     uint64 // in the stream, read
	latest   string // event at seen
	building uint64 // built when the stream is taken in up to here; 0: it is
	missed   int    // looks, one behind the other, at which the stream had more than was read
	source   jetstream.Stream
	feed     *publish.Feed
	replies  chan *nats.Msg
	inbox    string
}

func (p *Projector) session(ctx context.Context) error {
	stream, err := p.js.Stream(ctx, p.cfg.Stream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", p.cfg.Stream, err)
	}
	s := &session{Projector: p, kv: "$KV." + p.cfg.Bucket + ".", created: made(stream.CachedInfo()), nonce: uuid.NewString(), source: stream}
	if err := s.open(ctx, stream); err != nil {
		return err
	}
	s.replies, s.inbox = make(chan *nats.Msg, batchSize+1), p.nc.NewRespInbox()+"."
	sub, err := p.nc.ChanSubscribe(s.inbox+"*", s.replies)
	if err != nil {
		return fmt.Errorf("subscribe to answers: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // a connection that is closed has none
	s.feed, err = publish.OpenFeed(ctx, p.js, publish.FeedConfig{Stream: p.cfg.Stream, From: s.at.sequence + 1, Window: batchSize})
	if err != nil {
		return fmt.Errorf("read stream %s: %w", p.cfg.Stream, err)
	}
	defer s.feed.Close()
	if s.building > 0 {
		if err := s.whole(ctx); err != nil {
			return err
		}
	}
	p.update(func(st *Status) { st.Error, st.Sequence, st.Building = "", s.at.complete, s.building > 0 })
	return s.follow(ctx)
}

// whole asks the stream's leader for its last event: a replica that is behind has no
// more to give either. The bucket is built where it has all that there is: of a stream
// that holds nothing, or whose end was removed, no event says it. An event that does not
// come, though look after look the stream has it, is lost on the way, and the feed may be.
func (s *session) whole(ctx context.Context) error {
	last, err := publish.Last(ctx, s.nc, s.cfg.Stream, s.cfg.Prefix+".>")
	if err != nil {
		return err
	}
	if s.missed++; last <= s.at.sequence {
		s.missed = 0
	}
	switch {
	case s.missed >= lostLooks:
		return fmt.Errorf("read stream %s: %w", s.cfg.Stream, errSilent)
	case s.at.complete >= last:
		return s.built(ctx)
	}
	return nil
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
	s.head(m, &s.at, s.last)
	reply, err := s.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, err)
	}
	return s.ack(reply.Data, s.last+1)
}

// head says what a message tells of, and behind which it is to stand. The sequence
// alone would not do: of what a session that ended has on its way, a later message
// would fit behind the first of the next session, in the place of one that was refused.
func (s *session) head(m *nats.Msg, at *mark, behind uint64) {
	m.Header.Set(ffstream.HeaderSequence, strconv.FormatUint(at.complete, 10))
	m.Header.Set(headerResume, strconv.FormatUint(at.sequence, 10))
	m.Header.Set(headerUntil, strconv.FormatUint(at.until, 10))
	m.Header.Set(headerEvent, at.event)
	m.Header.Set(headerCreated, s.created)
	m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(behind, 10))
	m.Header.Set(jetstream.MsgIDHeader, s.id(behind+1))
	if behind > s.found {
		m.Header.Set(jetstream.ExpectedLastMsgIDHeader, s.id(behind))
	}
}

// id is the id of the bucket's n-th message, if this session writes it.
func (s *session) id(n uint64) string { return s.nonce + "-" + strconv.FormatUint(n, 10) }

// wrongLastMsgID is nats-server's JSStreamWrongLastMsgIDErrF.
const wrongLastMsgID jetstream.ErrorCode = 10070

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
	case answer.Error != nil && (answer.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || answer.Error.ErrorCode == wrongLastMsgID):
		return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, errMoved)
	case answer.Error != nil:
		return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, answer.Error)
	case answer.Sequence != want:
		return fmt.Errorf("write into bucket %s: %w", s.cfg.Bucket, errMoved)
	}
	s.last = answer.Sequence
	return nil
}

// follow takes in the stream.
func (s *session) follow(ctx context.Context) error {
	batch := map[string]pending{}
	for {
		wait := idle
		if len(batch) > 0 {
			wait = linger
		}
		m, meta, err := s.next(ctx, wait)
		if err != nil {
			return err
		}
		flush := m == nil
		if m != nil {
			if flush, err = s.take(ctx, m, meta, batch); err != nil {
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
		case m == nil && wait == idle:
			if err := s.look(ctx); err != nil {
				return err
			}
		}
	}
}

// look checks, while nothing happens, that the bucket is as it was left, that the stream
// is the same and has no more, and whether the bucket is built.
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
	info, err := s.source.Info(ctx)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		return fmt.Errorf("look at stream %s: %w", s.cfg.Stream, err)
	case made(info) != s.created:
		return fmt.Errorf("look at stream %s: it was made anew, at %s", s.cfg.Stream, made(info))
	case info.State.LastSeq > s.at.sequence || s.building > 0:
		return s.whole(ctx)
	}
	s.missed = 0
	return nil
}

// made is when a stream was made.
func made(info *jetstream.StreamInfo) string { return info.Created.UTC().Format(time.RFC3339Nano) }

// next waits for a message; nil: none came.
func (s *session) next(ctx context.Context, wait time.Duration) (jetstream.Msg, *jetstream.MsgMetadata, error) {
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	m, meta, err := s.feed.Next(waiting)
	switch {
	case err == nil:
		s.missed = 0
		return m, meta, nil
	case errors.Is(err, waiting.Err()):
		return nil, nil, nil
	}
	return nil, nil, fmt.Errorf("read stream %s: %w", s.cfg.Stream, err)
}
