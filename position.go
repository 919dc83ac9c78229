package ffstream

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a byte position in the write-ahead log of one Postgres timeline. The
// zero LSN is no position at all; Postgres never assigns it.
type LSN uint64

// String renders the LSN as Postgres does: two hexadecimal halves, "16/B374D848".
func (l LSN) String() string {
	return string(l.AppendText(nil))
}

// AppendText appends the form of String to b.
func (l LSN) AppendText(b []byte) []byte {
	b = appendHex(b, uint64(l>>32), 1)
	b = append(b, '/')
	return appendHex(b, uint64(l&0xFFFFFFFF), 1)
}

// MarshalText is String.
func (l LSN) MarshalText() ([]byte, error) { return l.AppendText(nil), nil }

// UnmarshalText is ParseLSN.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	if err == nil {
		*l = v
	}
	return err
}

// ParseLSN reads the form that Postgres prints, "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("parse LSN %q: no slash between the halves", s)
	}
	h, errHi := strconv.ParseUint(hi, 16, 32)
	l, errLo := strconv.ParseUint(lo, 16, 32)
	if errHi != nil || errLo != nil || len(hi) > 8 || len(lo) > 8 {
		return 0, fmt.Errorf("parse LSN %q: each half is 1 to 8 hexadecimal digits", s)
	}
	return LSN(h<<32 | l), nil
}

// Position is the place of an event in the sequence that the stream holds: the
// LSN of the commit record of its transaction, and the ordinal of its execution
// among those that the transaction touched. It is a function of the WAL alone,
// so every replay gives an event the same position. Positions of two slots, or
// of two Postgres timelines, cannot be compared.
type Position struct {
	Commit LSN
	Index  uint32
}

// Compare returns -1, 0 or 1 as p stands before, at or behind q.
func (p Position) Compare(q Position) int {
	if c := cmp.Compare(p.Commit, q.Commit); c != 0 {
		return c
	}
	return cmp.Compare(p.Index, q.Index)
}

// IsZero reports whether p is before every event.
func (p Position) IsZero() bool { return p == Position{} }

// String renders the form of the Ffstream-Position header:
// "00000000016B3748/0000".
func (p Position) String() string { return string(p.AppendText(nil)) }

// AppendText appends the form of String to b.
func (p Position) AppendText(b []byte) []byte {
	b = appendHex(b, uint64(p.Commit), 16)
	b = append(b, '/')
	return appendHex(b, uint64(p.Index), 4)
}

// MarshalText is String.
func (p Position) MarshalText() ([]byte, error) { return p.AppendText(nil), nil }

// UnmarshalText is ParsePosition.
func (p *Position) UnmarshalText(b []byte) error {
	v, err := ParsePosition(string(b))
	if err == nil {
		*p = v
	}
	return err
}

// errPosition is the rule that a position's text must follow.
var errPosition = errors.New("want 16 hexadecimal digits of the commit LSN, a separator, and at least 4 of the index")

// ParsePosition reads the form of Position.String.
func ParsePosition(s string) (Position, error) {
	lsn, index, ok := strings.Cut(s, "/")
	if !ok {
		return Position{}, fmt.Errorf("parse position %q: %w", s, errPosition)
	}
	p, err := parsePosition(lsn, index)
	if err != nil {
		return Position{}, fmt.Errorf("parse position %q: %w", s, err)
	}
	return p, nil
}

func parsePosition(lsn, index string) (Position, error) {
	if len(lsn) != 16 || len(index) < 4 {
		return Position{}, errPosition
	}
	l, errLSN := strconv.ParseUint(lsn, 16, 64)
	i, errIndex := strconv.ParseUint(index, 16, 32)
	if errLSN != nil || errIndex != nil {
		return Position{}, errPosition
	}
	return Position{Commit: LSN(l), Index: uint32(i)}, nil
}

// EventID names one event for ever: the database it comes from and its
// position there. It is the Nats-Msg-Id of the message and the id of the
// CloudEvents envelope.
type EventID struct {
	System   uint64 // Postgres system identifier, from pg_control
	Position Position
}

// String renders "7406114242318563021-00000000016B3748-0000".
func (id EventID) String() string { return string(id.AppendText(nil)) }

// AppendText appends the form of String to b.
func (id EventID) AppendText(b []byte) []byte {
	b = strconv.AppendUint(b, id.System, 10)
	b = append(b, '-')
	b = appendHex(b, uint64(id.Position.Commit), 16)
	b = append(b, '-')
	return appendHex(b, uint64(id.Position.Index), 4)
}

// ParseEventID reads the form of EventID.String.
func ParseEventID(s string) (EventID, error) {
	parts := strings.Split(s, "-")
	if len(parts) != 3 {
		return EventID{}, fmt.Errorf("parse event id %q: want <system identifier>-<commit LSN>-<index>", s)
	}
	sys, err := strconv.ParseUint(parts[0], 10, 64)
	if err != nil {
		return EventID{}, fmt.Errorf("parse event id %q: the system identifier is not a decimal number", s)
	}
	p, err := parsePosition(parts[1], parts[2])
	if err != nil {
		return EventID{}, fmt.Errorf("parse event id %q: %w", s, err)
	}
	return EventID{System: sys, Position: p}, nil
}

const upperHex = "0123456789ABCDEF"

// appendHex appends v in upper-case hexadecimal, zero-padded to width digits.
func appendHex(b []byte, v uint64, width int) []byte {
	n := 1
	for x := v >> 4; x != 0; x >>= 4 {
		n++
	}
	for n = max(n, width); n > 0; n-- {
		b = append(b, upperHex[v>>(4*(n-1))&0xF])
	}
	return b
}
