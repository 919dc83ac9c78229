package e2e

import (
	"strings"
)

// The rule of the effective state, written down once more from the engine's
// documentation, as lists and a chain of ifs.

var (
	phaseOf = map[string]string{
		"submitted": "submitted", "runnable": "runnable", "active": "active", "suspended": "suspended", "terminal": "terminal",
		"cancelled": "terminal", "pending": "runnable", "eligible": "runnable", "blocked": "runnable",
	}
	ownerOf = map[string]string{
		"unowned": "unowned", "leased": "leased", "released": "unowned",
		"lease_expired_reclaimable": "lease_expired_reclaimable", "lease_revoked": "lease_revoked",
	}
	eligibleOf = same("eligible_now not_applicable not_eligible_until_time blocked_by_dependencies blocked_by_budget blocked_by_quota blocked_by_route blocked_by_lane_state blocked_by_operator",
		"cancelled=not_applicable pending_claim=eligible_now")
	labelOf = same("waiting active suspended resumable cancelled skipped waiting_children delayed completed failed expired rate_limited", "running=active")
	triesOf = same("running_attempt attempt_interrupted pending_retry_attempt pending_replay_attempt attempt_terminal pending_first_attempt none",
		"pending=pending_first_attempt cancelled=attempt_terminal terminal_failed=attempt_terminal running=running_attempt pending_claim=pending_first_attempt")
	stateOfOutcome = map[string]string{
		"success": "completed", "failed": "failed", "failure": "failed", "cancelled": "cancelled", "expired": "expired", "skipped": "skipped",
		"": "", "retry": "", "interrupted": "", "attempt_interrupted": "", "waiting_children": "", "lease_expired_reclaimable": "", "interrupted_reclaimed": "",
	}
	outcomeOfState = map[string]string{"completed": "success", "failed": "failed", "cancelled": "cancelled", "expired": "expired", "skipped": "skipped"}
)

func same(words, renamed string) map[string]string {
	m := map[string]string{}
	for _, w := range strings.Fields(words) {
		m[w] = w
	}
	for _, w := range strings.Fields(renamed) {
		from, to, _ := strings.Cut(w, "=")
		m[from] = to
	}
	return m
}

var stateTables = []struct {
	column string
	known  map[string]string
}{
	{"lifecycle_phase", phaseOf}, {"ownership_state", ownerOf}, {"eligibility_state", eligibleOf}, {"public_state", labelOf}, {"attempt_state", triesOf},
}

// corrupt names the first column with a literal that is not in the tables.
func corrupt(r row) string {
	for _, t := range stateTables {
		if t.known[r[t.column]] == "" {
			return t.column
		}
	}
	return ""
}

// whileLive decides N1 to N5.
func whileLive(r row) string {
	switch phaseOf[r["lifecycle_phase"]] {
	case "suspended":
		return "suspended"
	case "active":
		return "active"
	case "submitted":
		return "waiting"
	}
	if r["public_state"] == "resumable" && r["ownership_state"] == "released" {
		return "resumable"
	}
	switch eligibleOf[r["eligibility_state"]] {
	case "not_eligible_until_time":
		return "delayed"
	case "blocked_by_dependencies":
		return "waiting_children"
	case "blocked_by_budget", "blocked_by_quota":
		return "rate_limited"
	}
	return "waiting"
}

// early decides T1 to T3.
func early(r row) string {
	switch {
	case r["lifecycle_phase"] == "cancelled", r["attempt_state"] == "cancelled":
		return "cancelled"
	case r["attempt_state"] == "terminal_failed":
		return "failed"
	}
	return ""
}

// effective gives the state and whether evidence is missing. attempts are all
// that the table holds at the commit.
func effective(r row, attempts map[string]row) (state string, missing bool) {
	if phaseOf[r["lifecycle_phase"]] != "terminal" {
		return whileLive(r), false
	}
	if s := early(r); s != "" {
		return s, false
	}
	at, exists := attempts[r["attempt_index"]]
	if s := stateOfOutcome[at["outcome"]]; s != "" {
		return s, false
	}
	if r["public_state"] == "skipped" {
		return "skipped", false
	}
	if !exists {
		if s := stateOfOutcome[below(r, attempts)["outcome"]]; s != "" {
			return s, false
		}
	}
	if s := stateOfOutcome[ended(r, attempts)["outcome"]]; s != "" {
		return s, false
	}
	_, cancelled := r["cancelled_by"]
	if why := r["cancellation_reason"]; strings.HasPrefix(why, "suspension_timeout_") {
		if why == "suspension_timeout_cancel" || r["public_state"] == "cancelled" && cancelled {
			return "cancelled", false
		}
		return "expired", false
	}
	if why := str(raw(r), "last_failure_message"); why == "attempt_timeout" || why == "execution_deadline" {
		return "expired", false
	}
	if s := labelOf[r["public_state"]]; outcomeOfState[s] != "" {
		return s, false
	}
	if cancelled {
		return "cancelled", false
	}
	return "failed", true
}

// undecided reports whether the state columns of a row do not decide its state.
func undecided(r row) bool {
	return r != nil && phaseOf[r["lifecycle_phase"]] == "terminal" && early(r) == ""
}

// below is the attempt with the greatest index under the row's, or nil.
func below(r row, attempts map[string]row) row {
	var best row
	for index, a := range attempts {
		if number(index) < number(r["attempt_index"]) && (best == nil || number(index) > number(best["attempt_index"])) {
			best = a
		}
	}
	return best
}

// ended returns the attempt with the greatest index under the row's that decides and
// ended with the row, or nil.
func ended(r row, attempts map[string]row) row {
	var best row
	for index, a := range attempts {
		with := a["terminal_at_ms"] != "" && a["terminal_at_ms"] == r["terminal_at_ms"] && stateOfOutcome[a["outcome"]] != ""
		if with && number(index) < number(r["attempt_index"]) && (best == nil || number(index) > number(best["attempt_index"])) {
			best = a
		}
	}
	return best
}

// transition gives an event's data and its subject behind the prefix, or nil.
func (o *oracle) transition(tx *transaction, id string, t *touched) (map[string]any, string) {
	r := o.cores[id]
	if column := corrupt(r); column != "" {
		if !t.changed {
			return nil, ""
		}
		return map[string]any{
			"execution_id": id, "partition": number(r["partition_key"]), "lane_id": r["lane_id"], "column": column, "literal": r[column],
		}, "corrupt." + r["partition_key"]
	}
	from := t.from
	to, missing := effective(r, o.attempts[id])
	if from == to {
		return nil, ""
	}
	fields := raw(r)
	outcome, terminal := outcomeOfState[to]
	if !terminal {
		outcome = "none"
	}
	blocking := r["blocking_reason"]
	if blocking == "" {
		blocking = "none"
	}
	data := map[string]any{
		"execution_id": id, "partition": number(r["partition_key"]), "flow_id": text(r, "flow_id"),
		"namespace": str(fields, "namespace"), "lane_id": r["lane_id"], "execution_kind": str(fields, "execution_kind"),
		"priority": number(r["priority"]), "from": from, "to": to, "terminal": terminal,
		"state_vector": map[string]any{
			"lifecycle_phase": phaseOf[r["lifecycle_phase"]], "ownership_state": ownerOf[r["ownership_state"]],
			"eligibility_state": eligibleOf[r["eligibility_state"]], "blocking_reason": blocking, "terminal_outcome": outcome,
			"attempt_state": triesOf[r["attempt_state"]], "public_state": to,
		},
		"stored_public_state": labelOf[r["public_state"]], "consistent": labelOf[r["public_state"]] == to,
		"current_attempt_index": max(0, number(r["attempt_index"])), "attempt": o.shown(tx, id, r),
		"created_at_ms": millis(r, "created_at_ms"), "started_at_ms": millis(r, "started_at_ms"), "terminal_at_ms": millis(r, "terminal_at_ms"),
		"blocking_detail": str(fields, "blocking_detail"), "cancellation_reason": text(r, "cancellation_reason"),
		"cancelled_by": text(r, "cancelled_by"), "tags": tags(fields),
	}
	if missing {
		data["evidence_missing"] = true
	}
	subject := strings.Join([]string{"exec", r["partition_key"], token(str(fields, "namespace")), token(r["lane_id"]), to}, ".")
	return data, subject
}

// shown is the current attempt as far as the transaction wrote it.
func (o *oracle) shown(tx *transaction, id string, r row) any {
	mine := map[string]row{}
	for index := range tx.attempts[id] {
		mine[index] = o.attempts[id][index]
	}
	a, ok := mine[r["attempt_index"]]
	if !ok {
		a = below(r, mine)
	}
	if a == nil {
		return nil
	}
	return map[string]any{
		"index": number(a["attempt_index"]), "worker_id": text(a, "worker_id"), "worker_instance_id": text(a, "worker_instance_id"),
		"lease_epoch": number(a["lease_epoch"]), "lease_expires_at_ms": millis(a, "lease_expires_at_ms"),
		"started_at_ms": millis(a, "started_at_ms"), "terminal_at_ms": millis(a, "terminal_at_ms"), "outcome": text(a, "outcome"),
	}
}

// purged gives the data of a row that is gone.
func (o *oracle) purged(t *touched) (map[string]any, string) {
	r, from, id := t.before, t.from, key(t.before)
	vector := map[string]any{
		"lifecycle_phase": phaseOf[r["lifecycle_phase"]], "ownership_state": ownerOf[r["ownership_state"]],
		"eligibility_state": eligibleOf[r["eligibility_state"]], "blocking_reason": nil, "terminal_outcome": nil,
		"attempt_state": triesOf[r["attempt_state"]], "public_state": from,
	}
	if s, ok := from.(string); ok {
		vector["terminal_outcome"] = "none"
		if outcome := outcomeOfState[s]; outcome != "" {
			vector["terminal_outcome"] = outcome
		}
	}
	label := labelOf[r["public_state"]]
	data := map[string]any{
		"execution_id": id, "partition": number(r["partition_key"]), "flow_id": nil, "namespace": "", "lane_id": r["lane_id"],
		"execution_kind": "", "priority": 0, "from": from, "to": "purged", "terminal": false, "state_vector": vector,
		"stored_public_state": label, "consistent": from == nil || from == label, "current_attempt_index": 0, "attempt": nil,
		"created_at_ms": nil, "started_at_ms": nil, "terminal_at_ms": nil, "blocking_detail": "", "cancellation_reason": nil,
		"cancelled_by": nil, "tags": map[string]any{},
	}
	return data, strings.Join([]string{"exec", r["partition_key"], "%", token(r["lane_id"]), "purged"}, ".")
}
