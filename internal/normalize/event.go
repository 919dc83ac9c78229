package normalize

import (
	"errors"
	"time"

	"github.com/ffstream/ffstream"
)

// event fills e with what became of one entry of the order, and reports whether
// that is an event.
func (n *Normalizer) event(e *ffstream.Event, ordinal, i uint32) (bool, error) {
	tags := e.Tags[:0]
	*e = ffstream.Event{
		ID:     ffstream.EventID{System: n.cfg.SystemID, Position: ffstream.Position{Commit: ffstream.LSN(n.begin.FinalLSN), Index: ordinal}},
		Source: n.cfg.Source,
		Time:   time.UnixMicro(n.begin.CommitTime).UTC(),
		Tags:   tags,
		Tx:     ffstream.Tx{Xid: n.begin.Xid},
	}
	if i == truncated {
		e.Type = ffstream.TypeTruncated
		return true, nil
	}
	c := n.tx.cores.at(i)
	e.Type = ffstream.TypeTransitioned
	e.ExecutionID, e.LaneID = c.executionID(), n.texts.get(c.lane)
	e.From = n.texts.vector(c.old).before
	switch {
	case c.has(flagGone) && c.has(flagNew):
		n.stats.Transient++
		return false, nil
	case c.has(flagGone):
		n.purge(e, c)
		return true, nil
	case !c.has(flagCandidate):
		n.stats.NoCandidate++
		return false, nil
	}
	return n.transition(e, c)
}

func (n *Normalizer) transition(e *ffstream.Event, c *core) (bool, error) {
	image := n.texts.vector(c.image)
	if c.has(flagRawUnsent | flagsTextUnsent) {
		if image.final && image.before == e.From { // nothing that was not sent can change it
			n.stats.SameState++
			return false, nil
		}
		if err := n.lookUp(c); err != nil {
			return false, err
		}
	}
	row := n.row(c)
	current := n.currentAttempt(c)
	at, below := n.evidence(c, current)
	v, err := Evaluate(&row, at, below)
	if err != nil {
		return n.corrupt(e, err)
	}
	e.To = v.Vector.PublicState
	if e.From == e.To {
		n.stats.SameState++
		return false, nil
	}
	e.StateVector, e.StoredPublicState, e.Consistent, e.EvidenceMissing = v.Vector, v.Stored, v.Consistent, v.EvidenceMissing
	e.Candidate = c.has(flagUnidentified) && c.old == 0 && !c.has(flagNew)
	if !v.Consistent {
		n.stats.Inconsistent++
	}
	if v.EvidenceMissing {
		n.stats.NoEvidence++
	}
	n.describe(e, c)
	if current != nil {
		e.Attempt = ffstream.Some(n.attemptOf(current))
	}
	return true, nil
}

// corrupt makes e say that the row cannot be understood.
func (n *Normalizer) corrupt(e *ffstream.Event, err error) (bool, error) {
	var bad *ffstream.CorruptionError
	if !errors.As(err, &bad) {
		return false, err
	}
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

// purge describes a row that is gone as far as the first old tuple tells.
func (n *Normalizer) purge(e *ffstream.Event, c *core) {
	old := &n.texts.vector(c.old).row
	e.To = ffstream.StatePurged
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
