package ffstream_test

import (
	"testing"

	"github.com/ffstream/ffstream"
)

// TestTxSnapshot: what a read saw, also where the low half of the numbers has
// come round between the event and the read.
func TestTxSnapshot(t *testing.T) {
	t.Parallel()
	for text, answers := range map[string]map[uint32]bool{
		"10:20:10,14":            {9: true, 10: false, 11: true, 14: false, 19: true, 20: false, 21: false},
		"4294967316:4294967316:": {19: true, 20: false, 4294967295: true, 1<<31 + 20: true, 1<<31 + 19: false},
		"4294967290:4294967300:4294967290,4294967298": {4294967289: true, 4294967290: false, 4294967295: true, 1: true, 2: false, 3: true, 4: false},
		"8589934592:8589934592:":                      {4294967295: true, 0: false, 1: false},
	} {
		s, err := ffstream.ParseTxSnapshot(text)
		if err != nil {
			t.Fatal(err)
		}
		for xid, want := range answers {
			if got := s.Saw(xid); got != want {
				t.Errorf("%s saw %d: %t, want %t", text, xid, got, want)
			}
		}
	}
	for _, text := range []string{"", "1:2", "1:2:3:4", "a:2:", "1:2:3,", "-1:2:"} {
		if _, err := ffstream.ParseTxSnapshot(text); err == nil {
			t.Errorf("%q is taken for a snapshot", text)
		}
	}
	state := ffstream.SettledState{Saw: ffstream.TxSnapshot{Xmin: 20, Xmax: 20}, End: 0x100}
	for commit, want := range map[ffstream.LSN]bool{0xFF: true, 0x100: false} {
		e := ffstream.Event{ID: ffstream.EventID{Position: ffstream.Position{Commit: commit}}, Tx: ffstream.Tx{Xid: 19}}
		if state.Knew(&e) != want {
			t.Errorf("a commit at %s is known: %t, want %t", commit, !want, want)
		}
	}
}
