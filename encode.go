package ffstream

import (
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends the event's CloudEvents 1.0 envelope in structured mode to
// b. It allocates nothing but what b needs to grow. Bytes of a string that are
// not UTF-8 become U+FFFD.
func (e *Event) AppendJSON(b []byte) []byte {
	b = append(b, `{"specversion":"1.0","id":"`...)
	b = e.ID.AppendText(b)
	b = append(b, `","source":`...)
	b = appendString(b, e.Source)
	b = append(b, `,"type":`...)
	b = appendString(b, e.Type)
	if !e.ExecutionID.IsZero() {
		b = append(b, `,"subject":"`...)
		b = e.ExecutionID.AppendCanonical(b)
		b = append(b, '"')
	}
	b = append(b, `,"time":"`...)
	b = e.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, `","datacontenttype":"application/json","data":{`...)
	switch e.Type {
	case TypeGap:
		return append(e.Gap.appendJSON(b), "}}"...)
	case TypeCorrupt:
		b = e.appendCorrupt(b)
	case TypeTruncated:
		b = append(b, `"table":"ff_exec_core",`...)
	case TypeBackfill:
		b = e.Backfill.appendJSON(b)
	default:
		b = e.appendTransition(b)
	}
	return append(e.appendTx(b), "}}"...)
}

func (e *Event) appendExecution(b []byte) []byte {
	b = append(b, `"execution_id":"`...)
	b = e.ExecutionID.AppendCanonical(b)
	b = append(b, `","partition":`...)
	return strconv.AppendUint(b, uint64(e.ExecutionID.partition), 10)
}

func (e *Event) appendCorrupt(b []byte) []byte {
	b = e.appendExecution(b)
	b = append(b, `,"lane_id":`...)
	b = appendString(b, e.LaneID)
	b = append(b, `,"column":`...)
	b = appendString(b, e.Corrupt.Column)
	b = append(b, `,"literal":`...)
	b = appendString(b, e.Corrupt.Literal)
	if e.Truncated {
		b = append(b, `,"truncated":true`...)
	}
	if e.Snapshot != nil {
		b = e.Snapshot.appendJSON(b)
	}
	return append(b, ',')
}

func (e *Event) appendTransition(b []byte) []byte {
	b = e.appendExecution(b)
	b = append(b, `,"flow_id":`...)
	if e.FlowID.OK {
		b = append(b, '"')
		b = appendUUID(b, e.FlowID.V)
		b = append(b, '"')
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"namespace":`...)
	b = appendString(b, e.Namespace)
	b = append(b, `,"lane_id":`...)
	b = appendString(b, e.LaneID)
	b = append(b, `,"execution_kind":`...)
	b = appendString(b, e.ExecutionKind)
	b = append(b, `,"priority":`...)
	b = strconv.AppendInt(b, int64(e.Priority), 10)
	b = appendWord(b, `,"from":`, e.From)
	b = appendWord(b, `,"to":`, e.To)
	b = append(b, `,"terminal":`...)
	b = strconv.AppendBool(b, e.Terminal())
	b = e.StateVector.appendJSON(append(b, `,"state_vector":`...))
	b = appendWord(b, `,"stored_public_state":`, e.StoredPublicState)
	b = append(b, `,"consistent":`...)
	b = strconv.AppendBool(b, e.Consistent)
	if e.EvidenceMissing {
		b = append(b, `,"evidence_missing":true`...)
	}
	if e.Candidate {
		b = append(b, `,"candidate":true`...)
	}
	if e.Truncated {
		b = append(b, `,"truncated":true`...)
	}
	if e.Snapshot != nil {
		b = e.Snapshot.appendJSON(b)
	}
	b = append(b, `,"current_attempt_index":`...)
	b = strconv.AppendUint(b, uint64(e.CurrentAttemptIndex), 10)
	b = append(b, `,"attempt":`...)
	if e.Attempt.OK {
		b = e.Attempt.V.appendJSON(b)
	} else {
		b = append(b, "null"...)
	}
	b = appendMillis(b, `,"created_at_ms":`, e.CreatedAtMs)
	b = appendMillis(b, `,"started_at_ms":`, e.StartedAtMs)
	b = appendMillis(b, `,"terminal_at_ms":`, e.TerminalAtMs)
	b = append(b, `,"blocking_detail":`...)
	b = appendString(b, e.BlockingDetail)
	b = appendOptString(b, `,"cancellation_reason":`, e.CancellationReason)
	b = appendOptString(b, `,"cancelled_by":`, e.CancelledBy)
	return append(appendTags(append(b, `,"tags":`...), e.Tags), ',')
}

func (v *StateVector) appendJSON(b []byte) []byte {
	b = appendWord(b, `{"lifecycle_phase":`, v.LifecyclePhase)
	b = appendWord(b, `,"ownership_state":`, v.OwnershipState)
	b = appendWord(b, `,"eligibility_state":`, v.EligibilityState)
	b = appendWord(b, `,"blocking_reason":`, v.BlockingReason)
	b = appendWord(b, `,"terminal_outcome":`, v.TerminalOutcome)
	b = appendWord(b, `,"attempt_state":`, v.AttemptState)
	b = appendWord(b, `,"public_state":`, v.PublicState)
	return append(b, '}')
}

func (a *Attempt) appendJSON(b []byte) []byte {
	b = append(b, `{"index":`...)
	b = strconv.AppendUint(b, uint64(a.Index), 10)
	b = appendOptString(b, `,"worker_id":`, a.WorkerID)
	b = appendOptString(b, `,"worker_instance_id":`, a.WorkerInstanceID)
	b = append(b, `,"lease_epoch":`...)
	b = strconv.AppendInt(b, a.LeaseEpoch, 10)
	b = appendMillis(b, `,"lease_expires_at_ms":`, a.LeaseExpiresAtMs)
	b = appendMillis(b, `,"started_at_ms":`, a.StartedAtMs)
	b = appendMillis(b, `,"terminal_at_ms":`, a.TerminalAtMs)
	b = appendOptString(b, `,"outcome":`, a.Outcome)
	return append(b, '}')
}

func (e *Event) appendTx(b []byte) []byte {
	b = append(b, `"tx":{"xid":`...)
	b = strconv.AppendUint(b, uint64(e.Tx.Xid), 10)
	b = append(b, `,"commit_lsn":"`...)
	b = e.ID.Position.Commit.AppendText(b)
	b = append(b, `","index":`...)
	b = strconv.AppendUint(b, uint64(e.ID.Position.Index), 10)
	b = append(b, `,"last":`...)
	b = strconv.AppendBool(b, e.Tx.Last)
	return append(b, '}')
}

func appendTags(b []byte, tags []Tag) []byte {
	b = append(b, '{')
	for i, t := range tags {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, t.Key)
		b = append(b, ':')
		b = appendString(b, t.Value)
	}
	return append(b, '}')
}

func appendMillis(b []byte, key string, v Opt[int64]) []byte {
	b = append(b, key...)
	if !v.OK {
		return append(b, "null"...)
	}
	return strconv.AppendInt(b, v.V, 10)
}

func appendOptString(b []byte, key string, v Opt[string]) []byte {
	b = append(b, key...)
	if !v.OK {
		return append(b, "null"...)
	}
	return appendString(b, v.V)
}

// appendWord appends a value of an enum, null when it is empty.
func appendWord[T ~string](b []byte, key string, v T) []byte {
	b = append(b, key...)
	if v == "" {
		return append(b, "null"...)
	}
	return appendString(b, string(v))
}

// appendString appends s as a JSON string, escaping only what JSON demands.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[start:i]...), `\ufffd`...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		b = appendEscape(b, c)
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

func appendEscape(b []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(b, '\\', c)
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	default:
		const lowerHex = "0123456789abcdef"
		return append(b, '\\', 'u', '0', '0', lowerHex[c>>4], lowerHex[c&0xF])
	}
}
