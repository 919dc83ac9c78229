package publish

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
)

const prefix = "ff"

func someEvent(n, size int) ffstream.Event {
	return ffstream.Event{
		ID:   ffstream.EventID{System: 1, Position: ffstream.Position{Commit: ffstream.LSN(n), Index: uint32(n)}},
		Type: ffstream.TypeTransitioned, To: ffstream.StateActive, Namespace: strings.Repeat("n", n%7), BlockingDetail: strings.Repeat("x", size),
	}
}

// model is gather without its cunning: whole transactions, and one that is open.
type model struct {
	complete [][]ffstream.Event
	open     []ffstream.Event
}

// whole is the naive answer to gather.whole.
func (m *model) whole(limit int) int {
	n := 0
	for _, tx := range m.complete {
		if n+len(tx) > limit {
			break
		}
		n += len(tx)
	}
	return n
}

// same checks that a gather holds what the model does.
func (m *model) same(t *rapid.T, g *gather) {
	var events []ffstream.Event
	multi := false
	for _, tx := range m.complete {
		events = append(events, tx...)
		multi = multi || len(tx) > 1
	}
	if g.complete != len(events) || g.open() != len(m.open) || len(g.ends) != len(m.complete) || g.multi != multi {
		t.Fatalf("%d complete in %d, %d open, multi %t, want %d in %d, %d, %t",
			g.complete, len(g.ends), g.open(), g.multi, len(events), len(m.complete), len(m.open), multi)
	}
	for _, limit := range []int{0, 1, 2, 3, 5, 8, 1000} {
		if got, want := g.whole(limit), m.whole(limit); got != want {
			t.Fatalf("%d events within %d, want %d", got, limit, want)
		}
	}
	size := 0
	for i, e := range append(events, m.open...) {
		got := g.event(i)
		size += len(got.subject) + len(got.id) + len(got.position) + len(got.body)
		if string(got.subject) != e.Subject(prefix) || string(got.id) != e.ID.String() || string(got.position) != e.ID.Position.String() ||
			string(got.body) != string(e.AppendJSON(nil)) {
			t.Fatalf("event %d: %s %s %s %s, want %s", i, got.subject, got.id, got.position, got.body, e.ID)
		}
	}
	if len(g.bytes) != size {
		t.Fatalf("%d bytes are held for events of %d", len(g.bytes), size)
	}
}

func TestGatherProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var g gather
		var m model
		number := 0
		add := func(t *rapid.T) {
			number++
			e := someEvent(number, rapid.IntRange(0, 50).Draw(t, "size"))
			g.add(&e, prefix)
			m.open = append(m.open, e)
		}
		commit := func(*rapid.T) {
			g.commit()
			if len(m.open) > 0 {
				m.complete, m.open = append(m.complete, m.open), nil
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add":    add,
			"commit": commit,
			"transactions": func(t *rapid.T) {
				for _, n := range rapid.SliceOfN(rapid.IntRange(0, 3), 0, 5).Draw(t, "events") {
					for range n {
						add(t)
					}
					commit(t)
				}
			},
			"drop": func(t *rapid.T) {
				k := rapid.IntRange(0, len(m.complete)).Draw(t, "transactions")
				n := 0
				for _, tx := range m.complete[:k] {
					n += len(tx)
				}
				g.drop(n)
				m.complete = m.complete[k:]
			},
			"abandon": func(*rapid.T) {
				g.abandon()
				m.open = nil
			},
			"": func(t *rapid.T) { m.same(t, &g) },
		})
	})
}

// TestGatherReuses: the steady state allocates nothing, and what a burst took is
// given back.
func TestGatherReuses(t *testing.T) {
	var g gather
	e := someEvent(1, 100)
	round := func() {
		for range 100 {
			g.add(&e, prefix)
			g.add(&e, prefix)
			g.commit()
		}
		g.drop(100)
		g.drop(100)
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
	large := someEvent(2, keepBytes)
	g.add(&large, prefix)
	g.commit()
	g.drop(1)
	if cap(g.bytes) > keepBytes {
		t.Errorf("%d bytes are kept", cap(g.bytes))
	}
}
