// Package doctor looks at a source as an operator would and says what is wrong,
// why it matters and what mends it. It changes nothing: each check is a
// read-only transaction of its own with short timeouts, over the catalog alone.
package doctor

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/migrations"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	OK      Severity = "ok"
	Warning Severity = "warning" // the service works, for now or at a price
	Fault   Severity = "fault"   // the service does not start or will stop
)

// Finding is one thing that was looked at. Why and Remedy are empty when it is OK.
type Finding struct {
	ID       string   `json:"id"` // stable
	Severity Severity `json:"severity"`
	Found    string   `json:"found"`
	Why      string   `json:"why,omitempty"`
	Remedy   []string `json:"remedy,omitempty"` // SQL, one statement each, in order
}

// check is one look; it returns the finding without its ID.
type check struct {
	id   string
	look func(ctx context.Context, tx pgx.Tx, cfg migrations.Config) (Finding, error)
}

// Source looks at the database behind conn, which must be in no transaction.
// A check that fails, for want of a right for instance, is a fault of its own
// and ends no other.
func Source(ctx context.Context, conn *pgx.Conn, cfg migrations.Config) []Finding {
	checks := []check{{"wal-level", walLevel}, {"role-replication", role}, {"source", source}}
	findings := make([]Finding, 0, len(checks))
	for _, c := range checks {
		f, err := look(ctx, conn, cfg, c)
		if err != nil {
			f = Finding{Severity: Fault, Found: err.Error(), Why: "what cannot be looked at may be wrong"}
		}
		f.ID = c.id
		findings = append(findings, f)
	}
	return findings
}

func look(ctx context.Context, conn *pgx.Conn, cfg migrations.Config, c check) (f Finding, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = '2s'"); err != nil {
			return fmt.Errorf("set statement_timeout: %w", err)
		}
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '100ms'"); err != nil {
			return fmt.Errorf("set lock_timeout: %w", err)
		}
		f, err = c.look(ctx, tx, cfg)
		return err
	})
	return f, err
}

func walLevel(ctx context.Context, tx pgx.Tx, _ migrations.Config) (Finding, error) {
	var level string
	if err := tx.QueryRow(ctx, "SELECT current_setting('wal_level')").Scan(&level); err != nil {
		return Finding{}, fmt.Errorf("read wal_level: %w", err)
	}
	f := Finding{Severity: OK, Found: "wal_level is " + level}
	if level != "logical" {
		f.Severity, f.Why = Fault, "a logical slot needs wal_level logical; the change takes a restart of Postgres"
		f.Remedy = []string{"ALTER SYSTEM SET wal_level = 'logical'"}
	}
	return f, nil
}

func role(ctx context.Context, tx pgx.Tx, _ migrations.Config) (Finding, error) {
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

// source is what migrate would do.
func source(ctx context.Context, tx pgx.Tx, cfg migrations.Config) (Finding, error) {
	steps, err := migrations.Plan(ctx, tx, cfg)
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
