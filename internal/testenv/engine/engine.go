// Package engine plays the FlowFabric engine's own write statements, for tests,
// the demo and benchmarks. An Op is the body of one of the engine's
// transactions; a Story is the life of one execution as a sequence of them, with
// the state that each must come to.
package engine

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Version is a generation of the engine's write statements.
type Version int

// The generations: before and since the engine's migration 0016.
const (
	V011 Version = iota
	Newest
)

// Exec names an execution and says what Create writes.
type Exec struct {
	Partition             int16
	ID                    uuid.UUID
	Lane, Namespace, Kind string
	Tags                  map[string]string
	Worker                string
}

// String is the execution's id on the wire.
func (x Exec) String() string { return fmt.Sprintf("{fp:%d}:%s", uint16(x.Partition), x.ID) }

// Tx is a transaction of pgx, or a connection.
type Tx interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Do runs the body of one of the engine's transactions for an execution. now is
// in Unix milliseconds.
func Do(ctx context.Context, tx Tx, v Version, op string, x Exec, now int64) error {
	statements, ok := ops[op]
	if !ok {
		return fmt.Errorf("run operation %s: there is none of that name", op)
	}
	raw, err := json.Marshal(map[string]any{
		"namespace": x.Namespace, "execution_kind": x.Kind, "creator_identity": "test",
		"last_mutation_at": fmt.Sprint(now), "total_attempt_count": "0", "tags": x.Tags,
	})
	if err != nil {
		return fmt.Errorf("run operation %s: %w", op, err)
	}
	args := pgx.NamedArgs{"p": x.Partition, "id": [16]byte(x.ID), "t": now, "lane": x.Lane, "raw": string(raw), "w": x.Worker, "wire": x.ID.String()}
	for _, s := range statements {
		if s.only != nil && *s.only != v {
			continue
		}
		if _, err := tx.Exec(ctx, s.sql, args); err != nil {
			return fmt.Errorf("run operation %s: %w", op, err)
		}
	}
	return nil
}

// statement is one SQL statement; only restricts it to a generation.
type statement struct {
	sql  string
	only *Version
}

func both(sql string) statement { return statement{sql: sql} }
func old(sql string) statement  { v := V011; return statement{sql, &v} }
func newer(sql string) statement {
	v := Newest
	return statement{sql, &v}
}

const key = " WHERE partition_key = @p AND execution_id = @id"

func core(set string) statement     { return both("UPDATE ff_exec_core SET " + set + key) }
func coreOld(set string) statement  { return old("UPDATE ff_exec_core SET " + set + key) }
func coreNew(set string) statement  { return newer("UPDATE ff_exec_core SET " + set + key) }
func pointer(set string) statement  { return both(atPointer(set)) }
func pointerNew(s string) statement { return newer(atPointer(s)) }
func atPointer(set string) string {
	return "UPDATE ff_attempt SET " + set + key +
		" AND attempt_index = (SELECT attempt_index FROM ff_exec_core" + key + ")"
}

// highest updates the attempt with the greatest index, which is the one that
// the typed operations run and the pointer does not name.
func highest(set string) statement {
	return both("UPDATE ff_attempt SET " + set + key + " AND attempt_index = (SELECT max(attempt_index) FROM ff_attempt" + key + ")")
}

func lease(event string) statement {
	return both("INSERT INTO ff_lease_event (execution_id, event_type, partition_key, occurred_at_ms) VALUES (@wire, '" + event + "', @p, @t)")
}

func completion(outcome string) statement {
	return both("INSERT INTO ff_completion_event (partition_key, execution_id, outcome, occurred_at_ms) VALUES (@p, @id, '" + outcome + "', @t)")
}

// The column sets that several operations share.
const (
	running   = "lifecycle_phase='active', ownership_state='leased', eligibility_state='not_applicable', attempt_state='running_attempt'"
	ended     = "lifecycle_phase='terminal', ownership_state='unowned', eligibility_state='not_applicable', attempt_state='attempt_terminal', terminal_at_ms=@t"
	free      = "lifecycle_phase='runnable', ownership_state='unowned', eligibility_state='eligible_now'"
	setOnce   = ", public_state='running', started_at_ms=COALESCE(started_at_ms, @t)"
	endLease  = "terminal_at_ms=@t, lease_expires_at_ms=NULL"
	coalesced = "terminal_at_ms=COALESCE(terminal_at_ms, @t), "
)

// claim takes the attempt at the pointer, made when it is not there.
var claim = both(`INSERT INTO ff_attempt (partition_key, execution_id, attempt_index, worker_id, worker_instance_id, lease_epoch, lease_expires_at_ms, started_at_ms)
	SELECT @p, @id, attempt_index, @w, @w || '-0', 1, @t::bigint + 30000, @t FROM ff_exec_core` + key + `
	ON CONFLICT (partition_key, execution_id, attempt_index) DO UPDATE SET worker_id=EXCLUDED.worker_id, worker_instance_id=EXCLUDED.worker_instance_id,
		lease_epoch=ff_attempt.lease_epoch+1, lease_expires_at_ms=EXCLUDED.lease_expires_at_ms, started_at_ms=EXCLUDED.started_at_ms, outcome=NULL`)

const again = "worker_id=@w, worker_instance_id=@w || '-0', lease_epoch=lease_epoch+1, lease_expires_at_ms=@t::bigint+30000, started_at_ms=@t, outcome=NULL"

func failure(text string) string {
	return ", raw_fields = raw_fields || jsonb_build_object('last_failure_message', '" + text + "')"
}

func suspensionTimeout(behaviour, outcome string) []statement {
	return []statement{core(ended + ", cancellation_reason='suspension_timeout_" + behaviour + "'" + failure("suspension_timeout")), completion(outcome)}
}

// ops are the engine's transactions by the names of its operations.
var ops = map[string][]statement{
	"CR": {both(`INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, attempt_index, lifecycle_phase, ownership_state, eligibility_state,
			public_state, attempt_state, priority, created_at_ms, payload, raw_fields)
		VALUES (@p, @id, @lane, 0, 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending', 0, @t, '\x00', @raw::text::jsonb) ON CONFLICT DO NOTHING`),
		both(`INSERT INTO ff_lane_registry VALUES (@lane, @t, 'create_execution') ON CONFLICT DO NOTHING`)},
	"PR":  {core("lifecycle_phase='runnable'")},
	"FL":  {core("flow_id=@id")},
	"CL":  {claim, coreOld(running), coreNew(running + setOnce), lease("acquired")},
	"RN":  {pointer("lease_expires_at_ms=@t::bigint+30000"), lease("renewed")},
	"PG":  {core("raw_fields = raw_fields || jsonb_build_object('progress_pct', 50)")},
	"CP":  {core("priority=priority+1")},
	"TG":  {core("raw_fields = jsonb_set(raw_fields, '{tags,cairn.extra}', '\"x\"')")},
	"CO":  {pointer(endLease + ", outcome='success'"), core(ended + ", result='\\x6f6b'"), completion("success"), lease("revoked")},
	"FR":  {pointer(endLease + ", outcome='retry'"), core(free + ", attempt_state='pending_retry_attempt', attempt_index=attempt_index+1" + failure("again")), lease("revoked")},
	"FT":  {pointer(endLease + ", outcome='failed'"), core(ended + failure("broken")), completion("failed"), lease("revoked")},
	"SU":  {core("lifecycle_phase='suspended', ownership_state='released', eligibility_state='not_applicable', public_state='suspended', attempt_state='attempt_interrupted'"), pointer("worker_id=NULL, worker_instance_id=NULL, lease_expires_at_ms=NULL, lease_epoch=lease_epoch+1, outcome='attempt_interrupted'"), lease("revoked")},
	"SG":  {core("public_state='resumable', lifecycle_phase='runnable', eligibility_state='eligible_now'"), completion("resumable")},
	"CRR": {pointer(again), coreOld(running + ", public_state='running'"), coreNew(running + setOnce), lease("acquired")},
	"DL":  {pointer("outcome='interrupted', lease_expires_at_ms=NULL"), core("lifecycle_phase='runnable', ownership_state='unowned', eligibility_state='not_eligible_until_time', attempt_state='attempt_interrupted', deadline_at_ms=@t::bigint+1000"), lease("revoked")},
	"DP":  {core("eligibility_state='eligible_now', deadline_at_ms=NULL")},
	"WC":  {pointer("outcome='waiting_children', lease_expires_at_ms=NULL"), core("lifecycle_phase='runnable', ownership_state='unowned', eligibility_state='blocked_by_dependencies', attempt_state='attempt_interrupted', blocking_reason='waiting_for_children'"), lease("revoked")},
	"DS":  {core("eligibility_state='eligible_now'")},
	"DI":  {core("lifecycle_phase='terminal', eligibility_state='not_applicable', public_state='skipped', attempt_state='attempt_terminal', terminal_at_ms=COALESCE(terminal_at_ms, @t)"), completion("skipped")},
	"LX":  {pointer("lease_expires_at_ms=NULL, outcome='lease_expired_reclaimable'"), core(free + ", attempt_state='attempt_interrupted', raw_fields = raw_fields || jsonb_build_object('lease_expired_at_ms', @t::bigint)"), lease("expired")},
	"RG":  {highest(again), core(running), lease("reclaimed")},
	"RC": {pointer("outcome='interrupted_reclaimed', terminal_at_ms=COALESCE(terminal_at_ms, @t)"),
		both(`INSERT INTO ff_attempt (partition_key, execution_id, attempt_index, worker_id, worker_instance_id, lease_epoch, lease_expires_at_ms, started_at_ms, raw_fields)
			SELECT @p, @id, c.attempt_index+1, @w, @w || '-0', a.lease_epoch+1, @t::bigint+30000, @t, '{"attempt_type":"reclaim"}'
			FROM ff_exec_core c JOIN ff_attempt a USING (partition_key, execution_id, attempt_index)` + key),
		coreNew(running + setOnce + ", attempt_index=attempt_index+1, lease_reclaim_count=lease_reclaim_count+1"), lease("reclaimed")},
	"RCC": {core("lifecycle_phase='terminal', ownership_state='unowned', eligibility_state='not_applicable', public_state='failed', attempt_state='terminal_failed', " + coalesced + "cancellation_reason=COALESCE(cancellation_reason,'reclaim_cap_exceeded')"), completion("failed"), lease("revoked")},
	"AT1": {pointer(endLease + ", outcome='interrupted'"), core(free + ", attempt_state='pending_retry_attempt', attempt_index=attempt_index+1" + failure("attempt_timeout")), lease("expired")},
	"AT2": {pointer(endLease + ", outcome='interrupted'"), core(ended + failure("attempt_timeout")), completion("expired"), lease("expired")},
	"ED":  {pointer(endLease + ", outcome='interrupted'"), core(ended + failure("execution_deadline")), completion("expired"), lease("expired")},
	"STX": suspensionTimeout("expire", "expired"),
	"STF": suspensionTimeout("fail", "expired"),
	"STC": suspensionTimeout("cancel", "cancelled"),
	"CX": {core("lifecycle_phase='cancelled', ownership_state='unowned', eligibility_state='not_applicable', public_state='cancelled', attempt_state='cancelled', " + coalesced + "cancellation_reason=COALESCE(cancellation_reason,'stop'), cancelled_by=COALESCE(cancelled_by,'operator_override')"),
		both(atPointer("worker_instance_id=NULL, lease_expires_at_ms=NULL, lease_epoch=lease_epoch+1, terminal_at_ms=@t, outcome='cancelled'") + " AND worker_instance_id <> ''")},
	"CH":  {core("lifecycle_phase='terminal', ownership_state='unowned', eligibility_state='not_applicable', public_state='cancelled', attempt_state='cancelled', terminal_at_ms=@t, cancellation_reason='stop', cancelled_by='worker'"), pointerNew("outcome=NULL")},
	"CF":  {core("lifecycle_phase='cancelled', eligibility_state='cancelled', public_state='cancelled', " + coalesced + "cancellation_reason=COALESCE(cancellation_reason,'flow_cancelled'), cancelled_by=COALESCE(cancelled_by,'cancel_flow')"), pointerNew("outcome=NULL"), completion("cancelled"), lease("revoked")},
	"CFH": {core("lifecycle_phase='cancelled', eligibility_state='cancelled', public_state='cancelled', " + coalesced + "cancellation_reason=COALESCE(cancellation_reason,'flow_cancelled'), cancelled_by=COALESCE(cancelled_by,'cancel_flow_header')")},
	"EC":  {core("lifecycle_phase='terminal', ownership_state='unowned', eligibility_state='not_applicable', public_state='cancelled', attempt_state='cancelled', " + coalesced + "cancellation_reason=COALESCE(cancellation_reason,'sibling_quorum_satisfied'), cancelled_by=COALESCE(cancelled_by,'engine')")},
	"RV":  {pointer("worker_instance_id=NULL, lease_expires_at_ms=NULL, lease_epoch=lease_epoch+1"), core(free + ", attempt_state='attempt_interrupted'"), lease("revoked")},
	"R1": {core(free + ", public_state='waiting', attempt_state='pending_replay_attempt', terminal_at_ms=NULL, result=NULL, cancellation_reason=NULL, cancelled_by=NULL, raw_fields = raw_fields || jsonb_build_object('replay_count', 1)"),
		pointer("outcome=NULL, terminal_at_ms=NULL, worker_id=NULL, worker_instance_id=NULL, lease_expires_at_ms=NULL, lease_epoch=lease_epoch+1")},
	"SGR": {core("raw_fields = raw_fields || jsonb_build_object('claim_grant', jsonb_build_object('worker_id', @w::text))"), core("eligibility_state='pending_claim'")},
	"TR":  {core(free + ", attempt_state='attempt_interrupted', blocking_reason='waiting_for_worker', public_state='waiting'")},
	"IGR": {pointer(again), coreNew(running + setOnce)},
	"TCL": {both(`INSERT INTO ff_attempt (partition_key, execution_id, attempt_index, lease_epoch, lease_expires_at_ms, started_at_ms, policy, raw_fields)
			SELECT @p, @id, attempt_index, 1, @t::bigint+30000, @t, '{}', '{"attempt_type":"initial"}' FROM ff_exec_core` + key),
		core(running + ", public_state='active', attempt_index=attempt_index+1"), lease("acquired")},
	"TCO": {highest(endLease + ", outcome='success'"), core(ended + ", public_state='completed', result='\\x6f6b', raw_fields = raw_fields || '{\"terminal_outcome\":\"success\"}'"), completion("success"), lease("revoked")},
	"TFR": {highest(endLease + ", outcome='failure'"), core("lifecycle_phase='runnable', ownership_state='unowned', eligibility_state='not_eligible_until_time', attempt_state='pending_retry_attempt', blocking_reason='waiting_for_retry_backoff', public_state='delayed', raw_fields = raw_fields || '{\"failure_reason\":\"x\"}'"), lease("revoked")},
	"TFT": {highest(endLease + ", outcome='failure'"), core(ended + ", public_state='failed', raw_fields = raw_fields || '{\"terminal_outcome\":\"failed\"}'"), completion("failed"), lease("revoked")},
	"TM":  {both("DELETE FROM ff_attempt" + key), both("DELETE FROM ff_exec_core" + key)},
}
