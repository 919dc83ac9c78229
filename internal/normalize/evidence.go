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

// outcome is what the rule needs of a row of a class that is known.
func (c class) outcome() Outcome {
	if !c.exists() {
		return Outcome{}
	}
	return Outcome{Exists: true, Literal: classLiterals[c]}
}

// evidence is what is known of an execution's attempts, as far as the rule may
// consult them: the one at the row's pointer, and the one with the greatest
// index below it.
type evidence struct {
	pointer    int32
	belowIndex int32 // of the one below, where there is one
	at, below  class
	above      bool // there may be attempts with an index above the pointer
	// old: it is of an event that the stream held before the session, and attempts may
	// have changed since without changing the state.
	old bool
}

// unknownEvidence knows nothing; noAttempts is that of a row that was just
// inserted.
var (
	unknownEvidence = evidence{above: true}
	noAttempts      = evidence{at: classAbsent, below: classAbsent}
)

// complete reports whether the rule can be applied.
func (e *evidence) complete() bool {
	return e.at.exists() || e.at == classAbsent && e.below != classUnknown
}

// same reports whether the rule consults the same outcome by both.
func (e *evidence) same(o *evidence) bool {
	return e.complete() && !o.old && e.at == o.at && (e.at.exists() || e.below == o.below)
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
	if a := n.shown(c, pointer); a != nil && !a.gone {
		after.old = false
	}
	for i := c.attempts; i != 0; i = n.tx.attempts.at(i - 1).next {
		if a := n.tx.attempts.at(i - 1); !a.gone && a.index > pointer {
			after.above = true
		}
	}
	for step := int32(1); step <= maxSteps; step++ {
		index := pointer - step
		if index < 0 { // below every index that the engine uses
			if e.below == classAbsent {
				after.below = classAbsent
			}
			break
		}
		if below := n.attemptClass(c, &e, index); below != classAbsent {
			after.below, after.belowIndex = below, index
			break
		}
	}
	return after
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

// consult returns the outcomes that the rule consults for a terminal row, and
// completes the evidence: what neither the transaction nor the memory contains
// is looked up.
func (n *Normalizer) consult(c *core, e *evidence) (at, below Outcome, err error) {
	if a := n.shown(c, e.pointer); a != nil && !a.gone {
		return Outcome{Exists: true, Literal: n.texts.get(a.outcome)}, Outcome{}, nil
	}
	if e.complete() && !e.old {
		return e.at.outcome(), e.below.outcome(), nil
	}
	found, exists, err := n.lookUpAttempt(c, e.pointer)
	if err != nil {
		return at, below, err
	}
	if e.complete() && (!exists || found.Exists && n.later(found.Xid)) { // what it was at the commit is in the stream
		e.old = false
		return e.at.outcome(), e.below.outcome(), nil
	}
	looked := evidence{pointer: e.pointer, at: classAbsent, below: classAbsent, above: true}
	switch {
	case found.Exists && found.Index == e.pointer:
		looked.at, looked.below = classOf(found.Outcome), classUnknown
	case found.Exists:
		looked.below, looked.belowIndex = classOf(found.Outcome), found.Index
	}
	*e = n.with(looked, c, e.pointer)
	if e.at != classAbsent {
		return Outcome{Exists: true, Literal: found.Outcome}, Outcome{}, nil
	}
	if e.below != classUnknown {
		return Outcome{}, e.below.outcome(), nil
	}
	if a := n.shown(c, e.belowIndex); a != nil { // its literal is in no table
		return Outcome{}, Outcome{Exists: true, Literal: n.texts.get(a.outcome)}, nil
	}
	if !found.Exists || found.Index >= e.pointer { // the table is later than the transaction, which deleted that row
		return Outcome{}, Outcome{}, nil
	}
	return Outcome{}, Outcome{Exists: true, Literal: found.Outcome}, nil
}

// later reports whether a transaction began after the one that is evaluated.
// Transaction ids wrap around.
func (n *Normalizer) later(xid uint32) bool { return int32(xid-n.begin.Xid) > 0 }
