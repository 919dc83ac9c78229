package ffstream

import "strconv"

// Types of the events that a backfill adds to the stream.
const (
	// TypeSnapshotted is the state of an execution as a backfill read it. It is no
	// transition: From is empty, and the execution was in To before and after it. With
	// Repair the stream tells another state before it, and missed how that ended.
	TypeSnapshotted = "ffstream.execution.snapshotted.v1"
	// TypeBackfill says how far a backfill is. It stands behind the executions that
	// it counts and is stored with them, or not at all.
	TypeBackfill = "ffstream.backfill.v1"
)

// OpSnapshot is the op of TypeSnapshotted.
const OpSnapshot = "snapshot"

// Snapshot is what an event of TypeSnapshotted has beside the execution.
type Snapshot struct {
	Run string // which backfill
	// Repair: the stream told another state last, which a verification or a backfill
	// behind a gap found. Known is what it told, empty when it told nothing. As of a
	// verification: transitions that came since may have told the truth already.
	Repair bool
	Known  PublicState
}

func (s *Snapshot) appendJSON(b []byte) []byte {
	b = append(b, `,"op":"`+OpSnapshot+`","run":`...)
	b = appendString(b, s.Run)
	if s.Repair {
		b = appendWord(append(b, `,"repair":true`...), `,"known":`, s.Known)
	}
	return b
}

// What a backfill is about.
const (
	BackfillRunning   = "running"
	BackfillCompleted = "completed"
	BackfillCancelled = "cancelled"
)

// Backfill is the progress of a backfill.
type Backfill struct {
	Run    string
	Status string // BackfillRunning and so on; subscribers accept others
	// After is the last execution that was looked at, in the order of partitions and
	// UUIDs; absent at the beginning, and where the executions are listed.
	After Opt[ExecutionID]
	// Counters since the beginning of the run.
	Chunks     uint64
	Executions uint64 // looked at
	Published  uint64
	Superseded uint64 // not published, because the stream has newer
}

func (p *Backfill) appendJSON(b []byte) []byte {
	b = append(b, `"run":`...)
	b = appendString(b, p.Run)
	b = append(b, `,"status":`...)
	b = appendString(b, p.Status)
	b = append(b, `,"after":`...)
	if p.After.OK {
		b = append(p.After.V.AppendCanonical(append(b, '"')), '"')
	} else {
		b = append(b, "null"...)
	}
	for _, c := range [...]struct {
		key string
		n   uint64
	}{{`,"chunks":`, p.Chunks}, {`,"executions":`, p.Executions}, {`,"published":`, p.Published}, {`,"superseded":`, p.Superseded}} {
		b = strconv.AppendUint(append(b, c.key...), c.n, 10)
	}
	return append(b, ',')
}

// wireBackfill is the JSON form of both.
type wireBackfill struct {
	Run        string  `json:"run"`
	Repair     bool    `json:"repair"`
	Known      *string `json:"known"`
	Status     string  `json:"status"`
	Chunks     uint64  `json:"chunks"`
	Executions uint64  `json:"executions"`
	Published  uint64  `json:"published"`
	Superseded uint64  `json:"superseded"`
}

func (w *wireBackfill) snapshot() *Snapshot {
	s := &Snapshot{Run: w.Run, Repair: w.Repair}
	if w.Known != nil {
		s.Known = PublicState(*w.Known)
	}
	return s
}

func (w *wireBackfill) progress(after *string) (*Backfill, error) {
	p := &Backfill{Run: w.Run, Status: w.Status, Chunks: w.Chunks, Executions: w.Executions, Published: w.Published, Superseded: w.Superseded}
	if after != nil {
		id, err := ParseExecutionID(*after)
		if err != nil {
			return nil, err
		}
		p.After = Some(id)
	}
	return p, nil
}

// WatermarkPosition is where what was read between two watermarks stands: end is
// the LSN of the high watermark, a logical message, and the position lies inside
// its record, where no commit is: behind everything that committed before, and
// before everything that commits later. See GapPosition, which never collides: a
// gap's index is above the number of messages that the stream ever held.
func WatermarkPosition(end LSN, index uint32) Position {
	return Position{Commit: end - 1, Index: index}
}
