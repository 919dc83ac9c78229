package normalize

import "github.com/ffstream/ffstream"

// class is what the rule distinguishes of an ff_attempt row.
type class uint8

const (
	classUnknown   class = iota // whether there is a row is not known, or its literal is in no table
	classAbsent                 // there is none
	classUndecided              // the outcome decides nothing
	classCompleted
	classFailed
	classCancelled
	classExpired
	classSkipped
)

// classes are the classes of decisive outcomes, with a literal of each.
var classes = map[ffstream.PublicState]class{
	ffstream.StateCompleted: classCompleted, ffstream.StateFailed: classFailed, ffstream.StateCancelled: classCancelled,
	ffstream.StateExpired: classExpired, ffstream.StateSkipped: classSkipped,
}

var classLiterals = [...]string{
	classCompleted: "success", classFailed: "failed", classCancelled: "cancelled", classExpired: "expired", classSkipped: "skipped",
}

// classOf is the class of a row with this outcome; empty is NULL.
func classOf(literal string) class {
	state, ok := outcomes[literal]
	switch {
	case !ok:
		return classUnknown
	case state == "":
		return classUndecided
	}
	return classes[state]
}

// exists reports whether there is a row.
func (c class) exists() bool { return c > classAbsent }

// decisive reports whether there is a row whose outcome decides.
func (c class) decisive() bool { return c > classUndecided }

// outcome is what the rule needs of a row of a class that is known.
func (c class) outcome() Outcome {
	if !c.exists() {
		return Outcome{}
	}
	return Outcome{Exists: true, Literal: classLiterals[c]}
}

// evidence is what is known of an execution's attempts, as far as the rule may
// consult them: the one at the row's pointer, the one with the greatest index
// below it, and, of those below it with a decisive outcome, the one that ended
// last or with the row.
type evidence struct {
	endedAt    int64 // terminal_at_ms of the one that ended
	pointer    int32
	belowIndex int32 // of the one below, where there is one
	endedIndex int32 // of the one that ended, where there is one
	at, below  class
	ended      class // classUnknown, classAbsent or decisive
	above      bool  // there may be attempts with an index above the pointer
	// old: it is of an event that the stream held before the session, and attempts may
	// have changed since without changing the state.
	old bool
}

// unknownEvidence knows nothing; noAttempts is that of a row that was just
// inserted.
var (
	unknownEvidence = evidence{above: true}
	noAttempts      = evidence{at: classAbsent, below: classAbsent, ended: classAbsent}
)

// complete reports whether the rule can be applied.
func (e *evidence) complete() bool {
	switch {
	case e.at == classUnknown, e.at == classAbsent && e.below == classUnknown:
		return false
	case e.at.decisive(), e.at == classAbsent && e.below.decisive():
		return true
	}
	return e.ended != classUnknown
}

// same reports whether the rule consults the same outcomes by both, of a row that
// is the same.
func (e *evidence) same(o *evidence) bool {
	if !e.complete() || o.old || e.at != o.at || e.at == classAbsent && e.below != o.below {
		return false
	}
	return e.at.decisive() || e.ended == o.ended && e.endedIndex == o.endedIndex && e.endedAt == o.endedAt
}

// attempts is what the rule consults, by evidence that is complete.
func (e *evidence) attempts(c *core) Attempts {
	a := Attempts{At: e.at.outcome(), Below: e.below.outcome()}
	if e.ended.decisive() && c.has(flagTerminal) && c.terminal == e.endedAt {
		a.Ended = e.ended.outcome()
	}
	return a
}

// attempt returns what is known of one attempt.
func (e *evidence) attempt(index int32) class {
	switch {
	case index == e.pointer:
		return e.at
	case index > e.pointer && e.above, index < e.pointer && e.below == classUnknown:
		return classUnknown
	case index > e.pointer, e.below == classAbsent, index > e.belowIndex:
		return classAbsent
	case index == e.belowIndex:
		return e.below
	}
	return classUnknown
}

// maxSteps bounds how far below its pointer an execution's attempts are followed.
const maxSteps = 16

// with returns the evidence after a transaction that shows some attempts of c,
// for a row with another pointer perhaps.
func (n *Normalizer) with(e evidence, c *core, pointer int32) evidence {
	if c.attempts == 0 && pointer == e.pointer {
		return e
	}
	after := evidence{pointer: pointer, at: n.attemptClass(c, &e, pointer), above: e.above || pointer < e.pointer, old: e.old}
	for i := c.attempts; i != 0; i = n.tx.attempts.at(i - 1).next {
		if a := n.tx.attempts.at(i - 1); !a.gone && a.index > pointer {
			after.above = true
		}
	}
	for step := int32(1); step <= maxSteps; step++ {
		index := pointer - step
		if index < 0 { // no attempt has such an index
			after.below = classAbsent
			break
		}
		if below := n.attemptClass(c, &e, index); below != classAbsent {
			after.below, after.belowIndex = below, index
			break
		}
	}
	n.endedAfter(&after, &e, c)
	if a := n.shown(c, pointer); a != nil && !a.gone {
		after.renew(n, c)
	}
	return after
}

// renew makes old evidence of what the transaction shows, which has the attempt at
// the pointer: what it does not show is not known any more.
func (e *evidence) renew(n *Normalizer, c *core) {
	if !e.old {
		return
	}
	e.old = false
	if e.below.exists() && n.shown(c, e.belowIndex) == nil || e.below == classAbsent && e.pointer > 0 {
		e.below = classUnknown
	}
	if e.ended.decisive() && n.shown(c, e.endedIndex) == nil || e.ended == classAbsent && e.pointer > 0 {
		e.ended = classUnknown
	}
}

// endedAfter completes the evidence after a transaction with what is known of the
// attempt that ended.
func (n *Normalizer) endedAfter(after, before *evidence, c *core) {
	if after.pointer == 0 {
		after.ended = classAbsent
		return
	}
	after.ended, after.endedAt, after.endedIndex = before.ended, before.endedAt, before.endedIndex
	if after.pointer > before.pointer && (before.above || before.at == classUnknown || before.at.decisive()) {
		after.ended = classUnknown // one of those that are below now may have ended with the row
	}
	if before.ended.decisive() && (before.endedIndex >= after.pointer || n.shown(c, before.endedIndex) != nil) {
		after.ended = classUnknown // until it is found again
	}
	for i := c.attempts; i != 0; i = n.tx.attempts.at(i - 1).next {
		a := n.tx.attempts.at(i - 1)
		is := classOf(n.texts.get(a.outcome))
		if a.gone || a.index >= after.pointer || !is.decisive() || a.present&hasTerminal == 0 {
			continue
		}
		with := c.has(flagTerminal) && a.terminal == c.terminal // the row ends with it
		switch {
		case after.ended == classUnknown && a.index < after.pointer-1: // another above it may have ended with the row too
		case !after.ended.decisive() && (with || after.ended == classAbsent), with && after.endedAt != c.terminal, a.terminal == after.endedAt && a.index > after.endedIndex:
			after.ended, after.endedAt, after.endedIndex = is, a.terminal, a.index
		case !c.has(flagTerminal) && after.ended.decisive(): // it is not known which of the two the row ends with
			after.ended = classUnknown
		}
	}
}

// attemptClass is the class of an attempt after a transaction: what it shows,
// else what was known before.
func (n *Normalizer) attemptClass(c *core, e *evidence, index int32) class {
	switch a := n.shown(c, index); {
	case a == nil:
		return e.attempt(index)
	case a.gone:
		return classAbsent
	default:
		return classOf(n.texts.get(a.outcome))
	}
}

// evidenceOf is what an event contains of its execution's attempts. A snapshot
// has the current attempt from the table; a transition has it only where its
// transaction wrote it, so that what it does not have may be there.
func evidenceOf(e *ffstream.Event) evidence {
	known := evidence{pointer: int32(e.CurrentAttemptIndex), above: true, old: true}
	snapshot := e.Type == ffstream.TypeSnapshotted
	if !snapshot || !e.Attempt.OK || e.CurrentAttemptIndex == 0 {
		known.ended = classAbsent
	}
	if a := &e.Attempt.V; e.Attempt.OK && a.Index < e.CurrentAttemptIndex && a.TerminalAtMs.OK && classOf(a.Outcome.V).decisive() {
		known.ended, known.endedAt, known.endedIndex = classOf(a.Outcome.V), a.TerminalAtMs.V, int32(a.Index)
	}
	switch a := &e.Attempt.V; {
	case e.Attempt.OK && a.Index == e.CurrentAttemptIndex:
		known.at = classOf(a.Outcome.V)
	case e.Attempt.OK && snapshot:
		known.at, known.below, known.belowIndex = classAbsent, classOf(a.Outcome.V), int32(a.Index)
	case snapshot:
		known.at, known.below = classAbsent, classAbsent
	}
	return known
}

// consult returns what the rule consults for a terminal row, and completes the
// evidence: what neither the transaction nor the memory contains is looked up. It
// reports whether that is what it was at the commit; if not, what is not known is
// taken for absent, and the evidence stays incomplete.
func (n *Normalizer) consult(c *core, e *evidence) (a Attempts, current bool, err error) {
	if at := n.shown(c, e.pointer); at != nil && !at.gone && !e.at.exists() { // its literal is in no table
		return Attempts{At: Outcome{Exists: true, Literal: n.texts.get(at.outcome)}}, true, nil
	}
	if e.complete() && !e.old {
		return e.attempts(c), true, nil
	}
	found, current, err := n.lookUpAttempts(c, e.pointer)
	if err != nil {
		return Attempts{}, false, err
	}
	if !current {
		known := e.complete() // what it was at the commit is in the stream
		e.old = e.old && !known
		return e.attempts(c), known, nil
	}
	looked := found.evidence(e.pointer)
	*e = n.with(looked, c, e.pointer)
	e.ended, e.endedAt, e.endedIndex = looked.ended, looked.endedAt, looked.endedIndex // of all, those that the transaction shows too
	a = e.attempts(c)
	switch {
	case e.at == classUnknown:
		a.At = found.Found.outcome()
	case e.at == classAbsent && e.below == classUnknown:
		a.Below = n.unknownBelow(c, e, &found.Found)
	}
	return a, true, nil
}

func (a *LookedUpAttempt) outcome() Outcome {
	return Outcome{Exists: a.Exists, Literal: a.Outcome}
}

// evidence is what was looked up for a pointer.
func (a *LookedUpAttempts) evidence(pointer int32) evidence {
	e := evidence{pointer: pointer, at: classAbsent, below: classAbsent, ended: classAbsent, above: true}
	switch {
	case a.Found.Exists && a.Found.Index == pointer:
		e.at, e.below = classOf(a.Found.Outcome), classUnknown
	case a.Found.Exists:
		e.below, e.belowIndex = classOf(a.Found.Outcome), a.Found.Index
	}
	if a.Ended.Exists {
		e.ended, e.endedAt, e.endedIndex = classOf(a.Ended.Outcome), a.Ended.Terminal.V, a.Ended.Index
	}
	return e
}

// unknownBelow is the attempt below the pointer where its literal is in no table.
func (n *Normalizer) unknownBelow(c *core, e *evidence, found *LookedUpAttempt) Outcome {
	if a := n.shown(c, e.belowIndex); a != nil && !a.gone {
		return Outcome{Exists: true, Literal: n.texts.get(a.outcome)}
	}
	if found.Exists && found.Index < e.pointer {
		return found.outcome()
	}
	return Outcome{}
}
