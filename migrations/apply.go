package migrations

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Progress is how far Apply has come.
type Progress struct {
	Done, Total int
	Step        Step  // what is at work; zero while Apply waits for its turn, and at the end
	Retry       error // set while something is tried again because it got no lock
}

// ErrStale says that the source has changed since its plan was made, as it does
// when two sessions prepare it at once: make a new plan.
var ErrStale = errors.New("the source has changed since the plan was made")

// errBusy is what Progress tells while another session is at work.
var errBusy = errors.New("another session prepares this database")

const (
	// sessionLock is the advisory lock that Apply holds: of two that prepare a
	// database, one would drop what the other builds.
	sessionLock = 0x666673747265616d // "ffstream"
	// longestPause between two attempts. A build is begun anew each time.
	longestPause = 30 * time.Second
	restoreWait  = 5 * time.Second
)

// Apply runs statements of Plan or PlanDown one by one, each in a transaction of
// its own. One that gets no lock within LockTimeout is tried again, at growing
// intervals, until ctx ends. It can be interrupted and run again at any time. It
// waits while another session applies a plan to the same database, and returns
// ErrStale when Plan or PlanDown would return something now that does not begin
// with steps.
//
// progress is called before each statement, for each retry, and at the end. The
// settings of conn are as they were when Apply returns.
func Apply(ctx context.Context, conn *pgx.Conn, cfg Config, steps []Step, progress func(Progress)) (err error) {
	if cfg.LockTimeout == 0 {
		cfg.LockTimeout = defaultLockTimeout
	}
	if len(steps) == 0 {
		progress(Progress{})
		return nil
	}
	restore, err := session(ctx, conn, cfg.LockTimeout)
	if err != nil {
		return fmt.Errorf("prepare session: %w", err)
	}
	defer func() { err = errors.Join(err, restore()) }()
	at := Progress{Total: len(steps)}
	if err := retry(ctx, cfg.LockTimeout, func() error { return takeTurn(ctx, conn) }, at, progress); err != nil {
		return fmt.Errorf("wait for another session: %w", err)
	}
	defer func() { err = errors.Join(err, after(ctx, conn, `SELECT pg_advisory_unlock($1)`, int64(sessionLock))) }()
	if err := checkCurrent(ctx, conn, cfg, steps); err != nil {
		return err
	}
	for i, step := range steps {
		at.Done, at.Step = i, step
		progress(at)
		if err := retry(ctx, cfg.LockTimeout, step.attempt(ctx, conn, cfg), at, progress); err != nil {
			return fmt.Errorf("apply %q: %w", step.SQL, err)
		}
	}
	progress(Progress{Done: len(steps), Total: len(steps)})
	return nil
}

// attempt returns a function that executes the statement, and from the second
// call on first removes what the one before left.
func (s Step) attempt(ctx context.Context, conn *pgx.Conn, cfg Config) func() error {
	undo := ""
	return func() error {
		if undo != "" {
			if _, err := conn.Exec(ctx, undo); err != nil {
				return err
			}
		}
		undo = s.undo
		if s.edit != "" {
			return edit(ctx, conn, cfg, s.SQL)
		}
		_, err := conn.Exec(ctx, s.SQL)
		return err
	}
}

// retry calls f until it returns no error of a lock.
func retry(ctx context.Context, timeout time.Duration, f func() error, at Progress, progress func(Progress)) error {
	for pause := timeout / 2; ; pause = min(2*pause, longestPause) {
		err := f()
		if err == nil || !lockFailure(err) {
			return err
		}
		at.Retry = err
		progress(at)
		select {
		case <-time.After(pause): // the application's turn
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lockFailure reports that there was no lock within lock_timeout, a deadlock
// that this lost, or another session's turn.
func lockFailure(err error) bool {
	var pg *pgconn.PgError
	return errors.Is(err, errBusy) || errors.As(err, &pg) && (pg.Code == "55P03" || pg.Code == "40P01")
}

// session gives conn the lock timeout, and takes away a statement timeout of the
// role or the database, which would end the build of a large index every time.
// The returned function gives conn its own settings back.
func session(ctx context.Context, conn *pgx.Conn, lockTimeout time.Duration) (restore func() error, err error) {
	const set = `SELECT set_config('lock_timeout', $1, false), set_config('statement_timeout', $2, false)`
	var lock, statement string
	if err := conn.QueryRow(ctx, `SELECT current_setting('lock_timeout'), current_setting('statement_timeout')`).Scan(&lock, &statement); err != nil {
		return nil, err
	}
	millis := max(lockTimeout.Milliseconds(), 1) // 0 would be none
	if _, err := conn.Exec(ctx, set, strconv.FormatInt(millis, 10), "0"); err != nil {
		return nil, err
	}
	return func() error { return after(ctx, conn, set, lock, statement) }, nil
}

// after executes what must be done when ctx may have ended. A connection that
// was at work when it did is closed, and keeps nothing.
func after(ctx context.Context, conn *pgx.Conn, sql string, args ...any) error {
	if conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restoreWait)
	defer cancel()
	if _, err := conn.Exec(ctx, sql, args...); err != nil {
		return fmt.Errorf("restore session: %w", err)
	}
	return nil
}

// takeTurn takes the advisory lock or returns errBusy. It does not wait in
// Postgres, because the other session's builds wait for such waiting.
func takeTurn(ctx context.Context, conn *pgx.Conn) error {
	var ok bool
	if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(sessionLock)).Scan(&ok); err != nil {
		return err
	}
	if !ok {
		return errBusy
	}
	return nil
}

// checkCurrent returns ErrStale unless a plan that is made now begins with steps.
// That each of them is planned would not do: one may rest on another.
func checkCurrent(ctx context.Context, q Querier, cfg Config, steps []Step) error {
	for _, plan := range []func(context.Context, Querier, Config) ([]Step, error){PlanDown, Plan} {
		now, err := plan(ctx, q, cfg)
		if err != nil {
			return err
		}
		if len(steps) <= len(now) && slices.Equal(steps, now[:len(steps)]) {
			return nil
		}
	}
	return ErrStale
}
