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
	wait := 5 * time.Millisecond
	for {
		at, err := replayed(ctx)
		if err != nil {
			return fmt.Errorf("wait for position %s: %w", p, err)
		}
		if at > p.Commit { // p is where the commit record begins; what is replayed ends behind it
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for position %s: replayed to %s: %w", p, at, ctx.Err())
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}
