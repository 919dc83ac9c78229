package normalize

import (
	"strings"

	"github.com/ffstream/ffstream"
)

// Row is what the rule needs of one ff_exec_core row, in the engine's own
// literals. NULL is the empty string but where Opt tells them apart.
type Row struct {
	LifecyclePhase, OwnershipState, EligibilityState string
	PublicState, AttemptState, BlockingReason        string
	CancellationReason, CancelledBy                  ffstream.Opt[string]
	LastFailureMessage                               string // raw_fields.last_failure_message
}

// Outcome is what the rule needs of one ff_attempt row.
type Outcome struct {
	Exists  bool
	Literal string // empty for NULL
}

// Attempts are the attempts that the rule may consult.
type Attempts struct {
	At    Outcome // the one at the row's attempt_index
	Below Outcome // the one with the greatest index under it; it counts when At does not exist
	// Ended is the one with the greatest index under it that has a decisive outcome
	// and the terminal_at_ms of the row: it ended the execution.
	Ended Outcome
}

// Verdict is what a row means.
type Verdict struct {
	Vector          ffstream.StateVector // PublicState is the effective state
	Stored          ffstream.PublicState // the row's own label, normalised
	Consistent      bool                 // the label agrees with the effective state
	EvidenceMissing bool                 // T10: nothing says how it ended
	Rule            string               // the clause that decided: "N1" to "T10"
}

// Evaluate returns the effective state of a row: the first clause that matches,
// from N1 to T10.
//
// The error is a *ffstream.CorruptionError without an ExecutionID. Columns are
// checked in the engine's order, then, when the execution is terminal, the
// outcomes of the attempts that the rule consults.
func Evaluate(r *Row, a Attempts) (Verdict, error) {
	v, err := normalised(r)
	if err != nil {
		return Verdict{}, err
	}
	var state ffstream.PublicState
	if v.Vector.LifecyclePhase == ffstream.PhaseTerminal {
		state, v.Rule, err = terminal(r, &a)
		if err != nil {
			return Verdict{}, err
		}
		v.EvidenceMissing = v.Rule == "T10"
	} else {
		state, v.Rule = live(r, &v.Vector)
	}
	v.Vector.PublicState, v.Vector.TerminalOutcome = state, state.Outcome()
	v.Consistent = v.Stored == state
	return v, nil
}

// normalised reads the columns one by one.
func normalised(r *Row) (Verdict, error) {
	var v Verdict
	var ok bool
	if v.Vector.LifecyclePhase, ok = phases[r.LifecyclePhase]; !ok {
		return v, corrupt("lifecycle_phase", r.LifecyclePhase)
	}
	if v.Vector.OwnershipState, ok = ownerships[r.OwnershipState]; !ok {
		return v, corrupt("ownership_state", r.OwnershipState)
	}
	if v.Vector.EligibilityState, ok = eligibilities[r.EligibilityState]; !ok {
		return v, corrupt("eligibility_state", r.EligibilityState)
	}
	if v.Stored, ok = labels[r.PublicState]; !ok {
		return v, corrupt("public_state", r.PublicState)
	}
	if v.Vector.AttemptState, ok = attemptStates[r.AttemptState]; !ok {
		return v, corrupt("attempt_state", r.AttemptState)
	}
	v.Vector.BlockingReason = ffstream.BlockingNone
	if r.BlockingReason != "" {
		reason, err := ffstream.ParseBlockingReason(r.BlockingReason)
		if err != nil {
			return v, corrupt("blocking_reason", r.BlockingReason)
		}
		v.Vector.BlockingReason = reason
	}
	return v, nil
}

// LiteralColumns are the columns that can hold a literal which no rule knows, as a
// ffstream.CorruptionError names them.
func LiteralColumns() []string {
	return []string{"lifecycle_phase", "ownership_state", "eligibility_state", "public_state", "attempt_state", "blocking_reason", "ff_attempt.outcome"}
}

func corrupt(column, literal string) error {
	return &ffstream.CorruptionError{Column: column, Literal: literal}
}

// live decides clauses N1 to N5.
func live(r *Row, v *ffstream.StateVector) (ffstream.PublicState, string) {
	switch v.LifecyclePhase {
	case ffstream.PhaseSuspended:
		return ffstream.StateSuspended, "N1"
	case ffstream.PhaseActive:
		return ffstream.StateActive, "N2"
	case ffstream.PhaseSubmitted:
		return ffstream.StateWaiting, "N3"
	}
	// Only suspend writes released, and every later op that leaves the resumable
	// condition sets another owner; the label alone is left behind by claim.
	if r.PublicState == "resumable" && r.OwnershipState == "released" {
		return ffstream.StateResumable, "N4"
	}
	return runnableState(v.EligibilityState), "N5"
}

// terminal decides clauses T1 to T10. The attempts' outcomes precede the texts,
// because those are sticky: replay clears neither of them wholly.
//
// T4c is for a worker that ends an earlier attempt while there is a later one,
// after a timeout with a retry for instance: the engine answers Ok, writes both
// rows with one time, and its outbox has that outcome.
func terminal(r *Row, a *Attempts) (ffstream.PublicState, string, error) {
	if state, rule := early(r); state != "" {
		return state, rule, nil
	}
	decided, err := decisive(a.At)
	if err != nil || decided != "" {
		return decided, "T4a", err
	}
	if r.PublicState == "skipped" {
		return ffstream.StateSkipped, "T5", nil
	}
	if !a.At.Exists {
		if decided, err = decisive(a.Below); err != nil || decided != "" {
			return decided, "T4b", err
		}
	}
	if decided, err = decisive(a.Ended); err != nil || decided != "" {
		return decided, "T4c", err
	}
	if behaviour, ok := strings.CutPrefix(r.CancellationReason.V, "suspension_timeout_"); ok {
		if behaviour == "cancel" || r.PublicState == "cancelled" && r.CancelledBy.OK {
			return ffstream.StateCancelled, "T6", nil
		}
		return ffstream.StateExpired, "T6", nil
	}
	if timedOut(r.LastFailureMessage) {
		return ffstream.StateExpired, "T7", nil
	}
	if label := labels[r.PublicState]; label.Terminal() {
		return label, "T8", nil
	}
	if r.CancelledBy.OK {
		return ffstream.StateCancelled, "T9", nil
	}
	return ffstream.StateFailed, "T10", nil
}

// The texts that the engine's timers leave in raw_fields.last_failure_message.
const (
	failureAttemptTimeout    = "attempt_timeout"
	failureExecutionDeadline = "execution_deadline"
)

func timedOut(failure string) bool {
	return failure == failureAttemptTimeout || failure == failureExecutionDeadline
}

// timedOutText is timedOut without turning a long message into a string.
func timedOutText(failure []byte) bool {
	return string(failure) == failureAttemptTimeout || string(failure) == failureExecutionDeadline
}

// early decides clauses T1 to T3.
func early(r *Row) (ffstream.PublicState, string) {
	switch {
	case r.LifecyclePhase == "cancelled":
		return ffstream.StateCancelled, "T1"
	case r.AttemptState == "cancelled":
		return ffstream.StateCancelled, "T2"
	case r.AttemptState == "terminal_failed":
		return ffstream.StateFailed, "T3"
	}
	return "", ""
}

func decisive(o Outcome) (ffstream.PublicState, error) {
	state, ok := outcomes[o.Literal]
	if !ok {
		return "", corrupt("ff_attempt.outcome", o.Literal)
	}
	return state, nil
}

// Before returns the effective state of a row by its five state columns alone;
// the others are not consulted. A live row has one, and a terminal row that T1,
// T2 or T3 decides. T5 and T8 do not decide alone: T4a precedes them. known is
// false where the columns do not decide, valid where each holds a known literal.
func Before(r *Row) (state ffstream.PublicState, known, valid bool) {
	row := Row{
		LifecyclePhase: r.LifecyclePhase, OwnershipState: r.OwnershipState, EligibilityState: r.EligibilityState,
		PublicState: r.PublicState, AttemptState: r.AttemptState,
	}
	v, err := normalised(&row)
	if err != nil {
		return "", false, false
	}
	if v.Vector.LifecyclePhase != ffstream.PhaseTerminal {
		state, _ = live(r, &v.Vector)
	} else {
		state, _ = early(r)
	}
	return state, state != "", true
}
