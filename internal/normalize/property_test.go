package normalize

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// history is a random sequence of transactions on a few executions, with the WAL
// that Postgres writes for it. What the rule returns for the images of the tables
// before and after each transaction is the truth that the events are compared with.
type history struct {
	*source
	t      *rapid.T
	commit uint64
	wal    []walTransaction
	events []ffstream.Event // of the latest transaction
	truth  map[string]ffstream.PublicState
	strict bool        // the memory holds every execution
	cold   *Normalizer // without a memory
	// moved has those that are under another partition key since their latest event:
	// the stream does not contain what they were under this one.
	moved map[string]bool
}

// walTransaction is what a slot sends of one transaction.
type walTransaction struct {
	begin          pgoutput.Begin
	rows           []pgoutput.Message
	core, attempts map[string]row // the tables after it
}

var (
	phasesTried   = []string{"runnable", "active", "suspended", "terminal", "terminal", "terminal", "cancelled"}
	labelsTried   = []string{"waiting", "running", "cancelled", "completed", "skipped", "expired", "suspended"}
	triesTried    = []string{"running_attempt", "attempt_terminal", "attempt_terminal", "attempt_terminal", "cancelled", "terminal_failed"}
	reasonsTried  = []string{"NULL", "flow_cancelled", "suspension_timeout_cancel", "suspension_timeout_fail"}
	messagesTried = []string{"", "attempt_timeout", "execution_deadline", "a user's"}
	outcomesTried = []string{"NULL", "success", "failed", "failure", "cancelled", "expired", "skipped", "interrupted", "retry"}
)

func newHistory(t *rapid.T, size int) *history {
	h := &history{t: t, truth: map[string]ffstream.PublicState{}, strict: size == 0, moved: map[string]bool{}}
	h.source = &source{newest: true, recent: size, core: map[string]row{}, attempts: map[string]row{}, lookups: map[string]row{}}
	if err := h.reset(Config{SystemID: 1, Source: "/ffstream/t", Identity: true}); err != nil {
		t.Fatal(err)
	}
	n := h.n
	if err := h.reset(Config{SystemID: 1, Source: "/ffstream/t", Identity: true}); err != nil {
		t.Fatal(err)
	}
	h.cold, h.n = h.n, n
	h.cold.recent = nil
	return h
}

func (h *history) draw(values []string, label string) string {
	return rapid.SampledFrom(values).Draw(h.t, label)
}

func (h *history) chance(percent int, label string) bool {
	return rapid.IntRange(0, 99).Draw(h.t, label) < percent
}

// states applies the rule to the tables.
func (h *history) states() map[string]ffstream.PublicState {
	states := map[string]ffstream.PublicState{}
	for name, r := range h.core {
		v, _, _, _, err := h.evaluate(r)
		if err != nil {
			h.t.Fatal(err)
		}
		states[name] = v.Vector.PublicState
	}
	return states
}

// transaction runs a random transaction and compares its events with the truth.
func (h *history) transaction() {
	h.commit += 0x100
	h.begin = pgoutput.Begin{Xid: uint32(h.commit), FinalLSN: h.commit}
	h.wal = append(h.wal, walTransaction{begin: h.begin})
	h.do(h.n.Begin(&h.begin))
	for range rapid.IntRange(1, 4).Draw(h.t, "changes") {
		h.change(strconv.Itoa(rapid.IntRange(1, 3).Draw(h.t, "execution")))
	}
	h.events = nil
	tx := &h.wal[len(h.wal)-1]
	tx.core, tx.attempts = maps.Clone(h.core), maps.Clone(h.attempts)
	h.do(h.n.Commit(&pgoutput.Commit{CommitLSN: h.commit, EndLSN: h.commit + 8}, h.keep))
	before := h.truth
	h.truth = h.states()
	h.compare(before)
	h.count(tx)
}

// count checks that a Normalizer without a memory, which counts events that have
// left the stream, makes as many of a transaction as any other, or knows that it
// may not.
func (h *history) count(tx *walTransaction) {
	uncertain, n := h.cold.Uncertain(), 0
	h.do(h.cold.Begin(&tx.begin))
	for i := range tx.rows {
		h.do(h.cold.Row(&tx.rows[i]))
	}
	h.do(h.cold.Commit(&pgoutput.Commit{CommitLSN: tx.begin.FinalLSN, EndLSN: tx.begin.FinalLSN + 8}, func(*ffstream.Event) error {
		n++
		return nil
	}))
	if n != len(h.events) && h.cold.Uncertain() == uncertain {
		h.t.Fatalf("transaction %d made %d events, and %d without a memory, which does not count it as uncertain", h.commit/0x100, len(h.events), n)
	}
}

func (h *history) do(err error) {
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *history) keep(e *ffstream.Event) error {
	kept := *e
	kept.Tags = nil
	h.events, h.stream = append(h.events, kept), append(h.stream, kept)
	return nil
}

// change makes one random change to an execution or its attempts.
func (h *history) change(name string) {
	switch {
	case h.core[name] == nil:
		set := row{"pk": "86"}
		if h.chance(30, "inserted as it may be") {
			h.columns(set)
		}
		if h.chance(20, "attempt first") {
			h.changeAttempt(name)
		}
		h.do(h.coreLine("insert", name, set, nil))
	case h.chance(4, "delete"):
		h.moved[name] = h.moved[name] || h.core[name]["pk"] != "86" // inserted again in the same transaction, it has moved
		h.deleteAttempts(name)
		h.do(h.coreLine("delete", name, nil, nil))
	case h.chance(4, "move"):
		h.move(name, h.draw([]string{"85", "86", "87"}, "partition"))
	case h.chance(45, "attempt"):
		h.changeAttempt(name)
	default:
		set := row{}
		h.columns(set)
		h.do(h.coreLine("update", name, set, nil))
	}
	h.log()
}

// deleteAttempts deletes an execution's attempts and returns what they were.
func (h *history) deleteAttempts(name string) map[string]row {
	were := map[string]row{}
	for _, index := range []string{"0", "1", "2"} {
		if a := h.attempts[name+"."+index]; a != nil {
			were[index] = a
			h.do(h.attemptLine("delete", name+"."+index, nil))
		}
	}
	return were
}

// move updates the partition key of an execution and its attempts, which is a
// deletion and an insertion each.
func (h *history) move(name, partition string) {
	h.moved[name] = true
	attempts := map[string]row{}
	first := h.chance(50, "attempts first")
	if first {
		attempts = h.deleteAttempts(name)
	}
	h.do(h.coreLine("move", name, row{"pk": partition}, nil))
	if !first {
		attempts = h.deleteAttempts(name)
	}
	for _, index := range slices.Sorted(maps.Keys(attempts)) {
		a := maps.Clone(attempts[index])
		a["pk"] = partition
		h.do(h.attemptLine("insert", name+"."+index, a))
	}
}

// log keeps the row that the last change wrote to the WAL.
func (h *history) log() {
	tx := &h.wal[len(h.wal)-1]
	tx.rows = append(tx.rows, h.sent...)
	h.sent = nil
}

// columns draws what an update sets: state columns now and then, and what changes
// without an old tuple more often.
func (h *history) columns(set row) {
	for _, c := range []struct {
		name    string
		values  []string
		percent int
	}{
		{"lp", phasesTried, 30},
		{"os", []string{"unowned", "leased", "released"}, 10},
		{"es", []string{"eligible_now", "not_eligible_until_time"}, 10},
		{"ps", labelsTried, 20},
		{"as", triesTried, 20},
		{"reason", reasonsTried, 25},
		{"by", []string{"NULL", "someone"}, 25},
		{"msg", messagesTried, 25},
		{"idx", []string{"0", "1", "2", "3"}, 20},
		{"prio", []string{"1", "2"}, 50},
	} {
		if h.chance(c.percent, c.name) {
			set[c.name] = h.draw(c.values, c.name)
		}
	}
	if set["lp"] == "terminal" || h.chance(20, "ends") {
		set["terminal"] = h.now()
	}
}

// now is the time that the transaction writes, to each row the same.
func (h *history) now() string { return strconv.FormatUint(h.commit, 10) }

// changeAttempt inserts, updates or deletes an attempt. One that ended keeps its
// terminal_at_ms, as all of the engine's do that keep their index.
func (h *history) changeAttempt(name string) {
	index := h.draw([]string{"0", "1", "2"}, "index")
	was := h.attempts[name+"."+index]
	if was != nil && h.chance(15, "delete attempt") {
		h.do(h.attemptLine("delete", name+"."+index, nil))
		return
	}
	set := row{"epoch": "+1"}
	if h.chance(80, "outcome") {
		set["outcome"] = h.draw(outcomesTried, "outcome")
		set["terminal"] = h.now()
	}
	h.do(h.attemptLine("upsert", name+"."+index, set))
}

// compare checks the events of a transaction: each execution whose state changed
// has one, which leads from the state before to the state after.
func (h *history) compare(before map[string]ffstream.PublicState) {
	got := map[string]ffstream.Event{}
	for _, e := range h.events {
		name := short(e.ExecutionID.UUID())
		if _, twice := got[name]; twice {
			h.t.Fatalf("two events of execution %s in one transaction", name)
		}
		got[name] = e
	}
	names := slices.Concat(slices.Collect(maps.Keys(before)), slices.Collect(maps.Keys(h.truth)))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		from, to := before[name], h.truth[name]
		if to == "" {
			to = ffstream.StatePurged
		}
		e, has := got[name]
		delete(got, name)
		if problem := h.differs(&e, has, from, to, h.strict && !h.moved[name]); problem != "" {
			h.t.Fatalf("transaction %d, execution %s, %q -> %q: %s: %s -> %s, candidate %t", h.commit/0x100, name, from, to, problem, e.From, e.To, e.Candidate)
		}
	}
	for _, e := range h.events {
		delete(h.moved, short(e.ExecutionID.UUID()))
	}
	for name, e := range got {
		h.t.Fatalf("execution %s did not exist before or after transaction %d: %+v", name, h.commit/0x100, e)
	}
}

// differs describes what is wrong with an event, or with its absence.
func (h *history) differs(e *ffstream.Event, has bool, from, to ffstream.PublicState, strict bool) string {
	same := from == to
	switch {
	case !has && same:
		return ""
	case !has:
		return "no event"
	case e.To != to:
		return "another state"
	case e.From != from && e.From != "":
		return "a wrong previous state"
	case strict && (e.From != from || same || e.Candidate):
		return "what the memory holds is not used"
	case same && !e.Candidate:
		return "an invented transition"
	case e.From != "" && e.Candidate:
		return "a candidate although the previous state is known"
	}
	return ""
}

// restart begins another session, which the slot sends the last transactions
// again. None of them makes an event a second time.
func (h *history) restart() {
	cfg := Config{SystemID: 1, Source: "/ffstream/t", Identity: true}
	if n := len(h.stream); n > 0 {
		cfg.Skip = h.stream[n-1].ID.Position
	}
	h.do(h.reset(cfg))
	core, attempts := h.core, h.attempts
	again := h.wal[len(h.wal)-min(len(h.wal), rapid.IntRange(0, 5).Draw(h.t, "sent again")):]
	for i := range again {
		h.do(h.n.Begin(&again[i].begin))
		for j := range again[i].rows {
			h.do(h.n.Row(&again[i].rows[j]))
		}
		lsn := again[i].begin.FinalLSN
		h.core, h.attempts = again[i].core, again[i].attempts
		h.do(h.n.Commit(&pgoutput.Commit{CommitLSN: lsn, EndLSN: lsn + 8}, func(e *ffstream.Event) error {
			if !e.Candidate {
				return fmt.Errorf("an event that was not published before: %s %s -> %s", e.ID.Position, e.From, e.To)
			}
			return h.keep(e)
		}))
	}
	h.core, h.attempts = core, attempts
}

// TestHistories: whatever changes, and whatever column causes it, an event leads
// from the state before to the state after, with a memory that holds every
// execution, one that holds two, and none.
func TestHistories(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"all held": 0, "two held": 2, "none held": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				h := newHistory(t, size)
				for range rapid.IntRange(1, 40).Draw(t, "transactions") {
					h.transaction()
					if h.chance(8, "restart") {
						h.restart()
					}
				}
			})
		})
	}
}
