package reader_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// recording is a DB that remembers the statement that passed through it last.
type recording struct {
	reader.DB
	sql  string
	args []any
}

func (r *recording) Query(ctx context.Context, sql string, args ...any) (rows pgx.Rows, err error) {
	r.sql, r.args = sql, args
	return r.DB.Query(ctx, sql, args...)
}

// benchPool gives a database with n executions that have completed, on the given
// number of partitions.
func benchPool(b *testing.B, n, partitions int) (*pgxpool.Pool, []ffstream.ExecutionID) {
	b.Helper()
	ctx := context.Background()
	db := testenv.DB(b, testenv.Schema{Version: migrations.EngineNewest})
	var ids []ffstream.ExecutionID
	var batch pgx.Batch
	for i := range n {
		id := ffstream.NewExecutionID(uint16(i%partitions), uuid.New())
		batch.Queue(`INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms, raw_fields)
			VALUES ($1, $2, 'default', 'terminal', 'unowned', 'not_applicable', 'running', 'attempt_terminal', 1, '{"namespace": "ns-a", "execution_kind": "task", "tags": {}}')`, id.PartitionKey(), id.UUID())
		batch.Queue(`INSERT INTO ff_attempt (partition_key, execution_id, attempt_index, outcome, started_at_ms) VALUES ($1, $2, 0, 'success', 2)`, id.PartitionKey(), id.UUID())
		ids = append(ids, id)
	}
	if err := db.Pool.SendBatch(ctx, &batch).Close(); err != nil {
		b.Fatal(err)
	}
	if _, err := db.Pool.Exec(ctx, "VACUUM ANALYZE ff_exec_core, ff_attempt"); err != nil {
		b.Fatal(err)
	}
	// One connection, whose statements are all prepared and planned.
	cfg := db.Pool.Config()
	cfg.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(pool.Close)
	for range 8 {
		if _, err := reader.New(pool).ExecutionStates(ctx, ids); err != nil {
			b.Fatal(err)
		}
		if _, _, err := reader.New(pool).ExecutionState(ctx, ids[0]); err != nil {
			b.Fatal(err)
		}
	}
	return pool, ids
}

// bareState is ExecutionState's statement through pgx alone.
type bareState struct {
	phase, ownership, eligibility, public, attempt, blocking, outcome, failure string
	reason, by                                                                 *string
	index                                                                      int32
	found                                                                      *int32
}

func (s *bareState) read(ctx context.Context, pool *pgxpool.Pool, sql string, args ...any) error {
	return pool.QueryRow(ctx, sql, args...).Scan(&s.phase, &s.ownership, &s.eligibility, &s.public, &s.attempt, &s.blocking,
		&s.reason, &s.by, &s.index, &s.found, &s.outcome, &s.failure)
}

// BenchmarkExecutionState: allocations of one read, beside those of the same
// statement through bare pgx; in turns gives the ratio of their times.
func BenchmarkExecutionState(b *testing.B) {
	ctx := context.Background()
	pool, ids := benchPool(b, 100, 1)
	spy := &recording{DB: pool}
	if _, _, err := reader.New(spy).ExecutionState(ctx, ids[0]); err != nil {
		b.Fatal(err)
	}
	r := reader.New(pool)
	bare := func(i int) {
		id := ids[i%len(ids)]
		var s bareState
		if err := s.read(ctx, pool, spy.sql, id.PartitionKey(), [16]byte(id.UUID())); err != nil || s.outcome != "success" {
			b.Fatal(s, err)
		}
	}
	ours := func(i int) {
		if state, ok, err := r.ExecutionState(ctx, ids[i%len(ids)]); state != ffstream.StateCompleted || !ok || err != nil {
			b.Fatal(state, ok, err)
		}
	}
	for name, read := range map[string]func(int){"bare": bare, "reader": ours} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				read(i)
				i++
			}
		})
	}
	b.Run("in turns", func(b *testing.B) {
		var spent [2]time.Duration
		i := 0
		for b.Loop() {
			for turn, read := range [...]func(int){bare, ours} {
				start := time.Now()
				read(i)
				spent[turn] += time.Since(start)
			}
			i++
		}
		b.ReportMetric(float64(spent[1])/float64(spent[0]), "reader/bare")
	})
}

// BenchmarkExecutionStates reads 500 states in one call and in 500, in turns, and
// gives how many times faster the one is: of one partition, as the executions of
// a flow or a lane are, of a few, and of all of them.
func BenchmarkExecutionStates(b *testing.B) {
	ctx := context.Background()
	for _, partitions := range []int{1, 4, 16, 256} {
		b.Run(fmt.Sprintf("partitions=%d", partitions), func(b *testing.B) {
			pool, ids := benchPool(b, 500, partitions)
			r := reader.New(pool)
			var one, each time.Duration
			for b.Loop() {
				start := time.Now()
				answers, err := r.ExecutionStates(ctx, ids)
				one += time.Since(start)
				if err != nil {
					b.Fatal(err)
				}
				start = time.Now()
				for i, id := range ids {
					if state, ok, err := r.ExecutionState(ctx, id); err != nil || !ok || state != answers[i].Value {
						b.Fatal(state, ok, err, answers[i])
					}
				}
				each += time.Since(start)
			}
			b.ReportMetric(float64(one.Microseconds())/float64(b.N), "µs/call")
			b.ReportMetric(float64(each)/float64(one), "times-faster")
		})
	}
}
