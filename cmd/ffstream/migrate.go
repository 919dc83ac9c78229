package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/migrations"
)

// migrateCmd prepares the source database.
type migrateCmd struct {
	databaseFlags
	publicationFlags
	DryRun              bool          `help:"Print the SQL and change nothing."`
	Down                bool          `help:"Remove what migrate added and nothing else."`
	LockTimeout         time.Duration `help:"How long a statement waits for a lock, since the application queues behind it; then it is tried again." env:"FFSTREAM_LOCK_TIMEOUT" default:"2s"`
	EngineSchema        bool          `help:"Make the engine's own tables too: for development and tests."`
	EngineSchemaVersion string        `help:"Shape of the engine's tables: newest or 0.11." default:"newest" enum:"newest,0.11"`
}

// Run plans and applies.
func (c *migrateCmd) Run(ctx context.Context, term terminal) error {
	database, err := c.config()
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	if c.LockTimeout < time.Millisecond {
		return usagef("--lock-timeout %s: want at least 1ms: 0 would wait for ever, and the application behind it", c.LockTimeout)
	}
	src := newSource(database, c.Publication, c.ReplicaIdentity)
	src.cfg.LockTimeout = c.LockTimeout
	defer src.close()
	if err := src.use(ctx, func(conn *pgx.Conn) error { return conn.Ping(ctx) }); err != nil {
		return err
	}
	if c.EngineSchema {
		if err := c.engine(ctx, term); err != nil {
			return err
		}
	}
	return src.use(ctx, func(conn *pgx.Conn) error { return c.apply(ctx, conn, src.cfg, term) })
}

func (c *migrateCmd) engine(ctx context.Context, term terminal) error {
	if c.DryRun || c.Down {
		return usagef("--engine-schema goes with neither --dry-run nor --down: it makes tables, for development")
	}
	version := migrations.EngineNewest
	if c.EngineSchemaVersion == "0.11" {
		version = migrations.Engine011
	}
	err := migrations.EngineSchema(ctx, c.DatabaseURL, version)
	if errors.Is(err, migrations.ErrEngineSchema) {
		_, err = fmt.Fprintln(term.out, "the engine's tables exist already; they are left as they are")
	}
	return err
}

// locks prints what new indexes cost in locks, as comments where SQL is printed, and
// a warning where the lock table is small. It does not refuse: a small table serves
// a server with few connections, and what the engine does is not for migrate to decide.
func (c *migrateCmd) locks(ctx context.Context, conn *pgx.Conn, steps []migrations.Step, term terminal) error {
	cost, err := migrations.ReadLockCost(ctx, conn, steps)
	if err != nil || cost.After <= cost.Before {
		return err
	}
	table, err := migrations.ReadLockTable(ctx, conn)
	if err != nil {
		return err
	}
	comment := ""
	if c.DryRun {
		comment = "-- "
	}
	_, err = fmt.Fprintf(term.out, "%[1]sa statement over all partitions of ff_exec_core holds %[2]d locks now and %[3]d with the new indexes (+%[4]d%%)\n%[1]s%[5]s\n",
		comment, cost.Before, cost.After, (100*(cost.After-cost.Before)+cost.Before/2)/cost.Before, table)
	if err != nil || !table.Small() {
		return err
	}
	_, err = fmt.Fprintf(term.err, "warning: max_locks_per_transaction is %d, below %d: under load such statements may fail with \"out of shared memory\": run: %s; then restart Postgres\n",
		table.PerTransaction, migrations.MinLocksPerTransaction, migrations.LockRemedy())
	return err
}

func (c *migrateCmd) apply(ctx context.Context, conn *pgx.Conn, cfg migrations.Config, term terminal) error {
	plan := migrations.Plan
	if c.Down {
		plan = migrations.PlanDown
	}
	steps, err := plan(ctx, conn, cfg)
	if err != nil {
		return err
	}
	if err := c.locks(ctx, conn, steps, term); err != nil {
		return err
	}
	if c.DryRun {
		for _, s := range steps {
			if _, err := fmt.Fprintf(term.out, "-- %s\n%s;\n", s.Note, s.SQL); err != nil {
				return err
			}
		}
		return nil
	}
	live := isTerminal(term.out)
	err = migrations.Apply(ctx, conn, cfg, steps, func(p migrations.Progress) {
		switch {
		case p.Retry != nil:
			_, _ = fmt.Fprintf(term.err, "waiting for a lock: %s: %v\n", p.Step.SQL, p.Retry)
		case live:
			_, _ = fmt.Fprintf(term.out, "\r%d of %d statements \x1b[K", p.Done, p.Total)
		case p.Done%64 == 0 && p.Done < p.Total:
			_, _ = fmt.Fprintf(term.out, "%d of %d statements\n", p.Done, p.Total)
		}
	})
	if live {
		_, _ = fmt.Fprintln(term.out)
	}
	if err != nil {
		return fmt.Errorf("%w: run the same command again: it goes on where it stopped", err)
	}
	_, err = fmt.Fprintf(term.out, "done: %d statements\n", len(steps))
	return err
}
