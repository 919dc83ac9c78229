package normalize

import (
	"errors"
	"time"

	"github.com/ffstream/ffstream"
)

// envelope fills in what every event of the transaction has.
func (n *Normalizer) envelope(e *ffstream.Event, ordinal uint32) {
	tags := e.Tags[:0]
	*e = ffstream.Event{
		Type:   ffstream.TypeTransitioned,
		ID:     ffstream.EventID{System: n.cfg.SystemID, Position: ffstream.Position{Commit: ffstream.LSN(n.begin.FinalLSN), Index: ordinal}},
		Source: n.cfg.Source,
		Time:   time.UnixMicro(n.begin.CommitTime).UTC(),
		Tags:   tags,
		Tx:     ffstream.Tx{Xid: n.begin.Xid},
	}
}

// event fills e with what became of one entry of the order, and reports whether
// that is an event.
func (n *Normalizer) event(e *ffstream.Event, ordinal, i uint32) (bool, error) {
	n.envelope(e, ordinal)
	if i == truncated {
		e.Type = ffstream.TypeTruncated
		n.clearRecent()
		return true, nil
	}
	c := n.tx.cores.at(i)
	e.ExecutionID, e.LaneID = c.executionID(), n.texts.get(c.lane)
	image := n.texts.vector(c.image)
	switch {
	case c.has(flagGone) && c.has(flagNew):
		n.stats.Transient++
		return false, nil
	case c.has(flagGone):
		return true, n.purge(e, c)
	case !c.has(flagCandidate) && (image.state != "" || !image.valid) && !n.blockingChanged(c): // no other column can change the state
		n.stats.NoCandidate++
		n.recordAttempts(c)
		return false, nil
	}
	return n.transition(e, c)
}

// previous is what is known of an execution before the transaction.
type previous struct {
	state    ffstream.PublicState // empty: there was no row, or it is not known
	known    bool
	logged   bool // by the WAL alone
	evidence evidence
}

// decides reports whether the WAL alone decides if there is an event, for a row
// whose state columns decide on a state, or on none.
func (p *previous) decides(state ffstream.PublicState) bool {
	live := p.state != stateCorrupt && !p.state.Terminal()
	return p.logged && (live || state != "") || state != "" && !state.Terminal()
}

// from is what an event contains of it: a corrupt row has no state.
func (p *previous) from() ffstream.PublicState {
	if p.state == stateCorrupt {
		return ""
	}
	return p.state
}

// logged is what the WAL contains of the state before the transaction.
func (n *Normalizer) logged(c *core) (state ffstream.PublicState, known bool) {
	v := n.texts.vector(c.old)
	switch {
	case c.has(flagNew):
		return "", true
	case c.old == 0 && !n.cfg.Identity:
		return "", false
	case c.old == 0: // none of the state columns changed
		v = n.texts.vector(c.image)
	}
	if !v.valid {
		return stateCorrupt, true
	}
	return v.state, v.state != ""
}

// previous returns what the WAL and the memory of recent states contain of an
// execution before the transaction. Without a replica identity the memory is not
// asked for the state: every update is published then.
func (n *Normalizer) previous(c *core, stored, evidence bool) (previous, error) {
	var p previous
	p.state, p.known = n.logged(c)
	p.logged = p.known
	ask := !p.known && n.cfg.Identity
	x, found := n.recent.get(keyOf(c.executionID()))
	if !found && !stored && !c.has(flagNew) && (ask || evidence) {
		var err error
		if x, found, err = n.recent.recall(keyOf(c.executionID())); err != nil {
			return p, err
		}
	}
	switch {
	case found:
		p.evidence = x.evidence
	case c.has(flagNew) && n.texts.vector(c.image).state != "":
		p.evidence = noAttempts
	default:
		p.evidence = unknownEvidence
	}
	switch {
	case p.logged && x.state == stateCorrupt && !stored: // by its blocking_reason, which no old tuple has
		p.state = stateCorrupt
	case !ask || stored:
	case x.state != "":
		n.stats.Recalled++
		p.state, p.known = x.state, true
	default:
		n.stats.Unrecalled++
	}
	return p, nil
}

// transition evaluates an execution whose state may have changed.
func (n *Normalizer) transition(e *ffstream.Event, c *core) (bool, error) {
	image := n.texts.vector(c.image)
	stored, undecided := n.stored(e.ID.Position), image.valid && image.state == ""
	was, err := n.previous(c, stored, undecided && n.shown(c, c.pointer()) == nil)
	if err != nil {
		return false, err
	}
	if image.valid && n.cfg.Identity && !was.decides(image.state) {
		n.stats.Uncertain++
	}
	after := recent{state: image.state, evidence: n.with(was.evidence, c, c.pointer())}
	var attempts Attempts
	if undecided {
		if stored && !after.evidence.complete() { // the stream contains what it became
			n.recent.drop(keyOf(e.ExecutionID))
			return false, nil
		}
		var current bool
		if attempts, current, err = n.consult(c, &after.evidence); err != nil {
			return false, err
		}
		if after.state = outcomes[attempts.At.Literal]; !current {
			return n.outdated(e, c, &was, after, attempts)
		}
	}
	if c.has(flagRawUnsent | flagsTextUnsent) {
		switch {
		case after.state != "" && was.known && after.state == was.state: // nothing that was not sent can change it
			return n.same(e, after), nil
		case stored && after.state == "":
			n.recent.drop(keyOf(e.ExecutionID))
			return false, nil
		case stored:
			return n.same(e, after), nil
		}
		if err := n.lookUpColumns(c); err != nil {
			return false, err
		}
	}
	row := n.row(c)
	v, err := Evaluate(&row, attempts)
	if err != nil {
		return n.corrupt(e, c, &was, after, err)
	}
	after.state, after.skipped = v.Vector.PublicState, v.Stored == ffstream.StateSkipped
	if was.known && was.state == after.state {
		return n.same(e, after), nil
	}
	n.recent.set(keyOf(e.ExecutionID), after)
	n.fill(e, c, &was, &v)
	return true, nil
}

// fill fills e with a transition to what the rule returned.
func (n *Normalizer) fill(e *ffstream.Event, c *core, was *previous, v *Verdict) {
	e.From, e.To = was.from(), v.Vector.PublicState
	e.Candidate = n.candidate(c, was, e.To)
	e.StateVector, e.StoredPublicState, e.Consistent, e.EvidenceMissing = v.Vector, v.Stored, v.Consistent, v.EvidenceMissing
	n.count(e)
	n.describe(e, c)
	if current := n.currentAttempt(c); current != nil {
		e.Attempt = ffstream.Some(n.attemptOf(current))
	}
}

// outdated evaluates a terminal execution of which a later transaction has written
// the attempts that decide: what they were at the commit is not known. Where the
// WAL decides that there is an event, it has the state by what is known, and the
// next event leads from that. Otherwise there is none, that transaction is evaluated
// in its turn, and what the state is until then is not known.
func (n *Normalizer) outdated(e *ffstream.Event, c *core, was *previous, after recent, attempts Attempts) (bool, error) {
	if live := was.logged && was.state != stateCorrupt && !was.state.Terminal(); !live {
		n.stats.SameState++
		n.recent.set(keyOf(e.ExecutionID), recent{evidence: after.evidence})
		return false, nil
	}
	if c.has(flagRawUnsent | flagsTextUnsent) {
		if err := n.lookUpColumns(c); err != nil {
			return false, err
		}
	}
	row := n.row(c)
	v, err := Evaluate(&row, attempts)
	if err != nil {
		return n.corrupt(e, c, was, after, err)
	}
	n.recent.set(keyOf(e.ExecutionID), recent{state: v.Vector.PublicState, evidence: after.evidence})
	n.fill(e, c, was, &v)
	return true, nil
}

// same stores what is known after a transaction that did not change the state.
func (n *Normalizer) same(e *ffstream.Event, after recent) bool {
	n.stats.SameState++
	n.recent.set(keyOf(e.ExecutionID), after)
	return false
}

// candidate reports whether the state may be the same as before. It is not when
// one of the two is terminal and the other is not.
func (n *Normalizer) candidate(c *core, was *previous, to ffstream.PublicState) bool {
	if c.old == 0 && c.has(flagUnidentified) {
		return !c.has(flagNew)
	}
	return !was.known && to.Terminal()
}

// count counts what is peculiar about an event.
func (n *Normalizer) count(e *ffstream.Event) {
	if !e.Consistent {
		n.stats.Inconsistent++
	}
	if e.EvidenceMissing {
		n.stats.NoEvidence++
	}
}

// blockingChanged reports whether the row of a live execution is corrupt by its
// blocking_reason alone, or was corrupt until now.
func (n *Normalizer) blockingChanged(c *core) bool {
	if !n.texts.vector(c.image).valid || c.has(flagBlockingUnsent) {
		return false
	}
	if c.blocking > 1 { // neither NULL nor empty
		if _, err := ffstream.ParseBlockingReason(n.texts.get(c.blocking)); err != nil {
			return true
		}
	}
	x, _ := n.recent.get(keyOf(c.executionID()))
	return x.state == stateCorrupt
}

// clearRecent empties the memory of recent states, and what the stream held
// before does not count any more, unless the transaction is older.
func (n *Normalizer) clearRecent() {
	if n.recent == nil {
		return
	}
	n.recent.clear()
	if ffstream.LSN(n.begin.FinalLSN) >= n.cfg.Skip.Commit {
		n.recent.load = nil
	}
}

// recordAttempts stores what the transaction shows of the attempts of an
// execution whose state does not hang on them.
func (n *Normalizer) recordAttempts(c *core) {
	key := keyOf(c.executionID())
	if x, found := n.recent.get(key); found && (c.attempts != 0 || x.evidence.pointer != c.pointer()) {
		x.evidence = n.with(x.evidence, c, c.pointer())
		n.recent.set(key, x)
	}
}

// attemptEvent evaluates an execution of which the transaction shows attempts
// alone. A live one has the same state whatever its attempts are; any other is
// looked up, unless what the rule consults is known to be the same.
func (n *Normalizer) attemptEvent(e *ffstream.Event, ordinal uint32, c *core) (bool, error) {
	n.envelope(e, ordinal)
	key := keyOf(c.executionID())
	stored := n.stored(e.ID.Position)
	x, found := n.recent.get(key)
	if x.state == "" || x.state == stateCorrupt { // what is known of the execution, if anything, does not decide
		if stored || n.running(c) {
			return false, nil
		}
	}
	if !found {
		var err error
		if x, found, err = n.recent.recall(key); err != nil {
			return false, err
		}
	}
	if !found {
		x.evidence = unknownEvidence
	}
	was := previous{state: x.state, known: x.state != "", evidence: x.evidence}
	after := recent{state: x.state, evidence: n.with(x.evidence, c, x.evidence.pointer)}
	after.skipped = x.skipped
	live := was.known && was.state != stateCorrupt && !was.state.Terminal()
	if !live {
		n.stats.Uncertain++
	}
	skipped := x.skipped && x.state == ffstream.StateSkipped && after.evidence.at.exists() && !after.evidence.at.decisive() // by T5 before and after
	switch {
	case live || skipped || was.known && after.evidence.same(&was.evidence):
		n.recent.set(key, after)
		return false, nil
	case stored: // the stream contains what it became
		n.recent.drop(key)
		return false, nil
	}
	return n.attemptTransition(e, c, &was, after)
}

// attemptTransition looks an execution up and fills e with what became of it.
func (n *Normalizer) attemptTransition(e *ffstream.Event, c *core, was *previous, after recent) (bool, error) {
	row, current, err := n.lookUpExecution(c)
	if err != nil {
		return false, err
	}
	if !current { // a later transaction has changed it, or it does not exist yet
		if key := keyOf(c.executionID()); !n.recent.moved(key) {
			n.recent.set(key, recent{evidence: after.evidence})
		}
		return false, nil
	}
	e.ExecutionID, e.LaneID = c.executionID(), row.LaneID
	if row.Type == ffstream.TypeCorrupt {
		return n.corrupt(e, c, was, after, &ffstream.CorruptionError{Column: row.Corrupt.Column, Literal: row.Corrupt.Literal})
	}
	if !row.To.Terminal() { // attempts do not decide
		n.recent.set(keyOf(e.ExecutionID), recent{state: row.To, evidence: after.evidence})
		return false, nil
	}
	after = recentOf(&row)
	after.evidence.old = false
	if was.known && was.state == after.state {
		return n.same(e, after), nil
	}
	n.recent.set(keyOf(e.ExecutionID), after)
	id, source, at, tx := e.ID, e.Source, e.Time, e.Tx
	*e = row
	e.Type, e.ID, e.Source, e.Time, e.Tx = ffstream.TypeTransitioned, id, source, at, tx
	e.From, e.Candidate, e.Attempt = was.from(), !was.known, ffstream.Opt[ffstream.Attempt]{}
	n.count(e)
	c.attemptIndex = int32(row.CurrentAttemptIndex)
	if current := n.currentAttempt(c); current != nil {
		e.Attempt = ffstream.Some(n.attemptOf(current))
	}
	return true, nil
}

// corrupt fills e with the literal that no table has. An update that changes no
// state column of a row that was corrupt before makes no event.
func (n *Normalizer) corrupt(e *ffstream.Event, c *core, was *previous, after recent, err error) (bool, error) {
	var bad *ffstream.CorruptionError
	if !errors.As(err, &bad) {
		return false, err
	}
	after.state = stateCorrupt
	if was.state == stateCorrupt && !c.has(flagCandidate) {
		return n.same(e, after), nil
	}
	n.recent.set(keyOf(e.ExecutionID), after)
	e.Type, e.From = ffstream.TypeCorrupt, ""
	e.Corrupt = ffstream.Corruption{Column: bad.Column, Literal: bad.Literal}
	n.stats.Corrupt[bad.Column]++
	return true, nil
}

// describe fills in what is not state.
func (n *Normalizer) describe(e *ffstream.Event, c *core) {
	e.FlowID = ffstream.Opt[ffstream.FlowID]{V: c.flow, OK: c.has(flagFlow)}
	e.Namespace, e.ExecutionKind, e.BlockingDetail = n.texts.get(c.namespace), n.texts.get(c.kind), n.texts.get(c.detail)
	e.Priority = c.priority
	e.CurrentAttemptIndex = uint32(max(c.attemptIndex, 0))
	e.CreatedAtMs = ffstream.Some(c.created)
	e.StartedAtMs = optional(c.started, c.has(flagStarted))
	e.TerminalAtMs = optional(c.terminal, c.has(flagTerminal))
	e.CancellationReason, e.CancelledBy = n.texts.opt(c.reason), n.texts.opt(c.by)
	e.Tags = n.appendTags(e.Tags, n.tx.tags.get(c.tagsAt, c.tagsLen))
}

func optional(v int64, ok bool) ffstream.Opt[int64] {
	if !ok {
		return ffstream.Opt[int64]{}
	}
	return ffstream.Some(v)
}

// purge describes a row that is gone as far as the first old tuple and the memory
// of recent states contain it.
func (n *Normalizer) purge(e *ffstream.Event, c *core) error {
	was, err := n.previous(c, n.stored(e.ID.Position), false)
	if err != nil {
		return err
	}
	n.recent.set(keyOf(e.ExecutionID), recent{evidence: n.with(was.evidence, c, was.evidence.pointer)})
	old := &n.texts.vector(c.old).row
	e.From, e.To = was.from(), ffstream.StatePurged
	e.StateVector = ffstream.StateVector{
		LifecyclePhase:   phases[old.LifecyclePhase],
		OwnershipState:   ownerships[old.OwnershipState],
		EligibilityState: eligibilities[old.EligibilityState],
		AttemptState:     attemptStates[old.AttemptState],
		PublicState:      e.From,
	}
	if e.From != "" {
		e.StateVector.TerminalOutcome = e.From.Outcome()
	}
	e.StoredPublicState = labels[old.PublicState]
	e.Consistent = e.From == "" || e.From == e.StoredPublicState
	return nil
}

// row returns the literals of an execution's latest image.
func (n *Normalizer) row(c *core) Row {
	t := &n.texts
	r := t.vector(c.image).row
	r.BlockingReason, r.CancellationReason, r.CancelledBy = t.get(c.blocking), t.opt(c.reason), t.opt(c.by)
	if c.has(flagTimedOut) {
		r.LastFailureMessage = failureAttemptTimeout // T7 takes either text alike
	}
	return r
}
