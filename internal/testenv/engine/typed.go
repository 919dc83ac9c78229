package engine

import (
	"context"

	"github.com/google/uuid"
)

// TypedClaim (TCL, newest only) leases an eligible execution and moves the
// pointer past the attempt that runs.
func (e *Engine) TypedClaim(ctx context.Context, tx Tx, x Exec) error {
	if err := e.only("claim_execution"); err != nil {
		return err
	}
	args := e.lease()
	id, instance := args[0], args[1]
	attempt, lease := uuid.NewString(), uuid.NewString()
	return all(
		func() error {
			return one(ctx, tx, x, `INSERT INTO ff_attempt
				(partition_key, execution_id, attempt_index, worker_id, worker_instance_id,
				 lease_epoch, lease_expires_at_ms, started_at_ms, policy, raw_fields)
				SELECT partition_key, execution_id, attempt_index, $3::text, $4::text, 1, $5::bigint, $6::bigint, '{}'::jsonb,
				 jsonb_build_object('attempt_type', 'initial', 'attempt_id', $7::text, 'lease_id', $8::text)
				FROM ff_exec_core`+byKey+` AND lifecycle_phase = 'runnable' AND ownership_state = 'unowned'
				 AND eligibility_state = 'eligible_now' AND attempt_state NOT IN ('running_attempt', 'attempt_interrupted')
				ON CONFLICT (partition_key, execution_id, attempt_index) DO UPDATE SET
				 worker_id = EXCLUDED.worker_id, worker_instance_id = EXCLUDED.worker_instance_id,
				 lease_epoch = ff_attempt.lease_epoch + 1, lease_expires_at_ms = EXCLUDED.lease_expires_at_ms,
				 started_at_ms = EXCLUDED.started_at_ms, policy = EXCLUDED.policy, raw_fields = EXCLUDED.raw_fields,
				 terminal_at_ms = NULL, outcome = NULL`, append(args, attempt, lease)...)
		},
		func() error {
			return e.core(ctx, tx, x, claimed+`, public_state = 'active', attempt_index = attempt_index + 1,
				raw_fields = raw_fields || jsonb_build_object('current_attempt_id', $3::text, 'current_lease_id', $4::text,
					'current_worker_id', $5::text, 'current_worker_instance_id', $6::text,
					'pending_retry_reason', '', 'pending_replay_reason', '', 'pending_replay_requested_by', '',
					'pending_previous_attempt_index', '')`, "", attempt, lease, id, instance)
		},
		func() error { return e.leaseEvent(ctx, tx, x, "acquired") },
	)
}

// TypedRenew (RN of the typed family, newest only) is a heartbeat.
func (e *Engine) TypedRenew(ctx context.Context, tx Tx, x Exec) error {
	if err := e.only("renew_lease"); err != nil {
		return err
	}
	return e.renew(ctx, tx, x, typed)
}

// TypedComplete (TCO, newest only) ends a typed attempt and the execution with success.
func (e *Engine) TypedComplete(ctx context.Context, tx Tx, x Exec, result []byte) error {
	if err := e.only("complete_execution"); err != nil {
		return err
	}
	t := e.now()
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "terminal_at_ms = $3, outcome = 'success', lease_expires_at_ms = NULL", typed, t)
		},
		func() error {
			return e.core(ctx, tx, x, finished+`, public_state = 'completed', terminal_at_ms = $3, result = $4,
				raw_fields = raw_fields || '{"terminal_outcome":"success"}'::jsonb`, active, t, result)
		},
		func() error { return e.completionEvent(ctx, tx, x, "success") },
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

// TypedFailRetry (TFR, newest only) ends a typed attempt and delays the execution.
func (e *Engine) TypedFailRetry(ctx context.Context, tx Tx, x Exec, reason string) error {
	if err := e.only("fail_execution"); err != nil {
		return err
	}
	t := e.now()
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "terminal_at_ms = $3, outcome = 'failure', lease_expires_at_ms = NULL", typed, t)
		},
		func() error {
			return e.core(ctx, tx, x, `lifecycle_phase = 'runnable', ownership_state = 'unowned',
				eligibility_state = 'not_eligible_until_time', attempt_state = 'pending_retry_attempt',
				blocking_reason = 'waiting_for_retry_backoff', public_state = 'delayed',
				raw_fields = raw_fields || jsonb_build_object('pending_retry_reason', $3::text,
					'pending_previous_attempt_index', (attempt_index - 1)::text, 'retry_count', '1',
					'delay_until', ($4::bigint)::text, 'failure_reason', $3::text)`, active, reason, t+1000)
		},
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

// TypedFail (TFT, newest only) ends a typed attempt and the execution with failure.
func (e *Engine) TypedFail(ctx context.Context, tx Tx, x Exec, reason string) error {
	if err := e.only("fail_execution"); err != nil {
		return err
	}
	t := e.now()
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "terminal_at_ms = $3, outcome = 'failure', lease_expires_at_ms = NULL", typed, t)
		},
		func() error {
			return e.core(ctx, tx, x, finished+`, public_state = 'failed', terminal_at_ms = $3,
				raw_fields = raw_fields || jsonb_build_object('failure_reason', $4::text, 'terminal_outcome', 'failed')`, active, t, reason)
		},
		func() error { return e.completionEvent(ctx, tx, x, "failed") },
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

// TypedResume (TR, newest only) ends a suspension, at once or after a delay.
func (e *Engine) TypedResume(ctx context.Context, tx Tx, x Exec, delayed bool) error {
	if err := e.only("resume_execution"); err != nil {
		return err
	}
	eligibility, blocking, label := "eligible_now", "waiting_for_worker", "waiting"
	if delayed {
		eligibility, blocking, label = "not_eligible_until_time", "waiting_for_resume_delay", "delayed"
	}
	return e.core(ctx, tx, x, `lifecycle_phase = 'runnable', ownership_state = 'unowned', eligibility_state = $3,
		attempt_state = 'attempt_interrupted', blocking_reason = $4, public_state = $5,
		raw_fields = raw_fields || '{"current_suspension_id":"","current_waitpoint_id":""}'::jsonb`,
		" AND lifecycle_phase = 'suspended'", eligibility, blocking, label)
}

// IssueGrantResume (IGR, newest only) leases an interrupted attempt again,
// whatever the phase.
func (e *Engine) IssueGrantResume(ctx context.Context, tx Tx, x Exec) error {
	if err := e.only("issue_grant_and_claim"); err != nil {
		return err
	}
	args := e.lease()
	return all(
		func() error {
			return e.attempt(ctx, tx, x, reclaimed, current+
				" AND EXISTS (SELECT 1 FROM ff_exec_core"+byKey+" AND attempt_state = 'attempt_interrupted')", args...)
		},
		func() error { return e.runAgain(ctx, tx, x, args[3]) },
		func() error { return e.leaseEvent(ctx, tx, x, "acquired") },
	)
}
