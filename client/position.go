package client

import (
	"context"
	"fmt"
	"time"

	"github.com/ffstream/ffstream"
)

// Horizon tells how far the database is that reads are taken from, as
// *reader.Reader does: the primary or a standby, of the timeline that the events
// come from.
type Horizon func(context.Context) (ffstream.Horizon, error)

// WaitPosition returns when every read that begins then sees what an event tells of.
// On a standby it must have been replayed. On the primary a commit is in the log, and
// its events can be in the stream, before reads see it: for a moment, or with
// synchronous replication for as long as a standby is away. So the transaction must
// have left the list of those in progress, too. Of the event ID and Tx count. The
// horizon is asked for at once and then every 5 ms to 1 s. The error is its own or
// that of ctx.
func WaitPosition(ctx context.Context, e *ffstream.Event, horizon Horizon) error {
	return await(ctx, e.Position().Commit, horizon, func(h *ffstream.Horizon) bool { return h.Covers(e) })
}

// WaitLSN is WaitPosition for one's own writes: end is what pg_current_wal_lsn()
// of the primary says after the commit, which must not have been asynchronous. The
// primary has it.
func WaitLSN(ctx context.Context, end ffstream.LSN, horizon Horizon) error {
	return await(ctx, end, horizon, func(h *ffstream.Horizon) bool { return h.End >= end })
}

func await(ctx context.Context, at ffstream.LSN, horizon Horizon, reached func(*ffstream.Horizon) bool) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		h, err := horizon(ctx)
		if err != nil {
			return fmt.Errorf("wait for log at %s: %w", at, err)
		}
		if reached(&h) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for log at %s: the database is at %s: %w", at, h.End, ctx.Err())
		case <-time.After(wait):
		}
	}
}
