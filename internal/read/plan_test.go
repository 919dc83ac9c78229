package read

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

func TestMain(m *testing.M) {
	code := testenv.Main(m.Run)
	if err := testenv.Leaks(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// planned is what EXPLAIN (ANALYZE, FORMAT JSON) tells of a node.
type planned struct {
	Relation string    `json:"Relation Name"`
	Loops    int       `json:"Actual Loops"`
	Removed  int       `json:"Subplans Removed"`
	Cost     float64   `json:"Total Cost"`
	Plans    []planned `json:"Plans"`
}

type explained struct {
	Plan planned         `json:"Plan"`
	JIT  json.RawMessage `json:"JIT"`
}

// touched collects the leaves that a plan read, by table; opened counts those
// that it had open, read or not, and rounds is how often one was read at most.
func (p *planned) touched(leaves map[string][]string) (opened, rounds int) {
	if table, _, ok := strings.Cut(p.Relation, "_p"); ok {
		opened, rounds = opened+1, p.Loops
		if p.Loops > 0 && !slices.Contains(leaves[table], p.Relation) {
			leaves[table] = append(leaves[table], p.Relation)
		}
	}
	for i := range p.Plans {
		o, r := p.Plans[i].touched(leaves)
		opened, rounds = opened+o, max(rounds, r)
	}
	return opened, rounds
}

// prepared is a statement with its arguments as literals.
type prepared struct {
	name, sql, types, args string
	tables                 int // of the two that it reads
}

func explain1(t *testing.T, conn *pgx.Conn, mode string, p prepared) explained {
	t.Helper()
	ctx := context.Background()
	for _, sql := range []string{
		"SET plan_cache_mode = " + mode, "DEALLOCATE ALL", fmt.Sprintf("PREPARE p (%s) AS %s", p.types, p.sql), fmt.Sprintf("EXECUTE p (%s)", p.args),
	} {
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	var text []byte
	if err := conn.QueryRow(ctx, fmt.Sprintf("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE p (%s)", p.args), pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
		t.Fatal(err)
	}
	var out []explained
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out[0]
}

// openConn gives a connection to a database with some executions of partition 86.
func openConn(t *testing.T, version migrations.EngineVersion) (*pgx.Conn, []uuid.UUID) {
	t.Helper()
	ctx := context.Background()
	db := testenv.DB(t, testenv.Schema{Version: version})
	v := engine.V011
	if version == migrations.EngineNewest {
		v = engine.Newest
	}
	e := &engine.Engine{Version: v}
	var ids []uuid.UUID
	for range 40 {
		x := engine.Exec{Partition: 86, ID: uuid.New()}
		err := pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
			for _, op := range []error{e.Create(ctx, tx, engine.NewExecution{Exec: x}), e.Promote(ctx, tx, x), e.Claim(ctx, tx, x), e.Complete(ctx, tx, x, nil)} {
				if op != nil {
					return op
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, x.ID)
	}
	conn, err := pgx.Connect(ctx, db.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	return conn, ids
}

// TestOneLeaf: a read opens one leaf of each table that it reads, whether its
// plan was made for the partition or for any.
func TestOneLeaf(t *testing.T) {
	t.Parallel()
	for _, version := range []migrations.EngineVersion{migrations.Engine011, migrations.EngineNewest} {
		conn, ids := openConn(t, version)
		id := fmt.Sprintf("'%s'", ids[0])
		of := "86, " + id
		list := fmt.Sprintf("86, ARRAY['%s', '%s']::uuid[]", ids[0], ids[1])
		for _, p := range []prepared{
			{"state", stateSQL, "smallint, uuid", of, 2}, {"info", infoSQL, "smallint, uuid", of, 2}, {"result", resultSQL, "smallint, uuid", of, 1},
			{"snapshot", snapshotSQL, "smallint, uuid", of, 2}, {"context", contextSQL, "smallint, uuid", of, 1},
			{"attempt index", attemptIndexSQL, "smallint, uuid", of, 1}, {"attempt count", attemptCountSQL, "smallint, uuid", of, 2},
			{"tag", tagSQL, "smallint, uuid, text", of + ", 'a.b'", 1}, {"namespace", namespaceSQL, "smallint, uuid", of, 1},
			{"settled", settledSQL, "smallint, uuid", of, 2}, {"attempts", attemptsSQL, "smallint, uuid", of, 2}, {"states", statesSQL, "smallint, uuid[]", list, 2}, {"infos", infosSQL, "smallint, uuid[]", list, 2},
			{"flow", flowSQL, "smallint, uuid", of, 1}, // it has no members
			{"list", listSQL, "smallint, bigint", "86, 5", 1}, {"list after", listAfterSQL, "smallint, bigint, uuid", "86, 5, " + id, 1},
		} {
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				leaves := map[string][]string{}
				e := explain1(t, conn, mode, p)
				opened, _ := e.Plan.touched(leaves)
				if len(leaves) != p.tables || len(leaves["ff_exec_core"]) != 1 || p.tables == 2 && len(leaves["ff_attempt"]) != 1 {
					t.Errorf("%s with %s reads %v, want one leaf of %d tables", p.name, mode, leaves, p.tables)
				}
				if opened > 6 { // a plan reads the attempts up to five times
					t.Errorf("%s with %s opens leaves %d times", p.name, mode, opened)
				}
				if e.JIT != nil {
					t.Errorf("%s compiles expressions with %s, its cost is %g", p.name, mode, e.Plan.Cost)
				}
			}
		}
	}
}

// fill makes the tables of such a size that Postgres costs them as large ones.
func fill(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	for _, sql := range []string{
		`INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms)
			SELECT i % 256, gen_random_uuid(), 'default', 'terminal', 'unowned', 'not_applicable', 'completed', 'attempt_terminal', 1 FROM generate_series(1, 50000) i`,
		`INSERT INTO ff_attempt (partition_key, execution_id, attempt_index, outcome, started_at_ms)
			SELECT partition_key, execution_id, 0, 'success', 5 FROM ff_exec_core ON CONFLICT DO NOTHING`,
		`ANALYZE ff_exec_core, ff_attempt`,
	} {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSpreadLeaves: a read of executions of several partitions reads one leaf of
// each table for each partition, and never compiles.
func TestSpreadLeaves(t *testing.T) {
	t.Parallel()
	conn, ids := openConn(t, migrations.EngineNewest)
	fill(t, conn)
	const types = "smallint[], integer[], integer[], uuid[]"
	args := fmt.Sprintf("'{1,7,86}', '{1,2,3}', '{1,2,4}', ARRAY['%s', '%s', '%s', '%s']::uuid[]", uuid.New(), uuid.New(), ids[0], ids[1])
	for _, p := range []prepared{{"states", spreadStatesSQL, types, args, 2}, {"infos", spreadInfosSQL, types, args, 2}} {
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			leaves := map[string][]string{}
			e := explain1(t, conn, mode, p)
			if _, rounds := e.Plan.touched(leaves); rounds != 1 {
				t.Errorf("%s with %s reads a leaf %d times", p.name, mode, rounds)
			}
			// Attempts of a partition without executions need not be looked for.
			if len(leaves["ff_exec_core"]) != 3 || len(leaves["ff_attempt"]) > 3 || len(leaves["ff_attempt"]) == 0 {
				t.Errorf("%s with %s reads %v, want three leaves of each table", p.name, mode, leaves)
			}
			if e.JIT != nil || e.Plan.Cost > 50_000 {
				t.Errorf("%s with %s costs %g, JIT %s: Postgres compiles from 100000 on", p.name, mode, e.Plan.Cost, e.JIT)
			}
		}
	}
}

// TestPlanChoice: left to itself Postgres plans reads of one partition for it,
// and keeps one plan for spread reads.
func TestPlanChoice(t *testing.T) {
	t.Parallel()
	conn, ids := openConn(t, migrations.EngineNewest)
	ctx := context.Background()
	run := func(name, sql string, args ...any) (generic, custom int) {
		if _, err := conn.Prepare(ctx, name, sql); err != nil {
			t.Fatal(err)
		}
		for range 12 {
			if _, err := conn.Exec(ctx, name, args...); err != nil {
				t.Fatal(err)
			}
		}
		if err := conn.QueryRow(ctx, `SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = $1`, name).Scan(&generic, &custom); err != nil {
			t.Fatal(err)
		}
		return generic, custom
	}
	for name, sql := range map[string]string{"state": stateSQL, "info": infoSQL, "snapshot": snapshotSQL} {
		if generic, custom := run(name, sql, int16(86), uuidArg(ids[0])); generic != 0 {
			t.Errorf("%s: %d generic plans, %d custom ones", name, generic, custom)
		}
	}
	many := make([]uuid.UUID, 300)
	keys, lo, hi := make([]int16, 300), make([]int32, 300), make([]int32, 300)
	for i := range many {
		many[i], keys[i], lo[i], hi[i] = ids[i%len(ids)], int16(i), int32(i+1), int32(i+1)
	}
	for name, sql := range map[string]string{"spread states": spreadStatesSQL, "spread infos": spreadInfosSQL} {
		if generic, custom := run(name, sql, keys, lo, hi, many); generic != 7 {
			t.Errorf("%s: %d generic plans, %d custom ones", name, generic, custom)
		}
	}
}
