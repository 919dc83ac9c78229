package client

import (
	"context"
	"fmt"
	"time"

	"github.com/ffstream/ffstream"
)

// WaitPosition returns when a database that reads are taken from has what the
// event at p tells of. Replayed asks it how far it is: pg_last_wal_replay_lsn()
// on a standby, pg_current_wal_lsn() on the primary, of the timeline that the
// event comes from. It is asked at once and then every 5 ms to 1 s. The error is
// that of replayed or of ctx.
func WaitPosition(ctx context.Context, p ffstream.Position, replayed func(context.Context) (ffstream.LSN, error)) error {
	// p is where the commit record begins; what is replayed ends behind it.
	return WaitLSN(ctx, p.Commit+1, replayed)
}

// WaitLSN is WaitPosition for one's own writes: end is what pg_current_wal_lsn()
// of the primary says after the commit, which must not have been asynchronous.
func WaitLSN(ctx context.Context, end ffstream.LSN, replayed func(context.Context) (ffstream.LSN, error)) error {
	wait := 5 * time.Millisecond
	for {
		at, err := replayed(ctx)
		if err != nil {
			return fmt.Errorf("wait for log up to %s: %w", end, err)
		}
		if at >= end {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for log up to %s: replayed to %s: %w", end, at, ctx.Err())
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}
