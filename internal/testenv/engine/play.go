package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// ErrRefused says that the engine would not have done the operation: the
// execution does not exist or is not in a state that the operation accepts.
var ErrRefused = errors.New("engine: refused")

// String gives the engine's release number.
func (v Version) String() string {
	if v == V011 {
		return "v0.11"
	}
	return "v0.15"
}

// Engine writes as one version of the engine does. It has no state of its own
// and may be used by many goroutines when Now may.
type Engine struct {
	Version  Version
	Now      func() int64  // Unix milliseconds; nil is the wall clock
	Worker   string        // who claims; empty is "worker-1"
	Instance string        // which process of it; empty is "worker-1-0"
	TTL      time.Duration // of a lease; zero is 30 s
}

// NewExecution is what Create needs. Only Exec must be given.
type NewExecution struct {
	Exec       Exec
	Lane       string // empty is "default"
	Namespace  string
	Kind       string
	Priority   int32
	Tags       map[string]string
	Payload    []byte
	Policy     []byte     // JSON; nil is NULL
	DeadlineMS *int64     // deadline_at_ms
	FlowID     *uuid.UUID // attached in the same transaction, as AttachFlow does
}

func (e *Engine) now() int64 {
	if e.Now != nil {
		return e.Now()
	}
	return time.Now().UnixMilli()
}

func (e *Engine) worker() (id, instance string) {
	id, instance = e.Worker, e.Instance
	if id == "" {
		id = "worker-1"
	}
	if instance == "" {
		instance = id + "-0"
	}
	return id, instance
}

// lease gives the arguments of every claim after the key: worker, instance,
// expiry and start, $3 to $6.
func (e *Engine) lease() []any {
	ttl := e.TTL
	if ttl == 0 {
		ttl = 30 * time.Second
	}
	id, instance := e.worker()
	t := e.now()
	return []any{id, instance, t + ttl.Milliseconds(), t}
}

// only refuses an operation that the version does not have.
func (e *Engine) only(op string) error {
	if e.Version != Newest {
		return fmt.Errorf("%w: %s is not in %s", ErrRefused, op, e.Version)
	}
	return nil
}

const (
	byKey = " WHERE partition_key = $1 AND execution_id = $2"
	// pointed is the value of the execution's attempt_index.
	pointed = "(SELECT attempt_index FROM ff_exec_core" + byKey + ")"
	// current is the attempt that the handle family works on, typed the one of
	// the typed family, whose claim moves the pointer past it.
	current = " AND attempt_index = " + pointed
	typed   = " AND attempt_index = " + pointed + " - 1"
	latest  = " AND attempt_index = (SELECT max(attempt_index) FROM ff_attempt" + byKey + ")"

	claimed  = "lifecycle_phase = 'active', ownership_state = 'leased', eligibility_state = 'not_applicable', attempt_state = 'running_attempt'"
	finished = "lifecycle_phase = 'terminal', ownership_state = 'unowned', eligibility_state = 'not_applicable', attempt_state = 'attempt_terminal'"
	runnable = "lifecycle_phase = 'runnable', ownership_state = 'unowned', eligibility_state = 'eligible_now'"

	active = " AND lifecycle_phase = 'active'"
	live   = " AND lifecycle_phase NOT IN ('terminal', 'cancelled')"
)

// core updates the row of the execution; further arguments start at $3. where
// narrows it, starting with AND.
func (e *Engine) core(ctx context.Context, tx Tx, x Exec, set, where string, args ...any) error {
	return one(ctx, tx, x, "UPDATE ff_exec_core SET "+set+byKey+where, args...)
}

// attempt updates one attempt, as core does.
func (e *Engine) attempt(ctx context.Context, tx Tx, x Exec, set, where string, args ...any) error {
	return one(ctx, tx, x, "UPDATE ff_attempt SET "+set+byKey+where, args...)
}

// one runs a statement that must change a row. A Tx that runs it later gives an
// empty tag, which cannot be checked.
func one(ctx context.Context, tx Tx, x Exec, sql string, args ...any) error {
	n, err := some(ctx, tx, x, sql, args...)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: %s: no row for %q", ErrRefused, x, sql)
	}
	return err
}

// some runs a statement that may change nothing, and says how many rows it
// changed: -1 for a Tx that runs it later.
func some(ctx context.Context, tx Tx, x Exec, sql string, args ...any) (int64, error) {
	tag, err := tx.Exec(ctx, sql, append([]any{x.Partition, x.ID}, args...)...)
	if err != nil {
		return 0, fmt.Errorf("execute %q: %w", sql, err)
	}
	if tag.String() == "" {
		return -1, nil
	}
	return tag.RowsAffected(), nil
}

// all runs writes one after the other until one fails.
func all(writes ...func() error) error {
	for _, write := range writes {
		if err := write(); err != nil {
			return err
		}
	}
	return nil
}

// leaseEvent appends to the lease outbox.
func (e *Engine) leaseEvent(ctx context.Context, tx Tx, x Exec, event string) error {
	return one(ctx, tx, x, `INSERT INTO ff_lease_event
		(execution_id, lease_id, event_type, occurred_at_ms, partition_key, namespace, instance_tag)
		SELECT execution_id::text, NULL, $3::text, $4::bigint, partition_key,
			raw_fields->>'namespace', raw_fields->'tags'->>'cairn.instance_id'
		FROM ff_exec_core`+byKey, event, e.now())
}

// completionEvent appends to the completion outbox. Its namespace and tag stay
// NULL, as the engine leaves them.
func (e *Engine) completionEvent(ctx context.Context, tx Tx, x Exec, outcome string) error {
	return one(ctx, tx, x, `INSERT INTO ff_completion_event
		(partition_key, execution_id, flow_id, outcome, occurred_at_ms)
		SELECT partition_key, execution_id, flow_id, $3::text, $4::bigint FROM ff_exec_core`+byKey, outcome, e.now())
}
