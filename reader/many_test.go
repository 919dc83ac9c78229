package reader_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// TestManyKeepOrder: whatever is asked for, in whatever order, as often as it
// may be: each answer stands where its id stood and says what a read of it alone
// says.
func TestManyKeepOrder(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		ctx, r := context.Background(), reader.New(pool)
		alone := map[ffstream.ExecutionID]reader.Answer[ffstream.ExecutionInfo]{}
		var ids []ffstream.ExecutionID
		for i, row := range []string{
			live, "active/leased/not_applicable/running/running_attempt", "terminal/unowned/not_applicable/waiting/attempt_terminal", "odd/unowned/eligible_now/waiting/pending", "", live,
		} {
			for _, partition := range []uint16{0, 7, 255} {
				id := ffstream.NewExecutionID(partition, uuid.New())
				if row != "" { // the empty one does not exist
					insertCore(t, pool, id, with(rowOf(row), "priority", i))
					insertAttempt(t, pool, id, 0, "success", i)
				}
				answer := reader.Answer[ffstream.ExecutionInfo]{ExecutionID: id, Found: row != ""}
				answer.Value, _, answer.Err = r.ExecutionInfo(ctx, id)
				alone[id] = answer
				ids = append(ids, id)
			}
		}
		rapid.Check(t, func(t *rapid.T) {
			asked := rapid.SliceOfN(rapid.SampledFrom(ids), 0, 12).Draw(t, "ids")
			infos, errInfos := r.ExecutionInfos(ctx, asked)
			states, errStates := r.ExecutionStates(ctx, asked)
			if err := errors.Join(errInfos, errStates); err != nil || len(infos) != len(asked) || len(states) != len(asked) {
				t.Fatalf("%v, %d and %d answers to %d", err, len(infos), len(states), len(asked))
			}
			for i, id := range asked {
				want := alone[id]
				if got := infos[i]; got.ExecutionID != id || got.Found != want.Found || got.Value != want.Value || !sameCorruption(got.Err, want.Err) {
					t.Fatalf("%d: got %+v, want %+v", i, got, want)
				}
				if got := states[i]; got.ExecutionID != id || got.Found != want.Found || got.Value != want.Value.PublicState || !sameCorruption(got.Err, want.Err) {
					t.Fatalf("%d: got %+v, want %+v", i, got, want)
				}
			}
		})
	})
}

// sameCorruption reports whether two errors say the same of a row.
func sameCorruption(a, b error) bool {
	var x, y *ffstream.CorruptionError
	if !errors.As(a, &x) || !errors.As(b, &y) {
		return a == nil && b == nil
	}
	return *x == *y
}

// counting is a DB that counts what passes through it.
type counting struct {
	reader.DB
	queries int
}

func (c *counting) Query(ctx context.Context, sql string, args ...any) (rows pgx.Rows, err error) {
	c.queries++
	return c.DB.Query(ctx, sql, args...)
}

// TestOneStatement: every read is one, and one that asks for nothing is none.
func TestOneStatement(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		ctx, id := context.Background(), newID()
		insertCore(t, pool, id, rowOf(live))
		db := &counting{DB: pool}
		r := reader.New(db)
		if found := everyRead(t, r, id); db.queries != len(found) {
			t.Errorf("%d reads make %d statements", len(found), db.queries)
		}
		db.queries = 0
		_, errStates := r.ExecutionStates(ctx, nil)
		_, errInfos := r.ExecutionInfos(ctx, nil)
		page, errList := r.ListExecutions(ctx, "{fp:86}", ffstream.Opt[ffstream.ExecutionID]{}, 0)
		if err := errors.Join(errStates, errInfos, errList); err != nil || db.queries != 0 || len(page.IDs) != 0 || page.Next.OK {
			t.Errorf("%v, %d statements, %+v", err, db.queries, page)
		}
	})
}

func TestFlowInfos(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		ctx, flow := context.Background(), uuid.New()
		var want []ffstream.ExecutionID
		for i := range 5 {
			id := ffstream.NewExecutionID(ffstream.FlowPartition(flow, 256), uuid.New())
			row := live
			if i == 2 {
				row = "odd/unowned/eligible_now/waiting/pending"
			}
			insertCore(t, pool, id, with(rowOf(row), "flow_id", flow, "priority", i))
			insertAttempt(t, pool, id, 0, nil, 40+i)
			want = append(want, id)
		}
		insertCore(t, pool, ffstream.NewExecutionID(want[0].Partition(), uuid.New()), with(rowOf(live), "flow_id", uuid.New()))
		odd := want[2]
		slices.SortFunc(want, func(a, b ffstream.ExecutionID) int { return compareUUID(a, b) })
		got, err := reader.New(pool).FlowInfos(ctx, flow)
		if err != nil || len(got) != len(want) {
			t.Fatalf("got %+v, %v", got, err)
		}
		for i, a := range got {
			if a.ExecutionID != want[i] || !a.Found {
				t.Errorf("%d: got %+v, want %s", i, a, want[i])
			}
			if a.ExecutionID == odd {
				if !sameCorruption(a.Err, &ffstream.CorruptionError{ExecutionID: odd, Column: "lifecycle_phase", Literal: "odd"}) {
					t.Errorf("%d: got %+v", i, a)
				}
				continue
			}
			if alone := mustInfo(t, reader.New(pool), want[i]); a.Err != nil || a.Value != alone {
				t.Errorf("%d: got %+v, alone %+v", i, a, alone)
			}
		}
		// An engine with another number of partitions keeps the flow elsewhere.
		elsewhere := ffstream.NewExecutionID(ffstream.FlowPartition(flow, 4), uuid.New())
		insertCore(t, pool, elsewhere, with(rowOf(live), "flow_id", flow))
		got, err = reader.New(pool, reader.FlowPartitions(4)).FlowInfos(ctx, flow)
		if err != nil || !slices.ContainsFunc(got, func(a reader.Answer[ffstream.ExecutionInfo]) bool { return a.ExecutionID == elsewhere }) {
			t.Errorf("got %+v, %v, want %s", got, err, elsewhere)
		}
	})
}

func compareUUID(a, b ffstream.ExecutionID) int {
	x, y := a.UUID(), b.UUID()
	return slices.Compare(x[:], y[:])
}

// TestListExecutions holds pages against one plain query, from any cursor with
// any limit, and follows them to the end.
func TestListExecutions(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	ctx := context.Background()
	if _, err := db.Pool.Exec(ctx, `INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms)
		SELECT i % 2, CASE i WHEN 2 THEN '00000000-0000-0000-0000-000000000000' WHEN 4 THEN 'ffffffff-ffff-ffff-ffff-ffffffffffff' ELSE gen_random_uuid() END,
			'default', 'odd', 'unowned', 'eligible_now', 'waiting', 'pending', 1 FROM generate_series(1, 3000) i`); err != nil {
		t.Fatal(err)
	}
	rows, err := db.Pool.Query(ctx, `SELECT execution_id FROM ff_exec_core WHERE partition_key = 0 ORDER BY execution_id::text`)
	if err != nil {
		t.Fatal(err)
	}
	var all []ffstream.ExecutionID
	var u uuid.UUID
	if _, err := pgx.ForEachRow(rows, []any{&u}, func() error {
		all = append(all, ffstream.NewExecutionID(0, u))
		return nil
	}); err != nil || len(all) != 1500 {
		t.Fatal(len(all), err)
	}
	r := reader.New(db.Pool)
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(0, 2000).Draw(t, "limit")
		cursor, rest := ffstream.Opt[ffstream.ExecutionID]{}, all
		if rapid.Bool().Draw(t, "behind") { // an id, or a place between ids; of any partition
			n := rapid.IntRange(0, len(all)-1).Draw(t, "cursor")
			v := all[n].UUID()
			v[15] += byte(rapid.IntRange(0, 1).Draw(t, "between"))
			cursor = ffstream.Some(ffstream.NewExecutionID(9, v))
			rest = all[len(all)-len(behind(all, cursor.V)):]
		}
		page, err := r.ListExecutions(ctx, "{fp:0}", cursor, limit)
		n := min(limit, reader.MaxPage, len(rest))
		if err != nil || !slices.Equal(page.IDs, rest[:n]) {
			t.Fatalf("got %d ids, %v, want %d", len(page.IDs), err, n)
		}
		if more := n > 0 && n < len(rest); page.Next.OK != more || more && page.Next.V != rest[n-1] {
			t.Fatalf("got next %v of %d ids out of %d", page.Next, n, len(rest))
		}
	})
	for _, limit := range []int{1, 7, 1500, 5000} {
		var got []ffstream.ExecutionID
		for next := (ffstream.Opt[ffstream.ExecutionID]{}); ; {
			page, err := r.ListExecutions(ctx, "{b:0}", next, limit)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, page.IDs...)
			if next = page.Next; !next.OK {
				break
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("pages of %d give %d ids, want %d", limit, len(got), len(all))
		}
	}
}

// behind are the ids with a greater UUID than the cursor's.
func behind(ids []ffstream.ExecutionID, cursor ffstream.ExecutionID) []ffstream.ExecutionID {
	for i, id := range ids {
		if compareUUID(id, cursor) > 0 {
			return ids[i:]
		}
	}
	return nil
}

func TestListRefuses(t *testing.T) {
	t.Parallel()
	r := reader.New(nil) // nothing is read
	for text, want := range map[string]error{
		"": ffstream.ErrPartitionKeyBraces, "7": ffstream.ErrPartitionKeyBraces, "{7}": ffstream.ErrPartitionKeyBody,
		"{x:7}": ffstream.ErrPartitionKeyFamily, "{fp:x}": ffstream.ErrPartitionKeyIndex,
	} {
		if _, err := r.ListExecutions(context.Background(), text, ffstream.Opt[ffstream.ExecutionID]{}, 1); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", text, err, want)
		}
	}
	if page, err := r.ListExecutions(context.Background(), "{fp:7}", ffstream.Opt[ffstream.ExecutionID]{}, -1); err == nil {
		t.Errorf("a negative limit gives %+v", page)
	}
}
