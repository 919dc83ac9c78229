package shard

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
)

// logItem is one end in the log, a commit's or a keepalive's, and the sequence of
// the last event before it.
type logItem struct {
	end      ffstream.LSN
	sequence uint64
}

// confirmableOf is the naive answer: the greatest end in front of the first
// item before which something is not stored.
func confirmableOf(log []logItem, stored uint64) ffstream.LSN {
	var end ffstream.LSN
	for _, item := range log {
		if item.sequence > stored {
			break
		}
		end = max(end, item.end)
	}
	return end
}

// TestLedgerProperty plays a session: commits with and without events,
// keepalives, and acknowledgements in any order, also of the first events of a
// transaction whose commit is still to come.
func TestLedgerProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Uint64Range(0, 3).Draw(t, "start") // where the stream's tail was
		l := ledger{acked: start}
		var (
			log      []logItem
			commits  []logItem // those of log that are commits with events
			end      ffstream.LSN
			sequence = start
			noted    = start
			stored   = start
			last     ffstream.LSN
		)
		note := func(at ffstream.LSN) {
			l.commit(entry{sequence: sequence, position: ffstream.Position{Commit: ffstream.LSN(sequence)}, end: at})
			if sequence > noted {
				commits = append(commits, logItem{at, sequence})
			}
			noted = sequence
			log = append(log, logItem{at, sequence})
		}
		t.Repeat(map[string]func(*rapid.T){
			"commit": func(t *rapid.T) {
				end += ffstream.LSN(rapid.Uint64Range(1, 100).Draw(t, "bytes"))
				sequence += rapid.Uint64Range(0, 3).Draw(t, "events")
				note(end)
			},
			"commit in parts": func(t *rapid.T) {
				sequence += rapid.Uint64Range(1, 5).Draw(t, "events")
				stored = rapid.Uint64Range(stored, sequence).Draw(t, "stored")
				l.ack(stored)
				if want := confirmableOf(log, stored); l.done.end != want {
					t.Fatalf("before the commit %s may be confirmed, want %s", l.done.end, want)
				}
				end += 10
				note(end)
			},
			"keepalive": func(t *rapid.T) {
				end += ffstream.LSN(rapid.Uint64Range(0, 100).Draw(t, "bytes"))
				note(end)
			},
			"late keepalive": func(t *rapid.T) { note(end - min(end, 5)) },
			"ack": func(t *rapid.T) {
				got := rapid.Uint64Range(0, sequence).Draw(t, "acknowledged")
				stored = max(stored, got)
				l.ack(got)
			},
			"": func(t *rapid.T) {
				if want := confirmableOf(log, stored); l.done.end != want {
					t.Fatalf("%s may be confirmed, want %s: stored up to %d of %+v", l.done.end, want, stored, log)
				}
				if l.done.end < last {
					t.Fatalf("%s may be confirmed after %s", l.done.end, last)
				}
				last = l.done.end
				if l.done.position.Commit != ffstream.LSN(l.done.sequence) || l.done.sequence > max(stored, start) {
					t.Fatalf("the log before %s ends with event %d at %s, and %d are stored", l.done.end, l.done.sequence, l.done.position, stored)
				}
				waiting := 0
				for _, c := range commits {
					if c.sequence <= stored {
						continue
					}
					waiting++
					if l.done.end >= c.end {
						t.Fatalf("%s may be confirmed, and %d, committed at %s, is not stored", l.done.end, c.sequence, c.end)
					}
				}
				if len(l.open) != waiting {
					t.Fatalf("%d entries for %d commits that are waited for", len(l.open), waiting)
				}
			},
		})
	})
}

func TestLedger(t *testing.T) {
	t.Parallel()
	type step struct {
		end  ffstream.LSN // 0: an acknowledgement
		seq  uint64
		want ffstream.LSN
	}
	for name, steps := range map[string][]step{
		"nothing happened":                     {{0, 0, 0}, {0, 9, 0}},
		"keepalive with nothing in flight":     {{100, 0, 100}, {200, 0, 200}},
		"commit without events":                {{100, 0, 100}, {200, 1, 100}, {300, 1, 100}, {0, 1, 300}, {400, 1, 400}},
		"keepalive behind an event":            {{100, 1, 0}, {150, 1, 0}, {0, 1, 150}},
		"acknowledgement stands for all below": {{100, 1, 0}, {200, 2, 0}, {300, 3, 0}, {0, 2, 200}, {0, 3, 300}},
		"acknowledgement of half":              {{100, 3, 0}, {0, 2, 0}, {0, 3, 100}},
		"acknowledgements out of order":        {{100, 1, 0}, {200, 2, 0}, {0, 2, 200}, {0, 1, 200}},
		"acknowledged before its commit":       {{0, 5, 0}, {100, 5, 100}, {200, 6, 100}},
		"keepalive that is late":               {{200, 0, 200}, {100, 0, 200}, {300, 1, 200}, {250, 1, 200}, {0, 1, 300}},
	} {
		var l ledger
		for i, s := range steps {
			if s.end == 0 {
				l.ack(s.seq)
			} else {
				l.commit(entry{sequence: s.seq, end: s.end})
			}
			if l.done.end != s.want {
				t.Errorf("%s, step %d: %s may be confirmed, want %s", name, i, l.done.end, s.want)
			}
		}
	}
}

// TestLedgerKeepsNothing: an idle log behind one event that is waited for takes
// no memory, and neither does a busy one that is acknowledged.
func TestLedgerKeepsNothing(t *testing.T) {
	var l ledger
	end, sequence := ffstream.LSN(0), uint64(0)
	round := func() {
		for range 8 {
			sequence++
			for range 100 {
				end++
				l.commit(entry{sequence: sequence, end: end})
			}
		}
		l.ack(sequence)
	}
	round()
	if n := testing.AllocsPerRun(100, round); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(l.open) != 0 || l.done.end != end {
		t.Errorf("%d entries, %s may be confirmed of %s", len(l.open), l.done.end, end)
	}
}

// BenchmarkLedger is a commit of one event and its share of an acknowledgement.
func BenchmarkLedger(b *testing.B) {
	var l ledger
	var n uint64
	b.ReportAllocs()
	for b.Loop() {
		n++
		l.commit(entry{sequence: n, end: ffstream.LSN(n)})
		if n%64 == 0 {
			l.ack(n)
		}
	}
}

// TestJournalAnchors: however many messages one note tells of, the first of them
// is anchored, no earlier than it was sent; a part of them that goes is seen.
func TestJournalAnchors(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	state := publish.State{First: 1, MaxAge: time.Hour}
	j := newJournal(note{}, 2, state, 0, now)
	now = now.Add(2 * time.Hour) // idle: what is stored next is not that old
	j.write(entry{sequence: 2, end: 10}, now, false)
	j.stored(now)
	sent := now
	now = now.Add(time.Minute) // a large transaction is being stored
	j.write(entry{sequence: 4, end: 10}, now, false)
	now = now.Add(time.Minute)
	if j.write(entry{sequence: 6, end: 20}, now, false) == nil {
		t.Fatal("no note")
	}
	if want := []anchor{{3, sent}}; !slices.Equal(j.note.Anchors, want) {
		t.Errorf("anchors %v, want %v", j.note.Anchors, want)
	}
	state.First = 6
	if _, purged := j.note.purged(&state, now); !purged {
		t.Error("a purge of all but the last message is not seen")
	}
}
