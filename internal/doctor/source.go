package doctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/migrations"
)

func role(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	var name string
	var may bool
	err := tx.QueryRow(ctx, "SELECT rolname, rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user").Scan(&name, &may)
	if err != nil {
		return Finding{}, fmt.Errorf("read the role: %w", err)
	}
	name = pgx.Identifier{name}.Sanitize()
	if may {
		return Finding{Severity: OK, Found: "role " + name + " may replicate"}, nil
	}
	return Finding{
		Severity: Fault, Found: "role " + name + " has no REPLICATION attribute",
		Why:    "Postgres lets no other role read a slot",
		Remedy: []string{"ALTER ROLE " + name + " REPLICATION"},
	}, nil
}

// grantsSQL asks for what the look-ups and point reads need, of each table.
const grantsSQL = `SELECT current_user, t.name, has_schema_privilege(c.relnamespace, 'USAGE'), has_table_privilege(c.oid, 'SELECT'), n.nspname
	FROM (VALUES ('ff_exec_core'), ('ff_attempt')) t(name)
	JOIN pg_catalog.pg_class c ON c.oid = to_regclass(t.name) JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`

func grants(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	rows, err := tx.Query(ctx, grantsSQL)
	if err != nil {
		return Finding{}, fmt.Errorf("read grants: %w", err)
	}
	f := Finding{Severity: OK, Found: "the role may read both tables"}
	var role, table, schema string
	var usage, selects bool
	seen := 0
	_, err = pgx.ForEachRow(rows, []any{&role, &table, &usage, &selects, &schema}, func() error {
		seen++
		to := " TO " + pgx.Identifier{role}.Sanitize()
		if !usage && f.Severity == OK {
			f.Remedy = append(f.Remedy, "GRANT USAGE ON SCHEMA "+pgx.Identifier{schema}.Sanitize()+to)
		}
		if !selects {
			f.Remedy = append(f.Remedy, "GRANT SELECT ON "+pgx.Identifier{schema, table}.Sanitize()+to)
		}
		if len(f.Remedy) > 0 {
			f.Severity, f.Found = Fault, "role "+role+" may not read all that it needs"
			f.Why = "columns that the log does not repeat are looked up, and point reads read"
		}
		return nil
	})
	if err != nil {
		return Finding{}, fmt.Errorf("read grants: %w", err)
	}
	if seen < 2 {
		return Finding{Severity: Fault, Found: "ff_exec_core or ff_attempt is not on the search_path", Why: "this is no database of the engine, or the role does not see its schema: look at --database-url"}, nil
	}
	return f, nil
}

// source is what migrate would do.
func source(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error) {
	steps, err := migrations.Plan(ctx, tx, cfg.Config)
	if err != nil {
		return Finding{}, fmt.Errorf("plan the source: %w", err)
	}
	if len(steps) == 0 {
		return Finding{Severity: OK, Found: "publication and replica identity serve"}, nil
	}
	f := Finding{
		Severity: Fault, Found: fmt.Sprintf("%d statements are missing, the first: %s", len(steps), steps[0].Note),
		Why: "without them the service does not start; ffstream migrate runs them too",
	}
	for _, s := range steps {
		f.Remedy = append(f.Remedy, s.SQL)
	}
	return f, nil
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
		return Finding{Severity: OK, Found: "slot " + cfg.Slot + " does not exist; the first run creates it"}, nil
	case s.kind != "logical" || s.plugin != "pgoutput" || !s.here:
		return Finding{
			Severity: Fault, Found: fmt.Sprintf("slot %s is %s, with plugin %q, of database %q", cfg.Slot, s.kind, s.plugin, s.database),
			Why: "it is somebody else's: name another (--slot)",
		}, nil
	case s.status == "lost":
		return Finding{
			Severity: Fault, Found: "Postgres gave slot " + cfg.Slot + " up and removed log that it needs",
			Why: "the stream has a gap: restore the slot with the database, or go on without what is lost",
			Run: []string{"ffstream resume --accept-gap"},
		}, nil
	case !s.active:
		return Finding{Severity: Warning, Found: "no service holds slot " + cfg.Slot, Why: "the server keeps its log until one does", Run: []string{"ffstream run"}}, nil
	}
	return Finding{Severity: OK, Found: "slot " + cfg.Slot + " is held by a service"}, nil
}

// runwayWarning is the time below which an operator should act.
const runwayWarning = 24 * time.Hour

func slotWAL(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error) {
	s, found, err := readSlot(ctx, tx, cfg.Slot)
	if err != nil || !found || s.kind != "logical" || s.status == "lost" {
		return Finding{Severity: OK, Found: "no log is kept for slot " + cfg.Slot}, err
	}
	f := Finding{Severity: OK, Found: fmt.Sprintf("%d bytes of the log are kept for slot %s", s.retained, cfg.Slot)}
	if s.safe == nil || s.rate <= 0 {
		return f, nil
	}
	left := time.Duration(min(float64(max(0, *s.safe))/s.rate, 1e9) * float64(time.Second)).Round(time.Second)
	f.Found += fmt.Sprintf(", and %d more are safe: %s at the average rate since the statistics began, were nothing confirmed", *s.safe, left)
	if s.status == "unreserved" || left < runwayWarning {
		f.Severity, f.Why = Warning, "an outage of the service or the broker for longer makes Postgres give the slot up, and the stream has a gap"
		f.Remedy = []string{fmt.Sprintf("ALTER SYSTEM SET max_slot_wal_keep_size = '%dMB'", (s.retained+int64(2*s.rate*runwayWarning.Seconds()))>>20+1024), reload}
	}
	return f, nil
}
