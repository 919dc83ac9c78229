package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/publish"
)

// reach is of which executions the stream has to tell.
type reach struct {
	all   bool
	since time.Time // of those created behind this; zero: of none because of that
}

func (r *reach) has(created time.Time) bool {
	return r.all || !r.since.IsZero() && created.After(r.since)
}

// clocks is how far the engine's clock may be ahead of the broker's.
const clocks = 5 * time.Minute

// reaches says how far the stream reaches back now. It tells of every execution if it
// holds its first message; or what is gone did not go by its limits, but was purged; or
// it holds all of a backfill of everything. Where none of that is so, an execution that
// it tells nothing of may have been told in what has aged out, unless it was created
// when what is told was kept.
func (v *verifier) reaches(ctx context.Context) (reach, error) {
	if v.cfg.IgnoreMissing {
		return reach{}, nil
	}
	info, err := v.stream.Info(ctx)
	if err != nil {
		return reach{}, fmt.Errorf("look at stream %s: %w", v.cfg.Stream, err)
	}
	if info.State.FirstSeq <= 1 || !forgets(info) {
		return reach{all: true}, nil
	}
	if !v.learned {
		if v.filled, err = v.learn(ctx); err != nil {
			return reach{}, err
		}
		v.learned = true
	}
	return reach{v.filled > 0 && info.State.FirstSeq <= v.filled, keeps(info)}, nil
}

// keeps gives the time from which on a stream has what was told, unless somebody removed
// it: its limits remove the oldest first, and age alone nothing that is younger. A maximum
// age that was raised since makes that a time too early.
func keeps(info *jetstream.StreamInfo) (since time.Time) {
	if info.State.Msgs > 0 {
		since = info.State.FirstTime
	}
	if c := &info.Config; c.MaxAge > 0 && !bounded(c) {
		if aged := info.TimeStamp.Add(-c.MaxAge); since.IsZero() || aged.Before(since) {
			since = aged
		}
	}
	if since.IsZero() {
		return since
	}
	return since.Add(clocks)
}

// bounded reports whether a stream drops its oldest messages for other reasons than age.
func bounded(c *jetstream.StreamConfig) bool {
	return c.Discard == jetstream.DiscardOld && (c.MaxMsgs > 0 || c.MaxBytes > 0)
}

// forgets reports whether a stream's limits may have removed messages. None is older
// than the stream, unless that was restored.
func forgets(info *jetstream.StreamInfo) bool {
	c := &info.Config
	restored := info.State.Msgs > 0 && info.State.FirstTime.Before(info.Created)
	return bounded(c) || c.MaxAge > 0 && (restored || info.TimeStamp.Sub(info.Created) >= c.MaxAge)
}

// learn gives the sequence from which on the stream tells of everything since the latest
// backfill of everything that was completed, 0 when it holds none whose beginning is
// known. The executions of a chunk stand before its progress. Where the stream had newer
// of some, that stands further back, nobody knows where.
func (v *verifier) learn(ctx context.Context) (from uint64, err error) {
	store, err := backfill.Open(ctx, v.js, publish.Bucket(v.cfg.Stream))
	if errors.Is(err, backfill.ErrNoBucket) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	runs, err := store.Wholes(ctx)
	if err != nil || len(runs) == 0 {
		return 0, err
	}
	first := map[string]uint64{}
	for _, run := range runs {
		first[run] = 0
	}
	subject := (&ffstream.Event{Type: ffstream.TypeBackfill}).Subject(v.cfg.Prefix)
	_, err = v.follow(ctx, []string{subject}, 1, func(e *ffstream.Event, sequence uint64) error {
		p := e.Backfill
		if p == nil {
			return nil
		}
		began, whole := first[p.Run]
		if !whole {
			return nil
		}
		if began == 0 && p.Chunks == 1 && p.Superseded == 0 && p.Published < sequence {
			began = sequence - p.Published
			first[p.Run] = began
		}
		if p.Status == ffstream.BackfillCompleted {
			from = max(from, began)
		}
		return nil
	})
	return from, err
}
