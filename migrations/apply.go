package migrations

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Progress is how far Apply has come.
type Progress struct {
	Done, Total int
	Step        Step
	Retry       error // set while a statement is tried again because it got no lock
}

// Apply runs the statements of Plan one by one, each in a transaction of its
// own. One that gets no lock within LockTimeout is tried again until ctx ends. It
// can be interrupted and run again at any time.
func Apply(ctx context.Context, conn *pgx.Conn, cfg Config, steps []Step, progress func(Progress)) error {
	if cfg.LockTimeout == 0 {
		cfg.LockTimeout = defaultLockTimeout
	}
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", cfg.LockTimeout.Milliseconds())); err != nil {
		return fmt.Errorf("set lock_timeout: %w", err)
	}
	for i, step := range steps {
		progress(Progress{Done: i, Total: len(steps), Step: step})
		for {
			_, err := conn.Exec(ctx, step.SQL)
			if err == nil {
				break
			}
			if !lockFailure(err) {
				return fmt.Errorf("apply %q: %w", step.SQL, err)
			}
			progress(Progress{Done: i, Total: len(steps), Step: step, Retry: err})
			if err := dropInvalid(ctx, conn, step); err != nil {
				return err
			}
			select {
			case <-time.After(cfg.LockTimeout / 2): // the application's turn
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	progress(Progress{Done: len(steps), Total: len(steps)})
	return nil
}

// dropInvalid removes what a CREATE INDEX CONCURRENTLY that got no lock leaves.
func dropInvalid(ctx context.Context, conn *pgx.Conn, step Step) error {
	rest, ok := strings.CutPrefix(step.SQL, "CREATE UNIQUE INDEX CONCURRENTLY ")
	if !ok {
		return nil
	}
	index, on, _ := strings.Cut(rest, " ON ")
	schema, _, _ := strings.Cut(on, ".")
	for {
		_, err := conn.Exec(ctx, "DROP INDEX CONCURRENTLY IF EXISTS "+schema+"."+index)
		if err == nil {
			return nil
		}
		if !lockFailure(err) {
			return fmt.Errorf("drop invalid index: %w", err)
		}
	}
}

// lockFailure: no lock within lock_timeout, or a deadlock that this lost.
func lockFailure(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01")
}
