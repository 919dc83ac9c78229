package ffstream

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// CurrentState is the value of one key of a state bucket: what the stream told last
// of an execution. A purged execution has no value.
type CurrentState struct {
	ExecutionID ExecutionID
	State       PublicState // empty for a row that cannot be understood
	Corrupt     string      // the column that holds an unknown literal, else empty
	Position    Position    // of the event
	Sequence    uint64      // of the event, in the stream
	EventID     string
	Time        time.Time // of the commit
	Namespace   string
	LaneID      string
	Snapshot    bool // a backfill read it
}

// StateKey is an execution's key in a state bucket: <partition>.<uuid>.
func StateKey(id ExecutionID) string {
	u := id.UUID()
	return strconv.FormatUint(uint64(id.Partition()), 10) + "." + u.String()
}

// ParseStateKey reads what StateKey gives.
func ParseStateKey(key string) (ExecutionID, error) {
	partition, rest, ok := strings.Cut(key, ".")
	n, err := strconv.ParseUint(partition, 10, 16)
	if !ok || err != nil {
		return ExecutionID{}, fmt.Errorf("parse state key %q: want <partition>.<uuid>", key)
	}
	u, err := uuid.Parse(rest)
	if err != nil {
		return ExecutionID{}, fmt.Errorf("parse state key %q: %w", key, err)
	}
	return NewExecutionID(uint16(n), u), nil
}

type wireState struct {
	ExecutionID ExecutionID `json:"execution_id"`
	State       *string     `json:"state"`
	Terminal    bool        `json:"terminal"`
	Corrupt     string      `json:"corrupt,omitempty"`
	Position    Position    `json:"position"`
	Sequence    uint64      `json:"sequence"`
	EventID     string      `json:"event_id"`
	Time        time.Time   `json:"time"`
	Namespace   string      `json:"namespace"`
	LaneID      string      `json:"lane_id"`
	Snapshot    bool        `json:"snapshot,omitempty"`
}

// MarshalJSON gives the value of a key. Fields are only ever added.
func (s CurrentState) MarshalJSON() ([]byte, error) {
	w := wireState{
		ExecutionID: s.ExecutionID, Terminal: s.State.Terminal(), Corrupt: s.Corrupt, Position: s.Position, Sequence: s.Sequence,
		EventID: s.EventID, Time: s.Time, Namespace: s.Namespace, LaneID: s.LaneID, Snapshot: s.Snapshot,
	}
	if s.State != "" {
		state := string(s.State)
		w.State = &state
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads a value. Unknown fields are ignored, unknown states kept.
func (s *CurrentState) UnmarshalJSON(b []byte) error {
	var w wireState
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*s = CurrentState{
		ExecutionID: w.ExecutionID, Corrupt: w.Corrupt, Position: w.Position, Sequence: w.Sequence,
		EventID: w.EventID, Time: w.Time, Namespace: w.Namespace, LaneID: w.LaneID, Snapshot: w.Snapshot,
	}
	if w.State != nil {
		s.State = PublicState(*w.State)
	}
	return nil
}

// Of a state bucket: HeaderSequence of each message is the sequence in the stream
// up to which the bucket has everything, or has something newer. StateBuilding is a
// key that exists while the bucket is built and its values are older than the
// stream.
const (
	HeaderSequence = "Ffstream-Sequence"
	StateBuilding  = "_building"
)
