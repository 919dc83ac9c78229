package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// The note is one small value beside the stream, in a key-value bucket of its
// own: how far the log was dealt with when nothing but the stream's tail could
// tell otherwise. Every write names the revision that it replaces, so a process
// that has lost the slot cannot overwrite its successor's.
const (
	bucketSuffix = "_notes"
	noteKey      = "note"
	noteReply    = "_note" // the last token of the reply subject, where others have a sequence in base 36
)

// Bucket is the name of the key-value bucket that holds a stream's note.
func Bucket(stream string) string { return stream + bucketSuffix }

// ReadNoteOf reads the note of a stream without opening that, nil when there is none.
func ReadNoteOf(ctx context.Context, nc *nats.Conn, stream string) ([]byte, error) {
	data, _, err := ReadValue(ctx, nc, Bucket(stream), noteKey)
	return data, err
}

func (s *Stream) noteSubject() string { return "$KV." + Bucket(s.cfg.Stream) + "." + noteKey }

// openBucket finds the bucket or creates it. One that is created anew for a
// stream that has a past holds no note, which is for the caller to judge.
func (s *Stream) openBucket(ctx context.Context, replicas int) error {
	_, err := s.js.KeyValue(ctx, Bucket(s.cfg.Stream))
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		_, err = s.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket:      Bucket(s.cfg.Stream),
			Description: "how far ffstream has dealt with the log that feeds stream " + s.cfg.Stream,
			History:     1,
			Storage:     jetstream.FileStorage,
			Replicas:    replicas,
		})
	}
	if err != nil {
		return fmt.Errorf("open bucket %s: %w", Bucket(s.cfg.Stream), classify(err))
	}
	return nil
}

// ReadNote reads the note from its leader, nil when there is none. What is
// written next replaces what was read here.
func (s *Stream) ReadNote(ctx context.Context) ([]byte, error) {
	data, revision, err := ReadValue(ctx, s.nc, Bucket(s.cfg.Stream), noteKey)
	if err != nil {
		return nil, fmt.Errorf("read note of stream %s: %w", s.cfg.Stream, err)
	}
	s.noteRevision = revision
	return data, nil
}

// noteMessage replaces the revision that is known.
func noteMessage(subject string, revision uint64, data []byte) *nats.Msg {
	m := nats.NewMsg(subject)
	m.Data = data
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(revision, 10))
	return m
}

// WriteNote replaces the note that was read last and returns when it is stored.
func (s *Stream) WriteNote(ctx context.Context, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	reply, err := s.nc.RequestMsgWithContext(ctx, noteMessage(s.noteSubject(), s.noteRevision, data))
	if err != nil {
		return fmt.Errorf("write note of stream %s: %w", s.cfg.Stream, classify(err))
	}
	answer, err := parseAck(reply.Data)
	if err != nil {
		return fmt.Errorf("write note of stream %s: %w", s.cfg.Stream, err)
	}
	s.noteRevision = answer.Sequence
	return nil
}

// PublishGap stores the event of an accepted gap behind tail, and returns the
// tail that this makes.
func (s *Stream) PublishGap(ctx context.Context, tail Tail, e *ffstream.Event) (Tail, error) {
	m := nats.NewMsg(e.Subject(s.cfg.Prefix))
	m.Data = e.AppendJSON(nil)
	m.Header.Set(jetstream.MsgIDHeader, e.ID.String())
	m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(tail.Sequence, 10))
	m.Header.Set(ffstream.HeaderPosition, e.ID.Position.String())
	m.Header.Set("Content-Type", ffstream.ContentType)
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	reply, err := s.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return tail, fmt.Errorf("publish gap event: %w", classify(err))
	}
	answer, err := parseAck(reply.Data)
	if err != nil {
		return tail, fmt.Errorf("publish gap event: %w", err)
	}
	if answer.Duplicate || answer.Sequence != tail.Sequence+1 {
		return tail, fmt.Errorf("publish gap event: %w: it was stored as %d, not %d", ErrAmbiguous, answer.Sequence, tail.Sequence+1)
	}
	tail.Sequence, tail.Stored, tail.Gap, tail.Position = answer.Sequence, true, true, e.ID.Position
	return tail, nil
}

// ack is the server's answer to a publish.
type ack struct {
	Error *struct {
		Code        int    `json:"code"`
		ErrCode     int    `json:"err_code"`
		Description string `json:"description"`
	} `json:"error"`
	Sequence  uint64 `json:"seq"`
	Duplicate bool   `json:"duplicate"`
}

func parseAck(data []byte) (ack, error) {
	var a ack
	if err := json.Unmarshal(data, &a); err != nil {
		return a, fmt.Errorf("%w: %w", ErrAmbiguous, err)
	}
	if a.Error != nil {
		return a, classifyCode(a.Error.ErrCode, a.Error.Code, a.Error.Description, ErrAmbiguous)
	}
	return a, nil
}

// Note replaces the note; its answer comes with the others. It must not be
// called while Noting.
func (p *Publisher) Note(data []byte) error {
	m := noteMessage(p.noteSubject, p.noteRevision, data)
	m.Reply = p.inbox + noteReply
	if err := p.nc.PublishMsg(m); err != nil {
		return fmt.Errorf("write note: %w", classify(err))
	}
	p.noting = time.Now()
	return nil
}

// Noting reports whether a note waits for its answer.
func (p *Publisher) Noting() bool { return !p.noting.IsZero() }

// AwaitNote waits for the answer to the note, if one is on its way.
func (p *Publisher) AwaitNote(ctx context.Context) error {
	for p.Noting() {
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publisher) ackNote(data []byte) error {
	answer, err := parseAck(data)
	if err != nil {
		return fmt.Errorf("write note: %w", err)
	}
	p.noteRevision = answer.Sequence
	p.noting = time.Time{}
	return nil
}
