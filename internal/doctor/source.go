package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream/migrations"
)

// source is what migrate would do, and whether the service starts without it.
func source(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error) {
	refusal := migrations.Check(ctx, tx, cfg.Config)
	if pg := (*pgconn.PgError)(nil); errors.As(refusal, &pg) { // no verdict: the transaction is over
		return Finding{}, refusal
	}
	steps, err := migrations.Plan(ctx, tx, cfg.Config)
	if err != nil {
		return Finding{}, fmt.Errorf("plan the source: %w", err)
	}
	f := Finding{Severity: OK, Found: "publication and replica identity serve"}
	if len(steps) > 0 {
		f.Severity, f.Found = Warning, fmt.Sprintf("%d statements are missing, the first: %s", len(steps), steps[0].Note)
		f.Why, f.Command = "the service works without them, and sends or stores more than it needs or knows less than it could", migrate(cfg)
		for _, s := range steps {
			f.Remedy = append(f.Remedy, s.SQL)
		}
	}
	if refusal != nil {
		f.Severity, f.Why = Fault, "the service does not start: "+refusal.Error()
	}
	return f, nil
}

// migrate is the command that prepares the source for cfg.
func migrate(cfg Config) string {
	command := "ffstream migrate"
	if cfg.Publication != "ffstream" {
		command += " --publication=" + cfg.Publication
	}
	if !cfg.Identity {
		command += " --replica-identity=none"
	}
	return command
}

// slotRow is what the catalog says of the slot.
type slotRow struct {
	kind, plugin, database, status string
	here                           bool // of the database that is connected to
	active                         bool
	retained                       int64
	safe                           *int64
	rate                           float64 // bytes of WAL a second since statistics began
}

const slotSQL = `SELECT slot_type, coalesce(plugin, ''), coalesce(database, ''), coalesce(wal_status, ''), coalesce(database = current_database(), false), active,
	coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, restart_lsn), 0)::bigint, safe_wal_size,
	(SELECT wal_bytes / greatest(1, extract(epoch FROM now() - stats_reset)) FROM pg_catalog.pg_stat_wal)::float8
	FROM pg_catalog.pg_replication_slots WHERE slot_name = $1`

// readSlot returns false for a slot that does not exist.
func readSlot(ctx context.Context, tx pgx.Tx, name string) (s slotRow, found bool, err error) {
	err = tx.QueryRow(ctx, slotSQL, name).Scan(&s.kind, &s.plugin, &s.database, &s.status, &s.here, &s.active, &s.retained, &s.safe, &s.rate)
	if errors.Is(err, pgx.ErrNoRows) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("read replication slot %s: %w", name, err)
	}
	return s, true, nil
}

func slot(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error) {
	s, found, err := readSlot(ctx, tx, cfg.Slot)
	switch {
	case err != nil:
		return Finding{}, err
	case !found:
		return Finding{Severity: OK, Found: "slot " + cfg.Slot + " does not exist" + firstRun}, nil
	case s.kind != "logical" || s.plugin != "pgoutput" || !s.here:
		return Finding{
			Severity: Fault, Found: fmt.Sprintf("slot %s is %s, with plugin %q, of database %q", cfg.Slot, s.kind, s.plugin, s.database),
			Why: "it is somebody else's: name another (--slot)",
		}, nil
	case s.status == "lost":
		return Finding{
			Severity: Fault, Found: "Postgres gave slot " + cfg.Slot + " up and removed log that it needs",
			Why: "the stream has a gap: restore the slot with the database, or go on without what is lost",
			Run: []string{acceptGap},
		}, nil
	case !s.active:
		return Finding{Severity: Warning, Found: "no service holds slot " + cfg.Slot, Why: "the server keeps its log until one does", Run: []string{"ffstream run"}}, nil
	}
	return Finding{Severity: OK, Found: "slot " + cfg.Slot + " is held by a service"}, nil
}

// writing measures how many bytes of the log the server writes a second.
func writing(ctx context.Context, tx pgx.Tx) (float64, error) {
	const sql = "SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0')::bigint"
	var end [2]int64
	var began time.Time
	for i := range end {
		if i == 1 {
			select {
			case <-time.After(rateSample):
			case <-ctx.Done():
				return 0, ctx.Err()
			}
		}
		if err := tx.QueryRow(ctx, sql).Scan(&end[i]); err != nil {
			return 0, fmt.Errorf("read the end of the log: %w", err)
		}
		if i == 0 {
			began = time.Now()
		}
	}
	return max(0, float64(end[1]-end[0])/time.Since(began).Seconds()), nil
}

// runway is how long safe bytes last at a rate above 0, in bytes a second.
func runway(safe int64, rate float64) time.Duration {
	return time.Duration(min(float64(max(0, safe))/rate, 1e9) * float64(time.Second)).Round(time.Second)
}

// rateSample is the time over which the rate of writing is measured.
const rateSample = time.Second

// runwayWarning is the time below which an operator should act.
const runwayWarning = 24 * time.Hour

func slotWAL(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error) {
	s, found, err := readSlot(ctx, tx, cfg.Slot)
	if err != nil || !found || s.kind != "logical" || s.status == "lost" {
		return Finding{Severity: OK, Found: "no log is kept for slot " + cfg.Slot}, err
	}
	f := Finding{Severity: OK, Found: fmt.Sprintf("%d bytes of the log are kept for slot %s", s.retained, cfg.Slot)}
	if s.safe == nil {
		return f, nil
	}
	now, err := writing(ctx, tx)
	if err != nil {
		return Finding{}, err
	}
	f.Found += fmt.Sprintf(", and %d more are safe", *s.safe)
	average := s.rate
	if s.rate = max(average, now); s.rate <= 0 {
		return f, nil
	}
	left := runway(*s.safe, s.rate)
	f.Found += fmt.Sprintf(": %s, were nothing confirmed and %.0f bytes a second written (%.0f now, %.0f on average since the statistics began)", left, s.rate, now, average)
	if s.status == "unreserved" || left < runwayWarning {
		f.Severity, f.Why = Warning, "an outage of the service or the broker for longer makes Postgres give the slot up, and the stream has a gap"
		f.Remedy = []string{fmt.Sprintf("ALTER SYSTEM SET max_slot_wal_keep_size = '%dMB'", (s.retained+int64(2*s.rate*runwayWarning.Seconds()))>>20+1024), reload}
	}
	return f, nil
}
