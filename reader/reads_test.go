package reader_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/reader"
)

// TestDescribeExecution: the rows for which the engine's own describing fails or
// counts 0: labelled running, in a flow, claimed by the typed family (whose
// pointer names no attempt), without last_mutation_at.
func TestDescribeExecution(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id, flow := newID(), uuid.New()
		row := rowOf("active/leased/not_applicable/running/running_attempt")
		insertCore(t, pool, id, with(row, "attempt_index", 2, "flow_id", flow, "deadline_at_ms", 99, "cancellation_reason", "sticky", "cancelled_by", "worker",
			"raw_fields", map[string]any{"namespace": "ns-a", "last_mutation_at": "1700000000001", "total_attempt_count": "0", "current_waitpoint_id": "w-1",
				"tags": map[string]any{"b.x": "2", "a.x": "1", "c.x": 3}}))
		insertAttempt(t, pool, id, 0, "failure", 50)
		insert(t, pool, "ff_attempt", id, map[string]any{"attempt_index": 1, "worker_id": "w", "worker_instance_id": "w-0", "lease_epoch": 3,
			"lease_expires_at_ms": 80, "started_at_ms": 60, "raw_fields": map[string]any{}})
		r := reader.New(pool)
		got, ok, err := r.DescribeExecution(context.Background(), id)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		want := ffstream.ExecutionSnapshot{
			Info: mustInfo(t, r, id),
			CurrentAttempt: ffstream.Some(ffstream.Attempt{Index: 1, WorkerID: ffstream.Some("w"), WorkerInstanceID: ffstream.Some("w-0"), LeaseEpoch: 3,
				LeaseExpiresAtMs: ffstream.Some[int64](80), StartedAtMs: ffstream.Some[int64](60)}),
			TotalAttemptCount: 2, DeadlineAtMs: ffstream.Some[int64](99), CancellationReason: ffstream.Some("sticky"), CancelledBy: ffstream.Some("worker"),
			LastMutationAtMs: ffstream.Some[int64](1700000000001), CurrentWaitpointID: "w-1",
			Tags: []ffstream.Tag{{Key: "a.x", Value: "1"}, {Key: "b.x", Value: "2"}},
		}
		if pool == shared[engine.Newest].Pool {
			want.LeaseReclaimCount = ffstream.Some[int32](0)
		}
		if !reflect.DeepEqual(got, want) || got.Info.FlowID != ffstream.Some(flow) || got.Info.StoredPublicState != ffstream.StateActive {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}

		bare := newID()
		insertCore(t, pool, bare, rowOf(live))
		got, ok, err = r.DescribeExecution(context.Background(), bare)
		if err != nil || !ok || got.CurrentAttempt.OK || got.TotalAttemptCount != 0 || got.LastMutationAtMs.OK || got.Tags != nil || got.CurrentWaitpointID != "" {
			t.Errorf("got %+v, %t, %v", got, ok, err)
		}
	})
}

// TestStartedAt: the column wins where there is one and it is set; else the
// attempt with the smallest index that has a start, not the earliest start.
func TestStartedAt(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := newID()
		insertCore(t, pool, id, with(rowOf(live), "attempt_index", 1))
		r := reader.New(pool)
		insertAttempt(t, pool, id, 0, "retry", nil)
		insertAttempt(t, pool, id, 1, nil, 200)
		insertAttempt(t, pool, id, 2, nil, 100)
		if got := mustInfo(t, r, id).StartedAtMs; got != ffstream.Some[int64](200) {
			t.Errorf("got %v", got)
		}
		checkOneMind(t, pool, id)
		if pool != shared[engine.Newest].Pool {
			return
		}
		if _, err := pool.Exec(context.Background(), `UPDATE ff_exec_core SET started_at_ms = 300 WHERE partition_key = $1 AND execution_id = $2`, id.PartitionKey(), id.UUID()); err != nil {
			t.Fatal(err)
		}
		if got := mustInfo(t, r, id).StartedAtMs; got != ffstream.Some[int64](300) {
			t.Errorf("got %v", got)
		}
		checkOneMind(t, pool, id)
	})
}

func TestExecutionContext(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		r := reader.New(pool)
		for _, test := range []struct {
			payload any
			want    string
		}{{nil, ""}, {bytea(""), ""}, {bytea("\x00pay"), "\x00pay"}} {
			id := newID()
			insertCore(t, pool, id, with(rowOf(live), "payload", test.payload, "raw_fields", map[string]any{"execution_kind": "task", "tags": map[string]any{"a.b": "c", "n.n": 1}}))
			got, ok, err := r.ExecutionContext(context.Background(), id)
			want := ffstream.ExecutionContext{Payload: []byte(test.want), ExecutionKind: "task", Tags: []ffstream.Tag{{Key: "a.b", Value: "c"}}}
			if err != nil || !ok || !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, %t, %v, want %+v", got, ok, err, want)
			}
		}
	})
}

func TestAttempts(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		ctx, r, id := context.Background(), reader.New(pool), newID()
		insertCore(t, pool, id, with(rowOf(live), "attempt_index", 11))
		check := func(want ...ffstream.Attempt) {
			t.Helper()
			attempts, ok, err := r.ExecutionAttempts(ctx, id)
			count, okCount, errCount := r.TotalAttemptCount(ctx, id)
			if err := errors.Join(err, errCount); err != nil || !ok || !okCount || !reflect.DeepEqual(attempts, want) || count != int64(len(want)) {
				t.Errorf("got %+v, %d, %t, %t, %v, want %+v", attempts, count, ok, okCount, err, want)
			}
		}
		check()
		insertAttempt(t, pool, id, 10, "success", 7)
		insertAttempt(t, pool, id, 2, nil, nil)
		check(ffstream.Attempt{Index: 2}, ffstream.Attempt{Index: 10, StartedAtMs: ffstream.Some[int64](7), Outcome: ffstream.Some("success")})
		if index, ok, err := r.CurrentAttemptIndex(ctx, id); index != 11 || !ok || err != nil {
			t.Errorf("got %d, %t, %v", index, ok, err)
		}
	})
}

func TestTagsAndNamespace(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		ctx, r, id, bare := context.Background(), reader.New(pool), newID(), newID()
		insertCore(t, pool, id, with(rowOf(live), "raw_fields", map[string]any{"namespace": "ns-a", "tags": map[string]any{"cairn.instance_id": "i-1", "a.n": 7, "a.null": nil, "a.empty": ""}}))
		insertCore(t, pool, bare, with(rowOf(live), "raw_fields", map[string]any{"tags": "no object"}))
		for key, want := range map[string]ffstream.Opt[string]{
			"cairn.instance_id": ffstream.Some("i-1"), "a.n": ffstream.Some("7"), "a.empty": ffstream.Some(""), "a.null": {}, "a.other": {},
		} {
			if value, ok, err := r.ExecutionTag(ctx, id, key); err != nil || (ffstream.Opt[string]{V: value, OK: ok}) != want {
				t.Errorf("%s: got %q, %t, %v", key, value, ok, err)
			}
			if value, ok, err := r.ExecutionTag(ctx, bare, key); err != nil || ok || value != "" {
				t.Errorf("%s of none: got %q, %t, %v", key, value, ok, err)
			}
		}
		if _, _, err := r.ExecutionTag(ctx, id, "Bad.Key"); !errors.Is(err, ffstream.ErrTagKey) {
			t.Errorf("got %v", err)
		}
		if value, ok, err := r.ExecutionNamespace(ctx, id); value != "ns-a" || !ok || err != nil {
			t.Errorf("got %q, %t, %v", value, ok, err)
		}
		if value, ok, err := r.ExecutionNamespace(ctx, bare); value != "" || ok || err != nil {
			t.Errorf("got %q, %t, %v", value, ok, err)
		}
	})
}

// TestMissing: an execution that does not exist is none to every read.
func TestMissing(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		for name, ok := range everyRead(t, reader.New(pool), newID()) {
			if ok {
				t.Errorf("%s finds an execution that does not exist", name)
			}
		}
	})
}

// everyRead reads one execution in every way and says which of them found it.
func everyRead(t *testing.T, r *reader.Reader, id ffstream.ExecutionID) map[string]bool {
	t.Helper()
	found, errs := tryEveryRead(context.Background(), r, id)
	for name, err := range errs {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	return found
}

func tryEveryRead(ctx context.Context, r *reader.Reader, id ffstream.ExecutionID) (found map[string]bool, errs map[string]error) {
	found, errs = map[string]bool{}, map[string]error{}
	_, found["state"], errs["state"] = r.ExecutionState(ctx, id)
	_, found["info"], errs["info"] = r.ExecutionInfo(ctx, id)
	_, found["result"], errs["result"] = r.ExecutionResult(ctx, id)
	_, found["describe"], errs["describe"] = r.DescribeExecution(ctx, id)
	_, found["context"], errs["context"] = r.ExecutionContext(ctx, id)
	_, found["index"], errs["index"] = r.CurrentAttemptIndex(ctx, id)
	_, found["count"], errs["count"] = r.TotalAttemptCount(ctx, id)
	_, found["attempts"], errs["attempts"] = r.ExecutionAttempts(ctx, id)
	_, found["tag"], errs["tag"] = r.ExecutionTag(ctx, id, "a.b")
	_, found["namespace"], errs["namespace"] = r.ExecutionNamespace(ctx, id)
	other := ffstream.NewExecutionID(id.Partition()^1, id.UUID())
	for name, ids := range map[string][]ffstream.ExecutionID{"together": {id}, "spread": {id, other}} {
		states, err := r.ExecutionStates(ctx, ids)
		errs["states "+name], found["states "+name] = err, err == nil && states[0].Found
		infos, err := r.ExecutionInfos(ctx, ids)
		errs["infos "+name], found["infos "+name] = err, err == nil && infos[0].Found
	}
	page, err := r.ListExecutions(ctx, "{fp:86}", ffstream.Opt[ffstream.ExecutionID]{}, reader.MaxPage)
	errs["list"] = err
	for _, listed := range page.IDs {
		found["list"] = found["list"] || listed == id
	}
	flow, err := r.FlowInfos(ctx, id.UUID()) // a flow of the same UUID
	errs["flow"], found["flow"] = err, len(flow) > 0
	return found, errs
}
