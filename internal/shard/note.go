package shard

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

// note is what is kept beside the stream. The slot is never confirmed past the
// last mark of the note that is stored, so a slot that stands behind it was
// moved by somebody else, whatever happened in between.
type note struct {
	SystemID uint64 `json:"system_identifier,string"`
	Slot     string `json:"slot"`
	Timeline int32  `json:"timeline"`
	// Publication is the edition of the publication that the log up to the last
	// mark was sent by; empty when the caller knows none.
	Publication string `json:"publication"`
	// Deleted is how many messages were missing in the middle of the stream when
	// that was accepted.
	Deleted int      `json:"deleted"`
	Marks   []mark   `json:"marks"`
	Anchors []anchor `json:"anchors"`
	// Lost is what a session found to be lost behind the last mark.
	Lost *found `json:"lost,omitempty"`
}

// mark says: the log before End is dealt with, and its last event is Sequence,
// at Position.
type mark struct {
	End      ffstream.LSN      `json:"end"`
	Sequence uint64            `json:"sequence"`
	Position ffstream.Position `json:"position"`

	due   time.Time // when the slot may be confirmed to End; only of marks of this session
	noted bool      // a note that is stored has the mark
}

// event reports whether the mark's position is that of an event which the log tells.
// That of a gap's event has its sequence as index, see ffstream.GapPosition; an event
// that has too is not looked for, which tells less and never wrongly.
func (m *mark) event() bool { return m.Sequence > 0 && m.Position.Index != uint32(m.Sequence) }

// anchor says when a message was stored, at the earliest. One that is gone before
// its age was removed by somebody.
type anchor struct {
	Sequence uint64    `json:"sequence"`
	At       time.Time `json:"at"`
}

// anchorSteps is into how many parts anchors divide the stream's maximum age.
const anchorSteps = 16

func (n *note) last() mark {
	if len(n.Marks) == 0 {
		return mark{}
	}
	return n.Marks[len(n.Marks)-1]
}

func (n *note) clone() *note {
	c := *n
	c.Marks, c.Anchors = slices.Clone(n.Marks), slices.Clone(n.Anchors)
	return &c
}

// replaces reports whether the note of a session that begins says what an old one
// does not. One that has marks of messages which the broker forgot must be replaced
// before the stream has others in their places.
func (n *note) replaces(old *note) bool {
	return old == nil || old.Timeline != n.Timeline || old.Publication != n.Publication || len(n.Marks) < len(old.Marks)
}

func (n *note) encode() []byte {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // no field can fail
	}
	return b
}

// Noted reads from a stream's note how far the log is dealt with: every event of
// what committed before end is stored. The zero LSN stands for a note that is not
// there.
func Noted(data []byte) (end ffstream.LSN, err error) {
	n, err := decodeNote(data)
	if err != nil || n == nil {
		return 0, err
	}
	return n.last().End, nil
}

func decodeNote(b []byte) (*note, error) {
	if b == nil {
		return nil, nil
	}
	var n note
	if err := json.Unmarshal(b, &n); err != nil {
		return nil, fmt.Errorf("read note: %w", err)
	}
	for i := range n.Marks {
		n.Marks[i].noted = true
	}
	return &n, nil
}

// anchor notes that a was stored at its time or later.
func (n *note) anchor(a anchor, now time.Time, s *publish.State) {
	kept := n.Anchors[:0]
	for _, old := range n.Anchors {
		if old.Sequence >= s.First && (s.MaxAge == 0 || now.Sub(old.At) < s.MaxAge) {
			kept = append(kept, old)
		}
	}
	n.Anchors = kept
	if k := len(kept); a.Sequence < s.First || k > 0 && (s.MaxAge == 0 || kept[k-1].Sequence >= a.Sequence || a.At.Sub(kept[k-1].At) < s.MaxAge/anchorSteps) {
		return // where nothing ages, the first that is there tells of all
	}
	n.Anchors = append(n.Anchors, a)
}

// purged gives the greatest sequence that is gone although its age does not
// explain it.
func (n *note) purged(s *publish.State, now time.Time) (uint64, bool) {
	if s.Limited {
		return 0, false
	}
	for i := len(n.Anchors) - 1; i >= 0; i-- {
		a := n.Anchors[i]
		// Two clocks differ.
		young := s.MaxAge == 0 || now.Before(a.At.Add(s.MaxAge-s.MaxAge/anchorSteps-time.Minute))
		if a.Sequence < s.First && young {
			return a.Sequence, true
		}
	}
	return 0, false
}
