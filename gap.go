package ffstream

import "strconv"

// TypeGap is a place where the stream's sequence is broken: an operator accepted
// with `ffstream resume --accept-gap` that what lies between is lost. Events
// behind it are exact again.
const TypeGap = "ffstream.gap.v1"

// Reasons of a gap. Subscribers accept reasons that they do not know.
const (
	GapSlotMissing       = "slot_missing"       // the slot was dropped
	GapSlotInvalidated   = "slot_invalidated"   // Postgres removed the WAL that the slot needed
	GapSlotMoved         = "slot_moved"         // the slot was advanced, or dropped and made again
	GapStreamMissing     = "stream_missing"     // the stream was deleted
	GapStreamForgot      = "stream_forgot"      // the broker lost what it had acknowledged: a crash, a backup
	GapStreamPurged      = "stream_purged"      // messages were removed before their age
	GapStreamEdited      = "stream_edited"      // messages were deleted or replaced
	GapPublicationEdited = "publication_edited" // rows that were written meanwhile were never sent
	GapIdentityLost      = "identity_lost"      // a leaf did not log the state before a change
	GapNoteMissing       = "note_missing"       // what would prove continuity is gone
)

// Gap says what is lost. Everything up to After was stored; of what committed behind
// it and before ResumesAt nothing is promised. Reasons that begin with "stream_" say
// that stored events were taken out, beside those that aged out: the stream no longer
// holds all of what stands before the gap. Who had read them lacks none of them.
type Gap struct {
	Reason        string
	Detail        string        // for people
	After         Opt[Position] // the last event known to have been stored before; absent when not known
	AfterSequence uint64        // stream sequence of the event at After
	ResumesAt     LSN           // transactions that commit here or behind follow
}

func (g *Gap) appendJSON(b []byte) []byte {
	b = append(b, `"reason":`...)
	b = appendString(b, g.Reason)
	b = append(b, `,"detail":`...)
	b = appendString(b, g.Detail)
	b = append(b, `,"after":`...)
	if g.After.OK {
		b = append(b, '"')
		b = g.After.V.AppendText(b)
		b = append(b, '"')
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"after_sequence":`...)
	b = strconv.AppendUint(b, g.AfterSequence, 10)
	b = append(b, `,"resumes_at":"`...)
	b = g.ResumesAt.AppendText(b)
	return append(b, '"')
}

// wireGap is the JSON form.
type wireGap struct {
	Reason        string  `json:"reason"`
	Detail        string  `json:"detail"`
	After         *string `json:"after"`
	AfterSequence uint64  `json:"after_sequence"`
	ResumesAt     string  `json:"resumes_at"`
}

func (w *wireGap) gap() (*Gap, error) {
	g := &Gap{Reason: w.Reason, Detail: w.Detail, AfterSequence: w.AfterSequence}
	var err error
	if w.After != nil {
		if g.After.V, err = ParsePosition(*w.After); err != nil {
			return nil, err
		}
		g.After.OK = true
	}
	g.ResumesAt, err = ParseLSN(w.ResumesAt)
	return g, err
}

// GapPosition is where a gap's own event stands: before everything that commits
// at resumesAt or behind, and behind everything that commits before. Nothing
// that is sent from there on has a commit record at that LSN. Of several gaps at
// one place, sequence, the event's in the stream, tells which.
func GapPosition(resumesAt LSN, sequence uint64) Position {
	return Position{Commit: resumesAt - 1, Index: uint32(sequence)}
}
