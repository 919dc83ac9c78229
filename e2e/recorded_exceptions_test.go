package e2e

import "testing"

// recordedException is one transaction after which ffstream's rule reports another state
// than the engine's outbox, by choice: the row contradicts the outbox.
type recordedException struct {
	name      string
	execution string
	xid       uint32 // of the transaction in the recording
	before    string // state before it
	outbox    string // state that the engine's event contains
	stream    string // state after it by ffstream's rule
}

const (
	// A suspension's timer is not disarmed when the execution resumes. It fires after the
	// execution has ended and changes cancellation_reason and terminal_at_ms alone: the
	// attempt's outcome still is what the worker reported.
	staleTimerCompleted = "stale suspension timer on a completed row"
	staleTimerFailed    = "stale suspension timer on a failed row"
	// Here it fires after a cancellation. The label stays cancelled. The worker then
	// completes the execution, which is a transition and no exception.
	staleTimerCancelled = "stale suspension timer on a cancelled row"
	// A signal that satisfies the condition of a suspension arrives after the execution
	// has completed. The engine makes it runnable with the label resumable; it is not
	// released, so that the rule reports waiting.
	lateSignalCompleted = "late signal on a completed row"
)

var recordedExceptions = []recordedException{
	{staleTimerCompleted, "{fp:4}:ee8327c3-1f0f-4c8d-bd51-72f609ac0356", 53121, "completed", "expired", "completed"},
	{staleTimerCompleted, "{fp:3}:d91d62ab-d086-42f4-93af-dcd6adb4ecb7", 44698, "completed", "expired", "completed"},
	{staleTimerCompleted, "{fp:0}:498422c0-7be5-499b-b27a-16c31d6d27d7", 45932, "completed", "cancelled", "completed"},
	{staleTimerCompleted, "{fp:1}:b8591437-5564-48ca-8c57-3fcddf48a7b2", 47270, "completed", "cancelled", "completed"},
	{staleTimerCompleted, "{fp:0}:9b987434-b897-4d71-af61-32be591d1f74", 47753, "completed", "cancelled", "completed"},
	{staleTimerCompleted, "{fp:3}:d34c6527-3000-470e-9df5-6ecf09e3cbfe", 48805, "completed", "expired", "completed"},
	{staleTimerCompleted, "{fp:2}:70ee9cfa-a18d-40bb-a0b3-89dcce6e065d", 49484, "completed", "cancelled", "completed"},
	{staleTimerCompleted, "{fp:3}:6ca28dfd-1079-4207-b3bb-f901209dacee", 51003, "completed", "expired", "completed"},
	{staleTimerCompleted, "{fp:1}:414b20b2-5143-4b76-aa27-11955ed73f3b", 51369, "completed", "expired", "completed"},
	{staleTimerCompleted, "{fp:2}:e02c3aa0-c38b-4823-8f48-dc901aa66102", 51379, "completed", "expired", "completed"},
	{staleTimerCompleted, "{fp:2}:d0869845-e16b-4f77-86b3-11216e010028", 52101, "completed", "expired", "completed"},
	{staleTimerCompleted, "{fp:2}:0560d9e8-cefc-4216-999d-5c119de87c9e", 54543, "completed", "cancelled", "completed"},
	{staleTimerCompleted, "{fp:3}:cf9a5754-18b1-4e2c-b7b2-dfe9d16ce07c", 54568, "completed", "expired", "completed"},
	{staleTimerFailed, "{fp:2}:eefc98d9-f9aa-47b8-afd1-786f79f615f9", 54555, "failed", "expired", "failed"},
	{staleTimerFailed, "{fp:3}:432ca6d2-2f05-41c2-82b2-5f37d36669ca", 54565, "failed", "expired", "failed"},
	{staleTimerCancelled, "{fp:1}:6047a172-26ff-4b29-95bf-49d80c98eeac", 47760, "cancelled", "expired", "cancelled"},
	{lateSignalCompleted, "{fp:3}:2ed5860e-130b-4e0e-b9a0-7f4831185cea", 45786, "completed", "resumable", "waiting"},
}

// sequences returns the states that each execution passes through, no state twice in a
// row, with the exceptions. An exception that the recording does not have is an error.
func (m *recordedModel) sequences(t testing.TB, exceptions []recordedException) map[string][]string {
	t.Helper()
	type place struct {
		execution string
		xid       uint32
	}
	open := map[place]recordedException{}
	for _, e := range exceptions {
		open[place{e.execution, e.xid}] = e
	}
	all := map[string][]string{}
	for id, steps := range m.steps {
		var states []string
		for _, step := range steps {
			before, state := "", step.state
			if len(states) > 0 {
				before = states[len(states)-1]
			}
			if e, ok := open[place{id, step.xid}]; ok && e.before == before && e.outbox == state {
				state = e.stream
				delete(open, place{id, step.xid})
			}
			if state != before {
				states = append(states, state)
			}
		}
		all[id] = states
	}
	for _, e := range open {
		t.Errorf("the recording does not have the exception %+v", e)
	}
	return all
}
