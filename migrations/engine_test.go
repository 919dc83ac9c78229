package migrations_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// The columns of the engine's tables: name, type, nullability, default.
const (
	coreShape = `partition_key smallint not
execution_id uuid not
flow_id uuid null
lane_id text not
required_capabilities text[] not '{}'::text[]
attempt_index integer not 0
lifecycle_phase text not
ownership_state text not
eligibility_state text not
public_state text not
attempt_state text not
blocking_reason text null
cancellation_reason text null
cancelled_by text null
priority integer not 0
created_at_ms bigint not
terminal_at_ms bigint null
deadline_at_ms bigint null
payload bytea null
result bytea null
policy jsonb null
raw_fields jsonb not '{}'::jsonb`
	addedShape = `
started_at_ms bigint null
lease_reclaim_count integer not 0`
	attemptShape = `partition_key smallint not
execution_id uuid not
attempt_index integer not
worker_id text null
worker_instance_id text null
lease_epoch bigint not 0
lease_expires_at_ms bigint null
started_at_ms bigint null
terminal_at_ms bigint null
outcome text null
usage jsonb null
policy jsonb null
raw_fields jsonb not '{}'::jsonb`
)

const columnsSQL = `SELECT concat_ws(' ', attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'not' ELSE 'null' END,
	pg_get_expr(adbin, adrelid)) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum`

func TestEngineColumns(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, version migrations.EngineVersion, conn *pgx.Conn) {
		core := coreShape
		if version == migrations.EngineNewest {
			core += addedShape
		}
		for table, want := range map[string]string{"ff_exec_core": core, "ff_attempt": attemptShape} {
			for _, relation := range []string{table, table + "_p0", table + "_p255"} {
				if got := strings.Join(lines(t, conn, columnsSQL, relation), "\n"); got != want {
					t.Errorf("%s has the columns\n%s\nwant\n%s", relation, got, want)
				}
			}
		}
	})
}

// indexShape is what each leaf of a table has, by method, columns and condition.
var indexShape = map[string][]string{
	"ff_exec_core": {
		"UNIQUE btree (partition_key, execution_id)",
		"btree (partition_key, deadline_at_ms) WHERE (deadline_at_ms IS NOT NULL)",
		"btree (partition_key, flow_id) WHERE (flow_id IS NOT NULL)",
		"btree (partition_key, lane_id, lifecycle_phase)",
		"gin (required_capabilities)",
	},
	"ff_attempt": {
		"UNIQUE btree (partition_key, execution_id, attempt_index)",
		"btree (partition_key, lease_expires_at_ms) WHERE (lease_expires_at_ms IS NOT NULL)",
		"btree (partition_key, worker_id) WHERE (worker_id IS NOT NULL)",
	},
}

// indexesSQL gives the indexes of a relation, or of its leaves, each with the
// number of relations that have it.
const indexesSQL = `SELECT count(*) || ' ' || CASE WHEN indisunique THEN 'UNIQUE ' ELSE '' END || regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '')
	FROM pg_index WHERE indisvalid AND (indrelid = $1::regclass OR indrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = $1::regclass))
	GROUP BY indisunique, regexp_replace(pg_get_indexdef(indexrelid), '^.* USING ', '') ORDER BY 1`

func TestEngineIndexes(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, _ migrations.EngineVersion, conn *pgx.Conn) {
		for table, shape := range indexShape {
			var want []string
			for _, index := range shape {
				want = append(want, "257 "+index) // the root's and 256 leaves'
			}
			same(t, table, want, lines(t, conn, indexesSQL, table))
		}
		named := lines(t, conn, `SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisprimary
			AND indrelid IN ('ff_exec_core'::regclass, 'ff_attempt'::regclass)`)
		same(t, "names of indexes", []string{
			"ff_exec_core_lane_phase_idx", "ff_exec_core_caps_gin_idx", "ff_exec_core_flow_idx", "ff_exec_core_deadline_idx",
			"ff_attempt_lease_expiry_idx", "ff_attempt_worker_idx",
		}, named)
		// Nothing else that a decoder or a migration could stumble over.
		same(t, "constraints, triggers, identities", nil, lines(t, conn, `
			SELECT conname FROM pg_constraint WHERE contype <> 'p' AND conrelid::regclass::text ~ '^ff_(exec_core|attempt)'
			UNION ALL SELECT tgname FROM pg_trigger WHERE tgrelid::regclass::text ~ '^ff_(exec_core|attempt)'
			UNION ALL SELECT relname FROM pg_class WHERE relname ~ '^ff_(exec_core|attempt)' AND relkind IN ('r', 'p') AND relreplident <> 'd'`))
	})
}

func TestEngineLeaves(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, _ migrations.EngineVersion, conn *pgx.Conn) {
		for table := range indexShape {
			var want []string
			for i := range 256 {
				want = append(want, fmt.Sprintf("%s_p%d FOR VALUES WITH (modulus 256, remainder %d)", table, i, i))
			}
			same(t, table, want, lines(t, conn, `SELECT c.relname || ' ' || pg_get_expr(c.relpartbound, c.oid)
				FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = $1::regclass AND c.relkind = 'r'`, table))
		}
		// Postgres hashes the key, so the leaf's number is not the partition's.
		for key, leaf := range map[int]string{0: "p176", 7: "p23", 86: "p127", 255: "p42"} {
			run(t, conn, fmt.Sprintf(`INSERT INTO ff_attempt (partition_key, execution_id, attempt_index) VALUES (%d, gen_random_uuid(), 0)`, key))
			got := lines(t, conn, `SELECT tableoid::regclass::text FROM ff_attempt WHERE partition_key = $1`, key)
			if want := []string{"ff_attempt_" + leaf}; !slices.Equal(got, want) {
				t.Errorf("partition %d is in %v, want %v", key, got, want)
			}
		}
	})
}

// oldRows are executions of engine 0.11: one whose attempts started out of
// order, one whose attempt never started, one without attempts.
const oldRows = `
INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms)
	SELECT 86, ('00000000-0000-4000-8000-00000000000' || i)::uuid, 'default', 'active', 'leased', 'not_applicable', 'waiting', 'running_attempt', i
	FROM generate_series(1, 3) i;
INSERT INTO ff_attempt (partition_key, execution_id, attempt_index, started_at_ms) VALUES
	(86, '00000000-0000-4000-8000-000000000001', 0, NULL),
	(86, '00000000-0000-4000-8000-000000000001', 1, 500),
	(86, '00000000-0000-4000-8000-000000000001', 2, 200),
	(86, '00000000-0000-4000-8000-000000000002', 0, NULL);`

func TestEngineUpgrade(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.Engine011})
	conn := connect(t, db.URL)
	run(t, conn, oldRows)
	const kept = `SELECT (to_jsonb(c) - 'started_at_ms' - 'lease_reclaim_count')::text FROM ff_exec_core c UNION ALL SELECT to_jsonb(a)::text FROM ff_attempt a`
	before := lines(t, conn, kept)
	if len(before) != 7 {
		t.Fatalf("%d rows before the upgrade, want 7", len(before))
	}
	if err := migrations.EngineSchema(t.Context(), db.URL, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	same(t, "rows", before, lines(t, conn, kept))
	same(t, "new columns", []string{"1 500 0", "2 - 0", "3 - 0"},
		lines(t, conn, `SELECT concat_ws(' ', created_at_ms, coalesce(started_at_ms::text, '-'), lease_reclaim_count) FROM ff_exec_core`))
	fresh := connect(t, testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest}).URL)
	same(t, "catalog", catalog(t, fresh), catalog(t, conn))
}

func TestEngineSchemaAgain(t *testing.T) {
	eachVersion(t, false, func(t *testing.T, version migrations.EngineVersion, conn *pgx.Conn) {
		before := catalog(t, conn)
		for again := version; again >= migrations.Engine011; again-- { // an older shape changes nothing either
			if err := migrations.EngineSchema(t.Context(), conn.Config().ConnString(), again); err != nil {
				t.Fatalf("shape %d: %v", again, err)
			}
			same(t, "catalog", before, catalog(t, conn))
		}
	})
}

func TestEngineSchemaRefuses(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"both tables":   "CREATE TABLE ff_exec_core (x int); CREATE TABLE ff_attempt (x int)",
		"ff_exec_core":  "CREATE TABLE ff_exec_core (x int)",
		"ff_attempt":    "CREATE TABLE ff_attempt (x int)",
		"another table": "CREATE TABLE ff_lane_registry (x int)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := testenv.DB(t, testenv.Schema{})
			conn := connect(t, db.URL)
			run(t, conn, sql)
			before := catalog(t, conn)
			if err := migrations.EngineSchema(t.Context(), db.URL, migrations.EngineNewest); !errors.Is(err, migrations.ErrEngineSchema) {
				t.Errorf("got %v, want ErrEngineSchema", err)
			}
			same(t, "catalog", before, catalog(t, conn))
		})
	}
}

// TestEngineSchemaAfterFailure: an attempt that failed leaves a record, which
// must not make later tables ours.
func TestEngineSchemaAfterFailure(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{})
	conn := connect(t, db.URL)
	run(t, conn, "CREATE VIEW ff_exec_core_caps_gin_idx AS SELECT 1") // where an index is to be
	if err := migrations.EngineSchema(t.Context(), db.URL, migrations.EngineNewest); err == nil || errors.Is(err, migrations.ErrEngineSchema) {
		t.Fatalf("got %v, want an error of the SQL", err)
	}
	if left := lines(t, conn, "SELECT to_regclass('ffstream_engine_schema')::text"); left[0] == "" {
		t.Fatal("the attempt left no record, so this test tests nothing")
	}
	run(t, conn, "CREATE TABLE ff_exec_core (x int)")
	if err := migrations.EngineSchema(t.Context(), db.URL, migrations.EngineNewest); !errors.Is(err, migrations.ErrEngineSchema) {
		t.Errorf("got %v, want ErrEngineSchema", err)
	}
}

func TestEngineSchemaErrors(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{})
	for _, url := range []string{"postgres://h:notaport/db", strings.Replace(db.URL, db.Name, "no_such_database", 1)} {
		if err := migrations.EngineSchema(t.Context(), url, migrations.EngineNewest); err == nil || errors.Is(err, migrations.ErrEngineSchema) {
			t.Errorf("%s: got %v, want an error of the connection", url, err)
		}
	}
}
