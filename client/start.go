package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// Start says where reading begins. The zero value is behind what the stream
// holds when the subscription is opened.
type Start struct {
	kind     startKind
	time     time.Time
	sequence uint64
	after    ffstream.Position
}

type startKind int

const (
	startNew startKind = iota
	startAll
	startTime
	startSequence
	startAfter
)

// All begins with the first event that the stream holds.
func All() Start { return Start{kind: startAll} }

// Since begins with the first event stored at t or later, by the broker's clock.
func Since(t time.Time) Start { return Start{kind: startTime, time: t} }

// Sequence begins with the message of that sequence or the first behind it.
func Sequence(seq uint64) Start { return Start{kind: startSequence, sequence: seq} }

// After begins with the first event behind p: what a program resumes with that
// stored p with its last effect. When the stream no longer reaches back to p,
// the run ends with ErrExpired.
func After(p ffstream.Position) Start { return Start{kind: startAfter, after: p} }

// passed reports whether an event is not behind the position that reading begins
// after: a replica that is behind may have been asked where that is. What is begun
// with a durable consumer is the server's to know.
func (c *Config) passed(d *delivery) bool {
	if c.From.kind != startAfter || c.Durable != "" || d.broken != nil {
		return false
	}
	p := d.Position()
	return !p.IsZero() && p.Compare(c.From.after) <= 0
}

// resolve turns a start into a sequence, 0 when it is a time. A sequence, unlike
// "new", means the same when a consumer must be made again.
func (s Start) resolve(ctx context.Context, stream jetstream.Stream) (uint64, error) {
	switch s.kind {
	case startAll:
		return 1, nil
	case startTime:
		return 0, nil
	case startSequence:
		return max(1, s.sequence), nil
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("read state of stream: %w", err)
	}
	if s.kind == startNew {
		return info.State.LastSeq + 1, nil
	}
	return findAfter(ctx, stream, info.State, s.after)
}

// findAfter searches the first event behind p: positions grow along the stream.
func findAfter(ctx context.Context, stream jetstream.Stream, state jetstream.StreamState, p ffstream.Position) (uint64, error) {
	low, high := max(1, state.FirstSeq), state.LastSeq+1 // the answer is in [low, high]
	first := low
	for low < high {
		middle := low + (high-low)/2
		at, seq, err := positionFrom(ctx, stream, middle)
		if err != nil {
			return 0, err
		}
		switch {
		case seq == 0 || seq >= high: // nothing with a position is left in the upper half
			high = middle
		case at.Compare(p) > 0:
			high = middle
		default:
			low = seq + 1
		}
	}
	if low == first && first > 1 && !p.IsZero() {
		return 0, fmt.Errorf("resume after %s: %w: it begins behind it", p, ErrExpired)
	}
	return low, nil
}

// positionFrom is the position of the first message at seq or behind it that has
// one, and its sequence; 0 when there is none.
func positionFrom(ctx context.Context, stream jetstream.Stream, seq uint64) (ffstream.Position, uint64, error) {
	for {
		m, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(">"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return ffstream.Position{}, 0, nil
		}
		if err != nil {
			return ffstream.Position{}, 0, fmt.Errorf("read message %d: %w", seq, err)
		}
		if p, err := ffstream.ParsePosition(m.Header.Get(ffstream.HeaderPosition)); err == nil {
			return p, m.Sequence, nil
		}
		seq = m.Sequence + 1
	}
}
