package ffstream

import (
	"bytes"

	"github.com/google/uuid"
)

// scanEvent reads a body as ffstream writes it: ids in their canonical form, names
// in their case, numbers in their range. Order and white space are free, and new
// fields may stand between the known. What it takes is the event that readEvent
// gives. It reports false for anything else, valid or not, and e is worth nothing.
func scanEvent(body []byte, e *Event) bool {
	s := scan{text: body}
	var rest wireMore
	version, id := false, false
	s.take('{')
	for k, ok := s.name(true); ok; k, ok = s.name(false) {
		switch string(k) {
		case "specversion":
			version = true
			if string(s.quoted()) != "1.0" {
				s.refuse()
			}
		case "id":
			id = true
			s.eventID(&e.ID)
		case "source":
			s.string(&e.Source)
		case "type":
			scanWord(&s, &e.Type, eventTypes)
		case "time":
			s.peek()
			start := s.at
			s.quoted()
			if e.Time.UnmarshalJSON(s.text[start:s.at]) != nil {
				s.refuse()
			}
		case "data":
			if !s.null() {
				s.data(e, &rest)
			}
		default:
			s.unknown(k)
		}
	}
	return s.done() && version && id && rest.attach(e) == nil
}

// eventTypes are the types that need no copy.
var eventTypes = []string{TypeTransitioned, TypeSnapshotted, TypeCorrupt, TypeTruncated, TypeBackfill, TypeGap}

// unknown skips the value of a name that no field has. encoding/json finds a field
// for a name in another case, too.
func (s *scan) unknown(key []byte) {
	for _, c := range key {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			s.refuse()
		}
	}
	s.skip(maxDepth)
}

func (s *scan) data(e *Event, w *wireMore) {
	s.take('{')
	for k, ok := s.name(true); ok; k, ok = s.name(false) {
		switch string(k) {
		case "execution_id":
			s.executionID(&e.ExecutionID)
		case "flow_id":
			s.flowID(&e.FlowID)
		case "namespace":
			s.string(&e.Namespace)
		case "lane_id":
			s.string(&e.LaneID)
		case "execution_kind":
			s.string(&e.ExecutionKind)
		case "priority":
			scanInt(s, &e.Priority)
		case "from":
			scanWord(s, &e.From, publicStateValues)
		case "to":
			scanWord(s, &e.To, publicStateValues)
		case "state_vector":
			s.vector(&e.StateVector)
		case "stored_public_state":
			scanWord(s, &e.StoredPublicState, publicStateValues)
		case "consistent":
			s.bool(&e.Consistent)
		case "evidence_missing":
			s.bool(&e.EvidenceMissing)
		case "candidate":
			s.bool(&e.Candidate)
		case "truncated":
			s.bool(&e.Truncated)
		case "current_attempt_index":
			scanUint(s, &e.CurrentAttemptIndex)
		case "attempt":
			if e.Attempt.OK = !s.null(); e.Attempt.OK {
				s.attempt(&e.Attempt.V)
			} else {
				e.Attempt.V = Attempt{}
			}
		case "created_at_ms":
			s.millis(&e.CreatedAtMs)
		case "started_at_ms":
			s.millis(&e.StartedAtMs)
		case "terminal_at_ms":
			s.millis(&e.TerminalAtMs)
		case "blocking_detail":
			s.string(&e.BlockingDetail)
		case "cancellation_reason":
			s.optString(&e.CancellationReason)
		case "cancelled_by":
			s.optString(&e.CancelledBy)
		case "tags":
			s.tags(&e.Tags)
		case "column":
			s.string(&e.Corrupt.Column)
		case "literal":
			s.string(&e.Corrupt.Literal)
		case "tx":
			s.tx(&e.Tx)
		default:
			s.others(k, w)
		}
	}
}

// others reads what transitions do not have.
func (s *scan) others(k []byte, w *wireMore) {
	switch string(k) {
	case "op":
		s.string(&w.Op)
	case "run":
		s.string(&w.Run)
	case "repair":
		s.bool(&w.Repair)
	case "known":
		s.pointer(&w.Known)
	case "status":
		s.string(&w.Status)
	case "chunks":
		scanUint(s, &w.Chunks)
	case "executions":
		scanUint(s, &w.Executions)
	case "published":
		scanUint(s, &w.Published)
	case "superseded":
		scanUint(s, &w.Superseded)
	case "reason":
		s.string(&w.Reason)
	case "detail":
		s.string(&w.Detail)
	case "after":
		s.pointer(&w.After)
	case "after_sequence":
		scanUint(s, &w.AfterSequence)
	case "resumes_at":
		s.string(&w.ResumesAt)
	default:
		s.unknown(k)
	}
}

func (s *scan) vector(v *StateVector) {
	if s.null() {
		return
	}
	s.take('{')
	for k, ok := s.name(true); ok; k, ok = s.name(false) {
		switch string(k) {
		case "lifecycle_phase":
			scanWord(s, &v.LifecyclePhase, lifecyclePhaseValues)
		case "ownership_state":
			scanWord(s, &v.OwnershipState, ownershipStateValues)
		case "eligibility_state":
			scanWord(s, &v.EligibilityState, eligibilityStateValues)
		case "blocking_reason":
			scanWord(s, &v.BlockingReason, blockingReasonValues)
		case "terminal_outcome":
			scanWord(s, &v.TerminalOutcome, terminalOutcomeValues)
		case "attempt_state":
			scanWord(s, &v.AttemptState, attemptStateValues)
		case "public_state":
			scanWord(s, &v.PublicState, publicStateValues)
		default:
			s.unknown(k)
		}
	}
}

func (s *scan) attempt(a *Attempt) {
	s.take('{')
	for k, ok := s.name(true); ok; k, ok = s.name(false) {
		switch string(k) {
		case "index":
			scanUint(s, &a.Index)
		case "worker_id":
			s.optString(&a.WorkerID)
		case "worker_instance_id":
			s.optString(&a.WorkerInstanceID)
		case "lease_epoch":
			scanInt(s, &a.LeaseEpoch)
		case "lease_expires_at_ms":
			s.millis(&a.LeaseExpiresAtMs)
		case "started_at_ms":
			s.millis(&a.StartedAtMs)
		case "terminal_at_ms":
			s.millis(&a.TerminalAtMs)
		case "outcome":
			s.optString(&a.Outcome)
		default:
			s.unknown(k)
		}
	}
}

func (s *scan) tx(x *Tx) {
	if s.null() {
		return
	}
	s.take('{')
	for k, ok := s.name(true); ok; k, ok = s.name(false) {
		switch string(k) {
		case "xid":
			scanUint(s, &x.Xid)
		case "last":
			s.bool(&x.Last)
		default:
			s.unknown(k)
		}
	}
}

// tags reads tags in the order in which an event has them, each once.
func (s *scan) tags(tags *[]Tag) {
	if s.null() {
		*tags = nil
		return
	}
	s.take('{')
	for first := true; s.more(first, '}'); first = false {
		t := Tag{Key: s.str()}
		s.take(':')
		t.Value = s.str()
		if n := len(*tags); n > 0 && (*tags)[n-1].Key >= t.Key {
			s.refuse()
		} else if n == 0 {
			*tags = make([]Tag, 0, 4)
		}
		*tags = append(*tags, t)
	}
}

func (s *scan) string(p *string) {
	if !s.null() {
		*p = s.str()
	}
}

// pointer reads a string that may be absent, which is null.
func (s *scan) pointer(p **string) {
	if s.null() {
		*p = nil
		return
	}
	v := s.str()
	*p = &v
}

func (s *scan) optString(p *Opt[string]) {
	if s.null() {
		*p = Opt[string]{}
		return
	}
	*p = Some(s.str())
}

func (s *scan) millis(p *Opt[int64]) {
	if s.null() {
		*p = Opt[int64]{}
		return
	}
	p.OK = true
	scanInt(s, &p.V)
}

// scanWord reads a string that most often is one of values, which costs no copy.
func scanWord[T ~string](s *scan, p *T, values []T) {
	if s.null() {
		return
	}
	start := s.at
	v := s.quoted()
	for _, known := range values {
		if string(v) == string(known) {
			*p = known
			return
		}
	}
	if !s.bad {
		s.at = start
		*p = T(s.str())
	}
}

func (s *scan) bool(p *bool) {
	switch s.peek() {
	case 't':
		s.literal("true")
		*p = true
	case 'f':
		s.literal("false")
		*p = false
	default:
		s.literal("null")
	}
}

func scanUint[T uint32 | uint64](s *scan, p *T) {
	if s.null() {
		return
	}
	n := s.digits()
	if *p = T(n); uint64(*p) != n {
		s.refuse()
	}
}

func scanInt[T int32 | int64](s *scan, p *T) {
	if s.null() {
		return
	}
	negative := s.is('-')
	n := s.digits()
	v := int64(n)
	if negative {
		v = -v
	}
	if *p = T(v); int64(*p) != v || n != 0 && (v < 0) != negative {
		s.refuse()
	}
}

func (s *scan) eventID(p *EventID) {
	id := scan{text: s.quoted()}
	p.System = id.digits()
	id.literal("-")
	p.Position.Commit = LSN(id.hex(16))
	id.literal("-")
	p.Position.Index = uint32(id.hex(max(4, min(len(id.text)-id.at, 8))))
	if id.bad || id.at != len(id.text) {
		s.refuse()
	}
}

// executionID reads a canonical id: any other keeps its text.
func (s *scan) executionID(p *ExecutionID) {
	if s.null() {
		return
	}
	v := s.quoted()
	partition, id, ok := bytes.Cut(v, []byte("}:"))
	u, err := uuid.ParseBytes(id)
	n, isPartition := parsePartition(string(bytes.TrimPrefix(partition, []byte("{fp:"))))
	*p = NewExecutionID(n, u)
	var canonical [48]byte
	if !ok || err != nil || !isPartition || string(p.AppendCanonical(canonical[:0])) != string(v) {
		s.refuse()
	}
}

func (s *scan) flowID(p *Opt[FlowID]) {
	if s.null() {
		*p = Opt[FlowID]{}
		return
	}
	v := s.quoted()
	u, err := uuid.ParseBytes(v)
	if len(v) != 36 || err != nil {
		s.refuse()
	}
	*p = Some(u)
}
