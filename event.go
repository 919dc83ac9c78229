package ffstream

import (
	"strconv"
	"time"
)

// Types of the events in the stream, the type attribute of the envelope.
const (
	// TypeTransitioned is a change of one execution's public state.
	TypeTransitioned = "ffstream.execution.transitioned.v1"
	// TypeCorrupt is a change of a row that holds a literal which no rule knows.
	TypeCorrupt = "ffstream.execution.corrupt.v1"
	// TypeTruncated is a TRUNCATE of ff_exec_core: every execution is gone at
	// once, and the write-ahead log does not say which they were.
	TypeTruncated = "ffstream.table.truncated.v1"
)

// Headers of each message in the stream, beside the Nats-Msg-Id, which is the
// EventID.
const (
	HeaderPosition = "Ffstream-Position" // Position.String
	ContentType    = "application/cloudevents+json"
)

// DefaultSubjectPrefix is the first token of every subject.
const DefaultSubjectPrefix = "ff"

// Event is one message of the stream. A zero field is the absent value: the
// JSON form gives null for it, or the empty string where the row has one.
//
// Type decides which fields mean something. TypeTransitioned has all but
// Corrupt. TypeCorrupt has ExecutionID, LaneID where it is known, Corrupt and
// Tx. TypeTruncated has Tx alone, TypeGap Gap alone. TypeSnapshotted has what
// TypeTransitioned has but From, and Snapshot; its Tx names no transaction.
// TypeBackfill has Backfill and Tx.
type Event struct {
	ID     EventID
	Type   string
	Source string    // "/ffstream/<slot>"
	Time   time.Time // of the commit, in microseconds

	ExecutionID   ExecutionID
	FlowID        Opt[FlowID]
	Namespace     string
	LaneID        string
	ExecutionKind string
	Priority      int32

	// From is the state before the transaction: from the WAL where it contains it, else
	// the To of the execution's previous event where that is still in memory. Empty: a
	// new row, a row that was corrupt, or not known. A From that is set is right.
	From PublicState
	To   PublicState // after it; StatePurged when the row is gone

	StateVector StateVector
	// StoredPublicState is the row's own label, normalised. The engine leaves
	// it stale on many paths.
	StoredPublicState PublicState
	// Consistent is false when the row's own label is known to differ from To
	// (for a purged row: from what the vector said).
	Consistent bool
	// EvidenceMissing marks a terminal row that says in no way how it ended;
	// the rule then gives failed.
	EvidenceMissing bool
	// Candidate marks an update that may not have changed the state: From is not
	// known, and may be the same. A subscriber that knows the state compares.
	Candidate bool
	// Truncated marks an event from which fields were dropped because the broker
	// takes no message of its size: see Truncate.
	Truncated bool

	CurrentAttemptIndex uint32
	Attempt             Opt[Attempt] // the current attempt as far as the transaction shows it

	CreatedAtMs  Opt[int64] // Unix milliseconds; absent for a purged row
	StartedAtMs  Opt[int64]
	TerminalAtMs Opt[int64] // may be present on a live row: resurrections do not clear it

	BlockingDetail     string
	CancellationReason Opt[string] // sticky: does not imply cancelled
	CancelledBy        Opt[string]
	Tags               []Tag // sorted by key; string values only

	Corrupt Corruption
	Gap     *Gap // of TypeGap, and nil of all others
	// Snapshot is of TypeSnapshotted and of a corrupt row that a backfill read, and
	// nil of all others; Backfill is of TypeBackfill.
	Snapshot *Snapshot
	Backfill *Backfill
	Tx       Tx
}

// Attempt is a row of ff_attempt. Times are Unix milliseconds.
type Attempt struct {
	Index            uint32
	WorkerID         Opt[string]
	WorkerInstanceID Opt[string]
	LeaseEpoch       int64
	LeaseExpiresAtMs Opt[int64]
	StartedAtMs      Opt[int64]
	TerminalAtMs     Opt[int64]
	Outcome          Opt[string] // the engine's raw literal
}

// Tag is one entry of raw_fields.tags.
type Tag struct{ Key, Value string }

// Corruption names a literal that no rule knows, and where it stands.
type Corruption struct {
	Column  string
	Literal string
}

// Tx is the Postgres transaction that an event comes from.
type Tx struct {
	Xid  uint32 // 0 for what a backfill read
	Last bool   // no event of the same transaction follows
}

// Position is the event's place in the stream's sequence.
func (e *Event) Position() Position { return e.ID.Position }

// Terminal reports whether the execution entered a state in which it rests. A
// purged row entered none.
func (e *Event) Terminal() bool { return e.To.Terminal() }

// Subject is the subject of the event's message under a prefix:
// <prefix>.exec.<partition>.<namespace>.<lane>.<state>,
// <prefix>.corrupt.<partition>, <prefix>.truncated, <prefix>.gap or
// <prefix>.backfill.
func (e *Event) Subject(prefix string) string { return string(e.AppendSubject(nil, prefix)) }

// AppendSubject appends the form of Subject to b.
func (e *Event) AppendSubject(b []byte, prefix string) []byte {
	b = append(b, prefix...)
	switch e.Type {
	case TypeCorrupt:
		b = append(b, ".corrupt."...)
		return strconv.AppendUint(b, uint64(e.ExecutionID.partition), 10)
	case TypeTruncated:
		return append(b, ".truncated"...)
	case TypeGap:
		return append(b, ".gap"...)
	case TypeBackfill:
		return append(b, ".backfill"...)
	}
	b = append(b, ".exec."...)
	b = strconv.AppendUint(b, uint64(e.ExecutionID.partition), 10)
	b = append(b, '.')
	b = AppendToken(b, e.Namespace)
	b = append(b, '.')
	b = AppendToken(b, e.LaneID)
	b = append(b, '.')
	return append(b, e.To...)
}

// MaxToken is the greatest length of a subject token in bytes. The engine bounds
// neither namespaces nor lanes, and NATS takes no subject of more than 4 KiB.
const MaxToken = 1024

// AppendToken appends s as one subject token: every byte outside [A-Za-z0-9_-]
// becomes %XX with upper-case digits, and the empty string a lone %. A token
// that would exceed MaxToken is cut, and a lone % at its end says so.
func AppendToken(b []byte, s string) []byte {
	if s == "" {
		return append(b, '%')
	}
	start := len(b)
	long := tokenLength(s) > MaxToken
	for i := range len(s) {
		if long && len(b)-start > MaxToken-4 { // no room for the widest byte and the mark
			return append(b, '%')
		}
		if c := s[i]; plain(c) {
			b = append(b, c)
		} else {
			b = append(b, '%', upperHex[c>>4], upperHex[c&0xF])
		}
	}
	return b
}

// plain reports whether a byte stands for itself in a subject token.
func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// tokenLength is the length of s as a token that is not cut.
func tokenLength(s string) int {
	n := len(s)
	if n <= MaxToken/3 || n > MaxToken {
		return n
	}
	for i := range len(s) {
		if !plain(s[i]) {
			n += 2
		}
	}
	return n
}
