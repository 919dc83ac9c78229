package migrations_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// publishedSQL gives the publication's tables with their columns.
const publishedSQL = `SELECT tablename || ': ' || array_to_string(attnames, ' ') FROM pg_publication_tables WHERE pubname = $1`

// published is what events need; the engine's migration 0016 adds one.
func published(version migrations.EngineVersion) []string {
	core := "ff_exec_core: partition_key execution_id flow_id lane_id attempt_index lifecycle_phase ownership_state eligibility_state " +
		"public_state attempt_state blocking_reason cancellation_reason cancelled_by priority created_at_ms terminal_at_ms raw_fields"
	if version == migrations.EngineNewest {
		core += " started_at_ms"
	}
	return []string{core, "ff_attempt: partition_key execution_id attempt_index worker_id worker_instance_id lease_epoch " +
		"lease_expires_at_ms started_at_ms terminal_at_ms outcome"}
}

func TestPlanAndApply(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, version migrations.EngineVersion, conn *pgx.Conn) {
		plan := steps(t, migrations.Plan, conn, config())
		if len(plan) != 513 || !strings.HasPrefix(plan[0].SQL, "CREATE PUBLICATION ") {
			t.Fatalf("%d statements, the first is %s; want the publication and two a leaf", len(plan), plan[0].SQL)
		}
		for i, step := range plan[1:] {
			prefix := []string{"CREATE UNIQUE INDEX CONCURRENTLY ", "ALTER TABLE "}[i%2]
			if !strings.HasPrefix(step.SQL, prefix) || step.Note == "" {
				t.Errorf("statement %d is %q (%s), want %s...", i+1, step.SQL, step.Note, prefix)
			}
		}
		prepare(t, conn, config())
		same(t, "publication", published(version), lines(t, conn, publishedSQL, "ffstream"))
		same(t, "replica identities", []string{
			"ff_exec_core d 1", "ff_attempt d 257",
			"ff_exec_core i 256 btree (partition_key, execution_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, lane_id)",
		}, lines(t, conn, identitiesSQL))
	})
}

// identitiesSQL counts the tables of each kind by replica identity and its index.
const identitiesSQL = `SELECT concat_ws(' ', kind, relreplident, count(*), index) FROM (
	SELECT substring(c.relname, '^ff_exec_core|^ff_attempt') kind, relreplident, regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '') index
	FROM pg_class c LEFT JOIN pg_index ON indrelid = c.oid AND indisreplident AND indisvalid
	WHERE relkind IN ('r', 'p') AND relname ~ '^ff_(exec_core|attempt)') s GROUP BY kind, relreplident, index`

// TestDryRun: the plan's SQL run by hand is what Apply does.
func TestDryRun(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, version migrations.EngineVersion, conn *pgx.Conn) {
		for _, step := range steps(t, migrations.Plan, conn, config()) {
			run(t, conn, step.SQL)
		}
		applied := connect(t, testenv.DB(t, testenv.Schema{Version: version, Prepared: true}).URL)
		same(t, "catalog", catalog(t, applied), catalog(t, conn))
		for _, step := range steps(t, migrations.PlanDown, conn, config()) {
			run(t, conn, step.SQL)
		}
		fresh := connect(t, testenv.DB(t, testenv.Schema{Version: version}).URL)
		same(t, "catalog after the way down", catalog(t, fresh), catalog(t, conn))
	})
}

// TestUpgradeOfEngine: the column that the engine's upgrade adds is no reason to
// stop, and one statement publishes it.
func TestUpgradeOfEngine(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.Engine011, Prepared: true})
	conn := connect(t, db.URL)
	if err := migrations.EngineSchema(t.Context(), db.URL, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), conn, config()); err != nil {
		t.Errorf("after the engine's upgrade: %v", err)
	}
	if plan := steps(t, migrations.Plan, conn, config()); len(plan) != 1 {
		t.Errorf("%d statements after the engine's upgrade, want 1: %v", len(plan), plan)
	}
	prepare(t, conn, config())
	same(t, "publication", published(migrations.EngineNewest), lines(t, conn, publishedSQL, "ffstream"))
}

func TestIdentityNone(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, version migrations.EngineVersion, conn *pgx.Conn) {
		before := catalog(t, conn)
		cfg := config()
		cfg.Identity = false
		if plan := steps(t, migrations.Plan, conn, cfg); len(plan) != 1 {
			t.Fatalf("%d statements, want the publication alone", len(plan))
		}
		prepare(t, conn, cfg)
		same(t, "publication", published(version), lines(t, conn, publishedSQL, "ffstream"))
		if err := migrations.Check(t.Context(), conn, config()); !errors.Is(err, migrations.ErrIdentity) {
			t.Errorf("with identity: got %v, want ErrIdentity", err)
		}
		if plan := steps(t, migrations.Plan, conn, config()); len(plan) != 512 {
			t.Errorf("%d statements are missing for an identity, want 512", len(plan))
		}
		unprepare(t, conn, cfg)
		same(t, "catalog", before, catalog(t, conn))
	})
}

// TestDown removes what migrate added, all of it or half, and nothing else.
func TestDown(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, _ migrations.EngineVersion, conn *pgx.Conn) {
		// Other people's things, which look much like ours.
		run(t, conn, `CREATE PUBLICATION "ffstream-other" FOR TABLE ff_exec_core, ff_attempt WITH (publish_via_partition_root = true)`)
		run(t, conn, `CREATE UNIQUE INDEX ff_exec_core_p7_identity ON ff_exec_core_p7 (partition_key, execution_id, lane_id)`)
		run(t, conn, `CREATE UNIQUE INDEX ff_attempt_p7_ffstream_identity ON ff_attempt_p7 (partition_key, execution_id, attempt_index, lease_epoch)`)
		run(t, conn, `ALTER TABLE ff_attempt_p7 REPLICA IDENTITY USING INDEX ff_attempt_p7_ffstream_identity`)
		run(t, conn, `ALTER TABLE ff_exec_core REPLICA IDENTITY FULL`) // the root's, which leaves do not inherit
		before := catalog(t, conn)
		if down := steps(t, migrations.PlanDown, conn, config()); len(down) > 0 {
			t.Errorf("before anything was added, %d statements: %s", len(down), down[0].SQL)
		}
		plan := steps(t, migrations.Plan, conn, config())
		for _, some := range []int{len(plan) / 2, 2, len(plan)} { // 2: an index that is no identity yet
			apply(t, conn, config(), steps(t, migrations.Plan, conn, config())[:some])
			unprepare(t, conn, config())
			same(t, "catalog", before, catalog(t, conn))
		}
		if again := steps(t, migrations.Plan, conn, config()); !slices.Equal(again, plan) {
			t.Errorf("the plan has %d statements after the way down, had %d", len(again), len(plan))
		}
	})
}

// TestDownHalf: the way down can be interrupted and gone on with as well.
func TestDownHalf(t *testing.T) {
	t.Parallel()
	conn := connect(t, testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest, Prepared: true}).URL)
	down := steps(t, migrations.PlanDown, conn, config())
	apply(t, conn, config(), down[:len(down)/2])
	unprepare(t, conn, config())
	fresh := connect(t, testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest}).URL)
	same(t, "catalog", catalog(t, fresh), catalog(t, conn))
}
