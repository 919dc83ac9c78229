package publish

import "github.com/ffstream/ffstream"

// gather holds encoded events until they are sent: whole transactions, and
// behind them the events of the one that is being added. Its memory is bounded
// by what Publisher lets in.
type gather struct {
	limit    int // bytes that a body may have; 0: any
	bytes    []byte
	events   []span
	ends     []int // for each complete transaction, the number of events up to its end
	complete int   // events of complete transactions
	multi    bool  // a complete transaction has more than one event
}

// span locates one event's parts in bytes: subject, id, position and body stand
// behind one another from start.
type span struct{ start, subject, id, position, body int }

// encoded is one event as it goes on the wire. It aliases the gather.
type encoded struct{ subject, id, position, body []byte }

func (g *gather) add(e *ffstream.Event, prefix string) {
	s := span{start: len(g.bytes)}
	g.bytes = e.AppendSubject(g.bytes, prefix)
	s.subject = len(g.bytes)
	g.bytes = e.ID.AppendText(g.bytes)
	s.id = len(g.bytes)
	g.bytes = e.ID.Position.AppendText(g.bytes)
	s.position = len(g.bytes)
	g.bytes = e.AppendJSON(g.bytes)
	if g.limit > 0 && len(g.bytes)-s.position > g.limit {
		// What is dropped is marked; the event itself is never dropped.
		for t := *e; len(g.bytes)-s.position > g.limit && t.Truncate(); {
			g.bytes = t.AppendJSON(g.bytes[:s.position])
		}
	}
	s.body = len(g.bytes)
	g.events = append(g.events, s)
}

// open is the number of events of the transaction that is being added.
func (g *gather) open() int { return len(g.events) - g.complete }

func (g *gather) commit() {
	n := g.open()
	if n == 0 {
		return
	}
	g.complete = len(g.events)
	g.ends = append(g.ends, g.complete)
	g.multi = g.multi || n > 1
}

// part lets the events of a transaction that is too large for a batch go as they
// come, each by itself.
func (g *gather) part() {
	for g.complete < len(g.events) {
		g.complete++
		g.ends = append(g.ends, g.complete)
	}
}

// whole is the greatest number of events, at most limit, that whole
// transactions make. No transaction has more than limit events.
func (g *gather) whole(limit int) int {
	n := 0
	for _, end := range g.ends {
		if end > limit {
			break
		}
		n = end
	}
	return n
}

func (g *gather) event(i int) encoded {
	s := g.events[i]
	return encoded{g.bytes[s.start:s.subject], g.bytes[s.subject:s.id], g.bytes[s.id:s.position], g.bytes[s.position:s.body]}
}

// drop forgets the first n events, none of them of the transaction that is being
// added.
func (g *gather) drop(n int) {
	if n == len(g.events) {
		if cap(g.bytes) > keepBytes {
			g.bytes = nil
		}
		g.bytes, g.events, g.ends, g.complete, g.multi = g.bytes[:0], g.events[:0], g.ends[:0], 0, false
		return
	}
	at := g.events[n].start
	g.bytes = g.bytes[:copy(g.bytes, g.bytes[at:])]
	g.events = g.events[:copy(g.events, g.events[n:])]
	for i := range g.events {
		s := &g.events[i]
		s.start, s.subject, s.id, s.position, s.body = s.start-at, s.subject-at, s.id-at, s.position-at, s.body-at
	}
	g.complete -= n
	ends, previous := g.ends[:0], 0
	g.multi = false
	for _, end := range g.ends {
		if end <= n {
			continue
		}
		ends = append(ends, end-n)
		g.multi = g.multi || end-n-previous > 1
		previous = end - n
	}
	g.ends = ends
}

// abandon drops the events of the transaction that was not committed.
func (g *gather) abandon() {
	if g.open() == 0 {
		return
	}
	g.bytes = g.bytes[:g.events[g.complete].start]
	g.events = g.events[:g.complete]
}

// keepBytes is the largest buffer that is kept for reuse.
const keepBytes = 4 << 20
