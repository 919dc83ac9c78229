package shard

import (
	"math"
	"testing"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// TestProbed: the rate follows what the server writes, and the runway is what the
// safe bytes last at it.
func TestProbed(t *testing.T) {
	t.Parallel()
	var p Probed
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	look := func(end ffstream.LSN) {
		now = now.Add(10 * time.Second)
		p.take(SlotHealth{Exists: true, End: end, Restart: 500, SafeWAL: ffstream.Some(int64(6000))}, now)
	}
	if _, ok := p.Runway(); ok {
		t.Error("a runway before the first look")
	}
	look(1000)
	if _, ok := p.Runway(); ok || p.Retained() != 500 {
		t.Errorf("a runway after one look, or %d bytes retained", p.Retained())
	}
	look(2000)
	if d, ok := p.Runway(); !ok || d != time.Minute {
		t.Errorf("runway %s, want a minute at 100 bytes a second", d)
	}
	for range 1000 {
		look(p.End + 5000)
	}
	if math.Abs(p.WALRate-500) > 1 {
		t.Errorf("the rate is %f after hours at 500 bytes a second", p.WALRate)
	}
	look(10) // another log
	if p.WALRate < 0 || p.Retained() != 0 {
		t.Errorf("a log that begins anew: %f, %d", p.WALRate, p.Retained())
	}
}

// TestPulse: only a message of this session is measured, from its writing to the
// moment when everything before it is stored.
func TestPulse(t *testing.T) {
	t.Parallel()
	p, now := newPulse(), time.Now()
	message := func(prefix, content string) *pgoutput.LogicalMessage {
		return &pgoutput.LogicalMessage{LSN: 100, Prefix: []byte(prefix), Content: []byte(content)}
	}
	foreign := newPulse()
	for _, m := range []*pgoutput.LogicalMessage{
		message("ffstream/b", p.content(now)), message("ffstream/a", foreign.content(now)), message("ffstream/a", ""), message("ffstream/a", "x "+p.session),
	} {
		p.met(m, "a")
		if _, ok := p.beaten(1000, now); ok {
			t.Errorf("%s %s is taken for a heartbeat", m.Prefix, m.Content)
		}
	}
	p.met(message("ffstream/a", p.content(now)), "a")
	if _, ok := p.beaten(99, now); ok {
		t.Error("it is measured before what stands in front of it is stored")
	}
	if d, ok := p.beaten(100, now.Add(time.Second)); !ok || d != time.Second {
		t.Errorf("delay %s, %t", d, ok)
	}
	if _, ok := p.beaten(100, now); ok {
		t.Error("one heartbeat is measured twice")
	}
}
