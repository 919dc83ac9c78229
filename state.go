package ffstream

// StatePurged is what an event calls the state of an execution whose row was
// deleted. It is no PublicState of the engine.
const StatePurged PublicState = "purged"

// PublicStates returns the engine's public states in the order of declaration.
func PublicStates() []PublicState { return append([]PublicState(nil), publicStateValues...) }

// Terminal reports whether s is a state in which an execution rests: completed,
// failed, cancelled, expired or skipped. It is not for ever: the engine can
// replay, and through its defects resurrect, an execution.
func (s PublicState) Terminal() bool { return s.Outcome() != OutcomeNone }

// Outcome is the terminal outcome that s implies: success for completed, the
// equally named one for the other terminal states, none for all others.
func (s PublicState) Outcome() TerminalOutcome {
	switch s {
	case StateCompleted:
		return OutcomeSuccess
	case StateFailed:
		return OutcomeFailed
	case StateCancelled:
		return OutcomeCancelled
	case StateExpired:
		return OutcomeExpired
	case StateSkipped:
		return OutcomeSkipped
	default:
		return OutcomeNone
	}
}

// Terminal reports whether an attempt in this state has ended.
func (l AttemptLifecycle) Terminal() bool {
	switch l {
	case AttemptLifecycleEndedSuccess, AttemptLifecycleEndedFailure,
		AttemptLifecycleEndedCancelled, AttemptLifecycleInterruptedReclaimed:
		return true
	default:
		return false
	}
}

// StateVector is an execution's state in seven dimensions, each normalised to
// the engine's public alphabet. PublicState is the effective state and
// TerminalOutcome the one that it implies, whatever the row's own label says. A
// dimension that the source did not carry (a purged row's) is empty.
type StateVector struct {
	LifecyclePhase   LifecyclePhase
	OwnershipState   OwnershipState
	EligibilityState EligibilityState
	BlockingReason   BlockingReason
	TerminalOutcome  TerminalOutcome
	AttemptState     AttemptState
	PublicState      PublicState
}

// Opt is a value that may be absent (SQL NULL, JSON null).
type Opt[T any] struct {
	V  T
	OK bool // V is present
}

// Some returns the present value v.
func Some[T any](v T) Opt[T] { return Opt[T]{V: v, OK: true} }
