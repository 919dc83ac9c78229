package pgoutput_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// wire builds a message by hand.
type wire []byte

func (w wire) u8(v byte) wire       { return append(w, v) }
func (w wire) u16(v uint16) wire    { return binary.BigEndian.AppendUint16(w, v) }
func (w wire) u32(v uint32) wire    { return binary.BigEndian.AppendUint32(w, v) }
func (w wire) u64(v uint64) wire    { return binary.BigEndian.AppendUint64(w, v) }
func (w wire) cstr(s string) wire   { return append(append(w, s...), 0) }
func (w wire) text(s string) wire   { return append(w.u8('t').u32(uint32(len(s))), s...) }
func (w wire) bin(b ...byte) wire   { return append(w.u8('b').u32(uint32(len(b))), b...) }
func (w wire) null() wire           { return w.u8('n') }
func (w wire) unchanged() wire      { return w.u8('u') }
func (w wire) tuple(n uint16) wire  { return w.u16(n) }
func begin(kind pgoutput.Kind) wire { return wire{byte(kind)} }

func text(s string) pgoutput.Value {
	return pgoutput.Value{Kind: pgoutput.ValueText, Data: []byte(s)}
}
func bin(b ...byte) pgoutput.Value {
	return pgoutput.Value{Kind: pgoutput.ValueBinary, Data: append([]byte{}, b...)}
}

var (
	null      = pgoutput.Value{Kind: pgoutput.ValueNull}
	unchanged = pgoutput.Value{Kind: pgoutput.ValueUnchanged}
)

type vector struct {
	name string
	wire wire
	want pgoutput.Message
}

const (
	y2k     = 946684800000000 // Unix microseconds of the wire's epoch
	someLSN = 0x16_B374_D848
)

// vectors holds every kind of message of protocol version 1, and every form of
// a row.
func vectors() []vector {
	return []vector{
		{"begin", begin('B').u64(someLSN).u64(1_000_000).u32(733),
			pgoutput.Message{Kind: 'B', Begin: pgoutput.Begin{FinalLSN: someLSN, CommitTime: y2k + 1_000_000, Xid: 733}}},
		{"begin before 2000", begin('B').u64(1<<64 - 1).u64(1<<64 - 1).u32(1<<32 - 1),
			pgoutput.Message{Kind: 'B', Begin: pgoutput.Begin{FinalLSN: 1<<64 - 1, CommitTime: y2k - 1, Xid: 1<<32 - 1}}},
		{"commit", begin('C').u8(0).u64(someLSN).u64(someLSN + 48).u64(7),
			pgoutput.Message{Kind: 'C', Commit: pgoutput.Commit{CommitLSN: someLSN, EndLSN: someLSN + 48, CommitTime: y2k + 7}}},
		{"origin", begin('O').u64(someLSN).cstr("elsewhere"), pgoutput.Message{Kind: 'O'}},
		{"type", begin('Y').u32(16385).cstr("public").cstr("mood"), pgoutput.Message{Kind: 'Y'}},
		{"relation", begin('R').u32(16384).cstr("public").cstr("ff_exec_core").u8('i').u16(2).
			u8(1).cstr("execution_id").u32(2950).u32(1<<32 - 1).u8(0).cstr("lané").u32(25).u32(7),
			pgoutput.Message{Kind: 'R', Relation: pgoutput.Relation{ID: 16384, Namespace: "public", Name: "ff_exec_core", ReplicaIdentity: 'i',
				Columns: []pgoutput.Column{{Key: true, Name: "execution_id", TypeOID: 2950, TypeMod: -1}, {Name: "lané", TypeOID: 25, TypeMod: 7}}}}},
		{"relation of pg_catalog without columns", begin('R').u32(1).cstr("").cstr("").u8('n').u16(0),
			pgoutput.Message{Kind: 'R', Relation: pgoutput.Relation{ID: 1, ReplicaIdentity: 'n', Columns: []pgoutput.Column{}}}},
		{"relation with the shortest column", begin('R').u32(2).cstr("").cstr("").u8('d').u16(1).u8(0).cstr("").u32(25).u32(0),
			pgoutput.Message{Kind: 'R', Relation: pgoutput.Relation{ID: 2, ReplicaIdentity: 'd', Columns: []pgoutput.Column{{TypeOID: 25}}}}},
		{"insert", begin('I').u32(16384).u8('N').tuple(5).text("one").bin(0, 0, 0, 1).null().text("").bin(),
			pgoutput.Message{Kind: 'I', RelationID: 16384, New: []pgoutput.Value{text("one"), bin(0, 0, 0, 1), null, text(""), bin()}}},
		{"insert without columns", begin('I').u32(16384).u8('N').tuple(0), pgoutput.Message{Kind: 'I', RelationID: 16384}},
		{"update", begin('U').u32(16384).u8('N').tuple(2).bin(7).unchanged(),
			pgoutput.Message{Kind: 'U', RelationID: 16384, New: []pgoutput.Value{bin(7), unchanged}}},
		{"update with key", begin('U').u32(16384).u8('K').tuple(2).bin(6).null().u8('N').tuple(2).bin(7).text("x"),
			pgoutput.Message{Kind: 'U', RelationID: 16384, OldKind: 'K', Old: []pgoutput.Value{bin(6), null}, New: []pgoutput.Value{bin(7), text("x")}}},
		{"update with old row", begin('U').u32(16384).u8('O').tuple(1).text("old").u8('N').tuple(3).text("new").null().unchanged(),
			pgoutput.Message{Kind: 'U', RelationID: 16384, OldKind: 'O', Old: []pgoutput.Value{text("old")}, New: []pgoutput.Value{text("new"), null, unchanged}}},
		{"delete with key", begin('D').u32(16384).u8('K').tuple(2).bin(7).null(),
			pgoutput.Message{Kind: 'D', RelationID: 16384, OldKind: 'K', Old: []pgoutput.Value{bin(7), null}}},
		{"delete with old row", begin('D').u32(16384).u8('O').tuple(1).text("gone"),
			pgoutput.Message{Kind: 'D', RelationID: 16384, OldKind: 'O', Old: []pgoutput.Value{text("gone")}}},
		{"truncate", begin('T').u32(2).u8(3).u32(16384).u32(16390),
			pgoutput.Message{Kind: 'T', Truncate: pgoutput.Truncate{RelationIDs: []uint32{16384, 16390}, Cascade: true, RestartIdentity: true}}},
		{"truncate cascade", begin('T').u32(1).u8(1).u32(16384),
			pgoutput.Message{Kind: 'T', Truncate: pgoutput.Truncate{RelationIDs: []uint32{16384}, Cascade: true}}},
		{"truncate restart identity", begin('T').u32(1).u8(2).u32(16384),
			pgoutput.Message{Kind: 'T', Truncate: pgoutput.Truncate{RelationIDs: []uint32{16384}, RestartIdentity: true}}},
		{"message", append(begin('M').u8(1).u64(someLSN).cstr("ffstream").u32(5), "hello"...),
			pgoutput.Message{Kind: 'M', Logical: pgoutput.LogicalMessage{Transactional: true, LSN: someLSN, Prefix: []byte("ffstream"), Content: []byte("hello")}}},
		{"message outside", begin('M').u8(0).u64(someLSN).cstr("").u32(0),
			pgoutput.Message{Kind: 'M', Logical: pgoutput.LogicalMessage{LSN: someLSN, Prefix: []byte{}, Content: []byte{}}}},
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for _, v := range vectors() {
		var m pgoutput.Message
		if err := pgoutput.Decode(v.wire, &m); err != nil || !reflect.DeepEqual(m, v.want) {
			t.Errorf("%s: %v\n%+v, want\n%+v", v.name, err, m, v.want)
		}
	}
}

// meaning is what a message's kind says that it holds.
func meaning(m *pgoutput.Message) string {
	switch m.Kind {
	case pgoutput.KindBegin:
		return fmt.Sprint(m.Begin)
	case pgoutput.KindCommit:
		return fmt.Sprint(m.Commit)
	case pgoutput.KindRelation:
		return fmt.Sprint(m.Relation)
	case pgoutput.KindInsert, pgoutput.KindUpdate, pgoutput.KindDelete:
		return fmt.Sprint(m.RelationID, m.OldKind, len(m.Old), m.Old, len(m.New), m.New)
	case pgoutput.KindTruncate:
		return fmt.Sprint(m.Truncate)
	case pgoutput.KindMessage:
		return fmt.Sprint(m.Logical)
	}
	return ""
}

// TestDecodeAgain: what an earlier message left shows in no later one, and a
// kept Relation is not overwritten.
func TestDecodeAgain(t *testing.T) {
	t.Parallel()
	all := vectors()
	for _, first := range all {
		for _, second := range all {
			var m pgoutput.Message
			if err := pgoutput.Decode(first.wire, &m); err != nil {
				t.Fatal(err)
			}
			kept := m.Relation
			if err := pgoutput.Decode(second.wire, &m); err != nil {
				t.Fatal(err)
			}
			if got, want := meaning(&m), meaning(&second.want); got != want {
				t.Errorf("%s after %s: %s, want %s", second.name, first.name, got, want)
			}
			if !reflect.DeepEqual(kept, first.want.Relation) {
				t.Errorf("%s after %s changed the relation that was kept: %+v", second.name, first.name, kept)
			}
		}
	}
}

// refusal decodes what must be refused.
func refusal(t *testing.T, name string, b []byte) *pgoutput.DecodeError {
	t.Helper()
	var m pgoutput.Message
	err := pgoutput.Decode(b, &m)
	var refused *pgoutput.DecodeError
	if !errors.As(err, &refused) {
		t.Fatalf("%s: %v, want a DecodeError", name, err)
	}
	kind := pgoutput.Kind(0)
	if len(b) > 0 {
		kind = pgoutput.Kind(b[0])
	}
	if refused.Kind != kind || refused.Offset < 0 || refused.Offset > len(b) || refused.Field == "" || refused.Reason == "" {
		t.Errorf("%s: %+v", name, refused)
	}
	return refused
}

func TestDecodeRefusesPrefixes(t *testing.T) {
	t.Parallel()
	for _, v := range vectors() {
		for n := range v.wire {
			// A copy with no room behind it: reading on would panic.
			_ = refusal(t, fmt.Sprintf("%s cut to %d bytes", v.name, n), slices.Clip(slices.Clone(v.wire[:n])))
		}
		if refused := refusal(t, v.name+" and a byte", append(slices.Clone(v.wire), 0)); refused.Offset != len(v.wire) {
			t.Errorf("%s and a byte: %v, want offset %d", v.name, refused, len(v.wire))
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	row := func(kind pgoutput.Kind) wire { return begin(kind).u32(16384) }
	for _, tc := range []struct {
		name   string
		wire   wire
		offset int
		want   string
	}{
		{"nothing", nil, 0, "kind"},
		{"stream start of version 2", begin('S').u32(1).u8(1), 0, "kind"},
		{"unknown kind", begin(0), 0, "kind"},
		{"insert with key", row('I').u8('K').tuple(0).u8('N').tuple(0), 6, "tuple marker"},
		{"insert with old row", row('I').u8('O').tuple(0).u8('N').tuple(0), 6, "tuple marker"},
		{"insert with another marker", row('I').u8('X').tuple(0), 6, "tuple marker"},
		{"delete with new row", row('D').u8('N').tuple(0), 6, "tuple marker"},
		{"update with another marker", row('U').u8('X').tuple(0), 6, "tuple marker"},
		{"update with two keys", row('U').u8('K').tuple(0).u8('K').tuple(0), 9, "tuple marker"},
		{"unknown value", row('I').u8('N').tuple(1).u8('x'), 9, "new tuple"},
		{"unknown old value", row('U').u8('K').tuple(1).u8('x'), 9, "old tuple"},
		{"value of negative length", row('I').u8('N').tuple(1).u8('t').u32(1<<32 - 1), 13, "new tuple"},
		{"value longer than the rest", row('I').u8('N').tuple(1).u8('b').u32(2).u8(0), 13, "new tuple"},
		{"value of the greatest length", row('I').u8('N').tuple(1).u8('b').u32(1<<31 - 1).u8(0), 13, "new tuple"},
		{"columns that do not fit", begin('R').u32(1).cstr("s").cstr("t").u8('d').u16(65535), 12, "columns"},
		{"columns that nearly fit", begin('R').u32(1).cstr("s").cstr("t").u8('d').u16(2).u8(0).cstr("").u32(1).u32(1).u8(0).cstr("").u32(1).u16(1).u8(1), 12, "columns"},
		{"truncate of more than follow", begin('T').u32(1<<32 - 1).u8(0).u32(1), 10, "relation id"},
		{"message of negative length", begin('M').u8(0).u64(1).cstr("p").u32(1 << 31), 16, "content"},
	} {
		refused := refusal(t, tc.name, tc.wire)
		if refused.Offset != tc.offset || refused.Field != tc.want {
			t.Errorf("%s: %s at %d, want %s at %d", tc.name, refused.Field, refused.Offset, tc.want, tc.offset)
		}
		if text := refused.Error(); !strings.Contains(text, tc.want) || !strings.Contains(text, fmt.Sprintf("at byte %d: ", tc.offset)) {
			t.Errorf("%s: %s", tc.name, text)
		}
	}
}

func TestDecodeAllocatesNothing(t *testing.T) {
	var m pgoutput.Message
	for _, v := range vectors() {
		if v.want.Kind == pgoutput.KindRelation {
			continue // its memory is its own
		}
		if n := testing.AllocsPerRun(100, func() {
			if err := pgoutput.Decode(v.wire, &m); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", v.name, n)
		}
	}
}

// rewrite is the wire form of a row.
func rewrite(m *pgoutput.Message) wire {
	w := begin(m.Kind).u32(m.RelationID)
	tuple := func(marker byte, values []pgoutput.Value) {
		w = w.u8(marker).tuple(uint16(len(values)))
		for _, v := range values {
			w = w.u8(byte(v.Kind))
			if v.Kind == pgoutput.ValueText || v.Kind == pgoutput.ValueBinary {
				w = append(w.u32(uint32(len(v.Data))), v.Data...)
			}
		}
	}
	if m.OldKind != 0 {
		tuple(m.OldKind, m.Old)
	}
	if m.Kind != pgoutput.KindDelete {
		tuple('N', m.New)
	}
	return w
}

// FuzzDecode: no input makes it panic, what it decodes lies within the input,
// and a row is read whole: written again, it is the input.
func FuzzDecode(f *testing.F) {
	for _, v := range vectors() {
		f.Add([]byte(v.wire))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m pgoutput.Message
		if err := pgoutput.Decode(b, &m); err != nil {
			var refused *pgoutput.DecodeError
			if !errors.As(err, &refused) || refused.Offset > len(b) {
				t.Fatalf("%v (%T)", err, err)
			}
			return
		}
		within := func(what string, data []byte) {
			at := uintptr(unsafe.Pointer(unsafe.SliceData(data))) - uintptr(unsafe.Pointer(unsafe.SliceData(b)))
			if at > uintptr(len(b)) || at+uintptr(cap(data)) > uintptr(len(b)) || cap(data) != len(data) {
				t.Fatalf("%s: %d bytes of capacity %d at %d of an input of %d", what, len(data), cap(data), at, len(b))
			}
		}
		switch m.Kind {
		case pgoutput.KindInsert, pgoutput.KindUpdate, pgoutput.KindDelete:
			for _, v := range append(slices.Clone(m.Old), m.New...) {
				if v.Kind == pgoutput.ValueText || v.Kind == pgoutput.ValueBinary {
					within("value", v.Data)
				}
			}
			if again := rewrite(&m); string(again) != string(b) {
				t.Fatalf("%x is read as %x", b, again)
			}
		case pgoutput.KindMessage:
			within("prefix", m.Logical.Prefix)
			within("content", m.Logical.Content)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	var m pgoutput.Message
	for _, v := range vectors() {
		if !strings.HasPrefix(v.name, "update with key") && v.name != "begin" && v.name != "commit" && v.name != "insert" && v.name != "relation" {
			continue
		}
		b.Run(strings.ReplaceAll(v.name, " ", "_"), func(b *testing.B) {
			b.SetBytes(int64(len(v.wire)))
			b.ReportAllocs()
			for b.Loop() {
				if err := pgoutput.Decode(v.wire, &m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
