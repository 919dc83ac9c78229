package engine

import "context"

// PromoteDelayed (DP, newest only) wakes a delayed execution whose time has come.
func (e *Engine) PromoteDelayed(ctx context.Context, tx Tx, x Exec) error {
	if err := e.only("promote_delayed"); err != nil {
		return err
	}
	return e.core(ctx, tx, x, "eligibility_state = 'eligible_now', deadline_at_ms = NULL",
		" AND lifecycle_phase = 'runnable' AND eligibility_state = 'not_eligible_until_time' AND deadline_at_ms <= $3", e.now())
}

// DependencySatisfied (DS) makes an execution eligible. A submitted one stays so.
func (e *Engine) DependencySatisfied(ctx context.Context, tx Tx, x Exec) error {
	return e.core(ctx, tx, x, `eligibility_state = 'eligible_now',
		lifecycle_phase = CASE WHEN lifecycle_phase = 'blocked' THEN 'runnable' ELSE lifecycle_phase END`, live)
}

// DependencyImpossible (DI) skips an execution. A live lease survives it.
func (e *Engine) DependencyImpossible(ctx context.Context, tx Tx, x Exec) error {
	return all(
		func() error {
			return e.core(ctx, tx, x, `lifecycle_phase = 'terminal', eligibility_state = 'not_applicable',
				public_state = 'skipped', attempt_state = 'attempt_terminal', terminal_at_ms = COALESCE(terminal_at_ms, $3)`, live, e.now())
		},
		func() error { return e.completionEvent(ctx, tx, x, "skipped") },
	)
}

// LeaseExpired (LX) takes a lapsed lease away. The epoch stays, so the worker
// can still complete.
func (e *Engine) LeaseExpired(ctx context.Context, tx Tx, x Exec) error {
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "lease_expires_at_ms = NULL, outcome = 'lease_expired_reclaimable'", current)
		},
		func() error {
			return e.core(ctx, tx, x, runnable+`, attempt_state = 'attempt_interrupted',
				raw_fields = raw_fields || jsonb_build_object('lease_expired_at_ms', $3::bigint)`, active, e.now())
		},
		func() error { return e.leaseEvent(ctx, tx, x, "expired") },
	)
}

// Reclaim (RC, newest only) moves an active execution to a new attempt. The old
// attempt keeps its lease.
func (e *Engine) Reclaim(ctx context.Context, tx Tx, x Exec) error {
	if err := e.only("reclaim_execution"); err != nil {
		return err
	}
	args := e.lease()
	t := args[3]
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "outcome = 'interrupted_reclaimed', terminal_at_ms = COALESCE(terminal_at_ms, $3)", current, t)
		},
		func() error {
			return one(ctx, tx, x, `INSERT INTO ff_attempt
				(partition_key, execution_id, attempt_index, worker_id, worker_instance_id,
				 lease_epoch, lease_expires_at_ms, started_at_ms, raw_fields)
				SELECT partition_key, execution_id, attempt_index + 1, $3::text, $4::text,
				 lease_epoch + 1, $5::bigint, $6::bigint, '{"attempt_type":"reclaim"}'::jsonb
				FROM ff_attempt`+byKey+current, args...)
		},
		func() error {
			return e.core(ctx, tx, x, claimed+`, public_state = 'running', attempt_index = attempt_index + 1,
				lease_reclaim_count = lease_reclaim_count + 1, started_at_ms = COALESCE(started_at_ms, $3)`, "", t)
		},
		func() error { return e.leaseEvent(ctx, tx, x, "reclaimed") },
	)
}

// ReclaimCapExceeded (RCC, newest only) fails an execution that was reclaimed
// too often. The attempt is not touched.
func (e *Engine) ReclaimCapExceeded(ctx context.Context, tx Tx, x Exec) error {
	if err := e.only("reclaim_execution"); err != nil {
		return err
	}
	return all(
		func() error {
			return e.core(ctx, tx, x, `lifecycle_phase = 'terminal', ownership_state = 'unowned',
				eligibility_state = 'not_applicable', public_state = 'failed', attempt_state = 'terminal_failed',
				terminal_at_ms = COALESCE(terminal_at_ms, $3), lease_reclaim_count = lease_reclaim_count + 1,
				cancellation_reason = COALESCE(cancellation_reason, 'reclaim_cap_exceeded')`, "", e.now())
		},
		func() error { return e.completionEvent(ctx, tx, x, "failed") },
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

const interrupted = "outcome = 'interrupted', lease_expires_at_ms = NULL, terminal_at_ms = $3"

// AttemptTimeoutRetry (AT1) ends a lapsed attempt when the policy allows another.
func (e *Engine) AttemptTimeoutRetry(ctx context.Context, tx Tx, x Exec) error {
	return all(
		func() error { return e.attempt(ctx, tx, x, interrupted, current, e.now()) },
		func() error {
			return e.core(ctx, tx, x, runnable+", attempt_state = 'pending_retry_attempt', attempt_index = attempt_index + 1"+
				failureMessage, active, "attempt_timeout")
		},
		func() error { return e.leaseEvent(ctx, tx, x, "expired") },
	)
}

// AttemptTimeout (AT2) ends a lapsed attempt and, with no retry left, the execution.
func (e *Engine) AttemptTimeout(ctx context.Context, tx Tx, x Exec) error {
	return e.expire(ctx, tx, x, "attempt_timeout")
}

// ExecutionDeadline (ED, newest only) ends an active execution at its deadline.
func (e *Engine) ExecutionDeadline(ctx context.Context, tx Tx, x Exec) error {
	if err := e.only("execution_deadline"); err != nil {
		return err
	}
	return e.expire(ctx, tx, x, "execution_deadline")
}

func (e *Engine) expire(ctx context.Context, tx Tx, x Exec, why string) error {
	t := e.now()
	return all(
		func() error { return e.attempt(ctx, tx, x, interrupted, current, t) },
		func() error {
			return e.core(ctx, tx, x, finished+failureMessage+", terminal_at_ms = $4", active, why, t)
		},
		func() error { return e.completionEvent(ctx, tx, x, "expired") },
		func() error { return e.leaseEvent(ctx, tx, x, "expired") },
	)
}

// SuspensionTimeout (ST) ends an execution whose suspension lasted too long.
// behaviour is fail, cancel, expire or escalate. It does not look at the phase.
func (e *Engine) SuspensionTimeout(ctx context.Context, tx Tx, x Exec, behaviour string) error {
	outcome := "expired"
	if behaviour == "cancel" {
		outcome = "cancelled"
	}
	return all(
		func() error {
			return e.core(ctx, tx, x, finished+failureMessage+", terminal_at_ms = $4, cancellation_reason = $5", "",
				"suspension_timeout", e.now(), "suspension_timeout_"+behaviour)
		},
		func() error { return e.completionEvent(ctx, tx, x, outcome) },
	)
}

// SchedulerGrant (SGR) promises an eligible execution to a worker. Nothing in
// the engine takes the promise back.
func (e *Engine) SchedulerGrant(ctx context.Context, tx Tx, x Exec) error {
	const (
		grant    = "raw_fields = raw_fields || jsonb_build_object('claim_grant', jsonb_build_object('worker_id', $3::text, 'issued_at_ms', $4::bigint))"
		pending  = "eligibility_state = 'pending_claim'"
		eligible = " AND lifecycle_phase = 'runnable' AND eligibility_state = 'eligible_now'"
	)
	worker, _ := e.worker()
	if e.Version == V011 {
		return e.core(ctx, tx, x, grant+", "+pending, eligible, worker, e.now())
	}
	return all(
		func() error { return e.core(ctx, tx, x, grant, eligible, worker, e.now()) },
		func() error { return e.core(ctx, tx, x, pending, "") },
	)
}

// TrimRetention (TM, newest only) deletes an ended execution, its attempts
// first. One whose phase is cancelled is refused.
func (e *Engine) TrimRetention(ctx context.Context, tx Tx, x Exec) error {
	if err := e.only("trim_retention"); err != nil {
		return err
	}
	if _, err := some(ctx, tx, x, "DELETE FROM ff_attempt"+byKey); err != nil {
		return err
	}
	return one(ctx, tx, x, "DELETE FROM ff_exec_core"+byKey+" AND lifecycle_phase = 'terminal'")
}
