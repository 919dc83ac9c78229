package ffstream

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// TxSnapshot says which transactions a read saw, as pg_current_snapshot() does.
// It tells whether an event came before a read, which positions cannot: Postgres
// writes a commit to the log, where the event comes from, before reads see it.
type TxSnapshot struct {
	Xmin       uint64   // all before it had ended
	Xmax       uint64   // none from it on had
	InProgress []uint64 // those between that had not, sorted
}

// ParseTxSnapshot reads the text of a pg_snapshot, "10:20:10,14,15".
func ParseTxSnapshot(text string) (TxSnapshot, error) {
	var s TxSnapshot
	parts := strings.Split(text, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("parse snapshot %q: want xmin:xmax:list", text)
	}
	numbers := append(parts[:2:2], strings.Split(parts[2], ",")...)
	if parts[2] == "" {
		numbers = parts[:2]
	}
	for i, number := range numbers {
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			return TxSnapshot{}, fmt.Errorf("parse snapshot %q: %w", text, err)
		}
		switch i {
		case 0:
			s.Xmin = n
		case 1:
			s.Xmax = n
		default:
			s.InProgress = append(s.InProgress, n)
		}
	}
	return s, nil
}

// Saw reports whether a transaction that committed was seen by the read. An
// event has the low half of the number (Tx.Xid); the number that is meant is the
// one nearest to Xmax, so the answer holds for 2^31 transactions to either side.
// SettledState.Knew has no such bound.
func (s TxSnapshot) Saw(xid uint32) bool {
	full := s.Xmax + uint64(int64(int32(xid-uint32(s.Xmax))))
	if full < s.Xmin {
		return true
	}
	_, running := slices.BinarySearch(s.InProgress, full)
	return full < s.Xmax && !running
}

// SettledState is the state of an execution at a moment that every event can be
// placed before or after.
type SettledState struct {
	State PublicState // empty: there is no such execution
	Saw   TxSnapshot
	End   LSN // of the log when the state had been read
}

// Knew reports whether the read saw the transaction that an event comes from.
func (s *SettledState) Knew(e *Event) bool {
	return e.ID.Position.Commit < s.End && s.Saw.Saw(e.Tx.Xid)
}

// Horizon is how far a database is: what every read sees that begins behind it.
type Horizon struct {
	End     LSN        // of the log; on a standby, of what is replayed
	Standby bool       // what is replayed is seen
	Saw     TxSnapshot // on the primary; on a standby it says nothing
}

// Covers reports whether such a read sees what an event tells of. Of the event its
// ID and Tx count. On the primary the log is not enough: see TxSnapshot.
func (h *Horizon) Covers(e *Event) bool {
	return e.ID.Position.Commit < h.End && (h.Standby || e.Tx.Xid == 0 || h.Saw.Saw(e.Tx.Xid))
}
