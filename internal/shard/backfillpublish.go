package shard

import (
	"context"
	"time"

	"github.com/ffstream/ffstream"
)

// chunk writes the watermarks around a read, has what it gave published, and
// notes how far the run is then.
func (b *backfiller) chunk(ctx context.Context, read func(context.Context) ([]ffstream.Event, ffstream.Opt[ffstream.ExecutionID], error)) error {
	prefix := WatermarkPrefix(b.shard.cfg.Source.Slot)
	b.number++
	if err := b.cfg.Source.Watermark(ctx, prefix, b.window.watermark(lowWatermark, b.number)); err != nil {
		return err
	}
	c := chunk{number: b.number, at: time.Now().UTC(), progress: b.at}
	var err error
	if c.events, c.progress.After, err = read(ctx); err != nil {
		return err
	}
	c.mark = time.Since(b.mark) >= markInterval
	return b.publish(ctx, c)
}

// publish hands a chunk over, writes its high watermark and waits for what became
// of it.
func (b *backfiller) publish(ctx context.Context, c chunk) error {
	prefix := WatermarkPrefix(b.shard.cfg.Source.Slot)
	b.window.chunks <- c // there is room: what was handed over before is settled
	err := b.cfg.Source.Watermark(ctx, prefix, b.window.watermark(highWatermark, c.number))
	for wait := orderInterval; err != nil; wait = min(2*wait, maxBackfillBackoff) {
		// Whether it was written is not known. Behind another one it is.
		b.fail(ctx, err)
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
		err = b.cfg.Source.Watermark(ctx, prefix, b.window.watermark(voidWatermark, c.number))
	}
	var s stored
	select {
	case s = <-b.window.stored:
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.void {
		return nil // read again
	}
	looked := s.progress.Executions - b.at.Executions
	b.shard.board.update(func(st *Status) {
		st.Backfill.TotalChunks += s.progress.Chunks - b.at.Chunks
		st.Backfill.TotalSuperseded += s.progress.Superseded - b.at.Superseded
	})
	b.at = s.progress
	if s.sequence > 0 {
		b.mark, b.sequence = time.Now(), s.sequence
	}
	b.throttle(time.Now(), looked)
	return nil
}

// note publishes how far the run is, without a chunk.
func (b *backfiller) note(ctx context.Context, status string) error {
	p := b.at
	p.Status = status
	p.Chunks-- // it is no chunk of its own
	b.number++
	if err := b.cfg.Source.Watermark(ctx, WatermarkPrefix(b.shard.cfg.Source.Slot), b.window.watermark(lowWatermark, b.number)); err != nil {
		return err
	}
	return b.publish(ctx, chunk{number: b.number, at: time.Now().UTC(), progress: p, mark: true})
}

// throttle says when the next may be read. What was missed is made up for in the
// second behind it, or never.
func (b *backfiller) throttle(now time.Time, looked uint64) {
	if b.per > 0 {
		b.free = latest(b.free, now.Add(-time.Second)).Add(time.Duration(looked) * time.Second / time.Duration(b.per))
	}
}

func latest(x, y time.Time) time.Time {
	if x.After(y) {
		return x
	}
	return y
}
