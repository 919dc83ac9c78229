package reader_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/reader"
)

// live is the row that a literal is put into.
const live = "runnable/unowned/eligible_now/waiting/pending"

// literals are all that some engine stores, by column, with what they stand for.
// They are written down here anew, not taken from the code.
var literals = map[string]map[string]string{
	"lifecycle_phase": {
		"submitted": "submitted", "runnable": "runnable", "active": "active", "suspended": "suspended", "terminal": "terminal",
		"cancelled": "terminal", "pending": "runnable", "eligible": "runnable", "blocked": "runnable",
	},
	"ownership_state": {
		"unowned": "unowned", "leased": "leased", "released": "unowned",
		"lease_expired_reclaimable": "lease_expired_reclaimable", "lease_revoked": "lease_revoked",
	},
	"eligibility_state": {
		"eligible_now": "eligible_now", "not_applicable": "not_applicable", "not_eligible_until_time": "not_eligible_until_time",
		"blocked_by_dependencies": "blocked_by_dependencies", "cancelled": "not_applicable", "pending_claim": "eligible_now",
		"blocked_by_budget": "blocked_by_budget", "blocked_by_quota": "blocked_by_quota", "blocked_by_route": "blocked_by_route",
		"blocked_by_lane_state": "blocked_by_lane_state", "blocked_by_operator": "blocked_by_operator",
	},
	"public_state": {
		"waiting": "waiting", "running": "active", "active": "active", "suspended": "suspended", "resumable": "resumable", "cancelled": "cancelled",
		"skipped": "skipped", "waiting_children": "waiting_children", "delayed": "delayed", "completed": "completed", "failed": "failed",
		"expired": "expired", "rate_limited": "rate_limited",
	},
	"attempt_state": {
		"pending": "pending_first_attempt", "running_attempt": "running_attempt", "attempt_interrupted": "attempt_interrupted",
		"pending_retry_attempt": "pending_retry_attempt", "pending_replay_attempt": "pending_replay_attempt", "attempt_terminal": "attempt_terminal",
		"cancelled": "attempt_terminal", "terminal_failed": "attempt_terminal", "pending_first_attempt": "pending_first_attempt", "none": "none",
		"running": "running_attempt", "pending_claim": "pending_first_attempt",
	},
	"blocking_reason": {
		"": "none", "none": "none", "waiting_for_worker": "waiting_for_worker", "waiting_for_retry_backoff": "waiting_for_retry_backoff",
		"waiting_for_resume_delay": "waiting_for_resume_delay", "waiting_for_delay": "waiting_for_delay", "waiting_for_signal": "waiting_for_signal",
		"waiting_for_approval": "waiting_for_approval", "waiting_for_callback": "waiting_for_callback", "waiting_for_tool_result": "waiting_for_tool_result",
		"waiting_for_children": "waiting_for_children", "waiting_for_budget": "waiting_for_budget", "waiting_for_quota": "waiting_for_quota",
		"waiting_for_capable_worker": "waiting_for_capable_worker", "waiting_for_locality_match": "waiting_for_locality_match",
		"paused_by_operator": "paused_by_operator", "paused_by_policy": "paused_by_policy", "paused_by_flow_cancel": "paused_by_flow_cancel",
	},
}

func TestEveryLiteral(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		var ids []ffstream.ExecutionID
		for column, values := range literals {
			for literal, want := range values {
				id := newID()
				insertCore(t, pool, id, with(rowOf(live), column, literal))
				info := mustInfo(t, reader.New(pool), id)
				got := map[string]string{
					"lifecycle_phase": string(info.StateVector.LifecyclePhase), "ownership_state": string(info.StateVector.OwnershipState),
					"eligibility_state": string(info.StateVector.EligibilityState), "public_state": string(info.StoredPublicState),
					"attempt_state": string(info.StateVector.AttemptState), "blocking_reason": string(info.StateVector.BlockingReason),
				}[column]
				if got != want {
					t.Errorf("%s %q: got %q, want %q", column, literal, got, want)
				}
				ids = append(ids, id)
			}
		}
		checkOneMind(t, pool, ids...)
	})
}

// TestEveryOutcome: what each literal of an attempt makes of a terminal row that
// says nothing else, at the pointer and below it.
func TestEveryOutcome(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		var ids []ffstream.ExecutionID
		for _, test := range []struct {
			outcome any
			want    ffstream.PublicState // empty: nothing is known
		}{
			{"success", "completed"}, {"failed", "failed"}, {"failure", "failed"}, {"cancelled", "cancelled"}, {"expired", "expired"},
			{"skipped", "skipped"}, {nil, ""}, {"retry", ""}, {"interrupted", ""}, {"attempt_interrupted", ""}, {"waiting_children", ""},
			{"lease_expired_reclaimable", ""}, {"interrupted_reclaimed", ""},
		} {
			for pointer := range 3 {
				id := newID()
				insertCore(t, pool, id, with(rowOf("terminal/unowned/not_applicable/waiting/attempt_terminal"), "attempt_index", pointer))
				insertAttempt(t, pool, id, 0, test.outcome, nil)
				insertAttempt(t, pool, id, 3, "success", nil) // above the pointer: never looked at
				info := mustInfo(t, reader.New(pool), id)
				missing := test.want == ""
				if info.EvidenceMissing != missing || !missing && info.PublicState != test.want || missing && info.PublicState != ffstream.StateFailed {
					t.Errorf("%v at %d: got %s, evidence missing %t", test.outcome, pointer, info.PublicState, info.EvidenceMissing)
				}
				ids = append(ids, id)
			}
		}
		checkOneMind(t, pool, ids...)
	})
}

// checkOneMind fails when the reads of executions disagree about their states.
func checkOneMind(t *testing.T, pool *pgxpool.Pool, ids ...ffstream.ExecutionID) {
	t.Helper()
	ctx, r := context.Background(), reader.New(pool)
	var infos []ffstream.ExecutionInfo
	for _, id := range ids {
		info := mustInfo(t, r, id)
		state, _, errState := r.ExecutionState(ctx, id)
		snapshot, _, err := r.DescribeExecution(ctx, id)
		if err := errors.Join(err, errState); err != nil || state != info.PublicState || info.StateVector.PublicState != state || snapshot.Info != info ||
			info.StateVector.TerminalOutcome != state.Outcome() || info.Consistent != (info.StoredPublicState == state) {
			t.Errorf("%s: got %s, %v, %+v and %+v", id, state, err, info, snapshot)
		}
		infos = append(infos, info)
	}
	// Once they share a partition, once they do not.
	for _, other := range []ffstream.ExecutionID{newID(), ffstream.NewExecutionID(1, newID().UUID())} {
		asked := append([]ffstream.ExecutionID{other}, ids...)
		gotStates, errStates := r.ExecutionStates(ctx, asked)
		gotInfos, errInfos := r.ExecutionInfos(ctx, asked)
		if err := errors.Join(errStates, errInfos); err != nil {
			t.Fatal(err)
		}
		if gotStates[0].Found || gotInfos[0].Found {
			t.Errorf("%s is found", other)
		}
		for i, want := range infos {
			if gotStates[i+1].Value != want.PublicState || gotInfos[i+1].Value != want {
				t.Errorf("%s: got %+v and %+v, alone %+v", want.ExecutionID, gotStates[i+1], gotInfos[i+1], want)
			}
		}
	}
}

// TestUnknownLiteral: the first column in the engine's order that holds one is
// the error, by whichever read.
func TestUnknownLiteral(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		columns := []string{"lifecycle_phase", "ownership_state", "eligibility_state", "public_state", "attempt_state", "blocking_reason", "ff_attempt.outcome"}
		for first, column := range columns {
			id := newID()
			row := rowOf("terminal/unowned/not_applicable/waiting/attempt_terminal")
			for _, c := range columns[first : len(columns)-1] {
				row[c] = "odd " + c
			}
			insertCore(t, pool, id, row)
			insertAttempt(t, pool, id, 0, "odd ff_attempt.outcome", nil)
			want := ffstream.CorruptionError{ExecutionID: id, Column: column, Literal: "odd " + column}
			for name, err := range readEveryWay(reader.New(pool), id) {
				var got *ffstream.CorruptionError
				if !errors.As(err, &got) || *got != want {
					t.Errorf("%s: got %v, want %v", name, err, &want)
				}
			}
		}
		// The known ones of other columns, and the engine's refused ones.
		for column, literal := range map[string]string{
			"lifecycle_phase": "completed", "ownership_state": "owned", "eligibility_state": "blocked", "public_state": "pending", "attempt_state": "initial",
			"blocking_reason": "NONE",
		} {
			id := newID()
			insertCore(t, pool, id, with(rowOf(live), column, literal))
			var got *ffstream.CorruptionError
			if _, _, err := reader.New(pool).ExecutionState(context.Background(), id); !errors.As(err, &got) || got.Column != column || got.Literal != literal {
				t.Errorf("%s %q: got %v", column, literal, err)
			}
		}
	})
}

// readEveryWay gives the error of each read that looks at states.
func readEveryWay(r *reader.Reader, id ffstream.ExecutionID) map[string]error {
	ctx := context.Background()
	errs := map[string]error{}
	_, _, errs["state"] = r.ExecutionState(ctx, id)
	_, _, errs["info"] = r.ExecutionInfo(ctx, id)
	_, _, errs["describe"] = r.DescribeExecution(ctx, id)
	other := ffstream.NewExecutionID(id.Partition()+1, id.UUID())
	for _, ids := range [][]ffstream.ExecutionID{{id}, {other, id}} {
		last := len(ids) - 1
		name := fmt.Sprint(len(ids))
		if states, err := r.ExecutionStates(ctx, ids); err == nil && states[last].Found && states[last].Value == "" {
			errs["states of "+name] = states[last].Err
		} else {
			errs["states of "+name] = fmt.Errorf("%+v, %w", states, err)
		}
		if infos, err := r.ExecutionInfos(ctx, ids); err == nil && infos[last].Found && infos[last].Value == (ffstream.ExecutionInfo{}) {
			errs["infos of "+name] = infos[last].Err
		} else {
			errs["infos of "+name] = fmt.Errorf("%+v, %w", infos, err)
		}
	}
	return errs
}

func TestNegativeAttemptIndexReadsZero(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := newID()
		insertCore(t, pool, id, with(rowOf("terminal/unowned/not_applicable/waiting/attempt_terminal"), "attempt_index", -2))
		insertAttempt(t, pool, id, 0, "success", nil)
		r := reader.New(pool)
		if info := mustInfo(t, r, id); info.CurrentAttemptIndex != 0 || info.PublicState != ffstream.StateCompleted {
			t.Errorf("got %+v", info)
		}
		if index, ok, err := r.CurrentAttemptIndex(context.Background(), id); index != 0 || !ok || err != nil {
			t.Errorf("got %d, %t, %v", index, ok, err)
		}
		checkOneMind(t, pool, id)
	})
}

// TestSpellings: every text that the engine takes for an id names the same row,
// and comes back as it was.
func TestSpellings(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := newID()
		insertCore(t, pool, id, rowOf(live))
		u := id.UUID()
		hex := fmt.Sprintf("%x", u[:])
		upper := fmt.Sprintf("%X", u[:])
		var ids []ffstream.ExecutionID
		for _, text := range []string{
			"{fp:86}:" + u.String(), "{fp:086}:" + hex, "{fp:+86}:" + upper, "{fp:+0086}:urn:uuid:" + u.String(), "{fp:86}:{" + u.String() + "}",
		} {
			spelt, err := ffstream.ParseExecutionID(text)
			if err != nil {
				t.Fatal(err)
			}
			if info := mustInfo(t, reader.New(pool), spelt); info.ExecutionID != spelt || info.ExecutionID.String() != text {
				t.Errorf("%s: got %s", text, info.ExecutionID)
			}
			ids = append(ids, spelt)
		}
		infos, err := reader.New(pool).ExecutionInfos(context.Background(), ids)
		if err != nil {
			t.Fatal(err)
		}
		for i, a := range infos {
			if !a.Found || a.Value.ExecutionID != ids[i] || a.ExecutionID != ids[i] {
				t.Errorf("%s: got %+v", ids[i], a)
			}
		}
	})
}

// TestRejectedIDs: what the engine refuses, with its own error for each.
func TestRejectedIDs(t *testing.T) {
	t.Parallel()
	const u = "550e8400-e29b-41d4-a716-446655440000"
	for text, want := range map[string]error{
		"": ffstream.ErrMissingTag, u: ffstream.ErrMissingTag, "fp:7}:" + u: ffstream.ErrMissingTag, "{fp:7}" + u: ffstream.ErrMissingTag, "{b:7}:" + u: ffstream.ErrMissingTag,
		"{fp:}:" + u: ffstream.ErrInvalidPartitionIndex, "{fp:-0}:" + u: ffstream.ErrInvalidPartitionIndex, "{fp:-1}:" + u: ffstream.ErrInvalidPartitionIndex,
		"{fp:65536}:" + u: ffstream.ErrInvalidPartitionIndex, "{fp: 7}:" + u: ffstream.ErrInvalidPartitionIndex, "{fp:0x7}:" + u: ffstream.ErrInvalidPartitionIndex,
		"{fp:++7}:" + u: ffstream.ErrInvalidPartitionIndex, "{fp:\u0667}:" + u: ffstream.ErrInvalidPartitionIndex,
		"{fp:7}:": ffstream.ErrInvalidUUID, "{fp:7}:" + u[1:]: ffstream.ErrInvalidUUID, "{fp:7}:}:" + u: ffstream.ErrInvalidUUID, "{fp:7}:" + u + " ": ffstream.ErrInvalidUUID,
	} {
		if id, err := ffstream.ParseExecutionID(text); !errors.Is(err, want) || !id.IsZero() {
			t.Errorf("%q: got %s, %v, want %v", text, id, err, want)
		}
	}
}

// TestHighPartition: an index above 32767 wraps, as the engine casts it.
func TestHighPartition(t *testing.T) {
	onBothSchemas(t, func(t *testing.T, pool *pgxpool.Pool) {
		id := ffstream.NewExecutionID(40_000, newID().UUID())
		insertCore(t, pool, id, rowOf(live))
		if info := mustInfo(t, reader.New(pool), id); info.ExecutionID.String() != id.String() {
			t.Errorf("got %+v", info)
		}
		checkOneMind(t, pool, id)
		page, err := reader.New(pool).ListExecutions(context.Background(), "{fp:40000}", ffstream.Opt[ffstream.ExecutionID]{}, 1)
		if err != nil || len(page.IDs) != 1 || page.IDs[0] != id {
			t.Errorf("got %+v, %v", page, err)
		}
	})
}
