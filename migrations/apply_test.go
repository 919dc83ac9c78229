package migrations_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/migrations"
)

// application is an engine that goes on while its database is prepared. It
// returns the number of transactions it committed and its first error.
func application(ctx context.Context, conn *pgx.Conn, seed int) (int, error) {
	for n := 0; ; n++ {
		if ctx.Err() != nil {
			return n, nil
		}
		if err := live(context.WithoutCancel(ctx), conn, (n*7+seed)%256); err != nil {
			return n, err
		}
	}
}

// live inserts, updates and deletes in both tables, in a transaction each.
func live(ctx context.Context, conn *pgx.Conn, partition int) error {
	batches := []string{
		`INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms)
			VALUES (%[1]d, '%[2]s', 'default', 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending', 1);
		INSERT INTO ff_attempt (partition_key, execution_id, attempt_index) VALUES (%[1]d, '%[2]s', 0)`,
		`UPDATE ff_attempt SET lease_epoch = 1, outcome = 'success' WHERE partition_key = %[1]d AND execution_id = '%[2]s';
		UPDATE ff_exec_core SET lifecycle_phase = 'terminal', payload = 'x' WHERE partition_key = %[1]d AND execution_id = '%[2]s'`,
		`UPDATE ff_exec_core SET lane_id = 'other' WHERE partition_key = %[1]d AND execution_id = '%[2]s'`,
		`DELETE FROM ff_attempt WHERE partition_key = %[1]d AND execution_id = '%[2]s';
		DELETE FROM ff_exec_core WHERE partition_key = %[1]d AND execution_id = '%[2]s'`,
	}
	id := uuid.New()
	for _, sql := range batches {
		if _, err := conn.Exec(ctx, fmt.Sprintf(sql, partition, id)); err != nil {
			return fmt.Errorf("%s: %w", strings.Fields(sql)[0], err)
		}
	}
	return nil
}

// TestApplicationGoesOn writes before, while and after the database is prepared,
// while and after that is undone.
func TestApplicationGoesOn(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, _ migrations.EngineVersion, conn *pgx.Conn) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		const writers = 2
		counts := make([]int, writers)
		var wg sync.WaitGroup
		for i := range writers {
			writer := another(t, conn)
			wg.Go(func() {
				var err error
				if counts[i], err = application(ctx, writer, i); err != nil {
					t.Errorf("writer %d: %v", i, err)
				}
			})
		}
		prepare(t, conn, config())
		unprepare(t, conn, config())
		stop()
		wg.Wait()
		if slices.Min(counts) == 0 {
			t.Errorf("the writers played %v lives, so this tested nothing", counts)
		}
	})
}

// TestApplicationOnEachStage: at rest after any statement of plan and way down,
// the application's writes work on every leaf.
func TestApplicationOnEachStage(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]string{
		"nothing":          `SELECT`,
		"an index dropped": `DROP INDEX ff_exec_core_p3_ffstream_identity; DROP PUBLICATION ffstream`,
		"an index invalid": `UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ff_exec_core_p0_ffstream_identity'::regclass`,
		"no publication":   `DROP PUBLICATION ffstream`,
		"one of too few columns": `ALTER TABLE ff_exec_core_p0 REPLICA IDENTITY DEFAULT; ALTER TABLE ff_exec_core_p1 REPLICA IDENTITY DEFAULT;
			ALTER TABLE ff_exec_core_p2 REPLICA IDENTITY DEFAULT; ALTER TABLE ff_exec_core_p3 REPLICA IDENTITY DEFAULT;
			ALTER PUBLICATION ffstream SET TABLE ff_attempt, ff_exec_core (partition_key, execution_id)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := small(t, "public")
			writer := another(t, conn)
			byStages(t, conn, writer, migrations.Plan)
			run(t, conn, harm)
			byStages(t, conn, writer, migrations.Plan)
			byStages(t, conn, writer, migrations.PlanDown)
		})
	}
}

// byStages applies a plan one statement at a time, and writes in between.
func byStages(t *testing.T, conn, writer *pgx.Conn, plan func(context.Context, migrations.Querier, migrations.Config) ([]migrations.Step, error)) {
	t.Helper()
	for {
		for partition := range 8 {
			if err := live(t.Context(), writer, partition); err != nil {
				t.Fatal(err)
			}
		}
		rest := steps(t, plan, conn, config())
		if len(rest) == 0 {
			return
		}
		apply(t, conn, config(), rest[:1])
	}
}
