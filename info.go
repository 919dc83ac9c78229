package ffstream

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// ExecutionInfo is one execution as a point read sees it. Times are Unix
// milliseconds.
//
// Its JSON form is the engine's, with times as decimal strings, started_at and
// completed_at left out and flow_id null when absent, and two fields more:
// stored_public_state and consistent (and evidence_missing when it is true).
type ExecutionInfo struct {
	ExecutionID   ExecutionID // as the caller spelt it
	Namespace     string      // empty when the row has none
	LaneID        string
	Priority      int32
	ExecutionKind string // empty when the row has none
	StateVector   StateVector
	PublicState   PublicState // the effective state, as in StateVector

	// StoredPublicState is the row's own label, normalised. The engine leaves
	// it stale on many paths.
	StoredPublicState PublicState
	// Consistent is false when the row's own label differs from PublicState.
	Consistent bool
	// EvidenceMissing marks a terminal row that says in no way how it ended;
	// the rule then gives failed.
	EvidenceMissing bool

	CreatedAtMs int64
	// StartedAtMs is when the execution was first claimed: the row's own column
	// where the engine's schema has one and it is set, else that of the attempt
	// with the smallest index that has a start.
	StartedAtMs Opt[int64]
	// CompletedAtMs is the row's terminal_at_ms. It may be present on a live
	// row: the engine clears it in a replay alone.
	CompletedAtMs       Opt[int64]
	CurrentAttemptIndex uint32
	FlowID              Opt[FlowID]
	BlockingDetail      string
}

// AppendJSON appends the JSON form to b. It allocates nothing but what b needs
// to grow.
func (i *ExecutionInfo) AppendJSON(b []byte) []byte {
	b = append(b, `{"execution_id":`...)
	b = appendString(b, i.ExecutionID.String())
	b = append(b, `,"namespace":`...)
	b = appendString(b, i.Namespace)
	b = append(b, `,"lane_id":`...)
	b = appendString(b, i.LaneID)
	b = append(b, `,"priority":`...)
	b = strconv.AppendInt(b, int64(i.Priority), 10)
	b = append(b, `,"execution_kind":`...)
	b = appendString(b, i.ExecutionKind)
	b = i.StateVector.appendJSON(append(b, `,"state_vector":`...))
	b = appendWord(b, `,"public_state":`, i.PublicState)
	b = appendMillisText(b, `,"created_at":`, Some(i.CreatedAtMs))
	b = appendMillisText(b, `,"started_at":`, i.StartedAtMs)
	b = appendMillisText(b, `,"completed_at":`, i.CompletedAtMs)
	b = append(b, `,"current_attempt_index":`...)
	b = strconv.AppendUint(b, uint64(i.CurrentAttemptIndex), 10)
	b = append(b, `,"flow_id":`...)
	if i.FlowID.OK {
		b = append(appendUUID(append(b, '"'), i.FlowID.V), '"')
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"blocking_detail":`...)
	b = appendString(b, i.BlockingDetail)
	b = appendWord(b, `,"stored_public_state":`, i.StoredPublicState)
	b = append(b, `,"consistent":`...)
	b = strconv.AppendBool(b, i.Consistent)
	if i.EvidenceMissing {
		b = append(b, `,"evidence_missing":true`...)
	}
	return append(b, '}')
}

// appendMillisText appends a time as the engine does: a decimal string, or
// nothing at all.
func appendMillisText(b []byte, key string, v Opt[int64]) []byte {
	if !v.OK {
		return b
	}
	b = append(append(b, key...), '"')
	return append(strconv.AppendInt(b, v.V, 10), '"')
}

// MarshalJSON is AppendJSON.
func (i ExecutionInfo) MarshalJSON() ([]byte, error) { return i.AppendJSON(nil), nil }

// UnmarshalJSON reads the form of AppendJSON, and the engine's own, which lacks
// stored_public_state and consistent: both then are the zero value. Fields that
// it does not know are ignored and unknown values of an enum are kept.
func (i *ExecutionInfo) UnmarshalJSON(b []byte) error {
	var w wireInfo
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("parse execution info: %w", err)
	}
	id, err := ParseExecutionID(w.ExecutionID)
	if err != nil {
		return fmt.Errorf("parse execution info: %w", err)
	}
	info := ExecutionInfo{
		ExecutionID: id, Namespace: w.Namespace, LaneID: w.LaneID, Priority: w.Priority, ExecutionKind: w.ExecutionKind,
		StateVector: w.StateVector.vector(), PublicState: PublicState(w.PublicState),
		StoredPublicState: PublicState(w.StoredPublicState), Consistent: w.Consistent, EvidenceMissing: w.EvidenceMissing,
		CreatedAtMs: w.CreatedAt, StartedAtMs: opt(w.StartedAt), CompletedAtMs: opt(w.CompletedAt),
		CurrentAttemptIndex: w.CurrentAttemptIndex, BlockingDetail: w.BlockingDetail,
	}
	if w.FlowID != nil {
		flow, err := ParseFlowID(*w.FlowID)
		if err != nil {
			return fmt.Errorf("parse execution info: %w", err)
		}
		info.FlowID = Some(flow)
	}
	*i = info
	return nil
}

// wireInfo holds strings where ExecutionInfo has enums, as wireEvent does.
type wireInfo struct {
	ExecutionID         string     `json:"execution_id"`
	Namespace           string     `json:"namespace"`
	LaneID              string     `json:"lane_id"`
	Priority            int32      `json:"priority"`
	ExecutionKind       string     `json:"execution_kind"`
	StateVector         wireVector `json:"state_vector"`
	PublicState         string     `json:"public_state"`
	StoredPublicState   string     `json:"stored_public_state"`
	Consistent          bool       `json:"consistent"`
	EvidenceMissing     bool       `json:"evidence_missing"`
	CreatedAt           int64      `json:"created_at,string"`
	StartedAt           *int64     `json:"started_at,string"`
	CompletedAt         *int64     `json:"completed_at,string"`
	CurrentAttemptIndex uint32     `json:"current_attempt_index"`
	FlowID              *string    `json:"flow_id"`
	BlockingDetail      string     `json:"blocking_detail"`
}

func (v *wireVector) vector() StateVector {
	return StateVector{
		LifecyclePhase:   LifecyclePhase(v.LifecyclePhase),
		OwnershipState:   OwnershipState(v.OwnershipState),
		EligibilityState: EligibilityState(v.EligibilityState),
		BlockingReason:   BlockingReason(v.BlockingReason),
		TerminalOutcome:  TerminalOutcome(v.TerminalOutcome),
		AttemptState:     AttemptState(v.AttemptState),
		PublicState:      PublicState(v.PublicState),
	}
}

// MarshalJSON gives the form that an attempt has in an event.
func (a Attempt) MarshalJSON() ([]byte, error) { return a.appendJSON(nil), nil }

// UnmarshalJSON reads the form of MarshalJSON.
func (a *Attempt) UnmarshalJSON(b []byte) error {
	var w wireAttempt
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("parse attempt: %w", err)
	}
	*a = w.attempt()
	return nil
}

func (a *wireAttempt) attempt() Attempt {
	return Attempt{
		Index: a.Index, WorkerID: opt(a.WorkerID), WorkerInstanceID: opt(a.WorkerInstanceID),
		LeaseEpoch: a.LeaseEpoch, LeaseExpiresAtMs: opt(a.LeaseExpiresAtMs),
		StartedAtMs: opt(a.StartedAtMs), TerminalAtMs: opt(a.TerminalAtMs), Outcome: opt(a.Outcome),
	}
}
