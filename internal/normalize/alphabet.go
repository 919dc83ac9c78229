package normalize

import "github.com/ffstream/ffstream"

// The engine stores a richer alphabet than its public enums know. These tables
// hold every literal that some version of it writes, or that its own
// normalisers accept, with the public value it stands for. A literal that is in
// none of them is corrupt: it is never guessed at.
var (
	phases = map[string]ffstream.LifecyclePhase{
		"submitted": ffstream.PhaseSubmitted,
		"runnable":  ffstream.PhaseRunnable,
		"active":    ffstream.PhaseActive,
		"suspended": ffstream.PhaseSuspended,
		"terminal":  ffstream.PhaseTerminal,
		"cancelled": ffstream.PhaseTerminal,
		"pending":   ffstream.PhaseRunnable,
		"eligible":  ffstream.PhaseRunnable,
		"blocked":   ffstream.PhaseRunnable,
	}
	ownerships = map[string]ffstream.OwnershipState{
		"unowned":                   ffstream.OwnershipUnowned,
		"leased":                    ffstream.OwnershipLeased,
		"released":                  ffstream.OwnershipUnowned,
		"lease_expired_reclaimable": ffstream.OwnershipLeaseExpiredReclaimable,
		"lease_revoked":             ffstream.OwnershipLeaseRevoked,
	}
	eligibilities = map[string]ffstream.EligibilityState{
		"eligible_now":            ffstream.EligibilityEligibleNow,
		"not_eligible_until_time": ffstream.EligibilityNotEligibleUntilTime,
		"blocked_by_dependencies": ffstream.EligibilityBlockedByDependencies,
		"blocked_by_budget":       ffstream.EligibilityBlockedByBudget,
		"blocked_by_quota":        ffstream.EligibilityBlockedByQuota,
		"blocked_by_route":        ffstream.EligibilityBlockedByRoute,
		"blocked_by_lane_state":   ffstream.EligibilityBlockedByLaneState,
		"blocked_by_operator":     ffstream.EligibilityBlockedByOperator,
		"not_applicable":          ffstream.EligibilityNotApplicable,
		"cancelled":               ffstream.EligibilityNotApplicable,
		"pending_claim":           ffstream.EligibilityEligibleNow,
	}
	labels = map[string]ffstream.PublicState{
		"waiting":          ffstream.StateWaiting,
		"delayed":          ffstream.StateDelayed,
		"rate_limited":     ffstream.StateRateLimited,
		"waiting_children": ffstream.StateWaitingChildren,
		"active":           ffstream.StateActive,
		"running":          ffstream.StateActive,
		"suspended":        ffstream.StateSuspended,
		"resumable":        ffstream.StateResumable,
		"completed":        ffstream.StateCompleted,
		"failed":           ffstream.StateFailed,
		"cancelled":        ffstream.StateCancelled,
		"expired":          ffstream.StateExpired,
		"skipped":          ffstream.StateSkipped,
	}
	attemptStates = map[string]ffstream.AttemptState{
		"none":                   ffstream.AttemptStateNone,
		"pending_first_attempt":  ffstream.AttemptStatePendingFirst,
		"running_attempt":        ffstream.AttemptStateRunning,
		"attempt_interrupted":    ffstream.AttemptStateInterrupted,
		"pending_retry_attempt":  ffstream.AttemptStatePendingRetry,
		"pending_replay_attempt": ffstream.AttemptStatePendingReplay,
		"attempt_terminal":       ffstream.AttemptStateTerminal,
		"pending":                ffstream.AttemptStatePendingFirst,
		"pending_claim":          ffstream.AttemptStatePendingFirst,
		"running":                ffstream.AttemptStateRunning,
		"cancelled":              ffstream.AttemptStateTerminal,
		"terminal_failed":        ffstream.AttemptStateTerminal,
	}
	// outcomes of ff_attempt: the state that a decisive one stands for, empty
	// for those that decide nothing.
	outcomes = map[string]ffstream.PublicState{
		"":                          "",
		"success":                   ffstream.StateCompleted,
		"failed":                    ffstream.StateFailed,
		"failure":                   ffstream.StateFailed,
		"cancelled":                 ffstream.StateCancelled,
		"expired":                   ffstream.StateExpired,
		"skipped":                   ffstream.StateSkipped,
		"retry":                     "",
		"interrupted":               "",
		"attempt_interrupted":       "",
		"waiting_children":          "",
		"lease_expired_reclaimable": "",
		"interrupted_reclaimed":     "",
	}
)

// runnableState is the public state of a runnable execution by its eligibility.
func runnableState(e ffstream.EligibilityState) ffstream.PublicState {
	switch e {
	case ffstream.EligibilityNotEligibleUntilTime:
		return ffstream.StateDelayed
	case ffstream.EligibilityBlockedByDependencies:
		return ffstream.StateWaitingChildren
	case ffstream.EligibilityBlockedByBudget, ffstream.EligibilityBlockedByQuota:
		return ffstream.StateRateLimited
	default:
		return ffstream.StateWaiting
	}
}
