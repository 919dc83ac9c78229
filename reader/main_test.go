package reader_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// schemas are the shapes of the engine's tables, by the engine that writes them.
var schemas = map[engine.Version]migrations.EngineVersion{
	engine.V011: migrations.Engine011, engine.Newest: migrations.EngineNewest,
}

// shared are databases for tests that look at their own executions alone. They
// are set before the first test and not written to after.
var shared = map[engine.Version]*testenv.Database{}

func TestMain(m *testing.M) {
	tb := &mainTB{}
	code := testenv.Main(func() int {
		for version, schema := range schemas {
			shared[version] = testenv.DB(tb, testenv.Schema{Version: schema})
		}
		prepareExamples(tb)
		code := m.Run()
		for i := len(tb.cleanups) - 1; i >= 0; i-- {
			tb.cleanups[i]()
		}
		return code
	})
	if err := testenv.Leaks(); err != nil && code == 0 {
		tb.Error(err)
	}
	if tb.failed {
		code = 1
	}
	os.Exit(code)
}

// mainTB is the testing.TB of TestMain, for what all tests share.
type mainTB struct {
	testing.TB
	cleanups []func()
	failed   bool
}

func (tb *mainTB) Helper()          {}
func (tb *mainTB) Cleanup(f func()) { tb.cleanups = append(tb.cleanups, f) }
func (tb *mainTB) Fatal(args ...any) {
	panic(fmt.Sprint(args...))
}

func (tb *mainTB) Error(args ...any) {
	tb.failed = true
	fmt.Fprintln(os.Stderr, args...)
}

func (tb *mainTB) Errorf(format string, args ...any) { tb.Error(fmt.Sprintf(format, args...)) }

// onBothSchemas runs a test against either shared database.
func onBothSchemas(t *testing.T, f func(t *testing.T, pool *pgxpool.Pool)) {
	t.Helper()
	t.Parallel()
	for version, db := range shared {
		t.Run(version.String(), func(t *testing.T) {
			t.Parallel()
			f(t, db.Pool)
		})
	}
}

// rowOf has the literals of a row: phase, ownership, eligibility, public state
// and attempt state.
func rowOf(literals string) map[string]any {
	words := strings.Split(literals, "/")
	return map[string]any{
		"lifecycle_phase": words[0], "ownership_state": words[1], "eligibility_state": words[2],
		"public_state": words[3], "attempt_state": words[4],
	}
}

// with is row with some columns set.
func with(row map[string]any, columns ...any) map[string]any {
	for i := 0; i < len(columns); i += 2 {
		row[columns[i].(string)] = columns[i+1]
	}
	return row
}

// newID mints an execution of lane default, as the engine does.
func newID() ffstream.ExecutionID {
	return ffstream.NewExecutionID(ffstream.LanePartition("default", ffstream.Partitions), uuid.New())
}

// insert adds a row to one of the two tables, by the names of its columns.
func insert(t testing.TB, pool *pgxpool.Pool, table string, id ffstream.ExecutionID, row map[string]any) {
	t.Helper()
	row["partition_key"], row["execution_id"] = id.PartitionKey(), id.UUID().String()
	text, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	columns := make([]string, 0, len(row))
	for name := range row {
		columns = append(columns, name)
	}
	list := strings.Join(columns, ", ")
	sql := fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM jsonb_populate_record(NULL::%s, $1)", table, list, list, table)
	if _, err := pool.Exec(context.Background(), sql, text); err != nil {
		t.Fatal(err)
	}
}

// insertCore adds an execution. Columns that the engine's own tests set have
// their values.
func insertCore(t testing.TB, pool *pgxpool.Pool, id ffstream.ExecutionID, row map[string]any) {
	t.Helper()
	for name, value := range map[string]any{
		"lane_id": "default", "attempt_index": 0, "priority": 0, "created_at_ms": 1_700_000_000_000, "raw_fields": map[string]any{},
		"required_capabilities": []string{},
	} {
		if _, ok := row[name]; !ok {
			row[name] = value
		}
	}
	insert(t, pool, "ff_exec_core", id, row)
}

// insertAttempt adds an attempt; outcome and started are nil for NULL.
func insertAttempt(t testing.TB, pool *pgxpool.Pool, id ffstream.ExecutionID, index int, outcome, started any) {
	t.Helper()
	insert(t, pool, "ff_attempt", id, map[string]any{
		"attempt_index": index, "outcome": outcome, "started_at_ms": started, "lease_epoch": 0, "raw_fields": map[string]any{},
	})
}

// mustInfo reads an execution that exists.
func mustInfo(t testing.TB, r *reader.Reader, id ffstream.ExecutionID) ffstream.ExecutionInfo {
	t.Helper()
	info, ok, err := r.ExecutionInfo(context.Background(), id)
	if err != nil || !ok {
		t.Fatalf("read %s: %t, %v", id, ok, err)
	}
	return info
}

// bytea is the text of a bytea.
func bytea(s string) string { return fmt.Sprintf(`\x%x`, s) }
