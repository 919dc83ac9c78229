package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

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

// columns of the engine's tables that are read.
type columns struct {
	table string
	names []string
}

// lookedUp are what the service reads: the columns that the log may not repeat.
func lookedUp() []columns {
	return []columns{{"ff_exec_core", []string{"partition_key", "execution_id", "raw_fields", "blocking_reason", "cancellation_reason", "cancelled_by"}}}
}

// sampled are what this package reads beside.
func sampled() []columns {
	return []columns{
		{"ff_exec_core", []string{
			"partition_key", "execution_id", "attempt_index", "lifecycle_phase", "ownership_state", "eligibility_state", "public_state", "attempt_state",
			"blocking_reason", "cancellation_reason", "cancelled_by",
		}},
		{"ff_attempt", []string{"partition_key", "execution_id", "attempt_index", "outcome"}},
	}
}

// filled are what a backfill reads beside. What the table lacks is no right.
func filled() []columns {
	return []columns{
		{"ff_exec_core", []string{
			"flow_id", "lane_id", "priority", "created_at_ms", "terminal_at_ms", "started_at_ms", "xmax", "tableoid",
			"attempt_index", "lifecycle_phase", "ownership_state", "eligibility_state", "public_state", "attempt_state",
		}},
		{"ff_attempt", []string{
			"partition_key", "execution_id", "attempt_index", "outcome",
			"worker_id", "worker_instance_id", "lease_epoch", "lease_expires_at_ms", "started_at_ms", "terminal_at_ms",
		}},
	}
}

func backfill(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	missing, _, err := missingGrants(ctx, tx, filled())
	if err != nil {
		return Finding{}, err
	}
	if len(missing) > 0 {
		return Finding{
			Severity: Warning, Found: "the role may not read all that a backfill does", Remedy: missing,
			Why: "transitions do not need it; a backfill, also the initial one, would wait for it",
		}, nil
	}
	return Finding{Severity: OK, Found: "the role may read what a backfill does"}, nil
}

// rightsSQL finds a table, also where a schema that the role may not use hides it.
const rightsSQL = `SELECT current_user::text, n.nspname::text, has_schema_privilege(n.oid, 'USAGE'),
		ARRAY(SELECT quote_ident(a.attname) FROM pg_catalog.pg_attribute a
			WHERE a.attrelid = c.oid AND a.attname = ANY ($2) AND NOT has_column_privilege(c.oid, a.attnum, 'SELECT') ORDER BY a.attnum)
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relname = $1 AND c.relkind IN ('r', 'p') AND (c.oid = to_regclass($1) OR to_regclass($1) IS NULL AND NOT has_schema_privilege(n.oid, 'USAGE'))`

// Grants returns the statements that give the role of q what it lacks to look rows
// up, which run does when the log does not repeat a long column. None for tables
// that are nowhere to be seen.
func Grants(ctx context.Context, q migrations.Querier) ([]string, error) {
	missing, _, err := missingGrants(ctx, q, lookedUp())
	return missing, err
}

// missingGrants also returns how many of the tables were found.
func missingGrants(ctx context.Context, q migrations.Querier, all []columns) (statements []string, found int, err error) {
	for _, c := range all {
		rows, err := q.Query(ctx, rightsSQL, c.table, c.names)
		if err != nil {
			return nil, 0, fmt.Errorf("read grants: %w", err)
		}
		var role, schema string
		var usage bool
		var lacking []string
		_, err = pgx.ForEachRow(rows, []any{&role, &schema, &usage, &lacking}, func() error {
			found++
			to := " TO " + pgx.Identifier{role}.Sanitize()
			use := "GRANT USAGE ON SCHEMA " + pgx.Identifier{schema}.Sanitize() + to
			if !usage && !slices.Contains(statements, use) {
				statements = append(statements, use)
			}
			if len(lacking) > 0 {
				statements = append(statements, "GRANT SELECT ("+strings.Join(lacking, ", ")+") ON "+pgx.Identifier{schema, c.table}.Sanitize()+to)
			}
			return nil
		})
		if err != nil {
			return nil, 0, fmt.Errorf("read grants: %w", err)
		}
	}
	return statements, found, nil
}

func grants(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	missing, found, err := missingGrants(ctx, tx, lookedUp())
	switch {
	case err != nil:
		return Finding{}, err
	case found == 0:
		return Finding{Severity: Fault, Found: "ff_exec_core is not on the search_path", Why: "this is no database of the engine: look at --database-url"}, nil
	case len(missing) > 0:
		return Finding{
			Severity: Fault, Found: "the role may not read all that it needs", Remedy: missing,
			Why: "columns that the log does not repeat are looked up",
		}, nil
	}
	return Finding{Severity: OK, Found: "the role may read what is looked up"}, nil
}

// emitSQL finds the function that run calls, whose arguments became more in 17.
const emitSQL = `SELECT p.oid::regprocedure::text, quote_ident(current_user), has_function_privilege(p.oid, 'EXECUTE') FROM pg_catalog.pg_proc p
	WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.proname = 'pg_logical_emit_message' AND p.proargtypes[2] = 'text'::regtype`

func heartbeat(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	var function, role string
	var may bool
	if err := tx.QueryRow(ctx, emitSQL).Scan(&function, &role, &may); err != nil {
		return Finding{}, fmt.Errorf("read the heartbeat's function: %w", err)
	}
	if may {
		return Finding{Severity: OK, Found: "the role may write heartbeats"}, nil
	}
	return Finding{
		Severity: Warning, Found: "role " + role + " may not write heartbeats",
		Why:    "the delay is not measured when nobody works, and the slot of an idle database keeps the log of the others; --heartbeat=0 does without",
		Remedy: []string{"GRANT EXECUTE ON FUNCTION pg_catalog." + function + " TO " + role},
	}, nil
}
