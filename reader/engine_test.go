package reader_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/reader"
)

// The engine's own tests of its three reads, one to one: the same rows, and the
// same expectations where ffstream promises what the engine does.

func TestReadExecutionStateMissingReturnsNone(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		if state, ok, err := reader.New(pool).ExecutionState(context.Background(), newID()); state != "" || ok || err != nil {
			t.Errorf("got %q, %t, %v", state, ok, err)
		}
	})
}

func TestReadExecutionStateReturnsPublicState(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := newID()
		insertCore(t, pool, id, rowOf("active/leased/not_applicable/running/running_attempt"))
		if state, ok, err := reader.New(pool).ExecutionState(context.Background(), id); state != ffstream.StateActive || !ok || err != nil {
			t.Errorf("got %q, %t, %v", state, ok, err)
		}
	})
}

func TestReadExecutionInfoMissingReturnsNone(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		if info, ok, err := reader.New(pool).ExecutionInfo(context.Background(), newID()); info != (ffstream.ExecutionInfo{}) || ok || err != nil {
			t.Errorf("got %+v, %t, %v", info, ok, err)
		}
	})
}

// TestReadExecutionInfoLateralJoinsCurrentAttempt: the outcome is the current
// attempt's, the start the first one's.
func TestReadExecutionInfoLateralJoinsCurrentAttempt(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		const now = 1_700_000_000_000
		id := newID()
		insertCore(t, pool, id, with(rowOf("active/leased/not_applicable/running/running_attempt"), "attempt_index", 1, "lane_id", "workers",
			"created_at_ms", int64(now), "raw_fields", map[string]any{"namespace": "ns-a", "execution_kind": "task", "blocking_detail": ""}))
		insertAttempt(t, pool, id, 0, "failed", now-10_000)
		insertAttempt(t, pool, id, 1, nil, now-100)
		want := ffstream.ExecutionInfo{
			ExecutionID: id, Namespace: "ns-a", LaneID: "workers", ExecutionKind: "task",
			StateVector: ffstream.StateVector{
				LifecyclePhase: ffstream.PhaseActive, OwnershipState: ffstream.OwnershipLeased, EligibilityState: ffstream.EligibilityNotApplicable,
				BlockingReason: ffstream.BlockingNone, TerminalOutcome: ffstream.OutcomeNone, AttemptState: ffstream.AttemptStateRunning, PublicState: ffstream.StateActive,
			},
			PublicState: ffstream.StateActive, StoredPublicState: ffstream.StateActive, Consistent: true,
			CreatedAtMs: now, StartedAtMs: ffstream.Some[int64](now - 10_000), CurrentAttemptIndex: 1,
		}
		if info := mustInfo(t, reader.New(pool), id); info != want {
			t.Errorf("got  %+v\nwant %+v", info, want)
		}
	})
}

func TestReadExecutionInfoTerminalDerivesOutcome(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := newID()
		insertCore(t, pool, id, with(rowOf("terminal/unowned/not_applicable/completed/attempt_terminal"), "terminal_at_ms", 1_700_000_001_000))
		insertAttempt(t, pool, id, 0, "success", nil)
		info := mustInfo(t, reader.New(pool), id)
		if info.PublicState != ffstream.StateCompleted || info.StateVector.LifecyclePhase != ffstream.PhaseTerminal ||
			info.StateVector.TerminalOutcome != ffstream.OutcomeSuccess || info.CompletedAtMs != ffstream.Some[int64](1_700_000_001_000) {
			t.Errorf("got %+v", info)
		}
	})
}

func TestReadExecutionInfoFreshCreateLiterals(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := newID()
		insertCore(t, pool, id, rowOf("submitted/unowned/eligible_now/waiting/pending"))
		info := mustInfo(t, reader.New(pool), id)
		if info.PublicState != ffstream.StateWaiting || info.StateVector.AttemptState != ffstream.AttemptStatePendingFirst ||
			info.StateVector.LifecyclePhase != ffstream.PhaseSubmitted || info.StartedAtMs.OK || info.CompletedAtMs.OK || info.FlowID.OK {
			t.Errorf("got %+v", info)
		}
	})
}

func TestReadExecutionInfoCancelledRow(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := newID()
		insertCore(t, pool, id, rowOf("cancelled/unowned/cancelled/cancelled/cancelled"))
		info := mustInfo(t, reader.New(pool), id)
		if info.PublicState != ffstream.StateCancelled || info.StateVector.LifecyclePhase != ffstream.PhaseTerminal ||
			info.StateVector.EligibilityState != ffstream.EligibilityNotApplicable || info.StateVector.TerminalOutcome != ffstream.OutcomeCancelled ||
			info.StateVector.AttemptState != ffstream.AttemptStateTerminal {
			t.Errorf("got %+v", info)
		}
	})
}

func TestReadExecutionInfoPendingClaimEligibility(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := newID()
		insertCore(t, pool, id, rowOf("runnable/unowned/pending_claim/waiting/pending"))
		info := mustInfo(t, reader.New(pool), id)
		if info.StateVector.EligibilityState != ffstream.EligibilityEligibleNow || info.PublicState != ffstream.StateWaiting {
			t.Errorf("got %+v", info)
		}
	})
}

func TestReadExecutionInfoFlowIDIsBareUUID(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id, flow := newID(), uuid.New()
		insertCore(t, pool, id, rowOf("submitted/unowned/eligible_now/waiting/pending"))
		if _, err := pool.Exec(context.Background(), `UPDATE ff_exec_core SET flow_id = $3 WHERE partition_key = $1 AND execution_id = $2`,
			id.PartitionKey(), id.UUID(), flow); err != nil {
			t.Fatal(err)
		}
		info := mustInfo(t, reader.New(pool), id)
		text := info.AppendJSON(nil)
		if info.FlowID != ffstream.Some(flow) || !bytes.Contains(text, []byte(`"flow_id":"`+flow.String()+`"`)) {
			t.Errorf("got %+v, %s", info, text)
		}
	})
}

func TestGetExecutionResultMissingReturnsNone(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		if result, ok, err := reader.New(pool).ExecutionResult(context.Background(), newID()); result != nil || ok || err != nil {
			t.Errorf("got %q, %t, %v", result, ok, err)
		}
	})
}

func TestGetExecutionResultActiveReturnsNone(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := newID()
		insertCore(t, pool, id, rowOf("active/leased/not_applicable/running/running_attempt"))
		if result, ok, err := reader.New(pool).ExecutionResult(context.Background(), id); result != nil || ok || err != nil {
			t.Errorf("got %q, %t, %v", result, ok, err)
		}
	})
}

// TestGetExecutionResultTerminalReturnsPayload: the row has no attempt at all,
// so only its label says that it completed.
func TestGetExecutionResultTerminalReturnsPayload(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		for _, want := range []string{"hello-world-result", ""} {
			id := newID()
			insertCore(t, pool, id, with(rowOf("terminal/unowned/not_applicable/completed/attempt_terminal"), "terminal_at_ms", 1_700_000_000_001,
				"result", bytea(want)))
			r := reader.New(pool)
			if result, ok, err := r.ExecutionResult(context.Background(), id); string(result) != want || !ok || err != nil {
				t.Errorf("got %q, %t, %v, want %q", result, ok, err, want)
			}
			if info := mustInfo(t, r, id); info.PublicState != ffstream.StateCompleted || info.EvidenceMissing {
				t.Errorf("got %+v", info)
			}
		}
	})
}
