package reader_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// started reads when an execution began in every way there is, and fails when
// they disagree.
func started(ctx context.Context, r *reader.Reader, id ffstream.ExecutionID) (int64, error) {
	info, _, errInfo := r.ExecutionInfo(ctx, id)
	snapshot, _, errSnapshot := r.DescribeExecution(ctx, id)
	other := ffstream.NewExecutionID(id.Partition()^1, id.UUID())
	together, errTogether := r.ExecutionInfos(ctx, []ffstream.ExecutionID{id})
	spread, errSpread := r.ExecutionInfos(ctx, []ffstream.ExecutionID{other, id})
	flow, errFlow := r.FlowInfos(ctx, id.UUID())
	if err := errors.Join(errInfo, errSnapshot, errTogether, errSpread, errFlow); err != nil {
		return 0, err
	}
	times := [...]int64{info.StartedAtMs.V, snapshot.Info.StartedAtMs.V, together[0].Value.StartedAtMs.V, spread[1].Value.StartedAtMs.V, flow[0].Value.StartedAtMs.V}
	for _, v := range times {
		if v != times[0] {
			return 0, fmt.Errorf("reads disagree: %v", times)
		}
	}
	return times[0], nil
}

// insertStarted adds an execution whose first attempt began at 100. It is in a
// flow of its own UUID, on that flow's partition.
func insertStarted(t *testing.T, pool *pgxpool.Pool) ffstream.ExecutionID {
	t.Helper()
	u := newID().UUID()
	id := ffstream.NewExecutionID(ffstream.FlowPartition(u, ffstream.Partitions), u)
	insertCore(t, pool, id, with(rowOf("active/leased/not_applicable/running/running_attempt"), "flow_id", u))
	insertAttempt(t, pool, id, 0, nil, 100)
	return id
}

// TestUpgrade: the engine's migrations run while programs read. No read fails;
// before they see the start of the first attempt, which is what the migration
// fills the new column with; then what the engine writes there.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.Engine011})
	ctx := context.Background()
	id := insertStarted(t, db.Pool)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	var once sync.Once
	defer once.Do(func() { close(stop) })
	warm := make(chan struct{}, 5)
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec,
	} {
		cfg := db.Pool.Config().ConnConfig.Copy()
		cfg.DefaultQueryExecMode = mode
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer func() { _ = conn.Close(ctx) }()
			r := reader.New(conn)
			for n := 0; ; n++ {
				if at, err := started(ctx, r, id); err != nil || at != 100 {
					t.Errorf("%s, read %d: got %d, %v", mode, n, at, err)
				}
				if n == 7 { // every statement has its last plan
					warm <- struct{}{}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for range cap(warm) {
		<-warm
	}
	for _, step := range []func() error{
		func() error { return migrations.EngineSchema(ctx, db.URL, migrations.EngineNewest) },
		// And back, which no engine does: names are resolved anew each time.
		func() error {
			_, err := db.Pool.Exec(ctx, "ALTER TABLE ff_exec_core DROP COLUMN started_at_ms")
			return err
		},
		func() error {
			_, err := db.Pool.Exec(ctx, "ALTER TABLE ff_exec_core ADD COLUMN started_at_ms bigint")
			return err
		},
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	once.Do(func() { close(stop) })
	wg.Wait()
	for _, at := range []int64{200, 300} {
		if _, err := db.Pool.Exec(ctx, "UPDATE ff_exec_core SET started_at_ms = $1", at); err != nil {
			t.Fatal(err)
		}
		if got, err := started(ctx, reader.New(db.Pool), id); got != at || err != nil {
			t.Errorf("got %d, %v, want %d", got, err, at)
		}
	}
}

// TestUpgradeUnderSnapshot: a transaction whose snapshot is older than the column
// reads on with its own snapshot.
func TestUpgradeUnderSnapshot(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.Engine011})
	ctx := context.Background()
	id := insertStarted(t, db.Pool)
	conn, err := pgx.Connect(ctx, db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := started(ctx, reader.New(conn), id); err != nil { // its statements are prepared
		t.Fatal(err)
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "SELECT 1"); err != nil { // takes the snapshot
		t.Fatal(err)
	}
	if err := migrations.EngineSchema(ctx, db.URL, migrations.EngineNewest); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Pool.Exec(ctx, "UPDATE ff_exec_core SET started_at_ms = 200"); err != nil {
		t.Fatal(err)
	}
	if at, err := started(ctx, reader.New(tx), id); at != 100 || err != nil {
		t.Errorf("got %d, %v under the old snapshot", at, err)
	}
	if err := tx.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if at, err := started(ctx, reader.New(conn), id); at != 200 || err != nil {
		t.Errorf("got %d, %v under a new one", at, err)
	}
	if s, _, err := reader.New(conn).DescribeExecution(ctx, id); s.LeaseReclaimCount != ffstream.Some[int32](0) || err != nil {
		t.Errorf("got %+v, %v", s.LeaseReclaimCount, err)
	}
}
