package publish_test

import (
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

func readNote(t *testing.T, s *publish.Stream) string {
	t.Helper()
	note, err := s.ReadNote(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return string(note)
}

// TestNote: what was written last is read, by whoever reads, and a process whose
// note was replaced by another's cannot replace that.
func TestNote(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	s := b.open(t)
	if note := readNote(t, s); note != "" {
		t.Errorf("a new stream has note %q", note)
	}
	if err := s.WriteNote(testContext(t), []byte("first")); err != nil {
		t.Fatal(err)
	}
	p := b.resume(t, s)
	mustStore(t, p, transaction(1, 2))
	for _, text := range []string{"second", "third"} {
		if err := p.Note([]byte(text)); err != nil || !p.Noting() {
			t.Fatalf("noting %t, %v", p.Noting(), err)
		}
		if err := p.AwaitNote(testContext(t)); err != nil || p.Noting() {
			t.Fatalf("noting %t, %v", p.Noting(), err)
		}
	}
	other := b.open(t)
	if note := readNote(t, other); note != "third" {
		t.Errorf("note %q, want the third", note)
	}
	if err := other.WriteNote(testContext(t), []byte("fourth")); err != nil {
		t.Fatal(err)
	}
	if err := p.Note([]byte("stale")); err != nil {
		t.Fatal(err)
	}
	if err := p.AwaitNote(testContext(t)); !errors.Is(err, publish.ErrAmbiguous) {
		t.Errorf("a stale note: %v", err)
	}
	if err := s.WriteNote(testContext(t), []byte("stale")); !errors.Is(err, publish.ErrAmbiguous) {
		t.Errorf("a stale note: %v", err)
	}
	if note := readNote(t, s); note != "fourth" {
		t.Errorf("note %q, want the fourth", note)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestNoteDeleted: a note that was deleted by hand is none, and can be written anew.
func TestNoteDeleted(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	s := b.open(t)
	if err := s.WriteNote(testContext(t), []byte("x")); err != nil {
		t.Fatal(err)
	}
	bucket, err := b.js.KeyValue(testContext(t), publish.Bucket(b.cfg.Stream))
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.Delete(testContext(t), "note"); err != nil {
		t.Fatal(err)
	}
	if note := readNote(t, s); note != "" {
		t.Errorf("note %q was deleted", note)
	}
	if err := s.WriteNote(testContext(t), []byte("y")); err != nil {
		t.Fatal(err)
	}
	if err := b.js.DeleteKeyValue(testContext(t), publish.Bucket(b.cfg.Stream)); err != nil {
		t.Fatal(err)
	}
	if note := readNote(t, b.open(t)); note != "" {
		t.Errorf("note %q in a new bucket", note)
	}
}

// TestPublishGap: the event stands behind the tail, once, and is the tail.
func TestPublishGap(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	s := b.open(t)
	mustStore(t, b.resume(t, s), transaction(1, 2))
	tail, err := s.ReadTail(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	gap := &ffstream.Gap{Reason: ffstream.GapSlotMoved, ResumesAt: 0x1000}
	e := &ffstream.Event{Type: ffstream.TypeGap, Gap: gap, ID: ffstream.EventID{System: system, Position: ffstream.GapPosition(gap.ResumesAt, tail.Sequence+1)}}
	after, err := s.PublishGap(testContext(t), tail, e)
	if err != nil {
		t.Fatal(err)
	}
	read, err := s.ReadTail(testContext(t))
	if err != nil || !read.Gap || !read.Stored || read.Position != e.ID.Position || read.Sequence != 3 || after.Position != read.Position || after.Sequence != 3 {
		t.Errorf("returned %+v, read %+v, %v", after, read, err)
	}
	if _, err := s.PublishGap(testContext(t), tail, e); !errors.Is(err, publish.ErrAmbiguous) {
		t.Errorf("behind a tail that was: %v", err)
	}
	if p, ok, err := s.ReadPosition(testContext(t), 2); err != nil || !ok || p.Index != 1 {
		t.Errorf("position of message 2: %v %t %v", p, ok, err)
	}
	if _, ok, err := s.ReadPosition(testContext(t), 9); err != nil || ok {
		t.Errorf("position of a message that is not there: %t %v", ok, err)
	}
}

// TestReadState tells what somebody else removed.
func TestReadState(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	s := b.open(t)
	mustStore(t, b.resume(t, s), transaction(1, 5))
	stream, err := b.js.Stream(testContext(t), b.cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(testContext(t), 3); err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(testContext(t), jetstream.WithPurgeSequence(2)); err != nil {
		t.Fatal(err)
	}
	if state, err := s.ReadState(testContext(t)); err != nil || state.First != 2 || state.Deleted != 1 || state.Limited {
		t.Errorf("state %+v, %v", state, err)
	}
}
