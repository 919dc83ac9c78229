package client

import (
	"slices"
	"strconv"
	"strings"

	"github.com/ffstream/ffstream"
)

// Filter says which transitions are wanted: those that meet every field that is
// set. A list is met by any of its values. Events that are no transition are not
// subject to it.
type Filter struct {
	States     []ffstream.PublicState // entered; also ffstream.StatePurged
	Lanes      []string
	Namespaces []string
	Partitions []uint16
	Execution  ffstream.ExecutionID // in any spelling
	Terminal   bool                 // only entering a terminal state
	Steps      []Step
	Tags       []ffstream.Tag // all of them
}

// Step is a pair of states. An empty one is any; a From is never met by an event
// that does not know it.
type Step struct{ From, To ffstream.PublicState }

// maxSubjects bounds the subject filters of a consumer. The server takes more,
// and compares each message with all of them.
const maxSubjects = 256

// Match reports whether a transition that came on subject is wanted.
func (f *Filter) Match(e *ffstream.Event, subject string) bool {
	return oneOf(f.States, e.To) && oneOf(f.Partitions, e.ExecutionID.Partition()) &&
		(!f.Terminal || e.Terminal()) &&
		(f.Execution.IsZero() || canonical(f.Execution) == canonical(e.ExecutionID)) &&
		f.matchStep(e) && f.matchTags(e) &&
		matchText(f.Namespaces, e.Namespace, e.Truncated, subject, 3) &&
		matchText(f.Lanes, e.LaneID, e.Truncated, subject, 2)
}

func (f *Filter) matchStep(e *ffstream.Event) bool {
	return len(f.Steps) == 0 || slices.ContainsFunc(f.Steps, func(s Step) bool {
		return (s.From == "" || s.From == e.From) && (s.To == "" || s.To == e.To)
	})
}

func (f *Filter) matchTags(e *ffstream.Event) bool {
	if e.Truncated && len(e.Tags) == 0 {
		return true // Truncate drops them first, so whether they matched is not known
	}
	for _, t := range f.Tags {
		if !slices.Contains(e.Tags, t) {
			return false
		}
	}
	return true
}

// matchText compares a field, or when it was dropped for want of room the
// subject's token, counted from the end.
func matchText(want []string, got string, truncated bool, subject string, fromEnd int) bool {
	if len(want) == 0 || !truncated || got != "" {
		return oneOf(want, got)
	}
	tokens := strings.Split(subject, ".")
	if len(tokens) < fromEnd {
		return false
	}
	return slices.Contains(tokensOf(want), tokens[len(tokens)-fromEnd])
}

func oneOf[T comparable](want []T, v T) bool { return len(want) == 0 || slices.Contains(want, v) }

func canonical(id ffstream.ExecutionID) ffstream.ExecutionID {
	return ffstream.NewExecutionID(id.Partition(), id.UUID())
}

// Subjects returns the subject filters of a consumer: as narrow as at most 256
// of them can be. They never overlap and hold everything that Match accepts.
// With control they also hold the events that are no transition.
func (f *Filter) Subjects(prefix string, control bool) []string {
	dims := [][]string{f.partitionTokens(), tokensOf(f.Namespaces), tokensOf(f.Lanes), f.stateTokens()}
	for product(dims) > maxSubjects {
		widest := 0
		for i := range dims {
			if len(dims[i]) > len(dims[widest]) {
				widest = i
			}
		}
		dims[widest] = nil
	}
	if control && product(dims) == 1 && len(slices.Concat(dims...)) == 0 {
		return []string{prefix + ".>"}
	}
	subjects := []string{prefix + ".exec"}
	for _, values := range dims {
		subjects = extend(subjects, values)
	}
	if control {
		// The rest of the prefix, and whatever a later release puts beside it.
		subjects = append(subjects, prefix+".*", prefix+".corrupt.>")
	}
	return subjects
}

// covers reports whether one of the filters, or none being there, takes a subject.
func covers(filters []string, subject string) bool {
	return len(filters) == 0 || slices.ContainsFunc(filters, func(f string) bool {
		rest := subject
		for {
			want, wantMore, wantAny := strings.Cut(f, ".")
			got, more, any := strings.Cut(rest, ".")
			switch {
			case want == ">":
				return true
			case want != "*" && want != got || wantAny != any:
				return false
			case !any:
				return true
			}
			f, rest = wantMore, more
		}
	})
}

func (f *Filter) partitionTokens() []string {
	partitions := f.Partitions
	if !f.Execution.IsZero() {
		partitions = []uint16{f.Execution.Partition()}
	}
	var tokens []string
	for _, p := range partitions {
		tokens = append(tokens, strconv.Itoa(int(p)))
	}
	return unique(tokens)
}

// stateTokens are the states that can meet every field; none is any. Where the
// fields contradict each other it returns what one of them wants.
func (f *Filter) stateTokens() []string {
	states := slices.Clone(f.States)
	if len(states) == 0 && f.Terminal {
		states = terminalStates()
	}
	if len(states) == 0 {
		for _, s := range f.Steps {
			if s.To == "" {
				return nil
			}
			states = append(states, s.To)
		}
	}
	var tokens []string
	for _, s := range states {
		tokens = append(tokens, string(s))
	}
	return unique(tokens)
}

func terminalStates() []ffstream.PublicState {
	return slices.DeleteFunc(ffstream.PublicStates(), func(s ffstream.PublicState) bool { return !s.Terminal() })
}

func tokensOf(values []string) []string {
	var tokens []string
	for _, v := range values {
		tokens = append(tokens, string(ffstream.AppendToken(nil, v)))
	}
	return unique(tokens)
}

func unique(tokens []string) []string {
	slices.Sort(tokens)
	return slices.Compact(tokens)
}

func product(dims [][]string) int {
	n := 1
	for _, values := range dims {
		n *= max(1, len(values))
	}
	return n
}

// extend appends each token to each subject, a wildcard where there is none.
func extend(subjects, tokens []string) []string {
	if len(tokens) == 0 {
		tokens = []string{"*"}
	}
	var longer []string
	for _, s := range subjects {
		for _, t := range tokens {
			longer = append(longer, s+"."+t)
		}
	}
	return longer
}
