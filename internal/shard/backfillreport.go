package shard

import (
	"context"
	"fmt"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
)

// waiting tells of transactions that are waited for, which may be for long, and
// ends that when the run is to be held or ended.
func (b *backfiller) waiting(ctx context.Context) func(xids []int64) error {
	run := b.order.Run
	return func(xids []int64) error {
		if len(xids) > 0 {
			return b.heed(ctx, run, backfill.Waiting, fmt.Sprintf("transactions that are changing executions: %v", xids))
		}
		return b.heed(ctx, run, backfill.Running, "")
	}
}

// heed tells what a run is doing in the midst of a chunk, and says with errWish that
// something else comes first: it is to be held or ended, or has to be noted again.
func (b *backfiller) heed(ctx context.Context, run string, state backfill.State, waiting string) error {
	_ = b.tell(ctx, state, waiting) // the next report says it again
	if err := b.look(ctx); err == nil && (b.order.Run != run || b.order.Wish != backfill.Run) || b.fading() {
		return errWish
	}
	return nil
}

// tell reports how far the run is, at once when its state changed and about once
// a second otherwise.
func (b *backfiller) tell(ctx context.Context, state backfill.State, waiting string) error {
	now := time.Now().UTC()
	r := &b.report
	if r.State == state && r.Waiting == waiting && now.Sub(r.Updated) < orderInterval {
		return nil
	}
	r.State, r.Waiting, r.Updated = state, waiting, now
	r.After, r.Chunks, r.Executions, r.Published, r.Superseded = text(b.at.After), b.at.Chunks, b.at.Executions, b.at.Published, b.at.Superseded
	r.Rate = b.pace.rate(now, b.at.Executions)
	b.show()
	return b.store.Report(ctx, &b.order, r)
}

func (b *backfiller) show() {
	r := b.report
	b.shard.board.update(func(st *Status) { st.Backfill.Report = r })
}

// fail shows what went wrong; one line is logged a change.
func (b *backfiller) fail(ctx context.Context, err error) {
	text := b.shard.cfg.Sink.Explain(err).Error()
	if b.report.Error != text {
		b.shard.cfg.Log.Warn("backfill: trying again", "run", b.order.Run, "error", text)
	}
	b.report.Error = text
	b.show()
	if b.store != nil && b.order.Run != "" {
		_ = b.store.Report(ctx, &b.order, &b.report) // it is the failure that matters
	}
}

func (b *backfiller) succeed() {
	if b.report.Error != "" {
		b.report.Error = ""
		b.show()
	}
}

func text(id ffstream.Opt[ffstream.ExecutionID]) string {
	if !id.OK {
		return ""
	}
	return id.V.String()
}

// pacer is the rate of late.
type pacer struct {
	at         time.Time
	executions uint64
	per        float64
}

// rateSpan is the least time that a rate is taken over.
const rateSpan = 2 * time.Second

func (p *pacer) rate(now time.Time, executions uint64) float64 {
	passed := now.Sub(p.at)
	if passed < rateSpan {
		return p.per
	}
	p.per = float64(executions-p.executions) / passed.Seconds()
	p.at, p.executions = now, executions
	return p.per
}
