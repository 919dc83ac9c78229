package project

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/publish"
)

const (
	// keepDeletions is Config.KeepDeletions by default.
	keepDeletions = time.Hour
	// sweeps is how often in such a time it is looked for what is older.
	sweeps = 10
	// sweepSize bounds the deletions that are removed before it is looked again whether
	// the bucket is the same.
	sweepSize = 500
)

// deletion is a message that says that a key is deleted.
type deletion struct {
	subject  string
	sequence uint64 // in the bucket
}

// sweeper removes deletions that have been told long enough. To a reader a key without
// any message is as good as one that was deleted, and what is removed are a key's
// messages up to its deletion, so nothing of what was told of it since.
//
// The bucket's last message, which says how far it is, is never removed. Who lists the
// bucket meanwhile may not be told where the list ends: the server goes on counting what
// was removed. What lists in this program does not rely on it.
type sweeper struct {
	*Projector
	bucket  string     // when it was made: another is looked at from its beginning
	looked  uint64     // everything up to here was looked at
	old     []deletion // to be removed
	failure string     // of the latest try
}

// sweep sweeps until ctx ends. Nothing depends on it: what fails is tried again, and
// logged once.
func (p *Projector) sweep(ctx context.Context) {
	w := sweeper{Projector: p}
	tick := time.NewTicker(p.cfg.KeepDeletions / sweeps)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !p.cfg.Active() {
			continue
		}
		text, err := "", error(nil)
		for more := true; more && err == nil; {
			more, err = w.pass(ctx)
		}
		if err != nil {
			text = err.Error()
		}
		if text != "" && text != w.failure && ctx.Err() == nil {
			p.cfg.Log.Warn("deletions stay in the state bucket; trying again", "bucket", p.cfg.Bucket, "error", text)
		}
		w.failure = text
	}
}

// pass removes some of what is old, and reports whether there may be more.
func (w *sweeper) pass(ctx context.Context) (more bool, err error) {
	bucket, err := w.js.Stream(ctx, "KV_"+w.cfg.Bucket)
	if errors.Is(err, jetstream.ErrStreamNotFound) { // it is made when there is something to keep
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at bucket %s: %w", w.cfg.Bucket, err)
	}
	info := bucket.CachedInfo()
	if info.Config.Metadata[metaStream] != w.cfg.Stream { // another's
		return false, nil
	}
	if made(info) != w.bucket || info.State.LastSeq < w.looked {
		w.bucket, w.looked, w.old = made(info), 0, nil
	}
	if more, err = w.look(ctx, info); err != nil {
		return false, fmt.Errorf("read bucket %s: %w", w.cfg.Bucket, err)
	}
	for ; len(w.old) > 0; w.old = w.old[1:] {
		d := w.old[0]
		if err := bucket.Purge(ctx, jetstream.WithPurgeSubject(d.subject), jetstream.WithPurgeSequence(d.sequence+1)); err != nil {
			return false, fmt.Errorf("remove message %d of bucket %s: %w", d.sequence, w.cfg.Bucket, err)
		}
	}
	return more, nil
}

// look finds deletions that are old, before the bucket's last message, and reports
// whether there may be more.
func (w *sweeper) look(ctx context.Context, info *jetstream.StreamInfo) (more bool, err error) {
	feed, err := publish.OpenFeed(ctx, w.js, publish.FeedConfig{
		Stream: info.Config.Name, Subjects: []string{"$KV." + w.cfg.Bucket + ".*.*"}, From: w.looked + 1, HeadersOnly: true, Window: batchSize,
	})
	if err != nil {
		return false, err
	}
	defer feed.Close()
	young := info.TimeStamp.Add(-w.cfg.KeepDeletions)
	for pending := feed.Pending(); pending > 0; {
		if len(w.old) >= sweepSize {
			return true, nil
		}
		waiting, cancel := context.WithTimeout(ctx, requestTimeout)
		m, meta, err := feed.Next(waiting)
		cancel()
		if err != nil {
			return false, err
		}
		if meta.Sequence.Stream >= info.State.LastSeq || !meta.Timestamp.Before(young) {
			return false, nil
		}
		if m.Headers().Get("KV-Operation") != "" {
			w.old = append(w.old, deletion{m.Subject(), meta.Sequence.Stream})
		}
		w.looked, pending = meta.Sequence.Stream, meta.NumPending
	}
	return false, nil
}
