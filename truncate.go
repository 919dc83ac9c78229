package ffstream

// Truncate drops the largest field that can be spared, in this order: tags,
// blocking_detail, cancellation_reason, cancelled_by, the attempt's worker ids,
// execution_kind, and of a corrupt row all of the literal but its first 256
// bytes; then namespace and lane_id, which the subject still names. It reports
// whether there was one and marks the event. States, ids, positions and times
// are never dropped.
func (e *Event) Truncate() bool {
	a := &e.Attempt.V
	switch {
	case len(e.Tags) > 0:
		e.Tags = nil
	case e.BlockingDetail != "":
		e.BlockingDetail = ""
	case e.CancellationReason.OK:
		e.CancellationReason = Opt[string]{}
	case e.CancelledBy.OK:
		e.CancelledBy = Opt[string]{}
	case a.WorkerID.OK || a.WorkerInstanceID.OK:
		a.WorkerID, a.WorkerInstanceID = Opt[string]{}, Opt[string]{}
	case e.ExecutionKind != "":
		e.ExecutionKind = ""
	case len(e.Corrupt.Literal) > keptLiteral:
		e.Corrupt.Literal = e.Corrupt.Literal[:keptLiteral]
	case e.Namespace != "":
		e.Namespace = ""
	case e.LaneID != "":
		e.LaneID = ""
	default:
		return false
	}
	e.Truncated = true
	return true
}

// keptLiteral is how much of a corrupt literal Truncate leaves, in bytes.
const keptLiteral = 256
