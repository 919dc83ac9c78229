package engine

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
)

// mutated stamps raw_fields; $3 is the time as text.
const mutated = ", raw_fields = raw_fields || jsonb_build_object('last_mutation_at', $3::text)"

func (e *Engine) stamp() (text string, ms int64) {
	ms = e.now()
	return strconv.FormatInt(ms, 10), ms
}

// firstWins keeps what an earlier cancel wrote: $4 time, $5 reason, $6 by whom.
const firstWins = `, terminal_at_ms = COALESCE(terminal_at_ms, $4::bigint),
	cancellation_reason = COALESCE(cancellation_reason, $5::text), cancelled_by = COALESCE(cancelled_by, $6::text)`

// CancelOperator (CX) cancels an execution from outside, and fences its worker
// when there is one.
func (e *Engine) CancelOperator(ctx context.Context, tx Tx, x Exec, reason string) error {
	text, t := e.stamp()
	if err := e.core(ctx, tx, x, `lifecycle_phase = 'cancelled', ownership_state = 'unowned',
		eligibility_state = 'not_applicable', public_state = 'cancelled', attempt_state = 'cancelled'`+mutated+firstWins, live,
		text, t, reason, "operator_override"); err != nil {
		return err
	}
	fenced, err := some(ctx, tx, x, `UPDATE ff_attempt SET worker_instance_id = NULL, lease_expires_at_ms = NULL,
		lease_epoch = lease_epoch + 1, terminal_at_ms = $3, outcome = 'cancelled'`+byKey+current+
		" AND worker_instance_id <> ''", t)
	if err != nil || fenced == 0 {
		return err
	}
	return e.leaseEvent(ctx, tx, x, "revoked")
}

// CancelHandle (CH) is the worker's own cancel. It leaves the lease.
func (e *Engine) CancelHandle(ctx context.Context, tx Tx, x Exec, reason string) error {
	text, t := e.stamp()
	if err := e.core(ctx, tx, x, `lifecycle_phase = 'terminal', ownership_state = 'unowned',
		eligibility_state = 'not_applicable', public_state = 'cancelled', attempt_state = 'cancelled',
		terminal_at_ms = $4, cancellation_reason = $5, cancelled_by = 'worker'`+mutated,
		" AND lifecycle_phase <> 'terminal'", text, t, reason); err != nil {
		return err
	}
	return e.clearOutcome(ctx, tx, x)
}

// clearOutcome is what the newest version adds to a cancel.
func (e *Engine) clearOutcome(ctx context.Context, tx Tx, x Exec) error {
	if e.Version != Newest {
		return nil
	}
	_, err := some(ctx, tx, x, "UPDATE ff_attempt SET outcome = NULL"+byKey+current)
	return err
}

// CancelFlow (CF) cancels members of a flow, one after the other in one
// transaction. It hits members that ended long ago too, as the engine does.
func (e *Engine) CancelFlow(ctx context.Context, tx Tx, members ...Exec) error {
	for _, x := range members {
		t := e.now()
		err := all(
			func() error {
				return e.core(ctx, tx, x, `lifecycle_phase = 'cancelled', eligibility_state = 'cancelled', public_state = 'cancelled',
					terminal_at_ms = COALESCE(terminal_at_ms, $3), cancellation_reason = COALESCE(cancellation_reason, 'flow_cancelled'),
					cancelled_by = COALESCE(cancelled_by, 'cancel_flow')`, " AND lifecycle_phase <> 'cancelled'", t)
			},
			func() error { return e.clearOutcome(ctx, tx, x) },
			func() error { return e.completionEvent(ctx, tx, x, "cancelled") },
			func() error {
				return one(ctx, tx, x, `INSERT INTO ff_lease_event (execution_id, event_type, occurred_at_ms, partition_key)
					VALUES ($2::uuid::text, 'revoked', $3::bigint, $1::smallint)`, t)
			},
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// CancelFlowHeader (CFH) cancels the live members of a flow in one statement.
func (e *Engine) CancelFlowHeader(ctx context.Context, tx Tx, partition int16, flow uuid.UUID, reason string) error {
	t := e.now()
	if _, err := tx.Exec(ctx, `UPDATE ff_exec_core SET lifecycle_phase = 'cancelled', eligibility_state = 'cancelled',
		public_state = 'cancelled', terminal_at_ms = COALESCE(terminal_at_ms, $3::bigint),
		cancellation_reason = COALESCE(cancellation_reason, $4::text), cancelled_by = COALESCE(cancelled_by, 'cancel_flow_header')
		WHERE partition_key = $1 AND flow_id = $2`+live, partition, flow, t, reason); err != nil {
		return fmt.Errorf("cancel flow %s: %w", flow, err)
	}
	return nil
}

// EdgeCancel (EC) cancels siblings that a quorum made needless.
func (e *Engine) EdgeCancel(ctx context.Context, tx Tx, siblings ...Exec) error {
	for _, x := range siblings {
		text, t := e.stamp()
		if err := e.core(ctx, tx, x, `lifecycle_phase = 'terminal', ownership_state = 'unowned',
			eligibility_state = 'not_applicable', public_state = 'cancelled', attempt_state = 'cancelled'`+mutated+firstWins, live,
			text, t, "sibling_quorum_satisfied", "engine"); err != nil {
			return err
		}
	}
	return nil
}

// Replay (R1) starts an ended execution again, on the same attempt.
func (e *Engine) Replay(ctx context.Context, tx Tx, x Exec) error {
	text, _ := e.stamp()
	return all(
		func() error {
			return e.core(ctx, tx, x, runnable+`, public_state = 'waiting', attempt_state = 'pending_replay_attempt',
				terminal_at_ms = NULL, result = NULL, cancellation_reason = NULL, cancelled_by = NULL,
				raw_fields = raw_fields || jsonb_build_object('last_mutation_at', $3::text,
					'replay_count', COALESCE((raw_fields->>'replay_count')::int, 0) + 1)`,
				" AND lifecycle_phase = 'terminal'", text)
		},
		func() error {
			_, err := some(ctx, tx, x, `UPDATE ff_attempt SET outcome = NULL, terminal_at_ms = NULL, worker_id = NULL,
				worker_instance_id = NULL, lease_expires_at_ms = NULL, lease_epoch = lease_epoch + 1`+byKey+current)
			return err
		},
	)
}

// RevokeLease (RV) takes the lease of an active execution and fences the worker.
func (e *Engine) RevokeLease(ctx context.Context, tx Tx, x Exec) error {
	text, _ := e.stamp()
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "worker_instance_id = NULL, lease_expires_at_ms = NULL, lease_epoch = lease_epoch + 1", current)
		},
		func() error {
			return e.core(ctx, tx, x, runnable+", attempt_state = 'attempt_interrupted'"+mutated, active, text)
		},
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

// ChangePriority (CP) sets the priority of an eligible execution.
func (e *Engine) ChangePriority(ctx context.Context, tx Tx, x Exec, priority int32) error {
	text, _ := e.stamp()
	return e.core(ctx, tx, x, "priority = $4"+mutated,
		" AND lifecycle_phase = 'runnable' AND eligibility_state = 'eligible_now'", text, min(max(priority, 0), 9000))
}

// SetTag (TG, newest only) sets a tag.
func (e *Engine) SetTag(ctx context.Context, tx Tx, x Exec, tag, value string) error {
	if err := e.only("set_execution_tag"); err != nil {
		return err
	}
	return e.core(ctx, tx, x, "raw_fields = jsonb_set(raw_fields, ARRAY['tags', $3::text], to_jsonb($4::text))", "", tag, value)
}
