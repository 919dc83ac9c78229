package pgoutput

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// DecodeError says why bytes are no message.
type DecodeError struct {
	Kind   Kind   // 0 when the input was empty
	Field  string // what was being read
	Offset int    // of the field, in the input
	Reason string
}

// Error names the message, the field, the offset and the reason.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("decode pgoutput message %q: %s at byte %d: %s", byte(e.Kind), e.Field, e.Offset, e.Reason)
}

// reader walks over one message. After the first fault it gives zeros, and fault
// holds what went wrong.
type reader struct {
	b     []byte
	at    int
	fault *DecodeError
}

func (r *reader) fail(field, reason string) {
	if r.fault == nil {
		r.fault = &DecodeError{Kind: Kind(r.b[0]), Field: field, Offset: r.at, Reason: reason}
	}
}

func (r *reader) bytes(n int, field string) []byte {
	if r.fault != nil || n < 0 || len(r.b)-r.at < n {
		r.fail(field, "the message ends before it")
		return nil
	}
	v := r.b[r.at : r.at+n : r.at+n]
	r.at += n
	return v
}

func (r *reader) uint8(field string) byte {
	if v := r.bytes(1, field); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) uint16(field string) uint16 {
	if v := r.bytes(2, field); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (r *reader) uint32(field string) uint32 {
	if v := r.bytes(4, field); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) uint64(field string) uint64 {
	if v := r.bytes(8, field); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// cstring reads up to a zero byte, which it consumes.
func (r *reader) cstring(field string) []byte {
	if r.fault != nil {
		return nil
	}
	n := bytes.IndexByte(r.b[r.at:], 0)
	if n < 0 {
		r.fail(field, "no zero byte ends it")
		return nil
	}
	v := r.b[r.at : r.at+n : r.at+n]
	r.at += n + 1
	return v
}

// postgresEpoch is 2000-01-01 in Unix microseconds.
const postgresEpoch = 946684800 * 1e6

func (r *reader) time(field string) int64 { return int64(r.uint64(field)) + postgresEpoch }

// Decode reads one message into m. The error is a *DecodeError, and m then
// holds nothing of use.
func Decode(b []byte, m *Message) error {
	if len(b) == 0 {
		return &DecodeError{Field: "kind", Reason: "the message is empty"}
	}
	r := reader{b: b, at: 1}
	m.Kind = Kind(b[0])
	switch m.Kind {
	case KindBegin:
		m.Begin = Begin{FinalLSN: r.uint64("final LSN"), CommitTime: r.time("commit time"), Xid: r.uint32("xid")}
	case KindCommit:
		m.Commit = Commit{Flags: r.uint8("flags"), CommitLSN: r.uint64("commit LSN"), EndLSN: r.uint64("end LSN"), CommitTime: r.time("commit time")}
	case KindInsert, KindUpdate, KindDelete:
		r.row(m)
	case KindRelation:
		r.relation(&m.Relation)
	case KindTruncate:
		r.truncate(&m.Truncate)
	case KindMessage:
		r.logical(&m.Logical)
	case KindOrigin:
		r.uint64("origin LSN")
		r.cstring("origin")
	case KindType:
		r.uint32("type id")
		r.cstring("namespace")
		r.cstring("name")
	default:
		r.at = 0
		r.fail("kind", "protocol version 1 has no such message")
	}
	if r.fault == nil && r.at != len(b) {
		r.fail("end", "bytes follow the message")
	}
	if r.fault != nil {
		return r.fault
	}
	return nil
}

func (r *reader) row(m *Message) {
	m.RelationID, m.OldKind, m.Old, m.New = r.uint32("relation id"), 0, m.Old[:0], m.New[:0]
	marker := r.uint8("tuple marker")
	if marker == 'K' || marker == 'O' {
		if m.Kind == KindInsert {
			r.fail("tuple marker", "an insert has no old tuple")
			return
		}
		m.OldKind, m.Old = marker, r.tuple(m.Old, "old tuple")
		if m.Kind == KindDelete {
			return
		}
		marker = r.uint8("tuple marker")
	}
	if marker != 'N' || m.Kind == KindDelete {
		r.fail("tuple marker", "the row's tuple does not follow")
		return
	}
	m.New = r.tuple(m.New, "new tuple")
}

func (r *reader) tuple(values []Value, field string) []Value {
	for n := r.uint16(field); n > 0 && r.fault == nil; n-- {
		v := Value{Kind: ValueKind(r.uint8(field))}
		switch v.Kind {
		case ValueNull, ValueUnchanged:
		case ValueText, ValueBinary:
			v.Data = r.bytes(int(int32(r.uint32(field))), field)
		default:
			r.fail(field, "a value has an unknown kind")
		}
		values = append(values, v)
	}
	return values
}

func (r *reader) relation(rel *Relation) {
	*rel = Relation{ID: r.uint32("relation id"), Namespace: string(r.cstring("namespace")), Name: string(r.cstring("name"))}
	rel.ReplicaIdentity = r.uint8("replica identity")
	n := int(r.uint16("columns"))
	// Each column takes at least ten bytes, so a count that the message cannot
	// hold allocates nothing.
	if n > (len(r.b)-r.at)/10 {
		r.fail("columns", "the message is too short for their number")
		return
	}
	rel.Columns = make([]Column, 0, n)
	for range n {
		rel.Columns = append(rel.Columns, Column{
			Key:     r.uint8("column flags")&1 != 0,
			Name:    string(r.cstring("column name")),
			TypeOID: r.uint32("column type"),
			TypeMod: int32(r.uint32("column type modifier")),
		})
	}
}

func (r *reader) truncate(t *Truncate) {
	n := r.uint32("relations")
	flags := r.uint8("flags")
	t.Cascade, t.RestartIdentity, t.RelationIDs = flags&1 != 0, flags&2 != 0, t.RelationIDs[:0]
	for ; n > 0 && r.fault == nil; n-- {
		t.RelationIDs = append(t.RelationIDs, r.uint32("relation id"))
	}
}

func (r *reader) logical(m *LogicalMessage) {
	m.Transactional = r.uint8("flags")&1 != 0
	m.LSN = r.uint64("LSN")
	m.Prefix = r.cstring("prefix")
	m.Content = r.bytes(int(int32(r.uint32("length"))), "content")
}
