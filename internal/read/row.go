package read

import (
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
)

// stateRow is what the columns of literals and failure are scanned into.
type stateRow struct {
	row          normalize.Row
	reason, by   pgtype.Text
	attemptIndex int32
	foundIndex   pgtype.Int4
	foundOutcome string
	endedOutcome string
}

// appendLiterals appends where the columns of literals go.
func (r *stateRow) appendLiterals(to []any) []any {
	return append(to, &r.row.LifecyclePhase, &r.row.OwnershipState, &r.row.EligibilityState, &r.row.PublicState, &r.row.AttemptState,
		&r.row.BlockingReason, &r.reason, &r.by, &r.attemptIndex, &r.foundIndex, &r.foundOutcome, &r.endedOutcome)
}

// appendTo appends where the columns of literals and failure go.
func (r *stateRow) appendTo(to []any) []any {
	return append(r.appendLiterals(to), &r.row.LastFailureMessage)
}

// pointer is the index of the current attempt.
func (r *stateRow) pointer() int32 { return max(r.attemptIndex, 0) }

// evaluate asks the rule. The error is a *ffstream.CorruptionError.
func (r *stateRow) evaluate(id ffstream.ExecutionID) (normalize.Verdict, error) {
	r.row.CancellationReason, r.row.CancelledBy = optText(r.reason), optText(r.by)
	attempts := normalize.Attempts{Ended: normalize.Outcome{Exists: r.endedOutcome != "", Literal: r.endedOutcome}}
	if r.foundIndex.Valid {
		outcome := normalize.Outcome{Exists: true, Literal: r.foundOutcome}
		if r.foundIndex.Int32 == r.pointer() {
			attempts.At = outcome
		} else {
			attempts.Below = outcome
		}
	}
	v, err := normalize.Evaluate(&r.row, attempts)
	var corrupt *ffstream.CorruptionError
	if errors.As(err, &corrupt) {
		corrupt.ExecutionID = id
	}
	return v, err
}

// infoRow is what the columns of literals and details are scanned into.
type infoRow struct {
	stateRow
	raw               []byte
	lane              string
	priority          int32
	flow              pgtype.UUID
	created           int64
	started, terminal pgtype.Int8
}

func (r *infoRow) appendTo(to []any) []any {
	return append(r.appendLiterals(to), &r.raw, &r.lane, &r.priority, &r.flow, &r.created, &r.started, &r.terminal)
}

// info makes the contract's type of the row.
func (r *infoRow) info(id ffstream.ExecutionID) (ffstream.ExecutionInfo, error) {
	fields, err := normalize.ReadFields(r.raw)
	if err != nil {
		return ffstream.ExecutionInfo{}, err
	}
	r.row.LastFailureMessage = fields.LastFailureMessage
	v, err := r.evaluate(id)
	if err != nil {
		return ffstream.ExecutionInfo{}, err
	}
	return ffstream.ExecutionInfo{
		ExecutionID: id, Namespace: fields.Namespace, LaneID: r.lane, Priority: r.priority, ExecutionKind: fields.ExecutionKind,
		StateVector: v.Vector, PublicState: v.Vector.PublicState,
		StoredPublicState: v.Stored, Consistent: v.Consistent, EvidenceMissing: v.EvidenceMissing,
		CreatedAtMs: r.created, StartedAtMs: optInt(r.started), CompletedAtMs: optInt(r.terminal),
		CurrentAttemptIndex: uint32(r.pointer()),
		FlowID:              ffstream.Opt[ffstream.FlowID]{V: r.flow.Bytes, OK: r.flow.Valid},
		BlockingDetail:      fields.BlockingDetail,
	}, nil
}

// snapshotRow is what the columns of snapshotSQL are scanned into.
type snapshotRow struct {
	infoRow
	deadline pgtype.Int8
	reclaims pgtype.Int4
	count    int64
	attempt  attemptRow
}

func (r *snapshotRow) appendTo(to []any) []any {
	return r.attempt.appendTo(append(r.infoRow.appendTo(to), &r.deadline, &r.reclaims, &r.count))
}

func (r *snapshotRow) snapshot(id ffstream.ExecutionID) (ffstream.ExecutionSnapshot, error) {
	info, err := r.info(id)
	if err != nil {
		return ffstream.ExecutionSnapshot{}, err
	}
	fields, err := normalize.ReadFields(r.raw)
	if err != nil {
		return ffstream.ExecutionSnapshot{}, err
	}
	s := ffstream.ExecutionSnapshot{
		Info: info, TotalAttemptCount: r.count, DeadlineAtMs: optInt(r.deadline),
		LeaseReclaimCount:  ffstream.Opt[int32]{V: r.reclaims.Int32, OK: r.reclaims.Valid},
		CancellationReason: optText(r.reason), CancelledBy: optText(r.by),
		CurrentWaitpointID: normalize.StringField(r.raw, "current_waitpoint_id"), Tags: fields.Tags,
	}
	if ms, err := strconv.ParseInt(normalize.StringField(r.raw, "last_mutation_at"), 10, 64); err == nil {
		s.LastMutationAtMs = ffstream.Some(ms)
	}
	if a, ok := r.attempt.attempt(); ok {
		s.CurrentAttempt = ffstream.Some(a)
	}
	return s, nil
}

// attemptRow is what attemptColumns are scanned into; all are NULL where there is
// no attempt.
type attemptRow struct {
	index                    pgtype.Int4
	worker, instance         pgtype.Text
	epoch                    pgtype.Int8
	lease, started, terminal pgtype.Int8
	outcome                  pgtype.Text
}

func (r *attemptRow) appendTo(to []any) []any {
	return append(to, &r.index, &r.worker, &r.instance, &r.epoch, &r.lease, &r.started, &r.terminal, &r.outcome)
}

// attempt returns false for a row of NULLs.
func (r *attemptRow) attempt() (ffstream.Attempt, bool) {
	return ffstream.Attempt{
		Index: uint32(max(r.index.Int32, 0)), WorkerID: optText(r.worker), WorkerInstanceID: optText(r.instance),
		LeaseEpoch: r.epoch.Int64, LeaseExpiresAtMs: optInt(r.lease), StartedAtMs: optInt(r.started), TerminalAtMs: optInt(r.terminal),
		Outcome: optText(r.outcome),
	}, r.index.Valid
}

func optText(v pgtype.Text) ffstream.Opt[string] {
	return ffstream.Opt[string]{V: v.String, OK: v.Valid}
}

func optInt(v pgtype.Int8) ffstream.Opt[int64] { return ffstream.Opt[int64]{V: v.Int64, OK: v.Valid} }
