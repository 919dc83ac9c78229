package verify

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/publish"
)

// tellsAll reports whether the stream, as far as it reaches back now, tells of every
// execution: it holds its first message; or what is gone did not go by its limits,
// but was purged; or it holds all of a backfill of everything. Where none of that is
// so, an execution that it tells nothing of may have been told in what has aged out,
// and nothing in its row says when that was.
func (v *verifier) tellsAll(ctx context.Context) (bool, error) {
	if v.cfg.IgnoreMissing {
		return false, nil
	}
	info, err := v.stream.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("look at stream %s: %w", v.cfg.Stream, err)
	}
	if info.State.FirstSeq <= 1 || !forgets(info) {
		return true, nil
	}
	if !v.learned {
		if v.filled, err = v.learn(ctx); err != nil {
			return false, err
		}
		v.learned = true
	}
	return v.filled > 0 && info.State.FirstSeq <= v.filled, nil
}

// forgets reports whether a stream's limits may have removed messages. None is older
// than the stream, unless that was restored.
func forgets(info *jetstream.StreamInfo) bool {
	c := &info.Config
	if c.Discard == jetstream.DiscardOld && (c.MaxMsgs > 0 || c.MaxBytes > 0) {
		return true
	}
	restored := info.State.Msgs > 0 && info.State.FirstTime.Before(info.Created)
	return c.MaxAge > 0 && (restored || info.TimeStamp.Sub(info.Created) >= c.MaxAge)
}

// learn gives the sequence from which on the stream tells of everything since the
// latest backfill did, 0 when that was not of everything or is not over. The
// executions of a chunk stand before its progress. Where the stream had newer of some,
// that stands further back, nobody knows where.
func (v *verifier) learn(ctx context.Context) (from uint64, err error) {
	store, err := backfill.Open(ctx, v.js, publish.Bucket(v.cfg.Stream))
	if errors.Is(err, backfill.ErrNoBucket) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	order, _, found, err := store.Current(ctx)
	f := &order.Filter
	if err != nil || !found || order.Lists > 0 || len(f.Lanes)+len(f.Namespaces)+len(f.States)+len(f.Partitions) > 0 || !f.Since.IsZero() {
		return 0, err
	}
	first, completed := uint64(0), false
	subject := (&ffstream.Event{Type: ffstream.TypeBackfill}).Subject(v.cfg.Prefix)
	_, err = v.follow(ctx, []string{subject}, 1, func(e *ffstream.Event, sequence uint64) error {
		p := e.Backfill
		if p == nil || p.Run != order.Run {
			return nil
		}
		if first == 0 && p.Chunks == 1 && p.Superseded == 0 && p.Published < sequence {
			first = sequence - p.Published
		}
		completed = p.Status == ffstream.BackfillCompleted
		return nil
	})
	if err != nil || !completed {
		return 0, err
	}
	return first, nil
}
