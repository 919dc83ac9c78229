package shard

import (
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/repl"
)

// model is one slot, one stream and the processes between them, with everything
// that is decided decided by the code under test: ledger, journal and judge. What
// is played is what servers and networks do to them.
type model struct {
	t   *rapid.T
	now time.Time

	// Postgres.
	log       []commit
	end       ffstream.LSN
	truth     []ffstream.Position        // every event that was committed, in order
	confirmed ffstream.LSN               // of the slot
	persisted ffstream.LSN               // what a crash leaves of it
	hostile   bool                       // somebody moved the slot
	chunks    map[ffstream.Position]bool // of backfills

	// The broker.
	stored   []ffstream.Position // ever
	first    uint64              // sequence of the first message that has not aged out
	note     []byte
	revision uint64
	wire     []sending // on their way, of any process, in order for each
	history  []memory

	wait    time.Duration // holdback
	session *modelSession
	lost    bool // a session found a loss
}

type commit struct {
	lsn, end ffstream.LSN
	events   uint32
	by       *modelSession // a high watermark of this session; nil: a transaction
}

// memory is what a broker that loses its power may come back with.
type memory struct {
	at       time.Time
	stored   int
	note     []byte
	revision uint64
}

// sending is a message or, with note, a note.
type sending struct {
	from     *modelSession
	expect   uint64            // last sequence, or revision
	behind   ffstream.Position // the message before it; zero: the session's first names none
	position ffstream.Position
	note     []byte
}

type modelSession struct {
	ledger   ledger
	journal  *journal
	position ffstream.Position
	skip     ffstream.Position
	extra    uint64
	last     ffstream.Position // sent
	next     int               // of log
	sent     uint64
	acked    uint64
	revision uint64
	noting   bool
	failed   bool
}

func newModel(t *rapid.T, wait time.Duration) *model {
	m := &model{t: t, now: time.Unix(1e9, 0), end: 0x1000, confirmed: 0x1000, persisted: 0x1000, first: 1, wait: wait, chunks: map[ffstream.Position]bool{}}
	m.start() // the service makes the slot, and notes it
	m.remember()
	return m
}

func (m *model) remember() {
	m.history = append(m.history, memory{m.now, len(m.stored), m.note, m.revision})
}

// commit adds a transaction to the log, and a little that is none.
func (m *model) commit(events uint32) {
	c := commit{lsn: m.end + 8, end: m.end + 24, events: events}
	m.log = append(m.log, c)
	m.end = c.end + 8
	for i := range events {
		m.truth = append(m.truth, ffstream.Position{Commit: c.lsn, Index: i})
	}
}

func (m *model) sighting() *sighting {
	s := &sighting{
		slot: repl.Slot{Exists: true, Confirmed: m.confirmed}, system: repl.System{ID: 1, Timeline: 1, End: m.end}, now: m.now,
		tail: publish.Tail{Sequence: uint64(len(m.stored)), State: publish.State{First: m.first, MaxAge: time.Minute}},
	}
	if n := uint64(len(m.stored)); n >= m.first {
		s.tail.Stored, s.tail.Position = true, m.stored[n-1]
	}
	var err error
	if s.note, err = decodeNote(m.note); err != nil {
		m.t.Fatal(err)
	}
	if s.note != nil {
		if last := s.note.last().Sequence; last >= m.first && last <= uint64(len(m.stored)) && last > 0 {
			s.noted, s.noteHas = m.stored[last-1], true
		}
	}
	return s
}

// start begins a session as Shard.session does.
func (m *model) start() {
	if m.session != nil || m.lost {
		return
	}
	g := m.sighting()
	way, l := g.judge()
	missing := m.missing()
	if l != nil {
		if !m.hostile {
			m.t.Fatalf("false alarm: %s: slot %s, %d stored, first %d, note %s", l.what, m.confirmed, len(m.stored), m.first, m.note)
		}
		m.lost = true
		return
	}
	if missing {
		m.t.Fatalf("a loss went unnoticed: slot %s, %d stored, note %s", m.confirmed, len(m.stored), m.note)
	}
	n := (&Shard{}).newNote(g, way.marks)
	s := &modelSession{position: way.skip, skip: way.skip, extra: way.extra, sent: g.tail.Sequence, acked: g.tail.Sequence, revision: m.revision}
	if n.replaces(g.note) {
		m.note = n.encode()
		m.revision++
		s.revision = m.revision
	}
	s.journal = newJournal(n, g.tail.Sequence, g.tail.State, m.wait, m.now)
	s.ledger.acked = s.acked
	s.next = slices.IndexFunc(m.log, func(c commit) bool { return c.lsn >= m.confirmed })
	if s.next < 0 {
		s.next = len(m.log)
	}
	m.session = s
}

// missing: the slot sends no longer what the stream has not.
func (m *model) missing() bool {
	n := len(m.told())
	return n < len(m.truth) && m.truth[n].Commit < m.confirmed
}

// told is what is stored without what backfills added, which no slot repeats.
func (m *model) told() []ffstream.Position {
	return slices.DeleteFunc(slices.Clone(m.stored), func(p ffstream.Position) bool { return m.chunks[p] })
}

// backfill writes a high watermark, at which this session publishes one chunk.
func (m *model) backfill() {
	if m.session != nil {
		m.commit(0)
		c := &m.log[len(m.log)-1]
		c.by = m.session
		m.chunks[ffstream.WatermarkPosition(c.end, 0)] = true
	}
}

// read takes the next commit from the log, or a keepalive at its end.
func (m *model) read() {
	s := m.session
	if s == nil {
		return
	}
	if s.next == len(m.log) {
		s.settle(m.end)
		return
	}
	c := m.log[s.next]
	s.next++
	if c.by == s {
		m.send(ffstream.WatermarkPosition(c.end, 0))
	}
	for i := range c.events {
		p := ffstream.Position{Commit: c.lsn, Index: i}
		if p.Compare(s.skip) <= 0 {
			continue
		}
		if s.extra > 0 {
			s.position = p
			s.extra--
			continue
		}
		m.send(p)
	}
	s.settle(c.end)
}

func (m *model) send(p ffstream.Position) {
	s := m.session
	m.wire = append(m.wire, sending{from: s, expect: s.sent, behind: s.last, position: p})
	s.position, s.last = p, p
	s.sent++
}

func (s *modelSession) settle(end ffstream.LSN) {
	if s.extra == 0 && end > s.skip.Commit {
		s.ledger.commit(entry{sequence: s.sent, position: s.position, end: end})
	}
}

// deliver lets the broker take what was sent first by one of the senders.
func (m *model) deliver(i int) {
	if len(m.wire) == 0 {
		return
	}
	from := m.wire[i%len(m.wire)].from
	i = slices.IndexFunc(m.wire, func(x sending) bool { return x.from == from })
	x := m.wire[i]
	m.wire = slices.Delete(m.wire, i, i+1)
	var ok bool
	if x.note != nil {
		if ok = x.expect == m.revision; ok {
			m.note, m.revision = x.note, m.revision+1
			from.revision, from.noting = m.revision, false
		}
	} else if n := len(m.stored); x.expect == uint64(n) && (x.behind.IsZero() || n > 0 && m.stored[n-1] == x.behind) {
		ok = true
		m.stored = append(m.stored, x.position)
		from.acked = uint64(len(m.stored))
	}
	if !ok {
		from.failed = true
	}
	m.remember()
}

// drop loses a message, which those behind it do not survive.
func (m *model) drop(i int) {
	if len(m.wire) > 0 {
		i %= len(m.wire)
		m.wire[i].from.failed = true
		m.wire = slices.Delete(m.wire, i, i+1)
	}
}

// confirm is session.confirm.
func (m *model) confirm() {
	s := m.session
	if s == nil {
		return
	}
	if s.failed {
		m.session = nil
		return
	}
	s.ledger.ack(s.acked)
	if s.journal.sent && !s.noting {
		s.journal.stored(m.now)
	}
	if data := s.journal.write(s.ledger.done, m.now, false); data != nil {
		m.wire = append(m.wire, sending{from: s, expect: s.revision, note: data})
		s.noting = true
	}
	m.confirmed = max(m.confirmed, s.journal.ripe(s.ledger.done.end, m.now))
}

// forget takes the broker back to what it held not longer ago than a time, the
// note too when both were lost.
func (m *model) forget(i int, most time.Duration, both bool) {
	young := slices.IndexFunc(m.history, func(x memory) bool { return m.now.Sub(x.at) < most })
	if young < 0 {
		return
	}
	x := m.history[young+i%(len(m.history)-young)]
	m.stored = m.stored[:x.stored]
	if both {
		m.note, m.revision = x.note, x.revision
	}
	m.first = min(m.first, uint64(x.stored)+1)
	m.session = nil // it lost its connection; what it sent may come later
	m.history = slices.DeleteFunc(m.history, func(y memory) bool { return y.at.After(x.at) })
	m.remember()
}

// age lets messages go that are older than max_age.
func (m *model) age(t *rapid.T) {
	m.now = m.now.Add(2 * time.Minute)
	m.first = rapid.Uint64Range(m.first, max(m.first, uint64(len(m.stored))+1)).Draw(t, "first")
}

func (m *model) check() {
	for i, p := range m.told() {
		if i >= len(m.truth) || p != m.truth[i] {
			m.t.Fatalf("message %d is %s, and the log has %v", i+1, p, m.truth)
		}
	}
	if m.hostile {
		return
	}
	for _, x := range m.history {
		if m.now.Sub(x.at) >= m.wait && x.revision != m.revision {
			continue
		}
		n, err := decodeNote(x.note)
		if err != nil {
			m.t.Fatal(err)
		}
		if m.confirmed > 0x1000 && (n == nil || m.confirmed > n.last().End) {
			m.t.Fatalf("the slot is confirmed to %s, and %s ago the note was %s", m.confirmed, m.now.Sub(x.at), x.note)
		}
	}
}

// run plays for some seconds without faults.
func (m *model) run() {
	for range 5 {
		m.now = m.now.Add(time.Second)
		m.start()
		m.read()
		m.confirm()
		for len(m.wire) > 0 {
			m.deliver(0)
		}
		m.confirm()
	}
}

// settle plays without faults until everything is stored and confirmed.
func (m *model) finish() {
	for range len(m.truth) + len(m.log) + 100 {
		m.run()
		m.check()
		if m.lost || len(m.told()) == len(m.truth) && m.confirmed >= m.end {
			return
		}
	}
	m.t.Fatalf("%d of %d events are stored and %s of %s is confirmed", len(m.stored), len(m.truth), m.confirmed, m.end)
}

func (m *model) actions() map[string]func(*rapid.T) {
	several := func(f func()) func(*rapid.T) {
		return func(t *rapid.T) {
			for range rapid.IntRange(1, 4).Draw(t, "times") {
				f()
			}
		}
	}
	pick := func(f func(int)) func(*rapid.T) {
		return func(t *rapid.T) { f(rapid.IntRange(0, 1000).Draw(t, "which")) }
	}
	return map[string]func(*rapid.T){
		"commit":  func(t *rapid.T) { m.commit(rapid.Uint32Range(0, 3).Draw(t, "events")) },
		"run":     several(m.run),
		"start":   func(*rapid.T) { m.start() },
		"read":    several(m.read),
		"confirm": several(m.confirm),
		"deliver": pick(m.deliver),
		"drop":    pick(m.drop),
		"pass": func(t *rapid.T) {
			m.now = m.now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "ms")) * time.Millisecond)
		},
		"die": func(*rapid.T) { m.session = nil },
		"crash of Postgres": func(*rapid.T) {
			m.confirmed, m.session = m.persisted, nil
		},
		"checkpoint": func(*rapid.T) { m.persisted = m.confirmed },
		"": func(t *rapid.T) {
			m.t = t
			m.check()
		},
	}
}
