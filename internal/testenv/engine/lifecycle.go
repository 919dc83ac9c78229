package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/google/uuid"
)

// Create (CR) inserts the execution, in phase submitted. An execution that
// exists already is left alone.
func (e *Engine) Create(ctx context.Context, tx Tx, n NewExecution) error {
	t := e.now()
	if n.Lane == "" {
		n.Lane = "default"
	}
	if n.Tags == nil {
		n.Tags = map[string]string{}
	}
	if n.Payload == nil {
		n.Payload = []byte{}
	}
	raw, err := json.Marshal(map[string]any{
		"namespace": n.Namespace, "execution_kind": n.Kind, "creator_identity": "engine",
		"last_mutation_at": strconv.FormatInt(t, 10), "total_attempt_count": "0", "tags": n.Tags,
	})
	if err != nil {
		return fmt.Errorf("encode raw_fields: %w", err)
	}
	var policy *string
	if n.Policy != nil {
		text := string(n.Policy)
		policy = &text
	}
	_, err = some(ctx, tx, n.Exec, `INSERT INTO ff_exec_core
		(partition_key, execution_id, flow_id, lane_id, required_capabilities, attempt_index,
		 lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state,
		 priority, created_at_ms, deadline_at_ms, payload, policy, raw_fields)
		VALUES ($1, $2, NULL, $3, '{}', 0, 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending',
		 $4, $5, $6, $7, $8::text::jsonb, $9::text::jsonb)
		ON CONFLICT (partition_key, execution_id) DO NOTHING`,
		n.Lane, n.Priority, t, n.DeadlineMS, n.Payload, policy, string(raw))
	if err != nil {
		return err
	}
	if _, err = tx.Exec(ctx, `INSERT INTO ff_lane_registry (lane_id, registered_at_ms, registered_by)
		SELECT $1::text, $2::bigint, 'create_execution'
		WHERE NOT EXISTS (SELECT 1 FROM ff_lane_registry WHERE lane_id = $1::text)
		ON CONFLICT (lane_id) DO NOTHING`, n.Lane, t); err != nil {
		return fmt.Errorf("register lane %s: %w", n.Lane, err)
	}
	if n.FlowID == nil {
		return nil
	}
	return e.AttachFlow(ctx, tx, n.Exec, *n.FlowID)
}

// Promote (PR) makes a submitted execution runnable. No operation of the engine
// does; deployments do it from outside.
func (e *Engine) Promote(ctx context.Context, tx Tx, x Exec) error {
	return e.core(ctx, tx, x, "lifecycle_phase = 'runnable'", " AND lifecycle_phase = 'submitted'")
}

// AttachFlow (FL) makes the execution a member of a flow.
func (e *Engine) AttachFlow(ctx context.Context, tx Tx, x Exec, flow uuid.UUID) error {
	return e.core(ctx, tx, x, "flow_id = $3", "", flow)
}

// Claim (CL) leases a runnable and eligible execution.
func (e *Engine) Claim(ctx context.Context, tx Tx, x Exec) error {
	args := e.lease()
	t := args[3]
	err := one(ctx, tx, x, `INSERT INTO ff_attempt
		(partition_key, execution_id, attempt_index, worker_id, worker_instance_id,
		 lease_epoch, lease_expires_at_ms, started_at_ms)
		SELECT partition_key, execution_id, attempt_index, $3::text, $4::text, 1, $5::bigint, $6::bigint FROM ff_exec_core`+
		byKey+` AND lifecycle_phase = 'runnable' AND eligibility_state = 'eligible_now'
		ON CONFLICT (partition_key, execution_id, attempt_index) DO UPDATE SET
		 worker_id = EXCLUDED.worker_id, worker_instance_id = EXCLUDED.worker_instance_id,
		 lease_epoch = ff_attempt.lease_epoch + 1, lease_expires_at_ms = EXCLUDED.lease_expires_at_ms,
		 started_at_ms = EXCLUDED.started_at_ms, outcome = NULL`, args...)
	if err != nil {
		return err
	}
	if e.Version == Newest {
		err = e.core(ctx, tx, x, claimed+", public_state = 'running', started_at_ms = COALESCE(started_at_ms, $3)", "", t)
	} else {
		err = e.core(ctx, tx, x, claimed, "")
	}
	if err != nil {
		return err
	}
	return e.leaseEvent(ctx, tx, x, "acquired")
}

const reclaimed = "worker_id = $3, worker_instance_id = $4, lease_epoch = lease_epoch + 1, lease_expires_at_ms = $5, started_at_ms = $6, outcome = NULL"

// ClaimResumed (CRR) leases an execution whose label says resumable.
func (e *Engine) ClaimResumed(ctx context.Context, tx Tx, x Exec) error {
	args := e.lease()
	return all(
		func() error {
			return e.attempt(ctx, tx, x, reclaimed, current+
				" AND EXISTS (SELECT 1 FROM ff_exec_core"+byKey+" AND public_state = 'resumable')", args...)
		},
		func() error { return e.runAgain(ctx, tx, x, args[3]) },
		func() error { return e.leaseEvent(ctx, tx, x, "acquired") },
	)
}

// runAgain is the update of ff_exec_core of a resumed claim.
func (e *Engine) runAgain(ctx context.Context, tx Tx, x Exec, started any) error {
	if e.Version == Newest {
		return e.core(ctx, tx, x, claimed+", public_state = 'running', started_at_ms = COALESCE(started_at_ms, $3)", "", started)
	}
	return e.core(ctx, tx, x, claimed+", public_state = 'running'", "")
}

// ClaimFromGrant (RG) leases the newest attempt again.
func (e *Engine) ClaimFromGrant(ctx context.Context, tx Tx, x Exec) error {
	args := e.lease()
	return all(
		func() error { return e.attempt(ctx, tx, x, reclaimed, latest, args...) },
		func() error { return e.core(ctx, tx, x, claimed, "") },
		func() error { return e.leaseEvent(ctx, tx, x, "reclaimed") },
	)
}

// Renew (RN) is a heartbeat. It does not touch ff_exec_core.
func (e *Engine) Renew(ctx context.Context, tx Tx, x Exec) error {
	return e.renew(ctx, tx, x, current)
}

func (e *Engine) renew(ctx context.Context, tx Tx, x Exec, which string) error {
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "lease_expires_at_ms = $3", which, e.lease()[2])
		},
		func() error { return e.leaseEvent(ctx, tx, x, "renewed") },
	)
}

// Progress (PG) stores a percentage and a message in raw_fields.
func (e *Engine) Progress(ctx context.Context, tx Tx, x Exec, percent int, message string) error {
	return e.core(ctx, tx, x, "raw_fields = raw_fields || jsonb_build_object('progress_pct', $3::int, 'progress_message', $4::text)", "",
		percent, message)
}

// Complete (CO) ends the current attempt and the execution with success.
func (e *Engine) Complete(ctx context.Context, tx Tx, x Exec, result []byte) error {
	return e.complete(ctx, tx, x, nil, result)
}

// CompleteAttempt is Complete with the handle of attempt index, current or not:
// a worker that lost its lease can do so.
func (e *Engine) CompleteAttempt(ctx context.Context, tx Tx, x Exec, index int, result []byte) error {
	return e.complete(ctx, tx, x, &index, result)
}

func (e *Engine) complete(ctx context.Context, tx Tx, x Exec, index *int, result []byte) error {
	t := e.now()
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "terminal_at_ms = $3, outcome = 'success', lease_expires_at_ms = NULL",
				" AND attempt_index = COALESCE($4::int, "+pointed+")", t, index)
		},
		func() error { return e.core(ctx, tx, x, finished+", terminal_at_ms = $3, result = $4", "", t, result) },
		func() error { return e.completionEvent(ctx, tx, x, "success") },
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

const failureMessage = ", raw_fields = raw_fields || jsonb_build_object('last_failure_message', $3::text)"

// FailRetry (FR) ends the attempt; the next claim starts a new one.
func (e *Engine) FailRetry(ctx context.Context, tx Tx, x Exec, message string) error {
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "terminal_at_ms = $3, outcome = 'retry', lease_expires_at_ms = NULL", current, e.now())
		},
		func() error {
			return e.core(ctx, tx, x, runnable+", attempt_state = 'pending_retry_attempt', attempt_index = attempt_index + 1"+
				failureMessage, "", message)
		},
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

// FailTerminal (FT) ends the attempt and the execution with failure.
func (e *Engine) FailTerminal(ctx context.Context, tx Tx, x Exec, message string) error {
	t := e.now()
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "terminal_at_ms = $3, outcome = 'failed', lease_expires_at_ms = NULL", current, t)
		},
		func() error {
			return e.core(ctx, tx, x, finished+failureMessage+", terminal_at_ms = $4", "", message, t)
		},
		func() error { return e.completionEvent(ctx, tx, x, "failed") },
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

// Suspend (SU) gives the lease back until a signal or a timeout.
func (e *Engine) Suspend(ctx context.Context, tx Tx, x Exec) error {
	return all(
		func() error {
			return e.core(ctx, tx, x, `lifecycle_phase = 'suspended', ownership_state = 'released',
				eligibility_state = 'not_applicable', public_state = 'suspended', attempt_state = 'attempt_interrupted'`, "")
		},
		func() error {
			return e.attempt(ctx, tx, x, `worker_id = NULL, worker_instance_id = NULL, lease_expires_at_ms = NULL,
				lease_epoch = lease_epoch + 1, outcome = 'attempt_interrupted'`, current)
		},
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

// Signal (SG) delivers the signal that satisfies the suspension. It does not
// look at the phase, so it raises the dead too.
func (e *Engine) Signal(ctx context.Context, tx Tx, x Exec) error {
	return all(
		func() error {
			return e.core(ctx, tx, x, "public_state = 'resumable', lifecycle_phase = 'runnable', eligibility_state = 'eligible_now'", "")
		},
		func() error { return e.completionEvent(ctx, tx, x, "resumable") },
	)
}

// Delay (DL) gives the lease back until wakeMS, which overwrites the deadline.
func (e *Engine) Delay(ctx context.Context, tx Tx, x Exec, wakeMS int64) error {
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "outcome = 'interrupted', lease_expires_at_ms = NULL", current)
		},
		func() error {
			return e.core(ctx, tx, x, `lifecycle_phase = 'runnable', ownership_state = 'unowned',
				eligibility_state = 'not_eligible_until_time', attempt_state = 'attempt_interrupted', deadline_at_ms = $3`, "", wakeMS)
		},
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}

// WaitChildren (WC) gives the lease back until the children are done.
func (e *Engine) WaitChildren(ctx context.Context, tx Tx, x Exec) error {
	return all(
		func() error {
			return e.attempt(ctx, tx, x, "outcome = 'waiting_children', lease_expires_at_ms = NULL", current)
		},
		func() error {
			return e.core(ctx, tx, x, `lifecycle_phase = 'runnable', ownership_state = 'unowned',
				eligibility_state = 'blocked_by_dependencies', attempt_state = 'attempt_interrupted',
				blocking_reason = 'waiting_for_children'`, "")
		},
		func() error { return e.leaseEvent(ctx, tx, x, "revoked") },
	)
}
