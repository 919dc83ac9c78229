package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/publish"
)

// orders opens the bucket.
func (s *Shard) orders(ctx context.Context) (*backfill.Store, error) {
	opening, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	js, err := jetstream.New(s.nc)
	if err != nil {
		return nil, fmt.Errorf("open JetStream: %w", err)
	}
	return backfill.Open(opening, js, publish.Bucket(s.cfg.Sink.Stream))
}

// orderInitial places the order of a run over everything, if that is wanted and the
// stream does not say that a run was completed. It is called where the bucket has no
// note, at the beginning, and before one is written: a crash in between, and a broker
// that forgets the order and with it the note behind it, leave it to the next session.
func (s *Shard) orderInitial(ctx context.Context, stream *publish.Stream) error {
	if b := s.cfg.Backfill; b == nil || !b.Initial {
		return nil
	}
	at, _, err := stream.ReadBackfill(ctx)
	if err != nil || at.OK && at.V.Status == ffstream.BackfillCompleted {
		return err
	}
	store, err := s.orders(ctx)
	if err != nil {
		return err
	}
	_, err = store.Place(ctx, backfill.Order{Initial: true})
	if errors.Is(err, backfill.ErrOpen) {
		return nil
	}
	return err
}

// look reads the order when that is due.
func (b *backfiller) look(ctx context.Context) error {
	now := time.Now()
	if now.Sub(b.looked) < orderInterval {
		return nil
	}
	if b.store == nil {
		store, err := b.shard.orders(ctx)
		if err != nil {
			return err
		}
		b.store = store
	}
	order, report, found, err := b.store.Current(ctx)
	if err != nil {
		return err
	}
	if found && !b.checked {
		if err := b.reopen(ctx, &order, &report); err != nil {
			return err
		}
		b.checked = true
	}
	b.looked = now
	if !found || report.State.Ended() || order.Run == b.ended {
		b.order = backfill.Order{}
		if !found || report.State.Ended() {
			return nil
		}
		b.report.Replaces(&report) // somebody wrote an older one over the end
		return b.store.Report(ctx, &order, &b.report)
	}
	known := b.order.Run == order.Run
	b.order = order
	if known {
		b.report.Replaces(&report) // another process may have written one, which is none of this run
		return nil
	}
	if err := b.begin(ctx, &report); err != nil {
		b.order, b.looked = backfill.Order{}, time.Time{}
		return err
	}
	return nil
}

// reopen lets a run go on that was completed, and of which the broker forgot the end
// and maybe more: the slot refills a stream with transitions alone. An end that aged
// out is none that was forgotten, and one that went with what an operator gave up is
// for the operator to tell anew.
func (b *backfiller) reopen(ctx context.Context, order *backfill.Order, report *backfill.Report) error {
	if report.State != backfill.Completed || report.Sequence == 0 {
		return nil
	}
	state, err := b.stream.ReadState(ctx)
	if err != nil {
		return err
	}
	at, _, err := b.stream.ReadBackfill(ctx)
	if err != nil || report.Sequence < state.First || at.OK && at.V.Run == report.Run && at.V.Status != ffstream.BackfillRunning {
		return err
	}
	accepted, err := b.accepted(ctx)
	switch {
	case err != nil:
		return err
	case accepted.After(report.Ended):
		report.Sequence = 0 // which would be compared again when the gap has aged out
		return b.store.Report(ctx, order, report)
	case order.Lists > 0: // they are gone
		b.shard.cfg.Log.Warn("the broker forgot what a repair told: run again: ffstream verify --repair", "run", report.Run)
		return nil
	}
	b.shard.cfg.Log.Warn("the broker forgot the end of a backfill; it goes on where the stream says", "run", report.Run)
	report.State, report.Waiting, report.Sequence, report.Ended = backfill.Waiting, "the service", 0, time.Time{}
	return b.store.Report(ctx, order, report)
}

// accepted is when the latest gap of the stream was accepted; the zero time: there is none.
func (b *backfiller) accepted(ctx context.Context) (time.Time, error) {
	gap, err := b.stream.LastGap(ctx)
	if err != nil || gap == 0 {
		return time.Time{}, err
	}
	return b.timeOf(ctx, gap)
}

// timeOf is the time that the event at a sequence names.
func (b *backfiller) timeOf(ctx context.Context, sequence uint64) (time.Time, error) {
	msg, err := publish.ReadMessage(ctx, b.shard.nc, b.shard.cfg.Sink.Stream, sequence)
	if err != nil {
		return time.Time{}, err
	}
	e, err := ffstream.ParseEvent(msg.Data)
	if err != nil {
		return time.Time{}, fmt.Errorf("message %d: %w", sequence, err)
	}
	return e.Time, nil
}

// begin starts a run, or goes on with one where the stream says.
func (b *backfiller) begin(ctx context.Context, report *backfill.Report) error {
	at, sequence, err := b.stream.ReadBackfill(ctx)
	if err != nil {
		return err
	}
	b.sequence = 0
	b.at = ffstream.Backfill{Run: b.order.Run, Status: ffstream.BackfillRunning}
	b.report = *report
	b.report.Run, b.report.Started = b.order.Run, time.Now().UTC()
	b.mark = time.Now()
	if at.OK && at.V.Run == b.order.Run {
		b.at, b.report.Started, b.sequence = at.V, report.Started, sequence
		if at.V.Status != ffstream.BackfillRunning { // it ended, and the report of that was not written
			return b.close(ctx, at.V.Status)
		}
		if b.mark, err = b.timeOf(ctx, sequence); err != nil {
			return err
		}
	}
	state, err := b.stream.ReadState(ctx)
	if err != nil {
		return err
	}
	if b.held = heldInterval; state.MaxAge > 0 {
		b.held = min(b.held, state.MaxAge/4)
	}
	if b.gap, err = b.stream.LastGap(ctx); err != nil {
		return err
	}
	if b.visit, err = b.unread(ctx); err != nil {
		return err
	}
	if b.estimate, err = b.cfg.Source.Estimate(ctx); err != nil {
		return err
	}
	b.report.Total, b.told = b.order.Of(b.estimate), nil
	if b.per, b.free = b.order.Rate, time.Now(); b.per == 0 {
		b.per = b.cfg.Rate
	}
	b.pace = pacer{at: time.Now(), executions: b.at.Executions}
	level := slog.LevelInfo
	if b.known {
		level = slog.LevelDebug
	}
	b.known = false
	b.shard.cfg.Log.Log(ctx, level, "backfill begins", "run", b.order.Run, "behind", text(b.at.After), "executions", b.report.Total)
	return nil
}

// fading reports whether what the stream says of the run's progress has grown so old that
// it may age out before there is more: it would begin anew.
func (b *backfiller) fading() bool { return b.sequence > 0 && time.Since(b.mark) >= b.held }

// pause holds the run. It is noted how far it is.
func (b *backfiller) pause(ctx context.Context) error {
	b.told = nil // it may be for long
	if b.at.Chunks > 0 && b.report.State != backfill.Paused {
		if err := b.note(ctx, ffstream.BackfillRunning); err != nil {
			return err
		}
	}
	return b.tell(ctx, backfill.Paused, "")
}

// end publishes that the run is over, waits until that is stored, and with it all
// before, and says so.
func (b *backfiller) end(ctx context.Context, status string) error {
	if b.at.Status != status && (status == ffstream.BackfillCompleted || b.sequence > 0) { // a run that is cancelled before its first word has none
		return b.note(ctx, status)
	}
	for b.shard.Status().Acked < b.sequence {
		if !sleep(ctx, reportInterval) {
			return ctx.Err()
		}
	}
	return b.close(ctx, status)
}

// close writes the report of a run that has ended.
func (b *backfiller) close(ctx context.Context, status string) error {
	state := backfill.Completed
	if status == ffstream.BackfillCancelled {
		state = backfill.Cancelled
	}
	b.report.Ended, b.report.Sequence = time.Now().UTC(), b.sequence
	b.report.Updated = time.Time{}
	if err := b.tell(ctx, state, ""); err != nil {
		return err
	}
	b.shard.cfg.Log.Info("backfill is "+string(state), "run", b.order.Run, "executions", b.at.Executions, "published", b.at.Published, "superseded", b.at.Superseded)
	b.ended, b.order, b.told = b.order.Run, backfill.Order{}, nil
	return nil
}
