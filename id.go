package ffstream

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Partitions is the number of flow partitions of an engine with the default
// configuration (FF_FLOW_PARTITIONS).
const Partitions = 256

// Ways in which an execution id is refused, in the order of the checks. The
// order and the texts are the engine's (ff-core types.rs).
var (
	ErrMissingTag            = errors.New("execution_id is missing the `{fp:N}:` hash-tag prefix")
	ErrInvalidPartitionIndex = errors.New("execution_id partition index is not a valid u16")
	ErrInvalidUUID           = errors.New("execution_id UUID suffix is not a valid UUID")
)

// ExecutionID names an execution: the flow partition it lives on and a UUID. It
// keeps the text it was parsed from, so two spellings of one row, such as
// "{fp:007}:..." and "{fp:7}:...", are different values, as in the engine. Ids
// that come from rows are always in the canonical form. Values are comparable.
type ExecutionID struct {
	partition uint16
	id        uuid.UUID
	text      string // set only where it differs from the canonical form
}

// NewExecutionID returns the id with the canonical text
// "{fp:<decimal>}:<lower-case hyphenated uuid>".
func NewExecutionID(partition uint16, id uuid.UUID) ExecutionID {
	return ExecutionID{partition: partition, id: id}
}

// ParseExecutionID reads "{fp:N}:<uuid>" with the engine's rules: N is a u16 in
// decimal, with leading zeros or one plus sign allowed, and the UUID may be
// hyphenated, simple, braced or a URN, in either case. The error is one of
// ErrMissingTag, ErrInvalidPartitionIndex and ErrInvalidUUID, wrapped with the
// offending text. Whether N is below the engine's partition count is not
// checked: that is the caller's knowledge.
func ParseExecutionID(s string) (ExecutionID, error) {
	rest, ok := strings.CutPrefix(s, "{fp:")
	if !ok {
		return ExecutionID{}, fmt.Errorf("%w: %s", ErrMissingTag, s)
	}
	index, suffix, ok := strings.Cut(rest, "}:")
	if !ok {
		return ExecutionID{}, fmt.Errorf("%w: %s", ErrMissingTag, s)
	}
	n, ok := parsePartition(index)
	if !ok {
		return ExecutionID{}, fmt.Errorf("%w: %s", ErrInvalidPartitionIndex, index)
	}
	u, ok := parseUUID(suffix)
	if !ok {
		return ExecutionID{}, fmt.Errorf("%w: %s", ErrInvalidUUID, suffix)
	}
	id := NewExecutionID(n, u)
	if id.String() != s {
		id.text = s
	}
	return id, nil
}

// Partition is the flow partition of the tag. It is authoritative: it is never
// derived again from the UUID.
func (e ExecutionID) Partition() uint16 { return e.partition }

// PartitionKey is the value of the column partition_key: the partition wrapped
// into a smallint, as the engine casts it.
func (e ExecutionID) PartitionKey() int16 { return int16(e.partition) }

// UUID is the value of the column execution_id.
func (e ExecutionID) UUID() uuid.UUID { return e.id }

// IsZero reports whether e is the zero value, which names no execution.
func (e ExecutionID) IsZero() bool { return e == ExecutionID{} }

// String returns the text the id was parsed from, or the canonical form.
func (e ExecutionID) String() string {
	if e.text != "" {
		return e.text
	}
	return string(e.AppendCanonical(make([]byte, 0, 48)))
}

// AppendCanonical appends "{fp:N}:<uuid>" in the canonical form to b.
func (e ExecutionID) AppendCanonical(b []byte) []byte {
	b = append(b, "{fp:"...)
	b = strconv.AppendUint(b, uint64(e.partition), 10)
	b = append(b, "}:"...)
	return appendUUID(b, e.id)
}

// MarshalText returns the form of String.
func (e ExecutionID) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads the form that ParseExecutionID accepts.
func (e *ExecutionID) UnmarshalText(b []byte) error {
	id, err := ParseExecutionID(string(b))
	if err != nil {
		return err
	}
	*e = id
	return nil
}

// parsePartition reads a u16 as Rust's integer parser does: decimal digits, one
// leading plus sign allowed, leading zeros allowed.
func parsePartition(s string) (uint16, bool) {
	s = strings.TrimPrefix(s, "+")
	if s == "" {
		return 0, false
	}
	n := uint32(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		if n = n*10 + uint32(s[i]-'0'); n > 65535 {
			return 0, false
		}
	}
	return uint16(n), true
}

// parseUUID accepts the four notations of the engine's uuid crate. The length
// and brackets are checked here, because uuid.Parse looks at neither brace.
func parseUUID(s string) (uuid.UUID, bool) {
	switch {
	case len(s) == 36 || len(s) == 32:
	case len(s) == 38 && s[0] == '{' && s[37] == '}':
		s = s[1:37]
	case len(s) == 45 && strings.HasPrefix(s, "urn:uuid:"):
		s = s[9:]
	default:
		return uuid.UUID{}, false
	}
	u, err := uuid.Parse(s)
	return u, err == nil
}

func appendUUID(b []byte, u uuid.UUID) []byte {
	const lowerHex = "0123456789abcdef"
	for i, x := range u {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, lowerHex[x>>4], lowerHex[x&0xF])
	}
	return b
}

// FlowID names a flow; on the wire it is a bare lower-case hyphenated UUID.
type FlowID = uuid.UUID

// ParseFlowID reads a bare UUID in any notation that the engine accepts.
func ParseFlowID(s string) (FlowID, error) {
	u, ok := parseUUID(s)
	if !ok {
		return FlowID{}, fmt.Errorf("parse flow id %q: not a valid UUID", s)
	}
	return u, nil
}

// FlowPartition is the partition of a flow and of all its executions: CRC16 of
// the UUID's 16 bytes modulo the number of partitions, which must be above 0.
func FlowPartition(flow FlowID, partitions uint16) uint16 {
	return crc16(flow[:]) % partitions
}

// LanePartition is the partition of an execution without a flow: CRC16 of the
// lane's bytes modulo the number of partitions, which must be above 0.
func LanePartition(lane LaneID, partitions uint16) uint16 {
	return crc16([]byte(lane)) % partitions
}

// crc16 is CRC-16/XMODEM: polynomial 0x1021, initial value 0, nothing
// reflected, nothing inverted; "123456789" gives 0x31C3.
func crc16(b []byte) uint16 {
	var crc uint16
	for _, x := range b {
		crc ^= uint16(x) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}

// LaneID names a lane. Rows may hold any text (the engine's create does not
// check it); ParseLaneID applies the rule for new ones.
type LaneID string

// MaxLaneBytes is the greatest length of a lane's name.
const MaxLaneBytes = 64

// Ways in which a lane's name is refused, in the order of the checks.
var (
	ErrLaneEmpty        = errors.New("lane id is empty")
	ErrLaneTooLong      = errors.New("lane id is longer than 64 bytes")
	ErrLaneNonPrintable = errors.New("lane id has a byte outside 0x20 to 0x7E")
)

// ParseLaneID checks a lane's name: not empty, at most 64 bytes, every byte
// printable ASCII. The error wraps ErrLaneEmpty, ErrLaneTooLong (with the
// length) or ErrLaneNonPrintable (with the index of the first such byte).
func ParseLaneID(s string) (LaneID, error) {
	if s == "" {
		return "", ErrLaneEmpty
	}
	if len(s) > MaxLaneBytes {
		return "", fmt.Errorf("%w: %d", ErrLaneTooLong, len(s))
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7E {
			return "", fmt.Errorf("%w: at byte %d", ErrLaneNonPrintable, i)
		}
	}
	return LaneID(s), nil
}
