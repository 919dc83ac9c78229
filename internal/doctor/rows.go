package doctor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
)

// knownMigration is the engine's latest migration that this release was made with.
const knownMigration = 22

const engineSQL = `SELECT to_regclass('ff_exec_core') IS NOT NULL,
		EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('ff_exec_core') AND attname = 'started_at_ms' AND NOT attisdropped),
		EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = to_regclass('ff_exec_core') AND attname = 'lease_reclaim_count' AND NOT attisdropped),
		to_regclass('_sqlx_migrations') IS NOT NULL, coalesce(has_table_privilege(to_regclass('_sqlx_migrations'), 'SELECT'), false), quote_ident(current_user)`

// engineSchema tells the version of the engine's schema: by its columns, since not every
// migration notes itself, and by the ledger where there is one and it may be read.
func engineSchema(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	var tables, started, reclaims, ledger, readable bool
	var role string
	if err := tx.QueryRow(ctx, engineSQL).Scan(&tables, &started, &reclaims, &ledger, &readable, &role); err != nil {
		return Finding{}, fmt.Errorf("read the engine's schema: %w", err)
	}
	f := Finding{Severity: OK}
	switch {
	case !tables:
		return Finding{Severity: Fault, Found: "the engine's tables are not on the search_path", Why: "there is nothing to follow: look at --database-url"}, nil
	case started && reclaims:
		f.Found = "the engine's schema is that of 0.12 or newer (migrations 0016 and 0017)"
	case started:
		f.Found = "the engine's schema has migration 0016 and not 0017"
	default:
		f.Found = "the engine's schema is older than 0.12 (no migration 0016): when an execution started is read from its attempts"
	}
	if !ledger {
		return f, nil
	}
	if !readable {
		f.Severity, f.Why = Warning, "which migrations were applied, and whether one failed half-way, cannot be read"
		f.Found += "; _sqlx_migrations may not be read"
		f.Remedy = []string{"GRANT SELECT ON _sqlx_migrations TO " + role}
		return f, nil
	}
	return ledgerOf(ctx, tx, f)
}

// ledgerOf adds what the engine's own ledger says.
func ledgerOf(ctx context.Context, tx pgx.Tx, f Finding) (Finding, error) {
	var last, failed int64
	err := tx.QueryRow(ctx, "SELECT coalesce(max(version) FILTER (WHERE success), 0), coalesce(min(version) FILTER (WHERE NOT success), 0) FROM _sqlx_migrations").Scan(&last, &failed)
	if err != nil {
		return Finding{}, fmt.Errorf("read the engine's migrations: %w", err)
	}
	f.Found += fmt.Sprintf("; its latest migration is %d", last)
	switch {
	case failed > 0:
		f.Severity, f.Why = Warning, fmt.Sprintf("migration %d failed half-way: the engine's own documents say how to repair it", failed)
	case last > knownMigration:
		f.Severity, f.Why = Warning, fmt.Sprintf("this release was made with %d: literals that it does not know become corrupt-row events; upgrade ffstream", knownMigration)
	}
	return f, nil
}

const (
	sampleRows  = 10_000 // of all partitions
	sampleShare = 200    // of one partition
	samplePages = 64     // of one partition, about
)

const leafPagesSQL = `SELECT coalesce(max(pg_relation_size(relid) / current_setting('block_size')::bigint), 0) FROM pg_partition_tree('ff_exec_core') WHERE isleaf`

// sampleSQL reads rows of some pages of one partition, and what the rule consults.
const sampleSQL = `SELECT c.execution_id, c.lifecycle_phase, c.ownership_state, c.eligibility_state, c.public_state, c.attempt_state,
		coalesce(c.blocking_reason, ''), c.cancellation_reason, c.cancelled_by, a.outcome IS NOT NULL, coalesce(a.outcome, '')
	FROM (SELECT execution_id, attempt_index, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state,
			blocking_reason, cancellation_reason, cancelled_by
		FROM ff_exec_core TABLESAMPLE SYSTEM ($2::real) WHERE partition_key = $1::smallint LIMIT $3::bigint) c
	LEFT JOIN ff_attempt a ON a.partition_key = $1::smallint AND a.execution_id = c.execution_id AND a.attempt_index = greatest(c.attempt_index, 0)`

// literals looks for literals that no rule knows in a sample of live rows: some
// pages of each partition, in random order, until there are enough rows.
func literals(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	missing, found, err := missingGrants(ctx, tx, sampled())
	if err != nil || found == 0 {
		return Finding{Severity: OK, Found: "there are no rows to look at"}, err
	}
	if len(missing) > 0 {
		return Finding{Severity: Warning, Found: "the role may not read the states", Why: "literals that no rule knows cannot be looked for", Remedy: missing}, nil
	}
	var pages int64
	if err := tx.QueryRow(ctx, leafPagesSQL).Scan(&pages); err != nil {
		return Finding{}, fmt.Errorf("read the size of partitions: %w", err)
	}
	share := min(100, 100*float64(samplePages)/float64(max(1, pages)))
	s := sample{}
	for _, p := range rand.Perm(ffstream.Partitions) {
		if err := s.read(ctx, tx, uint16(p), share); err != nil {
			return Finding{}, fmt.Errorf("sample partition %d: %w", p, err)
		}
		if s.rows >= sampleRows {
			break
		}
	}
	f := Finding{Severity: OK, Found: fmt.Sprintf("a sample of %d rows holds known literals alone", s.rows)}
	if s.corrupt > 0 {
		f.Severity, f.Found = Warning, fmt.Sprintf("%d of a sample of %d rows hold literals that no rule knows, the first: %s", s.corrupt, s.rows, s.first)
		f.Why = "their changes become corrupt-row events, and point reads of them fail: usually the engine is newer than ffstream, which is then to be upgraded"
	}
	return f, nil
}

// sample counts rows that were looked at.
type sample struct {
	rows, corrupt int
	first         string
}

func (s *sample) read(ctx context.Context, tx pgx.Tx, partition uint16, share float64) error {
	rows, err := tx.Query(ctx, sampleSQL, pgx.QueryExecModeExec, int16(partition), float32(share), int64(sampleShare))
	if err != nil {
		return err
	}
	var id uuid.UUID
	var r normalize.Row
	var reason, by *string
	var at normalize.Outcome
	to := []any{
		(*[16]byte)(&id), &r.LifecyclePhase, &r.OwnershipState, &r.EligibilityState, &r.PublicState, &r.AttemptState,
		&r.BlockingReason, &reason, &by, &at.Exists, &at.Literal,
	}
	_, err = pgx.ForEachRow(rows, to, func() error {
		s.rows++
		r.CancellationReason, r.CancelledBy = optional(reason), optional(by)
		_, err := normalize.Evaluate(&r, normalize.Attempts{At: at})
		var corrupt *ffstream.CorruptionError
		if errors.As(err, &corrupt) {
			if corrupt.ExecutionID = ffstream.NewExecutionID(partition, id); s.corrupt == 0 {
				s.first = corrupt.Error()
			}
			s.corrupt++
		}
		return nil
	})
	return err
}

func optional(text *string) ffstream.Opt[string] {
	if text == nil {
		return ffstream.Opt[string]{}
	}
	return ffstream.Some(*text)
}
