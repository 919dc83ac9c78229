package ffstream_test

import (
	"math"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
)

func TestLSN(t *testing.T) {
	t.Parallel()
	for text, lsn := range map[string]ffstream.LSN{
		"0/0": 0, "0/16B3748": 0x16B3748, "16/B374D848": 0x16B374D848, "1/0": 1 << 32, "FFFFFFFF/FFFFFFFF": math.MaxUint64,
	} {
		if got, err := ffstream.ParseLSN(text); err != nil || got != lsn || lsn.String() != text {
			t.Errorf("%s: parsed %d (%v), printed %s", text, uint64(got), err, lsn)
		}
	}
	for _, text := range []string{"16/b374d848", "00000016/B374D848"} { // as Postgres takes them
		if got, err := ffstream.ParseLSN(text); err != nil || got != 0x16B374D848 {
			t.Errorf("%s: %s (%v)", text, got, err)
		}
	}
	for _, text := range []string{"", "/", "16", "16B3748", "/1", "1/", "G/0", "0/G", "+1/0", "-1/0", " 1/0", "1/0 ", "0x1/0", "1_0/0",
		"1/2/3", "100000000/0", "0/100000000", "000000001/0", "0/000000001"} {
		if got, err := ffstream.ParseLSN(text); err == nil || got != 0 || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

func drawPosition(t *rapid.T) ffstream.Position {
	return ffstream.Position{Commit: ffstream.LSN(rapid.Uint64().Draw(t, "commit")), Index: rapid.Uint32().Draw(t, "index")}
}

// TestPositionsRoundTrip: what is printed is read back, and what reads it names
// the same place.
func TestPositionsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawPosition(t)
		if got, err := ffstream.ParseLSN(p.Commit.String()); err != nil || got != p.Commit {
			t.Fatalf("LSN %s: %s, %v", p.Commit, got, err)
		}
		if got, err := ffstream.ParsePosition(p.String()); err != nil || got != p {
			t.Fatalf("position %s: %s, %v", p, got, err)
		}
		id := ffstream.EventID{System: rapid.Uint64().Draw(t, "system"), Position: p}
		if got, err := ffstream.ParseEventID(id.String()); err != nil || got != id {
			t.Fatalf("id %s: %s, %v", id, got, err)
		}
	})
}

// TestPositionsAreOrdered: by commit, then by index, and so are their texts as
// long as an index has four digits.
func TestPositionsAreOrdered(t *testing.T) {
	t.Parallel()
	at := func(commit ffstream.LSN, index uint32) ffstream.Position {
		return ffstream.Position{Commit: commit, Index: index}
	}
	for _, tc := range []struct {
		p, q ffstream.Position
		want int
	}{
		{at(0, 0), at(0, 0), 0}, {at(1, 0), at(2, 0), -1}, {at(1, 5), at(2, 0), -1}, {at(2, 4), at(2, 5), -1},
		{at(1<<63, 0), at(1, 0), 1}, {at(2, 1<<31), at(2, 1), 1},
	} {
		if got, back := tc.p.Compare(tc.q), tc.q.Compare(tc.p); got != tc.want || back != -tc.want {
			t.Errorf("%s to %s: %d and %d, want %d", tc.p, tc.q, got, back, tc.want)
		}
	}
	if !at(0, 0).IsZero() || at(1, 0).IsZero() || at(0, 1).IsZero() {
		t.Error("only the position before every event is zero")
	}
	rapid.Check(t, func(t *rapid.T) {
		p, q := drawPosition(t), drawPosition(t)
		p.Index, q.Index = p.Index&0xFFFF, q.Index&0xFFFF
		if p.Compare(q) != strings.Compare(p.String(), q.String()) {
			t.Fatalf("%s to %s: %d", p, q, p.Compare(q))
		}
	})
}

func TestPositionTexts(t *testing.T) {
	t.Parallel()
	for text, p := range map[string]ffstream.Position{
		"00000000016B3748/0000":     {Commit: 0x16B3748},
		"0000000000000000/FFFF":     {Index: 0xFFFF},
		"FFFFFFFFFFFFFFFF/10000":    {Commit: math.MaxUint64, Index: 0x10000},
		"00000016B374D848/FFFFFFFF": {Commit: 0x16B374D848, Index: math.MaxUint32},
	} {
		if got, err := ffstream.ParsePosition(text); err != nil || got != p || p.String() != text {
			t.Errorf("%s: parsed %s (%v), printed %s", text, got, err, p)
		}
		id := "7406114242318563021-" + strings.Replace(text, "/", "-", 1)
		want := ffstream.EventID{System: 7406114242318563021, Position: p}
		if got, err := ffstream.ParseEventID(id); err != nil || got != want || want.String() != id {
			t.Errorf("%s: parsed %s (%v), printed %s", id, got, err, want)
		}
	}
	for _, text := range []string{"", "/", "00000000016B3748", "00000000016B3748-0000", "0000000016B3748/0000", "000000000016B3748/0000",
		"00000000016B3748/000", "00000000016B3748/", "00000000016B374G/0000", "00000000016B3748/000G", "00000000016B3748/100000000",
		"+0000000016B3748/0000", "00000000016B3748/+000", "00000000016B3748/0000/0"} {
		if got, err := ffstream.ParsePosition(text); err == nil || !got.IsZero() || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-", "--", "1-00000000016B3748", "-00000000016B3748-0000", "x-00000000016B3748-0000", "1-00000000016B3748/0000",
		"-1-00000000016B3748-0000", "18446744073709551616-00000000016B3748-0000", "1-16B3748-0000", "1-00000000016B3748-000", "1-00000000016B3748-0000-0"} {
		if got, err := ffstream.ParseEventID(text); err == nil || got != (ffstream.EventID{}) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}
