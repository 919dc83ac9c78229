package ffstream

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// ParseEvent reads the body of a message. Fields that it does not know are
// ignored and unknown values of an enum are kept, so a subscriber survives
// whatever a later release of v1 adds. It refuses what is no ffstream event:
// broken JSON, another specversion, an id or execution id that breaks its rule.
// The event keeps nothing of body; its short strings share memory with each other.
func ParseEvent(body []byte) (Event, error) {
	var e Event
	if scanEvent(body, &e) {
		return e, nil
	}
	return readEvent(body)
}

// readEvent defines what ParseEvent gives. It is an order of magnitude slower than
// scanEvent, which takes all that ffstream writes.
func readEvent(body []byte) (Event, error) {
	var w wireEvent
	if err := json.Unmarshal(body, &w); err != nil {
		return Event{}, fmt.Errorf("parse event: %w", err)
	}
	if w.SpecVersion != "1.0" {
		return Event{}, fmt.Errorf("parse event: specversion is %q, want \"1.0\"", w.SpecVersion)
	}
	id, err := ParseEventID(w.ID)
	if err != nil {
		return Event{}, fmt.Errorf("parse event: %w", err)
	}
	e := w.Data.event()
	e.ID, e.Type, e.Source, e.Time = id, w.Type, w.Source, w.Time
	if w.Data.ExecutionID != "" {
		if e.ExecutionID, err = ParseExecutionID(w.Data.ExecutionID); err != nil {
			return Event{}, fmt.Errorf("parse event %s: %w", w.ID, err)
		}
	}
	if w.Data.FlowID != nil {
		flow, err := ParseFlowID(*w.Data.FlowID)
		if err != nil {
			return Event{}, fmt.Errorf("parse event %s: %w", w.ID, err)
		}
		e.FlowID = Some(flow)
	}
	if err := w.Data.attach(&e); err != nil {
		return Event{}, fmt.Errorf("parse event %s: %w", w.ID, err)
	}
	return e, nil
}

// UnmarshalJSON is ParseEvent.
func (e *Event) UnmarshalJSON(b []byte) error {
	v, err := ParseEvent(b)
	if err != nil {
		return err
	}
	*e = v
	return nil
}

// MarshalJSON is AppendJSON.
func (e *Event) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// The wire types hold strings where Event has enums: their UnmarshalText would
// refuse what a later release adds.
type wireEvent struct {
	SpecVersion string    `json:"specversion"`
	ID          string    `json:"id"`
	Source      string    `json:"source"`
	Type        string    `json:"type"`
	Time        time.Time `json:"time"`
	Data        wireData  `json:"data"`
}

type wireData struct {
	ExecutionID         string            `json:"execution_id"`
	FlowID              *string           `json:"flow_id"`
	Namespace           string            `json:"namespace"`
	LaneID              string            `json:"lane_id"`
	ExecutionKind       string            `json:"execution_kind"`
	Priority            int32             `json:"priority"`
	From                string            `json:"from"`
	To                  string            `json:"to"`
	StateVector         wireVector        `json:"state_vector"`
	StoredPublicState   string            `json:"stored_public_state"`
	Consistent          bool              `json:"consistent"`
	EvidenceMissing     bool              `json:"evidence_missing"`
	Candidate           bool              `json:"candidate"`
	Truncated           bool              `json:"truncated"`
	CurrentAttemptIndex uint32            `json:"current_attempt_index"`
	Attempt             *wireAttempt      `json:"attempt"`
	CreatedAtMs         *int64            `json:"created_at_ms"`
	StartedAtMs         *int64            `json:"started_at_ms"`
	TerminalAtMs        *int64            `json:"terminal_at_ms"`
	BlockingDetail      string            `json:"blocking_detail"`
	CancellationReason  *string           `json:"cancellation_reason"`
	CancelledBy         *string           `json:"cancelled_by"`
	Tags                map[string]string `json:"tags"`
	Column              string            `json:"column"`
	Literal             string            `json:"literal"`
	Tx                  wireTx            `json:"tx"`
	wireMore
}

// wireMore is what transitions do not have.
type wireMore struct {
	Op string `json:"op"`
	wireGap
	wireBackfill
}

type wireVector struct {
	LifecyclePhase   string `json:"lifecycle_phase"`
	OwnershipState   string `json:"ownership_state"`
	EligibilityState string `json:"eligibility_state"`
	BlockingReason   string `json:"blocking_reason"`
	TerminalOutcome  string `json:"terminal_outcome"`
	AttemptState     string `json:"attempt_state"`
	PublicState      string `json:"public_state"`
}

type wireAttempt struct {
	Index            uint32  `json:"index"`
	WorkerID         *string `json:"worker_id"`
	WorkerInstanceID *string `json:"worker_instance_id"`
	LeaseEpoch       int64   `json:"lease_epoch"`
	LeaseExpiresAtMs *int64  `json:"lease_expires_at_ms"`
	StartedAtMs      *int64  `json:"started_at_ms"`
	TerminalAtMs     *int64  `json:"terminal_at_ms"`
	Outcome          *string `json:"outcome"`
}

type wireTx struct {
	Xid  uint32 `json:"xid"`
	Last bool   `json:"last"`
}

// attach gives an event what its type has.
func (w *wireMore) attach(e *Event) (err error) {
	switch {
	case e.Type == TypeGap:
		e.Gap, err = w.gap()
	case e.Type == TypeBackfill:
		e.Backfill, err = w.progress(w.After)
	case w.Op == OpSnapshot:
		e.Snapshot = w.snapshot()
	}
	return err
}

func (d *wireData) event() Event {
	e := Event{
		Namespace: d.Namespace, LaneID: d.LaneID, ExecutionKind: d.ExecutionKind, Priority: d.Priority,
		From: PublicState(d.From), To: PublicState(d.To),
		StateVector:       d.StateVector.vector(),
		StoredPublicState: PublicState(d.StoredPublicState), Consistent: d.Consistent,
		EvidenceMissing: d.EvidenceMissing, Candidate: d.Candidate, Truncated: d.Truncated,
		CurrentAttemptIndex: d.CurrentAttemptIndex,
		CreatedAtMs:         opt(d.CreatedAtMs), StartedAtMs: opt(d.StartedAtMs), TerminalAtMs: opt(d.TerminalAtMs),
		BlockingDetail: d.BlockingDetail, CancellationReason: opt(d.CancellationReason), CancelledBy: opt(d.CancelledBy),
		Corrupt: Corruption{Column: d.Column, Literal: d.Literal},
		Tx:      Tx{Xid: d.Tx.Xid, Last: d.Tx.Last},
	}
	if a := d.Attempt; a != nil {
		e.Attempt = Some(a.attempt())
	}
	for k, v := range d.Tags {
		e.Tags = append(e.Tags, Tag{k, v})
	}
	slices.SortFunc(e.Tags, func(a, b Tag) int { return strings.Compare(a.Key, b.Key) })
	return e
}

func opt[T any](p *T) Opt[T] {
	if p == nil {
		return Opt[T]{}
	}
	return Some(*p)
}
