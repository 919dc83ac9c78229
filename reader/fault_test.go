package reader_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// readsOne are the reads that need ff_exec_core alone.
var readsOne = map[string]bool{"result": true, "context": true, "index": true, "tag": true, "namespace": true, "list": true}

// checkFault holds every read's error against a SQLSTATE and words.
func checkFault(t *testing.T, db reader.DB, only func(name string) bool, code string, words ...string) {
	t.Helper()
	_, errs := tryEveryRead(context.Background(), reader.New(db), newID())
	for name, err := range errs {
		if !only(name) {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != code {
			t.Errorf("%s: got %v, want SQLSTATE %s", name, err, code)
			continue
		}
		for _, word := range words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: got %v, want a word of %q", name, err, word)
			}
		}
	}
}

func every(string) bool { return true }

func readsBoth(name string) bool { return !readsOne[name] }

// TestMissingTables: the error names the table and says what does not make it.
func TestMissingTables(t *testing.T) {
	t.Parallel()
	const no = "ffstream migrate is not what creates it"
	db := testenv.DB(t, testenv.Schema{})
	// Where both are missing Postgres says so of either.
	checkFault(t, db.Pool, every, "42P01", "no table ff_", no)
}

func TestMissingTable(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.Engine011})
	ctx := context.Background()
	everyRead(t, reader.New(db.Pool), newID()) // statements are prepared already
	if _, err := db.Pool.Exec(ctx, "ALTER TABLE ff_attempt RENAME TO elsewhere"); err != nil {
		t.Fatal(err)
	}
	checkFault(t, db.Pool, readsBoth, "42P01", "no table ff_attempt", "ffstream migrate is not what creates it")
	if _, err := db.Pool.Exec(ctx, "ALTER TABLE elsewhere RENAME TO ff_attempt; ALTER TABLE ff_exec_core RENAME TO elsewhere"); err != nil {
		t.Fatal(err)
	}
	checkFault(t, db.Pool, every, "42P01", "no table ff_exec_core", "ffstream migrate is not what creates it")
	if _, err := db.Pool.Exec(ctx, "ALTER TABLE elsewhere RENAME TO ff_exec_core; ALTER TABLE ff_exec_core DROP COLUMN raw_fields"); err != nil {
		t.Fatal(err)
	}
	lacking := func(name string) bool {
		return name != "result" && name != "index" && name != "count" && name != "attempts" && name != "list"
	}
	checkFault(t, db.Pool, lacking, "42703", "upgrade ffstream")
}

func TestMissingPermission(t *testing.T) {
	t.Parallel()
	pool := shared[engine.Newest].Pool
	checkFault(t, connectAs(t, pool, "GRANT SELECT ON ff_exec_core TO %s"), readsBoth, "42501", "may not read ff_attempt", "GRANT SELECT")
	checkFault(t, connectAs(t, pool, "GRANT SELECT ON ff_attempt TO %s"), every, "42501", "may not read ff_exec_core", "GRANT SELECT")
}

// TestCancelled: a read whose context has ended says so, and gives its connection
// back.
func TestCancelled(t *testing.T) {
	t.Parallel()
	pool := connectPool(t, shared[engine.Newest].URL)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, errs := tryEveryRead(ctx, reader.New(pool), newID())
	for name, err := range errs {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// While the server works on it: another session holds the table.
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	reading := connectPool(t, db.URL)
	blocker, err := db.Pool.Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blocker.Rollback(context.Background()) }()
	if _, err := blocker.Exec(context.Background(), "LOCK TABLE ff_exec_core IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer cancel()
		for waiting := 0; waiting == 0; {
			if err := blocker.QueryRow(context.Background(), "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'ff_exec_core'::regclass").Scan(&waiting); err != nil {
				t.Error(err)
				return
			}
		}
	})
	if _, _, err := reader.New(reading).ExecutionState(ctx, newID()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	wg.Wait()
	pool.Close() // both wait until every connection was given back
	reading.Close()
}

func TestClosedPool(t *testing.T) {
	t.Parallel()
	pool := connectPool(t, shared[engine.Newest].URL)
	pool.Close()
	_, errs := tryEveryRead(context.Background(), reader.New(pool), newID())
	for name, err := range errs {
		if err == nil || !strings.Contains(err.Error(), "closed pool") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestLargeResult reads 64 MiB, in either format of the wire.
func TestLargeResult(t *testing.T) {
	t.Parallel()
	ctx, pool, id := context.Background(), shared[engine.Newest].Pool, newID()
	const size = 64 << 20
	insertCore(t, pool, id, rowOf("terminal/unowned/not_applicable/completed/attempt_terminal"))
	if _, err := pool.Exec(ctx, `UPDATE ff_exec_core SET result = convert_to(repeat('0123456789abcdef', $3), 'UTF8') WHERE partition_key = $1 AND execution_id = $2`,
		id.PartitionKey(), id.UUID(), size/16); err != nil {
		t.Fatal(err)
	}
	result, ok, err := reader.New(pool).ExecutionResult(ctx, id)
	if err != nil || !ok || !bytes.Equal(result, bytes.Repeat([]byte("0123456789abcdef"), size/16)) {
		t.Errorf("got %d bytes, %t, %v", len(result), ok, err)
	}
	// Nothing else reads it along.
	if state, ok, err := reader.New(pool).ExecutionState(ctx, id); state != ffstream.StateCompleted || !ok || err != nil {
		t.Errorf("got %s, %t, %v", state, ok, err)
	}
}

// TestManyReaders: 100 goroutines on a pool of 8.
func TestManyReaders(t *testing.T) {
	t.Parallel()
	whole := shared[engine.Newest].Pool
	id := insertWhole(t, whole)
	cfg := whole.Config()
	cfg.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	r := reader.New(pool)
	want := mustInfo(t, r, id)
	var wg sync.WaitGroup
	for n := range 100 {
		wg.Go(func() {
			for i := range 20 {
				if (n+i)%10 > 0 {
					if state, ok, err := r.ExecutionState(context.Background(), id); state != ffstream.StateCompleted || !ok || err != nil {
						t.Errorf("got %s, %t, %v", state, ok, err)
					}
				} else if info, ok, err := r.ExecutionInfo(context.Background(), id); info != want || !ok || err != nil {
					t.Errorf("got %+v, %t, %v", info, ok, err)
				}
			}
		})
	}
	wg.Wait()
	if n := pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are not given back", n)
	}
}
