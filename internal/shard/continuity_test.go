package shard

import (
	"errors"
	"testing"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
)

// healthy is a sighting with nothing wrong: ten messages, the last at 0x100, and
// an idle log that was dealt with up to 0x200.
func healthy() *sighting {
	at := func(lsn ffstream.LSN) ffstream.Position { return ffstream.Position{Commit: lsn} }
	now := time.Unix(1e9, 0)
	return &sighting{
		slot: repl.Slot{Exists: true, Confirmed: 0x200}, system: repl.System{ID: 1, Timeline: 1, End: 0x300}, now: now,
		tail: publish.Tail{Sequence: 10, Stored: true, Position: at(0x100), State: publish.State{First: 1, MaxAge: time.Hour}},
		note: &note{
			SystemID: 1, Timeline: 1, Publication: "b",
			Marks:   []mark{{End: 0x180, Sequence: 9, Position: at(0xF0)}, {End: 0x200, Sequence: 10, Position: at(0x100)}},
			Anchors: []anchor{{Sequence: 3, At: now.Add(-50 * time.Minute)}, {Sequence: 10, At: now.Add(-time.Minute)}},
		},
		noted: at(0x100), noteHas: true, lineage: []string{"b"},
	}
}

// TestJudge: each breach has its reason, and what only looks like one has none.
func TestJudge(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(s *sighting)
		reason string // empty: none
		extra  uint64
		refill bool
	}{
		"nothing":                         {func(*sighting) {}, "", 0, false},
		"Postgres crashed":                {func(s *sighting) { s.slot.Confirmed = 0x20 }, "", 0, false},
		"first start":                     {func(s *sighting) { s.slotMade, s.streamMade, s.note, s.tail = true, true, nil, publish.Tail{} }, "", 0, false},
		"first start, stream made before": {func(s *sighting) { s.slotMade, s.note, s.tail = true, nil, publish.Tail{} }, "", 0, false},
		"died before the first note":      {func(s *sighting) { s.note, s.tail = nil, publish.Tail{} }, "", 0, false},
		"slot dropped":                    {func(s *sighting) { s.slotMade = true }, ffstream.GapSlotMissing, 0, false},
		"slot dropped before the first event": {func(s *sighting) {
			s.slotMade, s.tail, s.note.Marks, s.noteHas = true, publish.Tail{}, []mark{{End: 0x80}}, false
		}, ffstream.GapSlotMissing, 0, false},
		"slot moved":                  {func(s *sighting) { s.slot.Confirmed = 0x201 }, ffstream.GapSlotMoved, 0, false},
		"slot at the tail, note lost": {func(s *sighting) { s.note, s.slot.Confirmed = nil, 0x100 }, "", 0, false},
		"note lost":                   {func(s *sighting) { s.note = nil }, ffstream.GapNoteMissing, 0, false},
		"stream made again":           {func(s *sighting) { s.tail, s.noteHas = publish.Tail{}, false }, ffstream.GapStreamForgot, 0, true},
		"stream deleted":              {func(s *sighting) { s.tail, s.noteHas, s.streamMade = publish.Tail{}, false, true }, ffstream.GapStreamMissing, 0, false},
		"broker forgot, slot has it": {func(s *sighting) {
			s.tail.Sequence, s.tail.Position.Commit, s.noteHas, s.slot.Confirmed = 9, 0xF0, false, 0x180
		}, "", 0, true},
		"broker forgot, slot let it go": {func(s *sighting) {
			s.tail.Sequence, s.tail.Position.Commit, s.noteHas, s.slot.Confirmed = 9, 0xF0, false, 0x181
		}, ffstream.GapStreamForgot, 0, true},
		"a quiet month": {func(s *sighting) {
			s.tail.Stored, s.tail.State.First, s.noteHas, s.now = false, 11, false, s.now.Add(30*24*time.Hour)
		}, "", 0, false},
		"aged out since the note": {func(s *sighting) {
			s.tail.Sequence, s.tail.Stored, s.tail.State.First, s.noteHas, s.now = 14, false, 15, false, s.now.Add(30*24*time.Hour)
		}, "", 4, false},
		"aged in part":                      {func(s *sighting) { s.tail.State.First = 3 }, "", 0, false},
		"purged":                            {func(s *sighting) { s.tail.Stored, s.tail.State.First, s.noteHas = false, 11, false }, ffstream.GapStreamPurged, 0, false},
		"purged in part":                    {func(s *sighting) { s.tail.State.First = 4 }, ffstream.GapStreamPurged, 0, false},
		"a limit dropped the first":         {func(s *sighting) { s.tail.State.First, s.tail.State.Limited = 4, true }, "", 0, false},
		"message deleted":                   {func(s *sighting) { s.tail.State.Deleted = 1 }, ffstream.GapStreamEdited, 0, false},
		"message deleted and that accepted": {func(s *sighting) { s.tail.State.Deleted, s.note.Deleted = 1, 1 }, "", 0, false},
		"stream replaced":                   {func(s *sighting) { s.noted.Index++ }, ffstream.GapStreamEdited, 0, false},
		"publication edited":                {func(s *sighting) { s.lineage = []string{"c"} }, ffstream.GapPublicationEdited, 0, false},
		"publication extended":              {func(s *sighting) { s.lineage = []string{"a", "b", "c"} }, "", 0, false},
		"promoted with everything":          {func(s *sighting) { s.system.Timeline, s.fork, s.forked, s.slot.Confirmed = 2, 0x1F0, true, 0x180 }, "", 0, false},
		"promoted without the latest":       {func(s *sighting) { s.system.Timeline, s.fork, s.forked = 2, 0x100, true }, "timeline", 0, false},
		"slot behind the fork":              {func(s *sighting) { s.system.Timeline, s.fork, s.forked = 2, 0x1F0, true }, ffstream.GapSlotMoved, 0, false},
		"another history":                   {func(s *sighting) { s.system.Timeline = 2 }, "timeline", 0, false},
		"behind a gap": {func(s *sighting) {
			s.tail.Gap, s.tail.Position, s.tail.Sequence, s.note.Marks, s.slot.Confirmed = true, ffstream.GapPosition(0x400, 11), 11, nil, 0x400
		}, "", 0, false},
		"moved behind a gap": {func(s *sighting) {
			s.tail.Gap, s.tail.Position, s.tail.Sequence, s.slot.Confirmed = true, ffstream.GapPosition(0x400, 11), 11, 0x401
		}, ffstream.GapSlotMoved, 0, false},
	} {
		s := healthy()
		tc.change(s)
		c, l := s.judge()
		reason := ""
		if l != nil {
			reason = l.reason
		}
		if reason != tc.reason || c.extra != tc.extra || c.refill != tc.refill && l == nil {
			t.Errorf("%s: reason %q, %d extra, refill %t; want %q, %d, %t", name, reason, c.extra, c.refill, tc.reason, tc.extra, tc.refill)
		}
	}
}

// TestAccepting: what a session found in the log is a loss that an operator can
// accept, whatever both ends show, and then the slot is made anew; but no session
// refuses to begin for it.
func TestAccepting(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(s *sighting)
		reason string
		anew   bool
	}{
		"nothing":          {func(s *sighting) { s.note.Lost = nil }, "", false},
		"found":            {func(*sighting) {}, ffstream.GapIdentityLost, true},
		"and a breach":     {func(s *sighting) { s.tail.State.Deleted = 1 }, ffstream.GapStreamEdited, true},
		"a breach alone":   {func(s *sighting) { s.tail.State.Deleted, s.note.Lost = 1, nil }, ffstream.GapStreamEdited, false},
		"ahead of the log": {func(s *sighting) { s.slotMade, s.system.End = true, 0x100 }, "behind 0000000000000100/0000", false},
		"and no way on":    {func(s *sighting) { s.system.Timeline = 2 }, "timeline", false},
	} {
		s := healthy()
		s.note.Lost = &found{Reason: ffstream.GapIdentityLost, What: "a leaf"}
		var err error
		if s.note, err = decodeNote(s.note.encode()); err != nil {
			t.Fatal(err)
		}
		tc.change(s)
		l, reason, anew := s.accepting(), "", false
		if l != nil {
			reason, anew = l.reason, l.anew
		}
		if reason != tc.reason || anew != tc.anew {
			t.Errorf("%s: reason %q, anew %t; want %q, %t", name, reason, anew, tc.reason, tc.anew)
		}
		if _, l := s.judge(); name == "found" && l != nil {
			t.Errorf("a session does not begin: %s", l.what)
		}
	}
}

// TestGap: a gap tells the last event that was stored before it, and resumes behind
// what is stored, where the slot sends what the stream lacks.
func TestGap(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change  func(s *sighting)
		after   uint64 // sequence; 0: not known
		resumes ffstream.LSN
	}{
		"the slot is ahead":             {func(s *sighting) { s.slot.Confirmed = 0x280 }, 10, 0x280},
		"Postgres crashed, tail stored": {func(s *sighting) { s.slot.Confirmed, s.note.Marks = 0x20, s.note.Marks[:1] }, 10, 0x180},
		"Postgres crashed, tail alone":  {func(s *sighting) { s.slot.Confirmed, s.note = 0x20, nil }, 10, 0x108},
		"Postgres crashed, tail a snapshot": {func(s *sighting) {
			s.slot.Confirmed, s.note, s.tail.Position = 0x20, nil, ffstream.WatermarkPosition(0x108, 3)
		}, 10, 0x108},
		"Postgres crashed, all purged":        {func(s *sighting) { s.slot.Confirmed, s.tail.Stored = 0x20, false }, 10, 0x200},
		"the broker forgot":                   {func(s *sighting) { s.tail.Sequence, s.tail.Position.Commit = 9, 0xF0 }, 9, 0x200},
		"stream deleted":                      {func(s *sighting) { s.tail = publish.Tail{} }, 10, 0x200},
		"stream deleted, slot held back":      {func(s *sighting) { s.tail, s.slot.Confirmed = publish.Tail{}, 0xF8 }, 9, 0xF8},
		"stream deleted, slot has everything": {func(s *sighting) { s.tail, s.slot.Confirmed = publish.Tail{}, 0x20 }, 0, 0x20},
		"nothing known":                       {func(s *sighting) { s.tail, s.note = publish.Tail{}, nil }, 0, 0x200},
	} {
		s := healthy()
		tc.change(s)
		g := s.gap(&loss{reason: "x"})
		if g.AfterSequence != tc.after || g.After.OK != (tc.after > 0) || g.ResumesAt != tc.resumes {
			t.Errorf("%s: behind %d, %v, resumes at %s; want %d, %s", name, g.AfterSequence, g.After, g.ResumesAt, tc.after, tc.resumes)
		}
		if at := ffstream.GapPosition(g.ResumesAt, s.tail.Sequence+1); s.tail.Stored && at.Compare(s.tail.Position) <= 0 {
			t.Errorf("%s: the gap's event at %s is not behind the tail at %s", name, at, s.tail.Position)
		}
	}
}

// TestCourseExpects: the commit that the stream ends with is looked for wherever the
// log must have it, also when the event has aged out and the note alone tells of it;
// a gap's event stands at no commit.
func TestCourseExpects(t *testing.T) {
	t.Parallel()
	aged := func(s *sighting) {
		s.tail.Stored, s.tail.State.First, s.noteHas, s.now = false, 11, false, s.now.Add(30*24*time.Hour)
	}
	for name, tc := range map[string]struct {
		change func(s *sighting)
		expect ffstream.LSN
		behind bool
	}{
		"everything was confirmed":   {func(*sighting) {}, 0, false},
		"Postgres crashed":           {func(s *sighting) { s.slot.Confirmed = 0x100 }, 0x100, false},
		"restored to before":         {func(s *sighting) { s.slot.Confirmed, s.system.End = 0x80, 0x100 }, 0x100, true},
		"aged out":                   {aged, 0, false},
		"aged out, Postgres crashed": {func(s *sighting) { aged(s); s.slot.Confirmed = 0x80 }, 0x100, false},
		"aged out, restored":         {func(s *sighting) { aged(s); s.slot.Confirmed, s.system.End = 0x80, 0x90 }, 0x100, true},
		"nothing was ever stored": {func(s *sighting) {
			s.tail, s.note.Marks, s.note.Anchors, s.noteHas = publish.Tail{}, []mark{{End: 0x200}}, nil, false
		}, 0, false},
		"a gap's event": {func(s *sighting) { s.tail.Gap, s.slot.Confirmed = true, 0x80 }, 0, false},
		"a gap's event has aged out": {func(s *sighting) {
			aged(s)
			s.note.Marks, s.slot.Confirmed = []mark{{End: 0x100, Sequence: 10, Position: ffstream.GapPosition(0x100, 10)}, {End: 0x200, Sequence: 10, Position: ffstream.GapPosition(0x100, 10)}}, 0x80
		}, 0, false},
	} {
		sight := healthy()
		tc.change(sight)
		c, l := sight.judge()
		if l != nil {
			t.Errorf("%s: %s", name, l.what)
			continue
		}
		if got := c.expects(sight.slot.Confirmed); got != tc.expect {
			t.Errorf("%s: expects a commit at %s, want %s", name, got, tc.expect)
		}
		s := New(nil, Config{})
		_, err := s.plan(&ends{sight: *sight})
		if tc.behind { // at the first look another process may just have published
			if errors.Is(err, errUnsure) {
				_, err = s.plan(&ends{sight: *sight})
			}
			if !errors.Is(err, ErrGap) {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNoteRoundTrip: a note is read as it was written.
func TestNoteRoundTrip(t *testing.T) {
	t.Parallel()
	n := healthy().note
	n.Slot = "s"
	again, err := decodeNote(n.encode())
	if err != nil || again.last().End != 0x200 || again.last().Position != n.last().Position || len(again.Marks) != 2 || !again.Anchors[1].At.Equal(n.Anchors[1].At) || again.SystemID != 1 || again.Publication != "b" {
		t.Errorf("read %+v, %v", again, err)
	}
	if _, err := decodeNote([]byte("{")); err == nil {
		t.Error("half a note was read")
	}
	if none, err := decodeNote(nil); none != nil || err != nil {
		t.Errorf("no note is %+v, %v", none, err)
	}
}
