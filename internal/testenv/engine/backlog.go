package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
)

// counter counts the row changes of the two tables that pass through it.
type counter struct {
	Tx
	core, attempt int
}

// Exec runs the statement and counts.
func (c *counter) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	tag, err := c.Tx.Exec(ctx, sql, args...)
	c.count(sql, tag)
	return tag, err
}

func (c *counter) count(sql string, tag pgconn.CommandTag) {
	words := strings.Fields(sql[:min(len(sql), 40)])
	for _, word := range words[1:min(len(words), 3)] {
		switch word {
		case "ff_exec_core":
			c.core += int(tag.RowsAffected())
		case "ff_attempt":
			c.attempt += int(tag.RowsAffected())
		}
	}
}

// queue is a Tx that keeps its statements, to send them in one go.
type queue struct{ batch pgx.Batch }

// Exec keeps the statement. The tag is empty: nothing ran yet.
func (q *queue) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	q.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// backlogOps are the transactions of one execution of a backlog.
func backlogOps() []operation {
	renew := simple((*Engine).Renew)
	return []operation{
		create, simple((*Engine).Promote), simple((*Engine).Claim), renew, renew, renew,
		func(ctx context.Context, e *Engine, tx Tx, x Exec) error {
			return e.Complete(ctx, tx, x, []byte("done"))
		},
	}
}

// Backlog writes n executions as fast as writers connections can, for
// benchmarks: each is created, promoted, claimed, renewed three times and
// completed in seven transactions of one round trip each, which makes three
// transitions. Commits do not wait for the disk.
func Backlog(ctx context.Context, pool *pgxpool.Pool, v Version, n, writers int) (Summary, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex // guards sum and errs
		next atomic.Int64
		sum  Summary
		errs []error
	)
	for number := range max(writers, 1) {
		wg.Go(func() {
			done, err := backlogWriter(ctx, pool, v, number, func() bool { return next.Add(1) <= int64(n) })
			if err != nil {
				cancel()
			}
			mu.Lock()
			defer mu.Unlock()
			sum.add(done)
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return sum, errors.Join(errs...)
}

func backlogWriter(ctx context.Context, pool *pgxpool.Pool, v Version, number int, more func() bool) (sum Summary, err error) {
	sum.ByState = map[ffstream.PublicState]int{}
	conn, release, err := session(ctx, pool, "plan_cache_mode=force_custom_plan", "synchronous_commit=off")
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, release()) }()
	e := &Engine{Version: v, Worker: fmt.Sprintf("worker-%d", number)}
	ops := backlogOps()
	for more() {
		x := Exec{Partition: int16(rand.IntN(256)), ID: uuid.New(), Namespace: "ns-a", Kind: "task"}
		for _, do := range ops {
			count, err := flush(ctx, conn, e, do, x)
			if err != nil {
				return sum, err
			}
			sum.Transactions++
			sum.CoreRows += count.core
			sum.AttemptRows += count.attempt
		}
		sum.Executions++
		sum.Transitions += 3
		for _, state := range []ffstream.PublicState{ffstream.StateWaiting, ffstream.StateActive, ffstream.StateCompleted} {
			sum.ByState[state]++
		}
	}
	return sum, nil
}

// session takes a connection and sets it up until release gives it back. The
// plans matter: a generic one locks all 256 leaves of a table each time.
func session(ctx context.Context, pool *pgxpool.Pool, settings ...string) (conn *pgxpool.Conn, release func() error, err error) {
	conn, err = pool.Acquire(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("acquire connection: %w", err)
	}
	for _, setting := range settings {
		if _, err = conn.Exec(ctx, "SET "+setting); err != nil {
			conn.Release()
			return nil, nil, fmt.Errorf("set %s: %w", setting, err)
		}
	}
	release = func() (err error) {
		defer conn.Release()
		for _, setting := range settings {
			name, _, _ := strings.Cut(setting, "=")
			if _, reset := conn.Exec(context.WithoutCancel(ctx), "RESET "+name); reset != nil {
				err = errors.Join(err, fmt.Errorf("reset %s: %w", name, reset))
			}
		}
		return err
	}
	return conn, release, nil
}

// flush does one operation as one implicit transaction in one round trip.
func flush(ctx context.Context, conn *pgxpool.Conn, e *Engine, do operation, x Exec) (count counter, err error) {
	var q queue
	if err := do(ctx, e, &q, x); err != nil {
		return count, err
	}
	results := conn.SendBatch(ctx, &q.batch)
	defer func() { err = errors.Join(err, results.Close()) }()
	for _, queued := range q.batch.QueuedQueries {
		tag, err := results.Exec()
		if err != nil {
			return count, fmt.Errorf("execute %q: %w", queued.SQL, err)
		}
		if tag.Update() && tag.RowsAffected() == 0 {
			return count, fmt.Errorf("%w: %s: no row for %q", ErrRefused, x, queued.SQL)
		}
		count.count(queued.SQL, tag)
	}
	return count, nil
}
