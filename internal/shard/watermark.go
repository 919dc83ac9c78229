package shard

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// chunk is what goroutine E read between two watermarks.
type chunk struct {
	number   uint64
	events   []ffstream.Event
	at       time.Time
	progress ffstream.Backfill // before the chunk, but that After is behind it
	// mark: the progress is published even if no event is.
	mark bool
}

// stored is what became of a chunk at its high watermark. The progress is in the
// stream, when anything is.
type stored struct {
	progress ffstream.Backfill
	void     bool   // nothing was published, and the chunk is to be read again
	sequence uint64 // in the stream, of the progress; 0: nothing was published
}

// window is what the stream told between a chunk's two watermarks. It belongs to
// goroutine B.
type window struct {
	session string
	number  uint64 // of the chunk whose low watermark was met last; 0: none
	open    bool
	touched map[ffstream.ExecutionID]struct{}
	chunks  chan chunk  // from E, which sends before it writes the high watermark
	stored  chan stored // to E, which waits for it
	lows    chan low    // to E, which may look or not; it has room for the latest
}

// low is a low watermark that was met: the sequence of the last event before it.
type low struct{ number, sequence uint64 }

// maxTouched bounds the executions of a window. A transaction of more voids the
// chunk, which is then read again.
const maxTouched = 100_000

func newWindow(session string) window {
	return window{session: session, chunks: make(chan chunk, 1), stored: make(chan stored, 1), lows: make(chan low, 1)}
}

// WatermarkPrefix is the prefix of a slot's watermarks.
func WatermarkPrefix(slot string) string { return HeartbeatPrefix(slot) + "/backfill" }

const (
	lowWatermark  = "low"
	highWatermark = "high"
	// voidWatermark settles what became of a chunk whose high watermark may or may
	// not have been written: if it was not met before this, the chunk is void.
	voidWatermark = "void"
)

// watermark is a logical message's content.
func (w *window) watermark(kind string, number uint64) string {
	return kind + " " + strconv.FormatUint(number, 10) + " " + w.session
}

// parse reads a watermark of this session; others', and what the slot repeats,
// are none.
func (w *window) parse(m *pgoutput.LogicalMessage, slot string) (kind string, number uint64, ok bool) {
	if string(m.Prefix) != WatermarkPrefix(slot) {
		return "", 0, false
	}
	fields := strings.Fields(string(m.Content))
	if len(fields) != 3 || fields[2] != w.session {
		return "", 0, false
	}
	number, err := strconv.ParseUint(fields[1], 10, 64)
	return fields[0], number, err == nil
}

// begin opens the window of a chunk.
func (w *window) begin(number uint64) {
	w.number, w.open, w.touched = number, true, make(map[ffstream.ExecutionID]struct{})
}

// awaitLow gives the sequence of the last event before a chunk's low watermark. It
// is E's.
func (w *window) awaitLow(ctx context.Context, number uint64) (uint64, error) {
	for {
		select {
		case l := <-w.lows:
			if l.number == number {
				return l.sequence, nil
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// see notes an event of a transaction.
func (w *window) see(e *ffstream.Event) {
	if !w.open {
		return
	}
	if e.Type == ffstream.TypeTruncated || len(w.touched) >= maxTouched {
		w.open, w.touched = false, nil // the chunk is void
		return
	}
	w.touched[e.ExecutionID] = struct{}{}
}

// supersedes reports whether the stream told of an execution since the low
// watermark. What was read may be older than that.
func (w *window) supersedes(id ffstream.ExecutionID) bool {
	_, touched := w.touched[id]
	return touched
}

// mark takes a watermark out of the log. At the high one the chunk is published,
// in its place in the sequence.
func (ss *session) mark(ctx context.Context, m *pgoutput.LogicalMessage) error {
	w := &ss.window
	kind, number, ok := w.parse(m, ss.shard.cfg.Source.Slot)
	switch {
	case !ok:
		return ss.strange(m)
	case kind == lowWatermark:
		w.begin(number)
		select {
		case <-w.lows: // that nobody looked at
		default:
		}
		w.lows <- low{number, ss.pub.Sequence()}
		return nil
	}
	var c chunk
	select {
	case c = <-w.chunks:
	default: // it was settled before, or E has ended
		return nil
	}
	open := w.open && w.number == number && c.number == number
	w.open = false
	if kind != highWatermark || !open {
		w.stored <- stored{progress: c.progress, void: true}
		return nil
	}
	result, err := ss.publishChunk(ctx, &c, ffstream.LSN(m.LSN))
	if err != nil {
		return err
	}
	w.touched = nil
	w.stored <- result
	return nil
}

// publishChunk adds what the stream has no newer of, and behind it how far that
// is, as one transaction.
func (ss *session) publishChunk(ctx context.Context, c *chunk, end ffstream.LSN) (stored, error) {
	p := c.progress
	index := uint32(0)
	add := func(e *ffstream.Event) error {
		e.ID = ffstream.EventID{System: ss.source.System().ID, Position: ffstream.WatermarkPosition(end, index)}
		e.Source, e.Time = "/ffstream/"+ss.shard.cfg.Source.Slot, c.at
		index++
		ss.norm.Record(e)
		return ss.pub.Add(ctx, e)
	}
	for i := range c.events {
		e := &c.events[i]
		p.Executions++
		switch {
		case e.Snapshot == nil: // the filter left it out
			continue
		case ss.window.supersedes(e.ExecutionID):
			p.Superseded++
			continue
		}
		p.Published++
		if err := add(e); err != nil {
			return stored{}, fmt.Errorf("publish snapshot of %s: %w", e.ExecutionID, err)
		}
	}
	p.Chunks++
	if index == 0 && !c.mark {
		return stored{progress: p}, nil
	}
	if err := add(&ffstream.Event{Type: ffstream.TypeBackfill, Backfill: &p, Tx: ffstream.Tx{Last: true}}); err != nil {
		return stored{}, fmt.Errorf("publish progress of backfill %s: %w", p.Run, err)
	}
	ss.position = ffstream.WatermarkPosition(end, index-1)
	ss.snapshots += uint64(index - 1)
	return stored{progress: p, sequence: ss.pub.Sequence()}, ss.pub.Commit(ctx)
}

// strange looks at a logical message that is no watermark of this session. While
// events that have aged out are counted off, a high watermark of another makes the
// count worthless: what was published there is gone too.
func (ss *session) strange(m *pgoutput.LogicalMessage) error {
	if ss.extra == 0 || string(m.Prefix) != WatermarkPrefix(ss.shard.cfg.Source.Slot) || !strings.HasPrefix(string(m.Content), highWatermark) {
		return nil
	}
	return ss.uncounted(ffstream.LSN(m.LSN), "a backfill published some of the last")
}

// uncounted is the loss of a session that cannot count the events which have aged
// out of the stream.
func (ss *session) uncounted(at ffstream.LSN, why string) error {
	g := &sighting{note: &ss.journal.note}
	g.slot.Confirmed = at
	l := &loss{reason: ffstream.GapStreamForgot, what: "the stream's messages have aged out while the service was down, and how many there were is not known: " + why, restore: "restore the stream"}
	return g.err(l, ss.shard.cfg.Sink.Stream, ss.shard.cfg.Source.Slot)
}
