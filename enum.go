package ffstream

import "fmt"

// LifecyclePhase is the major phase of an execution. The zero value means that it is not known.
type LifecyclePhase string

// The values of LifecyclePhase, in the engine's order of declaration.
const (
	PhaseSubmitted LifecyclePhase = "submitted"
	PhaseRunnable  LifecyclePhase = "runnable"
	PhaseActive    LifecyclePhase = "active"
	PhaseSuspended LifecyclePhase = "suspended"
	PhaseTerminal  LifecyclePhase = "terminal"
)

var lifecyclePhaseValues = []LifecyclePhase{
	"submitted",
	"runnable",
	"active",
	"suspended",
	"terminal",
}

// ParseLifecyclePhase returns the value that s names, or an error that lists the values.
func ParseLifecyclePhase(s string) (LifecyclePhase, error) { return parseEnum(s, lifecyclePhaseValues) }

// MarshalText returns the wire value.
func (v LifecyclePhase) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText accepts exactly the values of LifecyclePhase.
func (v *LifecyclePhase) UnmarshalText(b []byte) (err error) {
	*v, err = ParseLifecyclePhase(string(b))
	return err
}

// OwnershipState says who holds an execution. The zero value means that it is not known.
type OwnershipState string

// The values of OwnershipState, in the engine's order of declaration.
const (
	OwnershipUnowned                 OwnershipState = "unowned"
	OwnershipLeased                  OwnershipState = "leased"
	OwnershipLeaseExpiredReclaimable OwnershipState = "lease_expired_reclaimable"
	OwnershipLeaseRevoked            OwnershipState = "lease_revoked"
)

var ownershipStateValues = []OwnershipState{
	"unowned",
	"leased",
	"lease_expired_reclaimable",
	"lease_revoked",
}

// ParseOwnershipState returns the value that s names, or an error that lists the values.
func ParseOwnershipState(s string) (OwnershipState, error) { return parseEnum(s, ownershipStateValues) }

// MarshalText returns the wire value.
func (v OwnershipState) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText accepts exactly the values of OwnershipState.
func (v *OwnershipState) UnmarshalText(b []byte) (err error) {
	*v, err = ParseOwnershipState(string(b))
	return err
}

// EligibilityState says whether and why not an execution may be claimed. The zero value means that it is not known.
type EligibilityState string

// The values of EligibilityState, in the engine's order of declaration.
const (
	EligibilityEligibleNow           EligibilityState = "eligible_now"
	EligibilityNotEligibleUntilTime  EligibilityState = "not_eligible_until_time"
	EligibilityBlockedByDependencies EligibilityState = "blocked_by_dependencies"
	EligibilityBlockedByBudget       EligibilityState = "blocked_by_budget"
	EligibilityBlockedByQuota        EligibilityState = "blocked_by_quota"
	EligibilityBlockedByRoute        EligibilityState = "blocked_by_route"
	EligibilityBlockedByLaneState    EligibilityState = "blocked_by_lane_state"
	EligibilityBlockedByOperator     EligibilityState = "blocked_by_operator"
	EligibilityNotApplicable         EligibilityState = "not_applicable"
)

var eligibilityStateValues = []EligibilityState{
	"eligible_now",
	"not_eligible_until_time",
	"blocked_by_dependencies",
	"blocked_by_budget",
	"blocked_by_quota",
	"blocked_by_route",
	"blocked_by_lane_state",
	"blocked_by_operator",
	"not_applicable",
}

// ParseEligibilityState returns the value that s names, or an error that lists the values.
func ParseEligibilityState(s string) (EligibilityState, error) {
	return parseEnum(s, eligibilityStateValues)
}

// MarshalText returns the wire value.
func (v EligibilityState) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText accepts exactly the values of EligibilityState.
func (v *EligibilityState) UnmarshalText(b []byte) (err error) {
	*v, err = ParseEligibilityState(string(b))
	return err
}

// BlockingReason is the engine's hint at what an execution waits for; it is never cleared by the engine, so it is only a hint. The zero value means that it is not known.
type BlockingReason string

// The values of BlockingReason, in the engine's order of declaration.
const (
	BlockingNone                    BlockingReason = "none"
	BlockingWaitingForWorker        BlockingReason = "waiting_for_worker"
	BlockingWaitingForRetryBackoff  BlockingReason = "waiting_for_retry_backoff"
	BlockingWaitingForResumeDelay   BlockingReason = "waiting_for_resume_delay"
	BlockingWaitingForDelay         BlockingReason = "waiting_for_delay"
	BlockingWaitingForSignal        BlockingReason = "waiting_for_signal"
	BlockingWaitingForApproval      BlockingReason = "waiting_for_approval"
	BlockingWaitingForCallback      BlockingReason = "waiting_for_callback"
	BlockingWaitingForToolResult    BlockingReason = "waiting_for_tool_result"
	BlockingWaitingForChildren      BlockingReason = "waiting_for_children"
	BlockingWaitingForBudget        BlockingReason = "waiting_for_budget"
	BlockingWaitingForQuota         BlockingReason = "waiting_for_quota"
	BlockingWaitingForCapableWorker BlockingReason = "waiting_for_capable_worker"
	BlockingWaitingForLocalityMatch BlockingReason = "waiting_for_locality_match"
	BlockingPausedByOperator        BlockingReason = "paused_by_operator"
	BlockingPausedByPolicy          BlockingReason = "paused_by_policy"
	BlockingPausedByFlowCancel      BlockingReason = "paused_by_flow_cancel"
)

var blockingReasonValues = []BlockingReason{
	"none",
	"waiting_for_worker",
	"waiting_for_retry_backoff",
	"waiting_for_resume_delay",
	"waiting_for_delay",
	"waiting_for_signal",
	"waiting_for_approval",
	"waiting_for_callback",
	"waiting_for_tool_result",
	"waiting_for_children",
	"waiting_for_budget",
	"waiting_for_quota",
	"waiting_for_capable_worker",
	"waiting_for_locality_match",
	"paused_by_operator",
	"paused_by_policy",
	"paused_by_flow_cancel",
}

// ParseBlockingReason returns the value that s names, or an error that lists the values.
func ParseBlockingReason(s string) (BlockingReason, error) { return parseEnum(s, blockingReasonValues) }

// MarshalText returns the wire value.
func (v BlockingReason) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText accepts exactly the values of BlockingReason.
func (v *BlockingReason) UnmarshalText(b []byte) (err error) {
	*v, err = ParseBlockingReason(string(b))
	return err
}

// TerminalOutcome is how an execution ended, or none. The zero value means that it is not known.
type TerminalOutcome string

// The values of TerminalOutcome, in the engine's order of declaration.
const (
	OutcomeNone      TerminalOutcome = "none"
	OutcomeSuccess   TerminalOutcome = "success"
	OutcomeFailed    TerminalOutcome = "failed"
	OutcomeCancelled TerminalOutcome = "cancelled"
	OutcomeExpired   TerminalOutcome = "expired"
	OutcomeSkipped   TerminalOutcome = "skipped"
)

var terminalOutcomeValues = []TerminalOutcome{
	"none",
	"success",
	"failed",
	"cancelled",
	"expired",
	"skipped",
}

// ParseTerminalOutcome returns the value that s names, or an error that lists the values.
func ParseTerminalOutcome(s string) (TerminalOutcome, error) {
	return parseEnum(s, terminalOutcomeValues)
}

// MarshalText returns the wire value.
func (v TerminalOutcome) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText accepts exactly the values of TerminalOutcome.
func (v *TerminalOutcome) UnmarshalText(b []byte) (err error) {
	*v, err = ParseTerminalOutcome(string(b))
	return err
}

// AttemptState is the state of the current attempt as the execution's row tells it. The zero value means that it is not known.
type AttemptState string

// The values of AttemptState, in the engine's order of declaration.
const (
	AttemptStateNone          AttemptState = "none"
	AttemptStatePendingFirst  AttemptState = "pending_first_attempt"
	AttemptStateRunning       AttemptState = "running_attempt"
	AttemptStateInterrupted   AttemptState = "attempt_interrupted"
	AttemptStatePendingRetry  AttemptState = "pending_retry_attempt"
	AttemptStatePendingReplay AttemptState = "pending_replay_attempt"
	AttemptStateTerminal      AttemptState = "attempt_terminal"
)

var attemptStateValues = []AttemptState{
	"none",
	"pending_first_attempt",
	"running_attempt",
	"attempt_interrupted",
	"pending_retry_attempt",
	"pending_replay_attempt",
	"attempt_terminal",
}

// ParseAttemptState returns the value that s names, or an error that lists the values.
func ParseAttemptState(s string) (AttemptState, error) { return parseEnum(s, attemptStateValues) }

// MarshalText returns the wire value.
func (v AttemptState) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText accepts exactly the values of AttemptState.
func (v *AttemptState) UnmarshalText(b []byte) (err error) {
	*v, err = ParseAttemptState(string(b))
	return err
}

// PublicState is the one state that the outside sees. Readers must accept values that they do not know: the set may grow. The zero value means that it is not known.
type PublicState string

// The values of PublicState, in the engine's order of declaration.
const (
	StateWaiting         PublicState = "waiting"
	StateDelayed         PublicState = "delayed"
	StateRateLimited     PublicState = "rate_limited"
	StateWaitingChildren PublicState = "waiting_children"
	StateActive          PublicState = "active"
	StateSuspended       PublicState = "suspended"
	StateResumable       PublicState = "resumable"
	StateCompleted       PublicState = "completed"
	StateFailed          PublicState = "failed"
	StateCancelled       PublicState = "cancelled"
	StateExpired         PublicState = "expired"
	StateSkipped         PublicState = "skipped"
)

var publicStateValues = []PublicState{
	"waiting",
	"delayed",
	"rate_limited",
	"waiting_children",
	"active",
	"suspended",
	"resumable",
	"completed",
	"failed",
	"cancelled",
	"expired",
	"skipped",
}

// ParsePublicState returns the value that s names, or an error that lists the values.
func ParsePublicState(s string) (PublicState, error) { return parseEnum(s, publicStateValues) }

// MarshalText returns the wire value.
func (v PublicState) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText takes any value, for the set may grow within v1.
func (v *PublicState) UnmarshalText(b []byte) error { *v = PublicState(b); return nil }

// AttemptLifecycle is the life of one attempt. The zero value means that it is not known.
type AttemptLifecycle string

// The values of AttemptLifecycle, in the engine's order of declaration.
const (
	AttemptLifecycleCreated              AttemptLifecycle = "created"
	AttemptLifecycleStarted              AttemptLifecycle = "started"
	AttemptLifecycleSuspended            AttemptLifecycle = "suspended"
	AttemptLifecycleEndedSuccess         AttemptLifecycle = "ended_success"
	AttemptLifecycleEndedFailure         AttemptLifecycle = "ended_failure"
	AttemptLifecycleEndedCancelled       AttemptLifecycle = "ended_cancelled"
	AttemptLifecycleInterruptedReclaimed AttemptLifecycle = "interrupted_reclaimed"
)

var attemptLifecycleValues = []AttemptLifecycle{
	"created",
	"started",
	"suspended",
	"ended_success",
	"ended_failure",
	"ended_cancelled",
	"interrupted_reclaimed",
}

// ParseAttemptLifecycle returns the value that s names, or an error that lists the values.
func ParseAttemptLifecycle(s string) (AttemptLifecycle, error) {
	return parseEnum(s, attemptLifecycleValues)
}

// MarshalText returns the wire value.
func (v AttemptLifecycle) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText accepts exactly the values of AttemptLifecycle.
func (v *AttemptLifecycle) UnmarshalText(b []byte) (err error) {
	*v, err = ParseAttemptLifecycle(string(b))
	return err
}

// AttemptType says why an attempt was made. The zero value means that it is not known.
type AttemptType string

// The values of AttemptType, in the engine's order of declaration.
const (
	AttemptTypeInitial  AttemptType = "initial"
	AttemptTypeRetry    AttemptType = "retry"
	AttemptTypeReclaim  AttemptType = "reclaim"
	AttemptTypeReplay   AttemptType = "replay"
	AttemptTypeFallback AttemptType = "fallback"
)

var attemptTypeValues = []AttemptType{
	"initial",
	"retry",
	"reclaim",
	"replay",
	"fallback",
}

// ParseAttemptType returns the value that s names, or an error that lists the values.
func ParseAttemptType(s string) (AttemptType, error) { return parseEnum(s, attemptTypeValues) }

// MarshalText returns the wire value.
func (v AttemptType) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText accepts exactly the values of AttemptType.
func (v *AttemptType) UnmarshalText(b []byte) (err error) {
	*v, err = ParseAttemptType(string(b))
	return err
}

// LaneState says whether a lane hands out work. The zero value means that it is not known.
type LaneState string

// The values of LaneState, in the engine's order of declaration.
const (
	LaneActive   LaneState = "active"
	LanePaused   LaneState = "paused"
	LaneDraining LaneState = "draining"
	LaneDisabled LaneState = "disabled"
)

var laneStateValues = []LaneState{
	"active",
	"paused",
	"draining",
	"disabled",
}

// ParseLaneState returns the value that s names, or an error that lists the values.
func ParseLaneState(s string) (LaneState, error) { return parseEnum(s, laneStateValues) }

// MarshalText returns the wire value.
func (v LaneState) MarshalText() ([]byte, error) { return []byte(v), nil }

// UnmarshalText accepts exactly the values of LaneState.
func (v *LaneState) UnmarshalText(b []byte) (err error) {
	*v, err = ParseLaneState(string(b))
	return err
}

// parseEnum finds s among the values of T.
func parseEnum[T ~string](s string, values []T) (T, error) {
	for _, v := range values {
		if string(v) == s {
			return v, nil
		}
	}
	var zero T
	return zero, fmt.Errorf("parse %T: %q is not one of %q", zero, s, values)
}
