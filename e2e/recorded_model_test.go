package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// recordedModel computes the sequence of states of each execution from what the engine
// and its client recorded of their operations. It shares nothing with ffstream and does
// not know its rule:
//
//   - an insert is waiting, a delete is purged;
//   - a completion event contains its outcome;
//   - a lease event: acquired and reclaimed are active; expired is waiting, where the
//     engine released the execution too;
//   - an operator event: replayed is waiting;
//   - a call of the client which the engine records in no event requests its state;
//   - the engine's dispatcher of a flow's edges records no event of a member that it
//     cancels, which the label shows, and of one whose dependencies are satisfied, which
//     waits then.
//
// Columns serve to recognise an operation, never to find its state. A transaction that
// changes a state column and that no operation explains is an error.
type recordedModel struct {
	calls    map[string][]*recordedCall // by execution, those that no event records
	used     map[*recordedCall]bool     // by a transaction
	flows    map[string]string          // by execution, its flow
	finished map[string]string          // by flow, the last member with a completion event
	steps    map[string][]recordedStep  // by execution
	explains map[string]int             // transactions, by what explains them
}

// recordedStep is the state of an execution after one transaction that sets it.
type recordedStep struct {
	xid   uint32
	state string
}

// recordedChange is what one transaction did to one execution.
type recordedChange struct {
	created, deleted  bool
	core              map[string]json.RawMessage // changed columns; nil: the row did not change
	completion, lease string                     // kind of the event
	operator, signal  string
}

// completionStates are the states that completion events contain.
var completionStates = map[string]string{
	"success": "completed", "failed": "failed", "expired": "expired", "cancelled": "cancelled", "skipped": "skipped", "resumable": "resumable",
}

// silentCalls are the calls whose state no event of the engine contains. A promotion
// changes none.
var silentCalls = map[string]bool{
	"suspend": true, "delay": true, "wait_children": true, "fail_retry": true, "op_revoke": true, "cancel_handle": true, "op_cancel": true, "promote": true,
}

// newRecordedModel computes the sequences of a recording.
func newRecordedModel(t testing.TB, r *recording) *recordedModel {
	t.Helper()
	m := &recordedModel{
		calls: map[string][]*recordedCall{}, used: map[*recordedCall]bool{}, flows: map[string]string{}, finished: map[string]string{},
		steps: map[string][]recordedStep{}, explains: map[string]int{},
	}
	for i := range r.calls {
		c := &r.calls[i]
		switch {
		case c.Op == "cancel_flow_members" && c.Policy == "http": // of the others, one has events and two change no member
			for _, member := range c.Members {
				m.calls[member] = append(m.calls[member], c)
			}
		case c.OK && silentCalls[c.Op] && !strings.HasPrefix(c.Result, "AlreadySatisfied"):
			m.calls[c.ID] = append(m.calls[c.ID], c)
		}
	}
	for i := range r.transactions {
		m.add(t, &r.transactions[i])
	}
	for id, calls := range m.calls {
		for _, c := range calls {
			if !m.used[c] && c.Policy == "" {
				t.Errorf("recording: no transaction of %s has what %s did", id, c.Op)
			}
		}
	}
	return m
}

// add takes one transaction.
func (m *recordedModel) add(t testing.TB, tx *recordedTransaction) {
	t.Helper()
	var order []string
	changes := map[string]*recordedChange{}
	for i := range tx.Rows {
		r := &tx.Rows[i]
		c := changes[r.execution]
		if c == nil {
			c = &recordedChange{}
			changes[r.execution] = c
			order = append(order, r.execution)
		}
		if err := c.add(r); err != nil {
			t.Fatalf("recording: transaction %d, %s: %v", tx.XID, r.execution, err)
		}
	}
	for _, id := range order {
		c := changes[id]
		state, by, err := m.state(id, tx.Time, c)
		if err != nil {
			t.Fatalf("recording: transaction %d, %s: %v", tx.XID, id, err)
		}
		m.explains[by]++
		if state != "" {
			m.steps[id] = append(m.steps[id], recordedStep{tx.XID, state})
		}
		var flow string
		if v := c.core["flow_id"]; v != nil && json.Unmarshal(v, &flow) == nil && flow != "" {
			m.flows[id] = flow
		}
		if c.completion != "" && m.flows[id] != "" {
			m.finished[m.flows[id]] = id
		}
	}
}

// add takes one row.
func (c *recordedChange) add(r *recordedRow) error {
	events := map[string]*string{"ce": &c.completion, "le": &c.lease, "oe": &c.operator, "se": &c.signal}
	switch event := events[r.table]; {
	case event != nil && (r.op != "I" || *event != ""):
		return fmt.Errorf("%s of %s %s beside %q", r.op, r.table, r.kind, *event)
	case event != nil:
		*event = r.kind
	case r.table == "core":
		if c.core != nil {
			return fmt.Errorf("the row of ff_exec_core changed more than once")
		}
		c.created, c.deleted, c.core = r.op == "I", r.op == "D", r.columns
	case r.table != "att":
		return fmt.Errorf("table %q", r.table)
	}
	return nil
}

// state is the state that an execution enters by a transaction, empty for none, and the
// operation that it comes from.
func (m *recordedModel) state(id string, at int64, c *recordedChange) (state, by string, err error) {
	switch {
	case c.deleted:
		return "purged", "delete", nil
	case c.created:
		return "waiting", "insert", nil
	case c.completion != "":
		if state = completionStates[c.completion]; state == "" {
			err = fmt.Errorf("completion event %q", c.completion)
		}
		return state, "completion " + c.completion, err
	case c.lease == "acquired", c.lease == "reclaimed":
		return "active", "lease " + c.lease, nil
	case c.lease == "expired" && c.core != nil:
		return "waiting", "lease expired", nil
	case c.lease == "expired":
		return "", "lease expired of an execution that is not active", nil
	case c.operator == "replayed":
		return "waiting", "replayed", nil
	case c.core == nil && c.lease != "revoked": // a renewed lease, a signal that satisfies nothing
		return "", "no transition", nil
	}
	calls := m.callsOf(id, at, c)
	switch {
	case len(calls) > 1:
		return "", "", fmt.Errorf("%d calls, the first %s", len(calls), calls[0].Op)
	case len(calls) == 0:
		return m.unrequested(id, c)
	case calls[0].Policy != "":
		return "cancelled", "flow cancelled over HTTP", nil
	}
	m.used[calls[0]] = true
	if c.core == nil { // a lease is revoked of an execution that is not active
		return "", calls[0].Op + " without a transition", nil
	}
	return calls[0].To, calls[0].Op, nil
}

// callsOf returns the calls during which the transaction committed and that did what it
// does, which is one at most.
func (m *recordedModel) callsOf(id string, at int64, c *recordedChange) (calls []*recordedCall) {
	for _, call := range m.calls[id] {
		switch {
		case call.Policy != "": // of which the end is not recorded
			if call.Begin <= at && c.cancelled() && c.lease == "" && c.changed("cancelled_by", `"cancel_flow_header"`) {
				calls = append(calls, call)
			}
		case m.used[call] || at < call.Begin || at > call.End:
		case call.Op == "promote":
			if c.changed("lifecycle_phase", `"runnable"`) && c.lease == "" {
				calls = append(calls, call)
			}
		case (call.Op == "cancel_handle" || call.Op == "op_cancel") == c.cancelled() && (c.cancelled() || c.lease == "revoked"):
			calls = append(calls, call)
		}
	}
	return calls
}

// unrequested is the state of a transaction that no call explains and no event records.
func (m *recordedModel) unrequested(id string, c *recordedChange) (state, by string, err error) {
	var columns []string
	for _, name := range stateColumns {
		if c.core[name] != nil {
			columns = append(columns, name)
		}
	}
	flow := m.flows[id]
	dispatched := flow != "" && m.finished[flow] != "" && m.finished[flow] != id && c.lease == ""
	switch {
	case len(columns) == 0 && c.lease == "":
		return "", "no transition", nil
	case dispatched && c.cancelled():
		return "cancelled", "cancelled by the dispatcher", nil
	case dispatched && len(columns) == 1 && c.core["eligibility_state"] != nil:
		return "waiting", "dependencies satisfied", nil
	}
	return "", "", fmt.Errorf("no operation explains the change of %v", columns)
}

// cancelled reports whether the label became cancelled.
func (c *recordedChange) cancelled() bool { return c.changed("public_state", `"cancelled"`) }

// changed reports whether a column got a value.
func (c *recordedChange) changed(column, value string) bool { return string(c.core[column]) == value }
