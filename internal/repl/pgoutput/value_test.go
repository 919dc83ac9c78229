package pgoutput_test

import (
	"errors"
	"math"
	"strconv"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// integers reads v in all three widths; an error counts as no number.
func integers(v pgoutput.Value) (got [3]int64, ok [3]bool) {
	i16, err16 := v.Int16()
	i32, err32 := v.Int32()
	i64, err64 := v.Int64()
	return [3]int64{int64(i16), int64(i32), i64}, [3]bool{err16 == nil, err32 == nil, err64 == nil}
}

// TestIntegersAsText: a text is read by every width that holds its number.
func TestIntegersAsText(t *testing.T) {
	t.Parallel()
	fits := func(n int64) [3]bool { return [3]bool{n == int64(int16(n)), n == int64(int32(n)), true} }
	check := func(fail func(string, ...any), n int64) {
		got, ok := integers(text(strconv.FormatInt(n, 10)))
		for width, fits := range fits(n) {
			if ok[width] != fits || fits && got[width] != n || !fits && got[width] != 0 {
				fail("%d: read as %v, %v", n, got, ok)
			}
		}
	}
	for _, n := range []int64{0, 1, -1, math.MaxInt16, math.MaxInt16 + 1, math.MinInt16, math.MinInt16 - 1,
		math.MaxInt32, math.MaxInt32 + 1, math.MinInt32, math.MinInt32 - 1, math.MaxInt64, math.MinInt64} {
		check(t.Errorf, n)
	}
	rapid.Check(t, func(t *rapid.T) { check(t.Fatalf, rapid.Int64().Draw(t, "n")) })

	for _, s := range []string{"", "-", "+1", " 1", "1 ", "1.0", "0x1", "1_0", "--1", "1-", "٧", "9223372036854775808", "-9223372036854775809",
		"18446744073709551617", "99999999999999999999", "-99999999999999999999"} {
		if got, ok := integers(text(s)); ok != [3]bool{} || got != [3]int64{} {
			t.Errorf("%q: read as %v, %v", s, got, ok)
		}
	}
}

// TestIntegersAsBinary: a binary value is read by its own width alone.
func TestIntegersAsBinary(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		v     pgoutput.Value
		width int
		want  int64
	}{
		{bin(0x12, 0x34), 0, 0x1234},
		{bin(0x7F, 0xFF), 0, math.MaxInt16},
		{bin(0x80, 0), 0, math.MinInt16},
		{bin(0, 0, 0, 0), 1, 0},
		{bin(0x12, 0x34, 0x56, 0x78), 1, 0x12345678},
		{bin(0x7F, 0xFF, 0xFF, 0xFF), 1, math.MaxInt32},
		{bin(0x80, 0, 0, 0), 1, math.MinInt32},
		{bin(0xFF, 0xFF, 0xFF, 0xFF), 1, -1},
		{bin(1, 2, 3, 4, 5, 6, 7, 8), 2, 0x0102030405060708},
		{bin(0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF), 2, math.MaxInt64},
		{bin(0x80, 0, 0, 0, 0, 0, 0, 0), 2, math.MinInt64},
		{bin(), -1, 0},
		{bin(1), -1, 0},
		{bin(1, 2, 3), -1, 0},
		{bin(1, 2, 3, 4, 5, 6, 7, 8, 9), -1, 0},
	} {
		got, ok := integers(tc.v)
		for width := range ok {
			if ok[width] != (width == tc.width) || ok[width] && got[width] != tc.want {
				t.Errorf("%x: read as %d, %v", tc.v.Data, got, ok)
			}
		}
	}
}

func TestUUID(t *testing.T) {
	t.Parallel()
	const s = "550e8400-e29b-41d4-a716-446655440000"
	want := uuid.MustParse(s)
	for _, v := range []pgoutput.Value{text(s), bin(want[:]...)} {
		if got, err := v.UUID(); err != nil || got != want {
			t.Errorf("%q: %s, %v", v.Data, got, err)
		}
	}
	for _, v := range []pgoutput.Value{text(""), text("550e8400e29b41d4a716446655440000"), text("{" + s + "}"), text("urn:uuid:" + s),
		text("g" + s[1:]), bin(), bin(want[:15]...), bin(append(want[:], 0)...), bin([]byte(s)...)} {
		if got, err := v.UUID(); err == nil || got != uuid.Nil {
			t.Errorf("%q: %s, %v", v.Data, got, err)
		}
	}
}

func TestTextAndJSON(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		v          pgoutput.Value
		text, json string
	}{
		{text(`{"a":1}`), `{"a":1}`, `{"a":1}`},
		{text(""), "", ""},
		{bin([]byte("\x01{\"a\":1}")...), "\x01{\"a\":1}", `{"a":1}`}, // jsonb
		{bin([]byte(`{"a":1}`)...), `{"a":1}`, `{"a":1}`},             // json
		{bin(1), "\x01", ""},
	} {
		if got, err := tc.v.Text(); err != nil || string(got) != tc.text {
			t.Errorf("text of %q: %q, %v", tc.v.Data, got, err)
		}
		if got, err := tc.v.JSON(); err != nil || string(got) != tc.json {
			t.Errorf("JSON of %q: %q, %v", tc.v.Data, got, err)
		}
	}
	if got, err := bin().JSON(); err == nil || got != nil {
		t.Errorf("JSON of nothing: %q, %v", got, err)
	}
}

// TestNoValue: null and what was not sent are told apart, and neither is read
// as a value.
func TestNoValue(t *testing.T) {
	t.Parallel()
	for _, v := range []pgoutput.Value{null, unchanged, text(""), bin()} {
		if v.Null() != (v.Kind == 'n') || v.Unchanged() != (v.Kind == 'u') {
			t.Errorf("%q: null %t, unchanged %t", byte(v.Kind), v.Null(), v.Unchanged())
		}
	}
	for _, v := range []pgoutput.Value{null, unchanged} {
		_, err16 := v.Int16()
		_, err32 := v.Int32()
		_, err64 := v.Int64()
		_, errUUID := v.UUID()
		_, errText := v.Text()
		_, errJSON := v.JSON()
		for i, err := range []error{err16, err32, err64, errUUID, errText, errJSON} {
			if !errors.Is(err, pgoutput.ErrNoValue) {
				t.Errorf("%q, accessor %d: %v", byte(v.Kind), i, err)
			}
		}
	}
}
