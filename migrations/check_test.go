package migrations_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/migrations"
)

const (
	identityColumns = "(partition_key, execution_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, lane_id)"
	attemptColumns  = "(partition_key, execution_id, attempt_index, worker_id, worker_instance_id, lease_epoch, lease_expires_at_ms, started_at_ms, terminal_at_ms, outcome)"
	coreColumns     = "(partition_key, execution_id, flow_id, lane_id, attempt_index, lifecycle_phase, ownership_state, eligibility_state, public_state, " +
		"attempt_state, blocking_reason, cancellation_reason, cancelled_by, priority, created_at_ms, terminal_at_ms, raw_fields)"
)

// TestMend harms a prepared database: Check says what is wrong, unless it serves
// as it is, and Plan mends it.
func TestMend(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]struct {
		sql   string
		fault error // nil: the service runs on
		words []string
	}{
		"no publication":        {`DROP PUBLICATION ffstream`, migrations.ErrPublication, []string{"publication ffstream does not exist", "run: ffstream migrate"}},
		"nothing published":     {`DROP PUBLICATION ffstream; CREATE PUBLICATION ffstream WITH (publish_via_partition_root = true)`, migrations.ErrPublication, []string{"publication ffstream lacks table ff_exec_core", "run: ffstream migrate"}},
		"a table lacking":       {`ALTER PUBLICATION ffstream DROP TABLE ff_attempt`, migrations.ErrPublication, []string{"publication ffstream lacks table ff_attempt", "run: ffstream migrate"}},
		"a column lacking":      {`ALTER PUBLICATION ffstream SET TABLE ff_exec_core, ff_attempt (partition_key, execution_id, attempt_index, started_at_ms)`, migrations.ErrPublication, []string{"publication ffstream lacks column worker_id of table ff_attempt", "events need", "run: ffstream migrate"}},
		"a start lacking":       {`ALTER PUBLICATION ffstream SET TABLE ff_exec_core, ff_attempt ` + strings.Replace(attemptColumns, "started_at_ms, ", "", 1), migrations.ErrPublication, []string{"lacks column started_at_ms of table ff_attempt", "run: ffstream migrate"}},
		"a column of core":      {`ALTER PUBLICATION ffstream SET TABLE ff_attempt, ff_exec_core ` + strings.Replace(coreColumns, "raw_fields", "payload", 1), migrations.ErrPublication, []string{"lacks column raw_fields of table ff_exec_core", "run: ffstream migrate"}},
		"every column":          {`ALTER PUBLICATION ffstream SET TABLE ff_exec_core, ff_attempt`, nil, nil},
		"a column too many":     {`ALTER PUBLICATION ffstream SET TABLE ff_attempt ` + attemptColumns + `, ff_exec_core ` + strings.Replace(coreColumns, "raw_fields", "raw_fields, payload", 1), nil, nil},
		"without root":          {`DROP PUBLICATION ffstream; CREATE PUBLICATION ffstream FOR TABLE ff_exec_core, ff_attempt`, migrations.ErrPublication, []string{"publication ffstream has publish_via_partition_root off", "names of leaves", "run: ffstream migrate"}},
		"without truncate":      {`ALTER PUBLICATION ffstream SET (publish = 'insert, update, delete')`, migrations.ErrPublication, []string{"publication ffstream leaves out", "truncates", "run: ffstream migrate"}},
		"without updates":       {`ALTER PUBLICATION ffstream SET (publish = 'insert, delete, truncate')`, migrations.ErrPublication, []string{"publication ffstream leaves out", "updates", "run: ffstream migrate"}},
		"with a row filter":     {`ALTER PUBLICATION ffstream SET TABLE ff_attempt ` + attemptColumns + `, ff_exec_core ` + coreColumns + ` WHERE (lane_id = 'default')`, migrations.ErrPublication, []string{"publication ffstream has a row filter", "hides transitions", "run: ffstream migrate"}},
		"identity default":      {`ALTER TABLE ff_exec_core_p2 REPLICA IDENTITY DEFAULT`, migrations.ErrIdentity, []string{"1 of the 4 leaves of ff_exec_core (the first is ff_exec_core_p2)", "do not log the old state", "run: ffstream migrate, or choose --replica-identity=none"}},
		"index dropped":         {`DROP INDEX ff_exec_core_p3_ffstream_identity`, migrations.ErrIdentity, []string{"ff_exec_core_p3", "index was dropped", "run: ffstream migrate"}},
		"index invalid":         {`UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'ff_exec_core_p0_ffstream_identity'::regclass`, migrations.ErrIdentity, []string{"ff_exec_core_p0", "run: ffstream migrate"}},
		"index without its use": {`ALTER TABLE ff_exec_core_p0 REPLICA IDENTITY DEFAULT; ALTER TABLE ff_exec_core_p1 REPLICA IDENTITY DEFAULT; DROP INDEX ff_exec_core_p1_ffstream_identity`, migrations.ErrIdentity, []string{"2 of the 4 leaves", "run: ffstream migrate"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := small(t, "public")
			prepare(t, conn, config())
			before := catalog(t, conn)
			run(t, conn, harm.sql)
			checkFault(t, migrations.Check(t.Context(), conn, config()), harm.fault, harm.words)
			if plan := steps(t, migrations.Plan, conn, config()); len(plan) == 0 {
				t.Error("the plan is empty")
			}
			prepare(t, conn, config())
			same(t, "catalog", before, catalog(t, conn))
		})
	}
}

// checkFault holds an error against what it has to be and to say, on one line.
func checkFault(t *testing.T, err, fault error, words []string) {
	t.Helper()
	if fault == nil && err == nil {
		return
	}
	if fault == nil || !errors.Is(err, fault) {
		t.Fatalf("got %v, want %v", err, fault)
	}
	for _, word := range append(words, ": ") {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\t") {
		t.Errorf("%q is more than one line", err)
	}
}

// TestForeign sets up what something else may need: nothing is planned that
// would take it away or make the application's updates fail.
func TestForeign(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql   string
		none  bool // fails with --replica-identity=none too
		fault error
		words []string
	}{
		"leaf FULL":               {`ALTER TABLE ff_exec_core_p2 REPLICA IDENTITY FULL`, true, migrations.ErrIdentity, []string{"ff_exec_core_p2", "replica identity FULL", `run: ALTER TABLE "public"."ff_exec_core_p2" REPLICA IDENTITY DEFAULT`}},
		"leaf NOTHING":            {`ALTER TABLE ff_exec_core_p2 REPLICA IDENTITY NOTHING`, true, migrations.ErrIdentity, []string{"ff_exec_core_p2", "replica identity NOTHING", "REPLICA IDENTITY DEFAULT"}},
		"attempt FULL":            {`ALTER TABLE ff_attempt_p0 REPLICA IDENTITY FULL`, true, migrations.ErrIdentity, []string{"ff_attempt_p0", "replica identity FULL", "updates of it fail", "REPLICA IDENTITY DEFAULT"}},
		"attempt NOTHING":         {`ALTER TABLE ff_attempt_p0 REPLICA IDENTITY NOTHING`, true, migrations.ErrIdentity, []string{"ff_attempt_p0", "replica identity NOTHING", "updates of it fail"}},
		"attempt's index dropped": {`CREATE UNIQUE INDEX x ON ff_attempt_p0 (partition_key, execution_id, attempt_index); ALTER TABLE ff_attempt_p0 REPLICA IDENTITY USING INDEX x; DROP INDEX x`, true, migrations.ErrIdentity, []string{"ff_attempt_p0", "index was dropped"}},
		"leaf's other index":      {`CREATE UNIQUE INDEX x ON ff_exec_core_p1 (partition_key, execution_id, lane_id); ALTER TABLE ff_exec_core_p1 REPLICA IDENTITY USING INDEX x`, false, migrations.ErrIdentity, []string{"ff_exec_core_p1", "the index x as replica identity", "something else"}},
		"uncovered index":         {`CREATE UNIQUE INDEX x ON ff_exec_core_p1 (partition_key, execution_id, required_capabilities); ALTER TABLE ff_exec_core_p1 REPLICA IDENTITY USING INDEX x`, true, migrations.ErrIdentity, []string{"ff_exec_core_p1", "the index x as replica identity"}},
		"our name, other columns": {`CREATE UNIQUE INDEX ff_exec_core_p1_ffstream_identity ON ff_exec_core_p1 (partition_key, execution_id)`, false, migrations.ErrIdentity, []string{"index ff_exec_core_p1_ffstream_identity of leaf ff_exec_core_p1", "rename or drop it", "ffstream migrate"}},
		"our name, in use":        {`CREATE UNIQUE INDEX ff_exec_core_p1_ffstream_identity ON ff_exec_core_p1 (partition_key, execution_id); ALTER TABLE ff_exec_core_p1 REPLICA IDENTITY USING INDEX ff_exec_core_p1_ffstream_identity`, false, migrations.ErrIdentity, []string{"index ff_exec_core_p1_ffstream_identity", "rename or drop it"}},
		"our name, not unique":    {`CREATE INDEX ff_exec_core_p1_ffstream_identity ON ff_exec_core_p1 ` + identityColumns, false, migrations.ErrIdentity, []string{"rename or drop it"}},
		"our name, some rows":     {`CREATE UNIQUE INDEX ff_exec_core_p1_ffstream_identity ON ff_exec_core_p1 ` + identityColumns + ` WHERE lane_id = 'x'`, false, migrations.ErrIdentity, []string{"rename or drop it"}},
		"publication shared":      {`CREATE PUBLICATION ffstream FOR TABLE ff_lane_registry, ff_exec_core, ff_attempt`, true, migrations.ErrPublication, []string{"publication ffstream", "table public.ff_lane_registry", "choose another name (--publication)"}},
		"publication of leaves":   {`CREATE PUBLICATION ffstream FOR TABLE ff_exec_core_p0, ff_exec_core_p1, ff_exec_core_p2, ff_exec_core_p3, ff_attempt`, true, migrations.ErrPublication, []string{"table public.ff_exec_core_p0", "and 1 more"}},
		"publication of all":      {`CREATE PUBLICATION ffstream FOR ALL TABLES`, true, migrations.ErrPublication, []string{"all tables of the database", "choose another name (--publication)"}},
		"publication of a schema": {`CREATE PUBLICATION ffstream FOR TABLES IN SCHEMA public`, true, migrations.ErrPublication, []string{"the tables of schema public", "choose another name (--publication)"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := small(t, "public")
			run(t, conn, test.sql)
			before := catalog(t, conn)
			for _, identity := range []bool{true, false} {
				cfg := config()
				cfg.Identity = identity
				plan, err := migrations.Plan(t.Context(), conn, cfg)
				if identity || test.none {
					checkFault(t, err, test.fault, test.words)
					if len(plan) > 0 {
						t.Errorf("a plan of %d statements beside the error", len(plan))
					}
				} else if err != nil || len(plan) != 1 {
					t.Errorf("without identity: %d statements and %v, want the publication alone", len(plan), err)
				}
			}
			if down := steps(t, migrations.PlanDown, conn, config()); len(down) > 0 {
				t.Errorf("the way down would %s", down[0].SQL)
			}
			same(t, "catalog", before, catalog(t, conn))
		})
	}
}

// TestForeignLater: what something else puts in the place of ours stays when
// ours is removed.
func TestForeignLater(t *testing.T) {
	t.Parallel()
	conn := small(t, "public")
	prepare(t, conn, config())
	run(t, conn, `ALTER TABLE ff_exec_core_p0 REPLICA IDENTITY FULL;
		CREATE UNIQUE INDEX x ON ff_exec_core_p1 (partition_key, execution_id, lane_id);
		ALTER TABLE ff_exec_core_p1 REPLICA IDENTITY USING INDEX x;
		ALTER PUBLICATION ffstream ADD TABLE ff_lane_registry`)
	checkFault(t, migrations.Check(t.Context(), conn, config()), migrations.ErrIdentity, []string{"ff_exec_core_p0", "replica identity FULL", "fail"})
	unprepare(t, conn, config())
	same(t, "identities", []string{"ff_exec_core_p0 f", "ff_exec_core_p1 i", "ff_exec_core_p2 d", "ff_exec_core_p3 d"},
		lines(t, conn, `SELECT relname || ' ' || relreplident::text FROM pg_class WHERE relname ~ '^ff_exec_core_p.$'`))
	same(t, "publications", []string{"ffstream"}, lines(t, conn, `SELECT pubname FROM pg_publication`))
	if left := lines(t, conn, `SELECT relname FROM pg_class WHERE relname ~ 'ffstream_identity'`); len(left) > 0 {
		t.Errorf("indexes of ours are left: %v", left)
	}
}

// TestSharedPublication: one that publishes more serves, when all that events
// need is in it; it is neither changed nor dropped.
func TestSharedPublication(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"another table": `FOR TABLE ff_exec_core, ff_attempt, ff_lane_registry`, "all tables": `FOR ALL TABLES`, "the schema": `FOR TABLES IN SCHEMA public`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := small(t, "public")
			run(t, conn, `CREATE PUBLICATION ffstream `+sql+` WITH (publish_via_partition_root = true)`)
			before := catalog(t, conn)
			if plan := steps(t, migrations.Plan, conn, config()); len(plan) != 8 {
				t.Errorf("%d statements, want two for each of 4 leaves", len(plan))
			}
			prepare(t, conn, config())
			for partition := range 8 {
				if err := live(t.Context(), conn, partition); err != nil {
					t.Fatal(err)
				}
			}
			unprepare(t, conn, config())
			same(t, "catalog", before, catalog(t, conn))
		})
	}
}

// TestUncoveredIdentity shows what Plan keeps from an application.
func TestUncoveredIdentity(t *testing.T) {
	t.Parallel()
	for identity, table := range map[string]string{"FULL": "ff_exec_core", "NOTHING": "ff_attempt"} {
		t.Run(identity, func(t *testing.T) {
			t.Parallel()
			conn := small(t, "public")
			for i := range "0123" {
				run(t, conn, `ALTER TABLE `+table+"_p"+string("0123"[i])+` REPLICA IDENTITY `+identity)
			}
			if err := live(t.Context(), conn, 1); err != nil {
				t.Fatal(err)
			}
			run(t, conn, `CREATE PUBLICATION ffstream FOR TABLE ff_exec_core `+coreColumns+`, ff_attempt `+attemptColumns+` WITH (publish_via_partition_root = true)`)
			if err := live(t.Context(), conn, 1); err == nil {
				t.Error("the application's update works: the rule has no reason any more")
			}
			cfg := config()
			cfg.Identity = false
			checkFault(t, migrations.Check(t.Context(), conn, cfg), migrations.ErrIdentity, []string{table + "_p0", identity, "updates of it fail", "REPLICA IDENTITY DEFAULT"})
		})
	}
}

func TestTablesMissing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql   string
		words []string
	}{
		"both":     {`DROP TABLE ff_exec_core, ff_attempt`, []string{"no table ff_exec_core on the search path", "ffstream migrate --engine-schema"}},
		"one":      {`DROP TABLE ff_attempt`, []string{"no table ff_attempt on the search path"}},
		"column":   {`ALTER TABLE ff_attempt DROP COLUMN outcome`, []string{"table ff_attempt has no column outcome", "events need"}},
		"path":     {`SET search_path = pg_catalog`, []string{"no table ff_exec_core on the search path"}},
		"identity": {`ALTER TABLE ff_exec_core DROP CONSTRAINT ff_exec_core_pkey`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := small(t, "public")
			run(t, conn, test.sql)
			fault := migrations.ErrTables
			if test.words == nil {
				fault, test.words = migrations.ErrIdentity, []string{"ff_exec_core_p0", "no primary key"}
			} else {
				checkFault(t, migrations.Check(t.Context(), conn, config()), fault, test.words)
			}
			_, err := migrations.Plan(t.Context(), conn, config())
			checkFault(t, err, fault, test.words)
			// The way down has nothing to do, and does not mind.
			if down := steps(t, migrations.PlanDown, conn, config()); len(down) > 0 {
				t.Errorf("the way down would %s", down[0].SQL)
			}
		})
	}
}

// TestDownWithoutTables: the publication outlives the tables that it published.
func TestDownWithoutTables(t *testing.T) {
	t.Parallel()
	conn := small(t, "public")
	prepare(t, conn, config())
	run(t, conn, `DROP TABLE ff_exec_core, ff_attempt`)
	unprepare(t, conn, config())
	if left := lines(t, conn, `SELECT pubname FROM pg_publication`); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLeafLater: a leaf that is attached later has the default identity.
func TestLeafLater(t *testing.T) {
	t.Parallel()
	conn := small(t, "public")
	run(t, conn, `DROP TABLE ff_exec_core_p3`)
	prepare(t, conn, config())
	run(t, conn, `CREATE TABLE later (LIKE ff_exec_core INCLUDING ALL); ALTER TABLE ff_exec_core ATTACH PARTITION later FOR VALUES WITH (MODULUS 4, REMAINDER 3)`)
	checkFault(t, migrations.Check(t.Context(), conn, config()), migrations.ErrIdentity, []string{"1 of the 4 leaves of ff_exec_core (the first is later)"})
	plan := steps(t, migrations.Plan, conn, config())
	if len(plan) != 2 {
		t.Errorf("%d statements, want 2 for one leaf: %v", len(plan), plan)
	}
	prepare(t, conn, config())
	for partition := range 8 {
		if err := live(t.Context(), conn, partition); err != nil {
			t.Fatal(err)
		}
	}
}

// long is a name of 63 bytes, whose characters are of two bytes but for the last.
var long = strings.Repeat("é", 31)

func TestUnusualNames(t *testing.T) {
	t.Parallel()
	for _, schema := range []string{`odd "schema".with ON and ; dots`, "public"} {
		for _, publication := range []string{`say "hello", it's`, strings.Repeat("p", 63), "Ünï cödé"} {
			t.Run(schema+" "+publication, func(t *testing.T) {
				t.Parallel()
				conn := small(t, schema)
				run(t, conn, `DROP TABLE ff_exec_core_p2, ff_exec_core_p3`)
				for i, leaf := range []string{long + "2", long + "3"} {
					run(t, conn, strings.NewReplacer("leaf", pgx.Identifier{leaf}.Sanitize(), "nr", []string{"2", "3"}[i]).
						Replace(`CREATE TABLE leaf PARTITION OF ff_exec_core FOR VALUES WITH (MODULUS 4, REMAINDER nr)`))
				}
				before := catalog(t, conn)
				cfg := config()
				cfg.Publication = publication
				if err := migrations.Check(t.Context(), conn, cfg); !errors.Is(err, migrations.ErrPublication) || !strings.Contains(err.Error(), publication) {
					t.Errorf("got %v, want ErrPublication and the name", err)
				}
				prepare(t, conn, cfg)
				if n := lines(t, conn, `SELECT relname FROM pg_class WHERE relname ~ '_ffstream_identity$'`); len(n) != 4 || len(slices.Compact(slices.Sorted(slices.Values(n)))) != 4 {
					t.Errorf("indexes %q, want 4", n)
				}
				for partition := range 8 {
					if err := live(t.Context(), conn, partition); err != nil {
						t.Fatal(err)
					}
				}
				unprepare(t, conn, cfg)
				same(t, "catalog", before, catalog(t, conn))
			})
		}
	}
}

// TestTwoSchemas: the search path decides, for each table by itself, and what
// has the same name elsewhere is left alone.
func TestTwoSchemas(t *testing.T) {
	t.Parallel()
	conn := small(t, "first")
	run(t, conn, `CREATE SCHEMA second; ALTER TABLE ff_attempt SET SCHEMA second; CREATE SCHEMA decoy;
		CREATE TABLE decoy.ff_exec_core (LIKE ff_exec_core); CREATE TABLE decoy.ff_attempt (LIKE second.ff_attempt);
		SET search_path = first, second, decoy`)
	before := catalog(t, conn)
	prepare(t, conn, config())
	same(t, "tables", []string{"first.ff_exec_core", "second.ff_attempt"}, lines(t, conn, `SELECT schemaname || '.' || tablename FROM pg_publication_tables`))
	unprepare(t, conn, config())
	same(t, "catalog", before, catalog(t, conn))
	run(t, conn, `CREATE PUBLICATION ffstream FOR TABLE decoy.ff_exec_core, second.ff_attempt WITH (publish_via_partition_root = true)`)
	checkFault(t, migrations.Check(t.Context(), conn, config()), migrations.ErrPublication, []string{"lacks table ff_exec_core"})
	_, err := migrations.Plan(t.Context(), conn, config())
	checkFault(t, err, migrations.ErrPublication, []string{"table decoy.ff_exec_core"})
}
