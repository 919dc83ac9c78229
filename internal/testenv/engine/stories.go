package engine

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ffstream/ffstream"
)

// Story is one life of an execution.
type Story struct {
	Name     string
	Versions []Version
	Weight   int // how often a workload plays it, relative to the others; 0 is never
	Steps    []Step
}

// Plays reports whether the story can happen at version v.
func (s *Story) Plays(v Version) bool { return slices.Contains(s.Versions, v) }

// Step is one transaction of a story and what it leaves. The fields of two
// elements are by Version.
type Step struct {
	// Op names the operations of the transaction, "CR+CL".
	Op string
	// Do does them. The transaction is the caller's.
	Do func(ctx context.Context, e *Engine, tx Tx, x Exec) error
	// State is the effective state after the step, purged when the row is gone.
	State ffstream.PublicState
	// Event says that the step is a public transition.
	Event bool
	// From is the event's from; empty is null.
	From ffstream.PublicState
	// Vector has the row's lifecycle_phase, ownership_state, eligibility_state and
	// attempt_state as they are stored; it is empty when the row is gone.
	Vector [4]string
	// Stored is the row's public_state as it is stored.
	Stored [2]string
	// Pointer is the row's attempt_index.
	Pointer int
	// Attempt is the attempt that the transaction wrote and an event of it shows;
	// nil when it wrote none.
	Attempt [2]*Attempt
}

// Attempt is what a step leaves in a row of ff_attempt.
type Attempt struct {
	Index   int
	Outcome string // empty for NULL
	Epoch   int64
	Leased  bool // lease_expires_at_ms is set
}

//go:embed stories.txt
var storiesText string

// Stories returns every life story that is known, freshly made.
func Stories() []Story {
	stories, err := parseStories(storiesText)
	if err != nil {
		panic("engine: stories.txt: " + err.Error())
	}
	return stories
}

// StoriesOf returns the stories of one version.
func StoriesOf(v Version) []Story {
	return slices.DeleteFunc(Stories(), func(s Story) bool { return !s.Plays(v) })
}

func parseStories(text string) ([]Story, error) {
	var stories []Story
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		cells := strings.Split(line, "|")
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		if title, ok := strings.CutPrefix(cells[0], "== "); ok {
			story, err := parseTitle(title, cells[1:])
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			stories = append(stories, story)
			continue
		}
		if len(stories) == 0 {
			return nil, fmt.Errorf("line %d: step before a story", i+1)
		}
		story := &stories[len(stories)-1]
		for _, cells := range expand(cells) {
			step, err := parseStep(cells, story.Steps)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", i+1, err)
			}
			story.Steps = append(story.Steps, step)
		}
	}
	return stories, nil
}

// expand replaces BEGIN, with which most stories begin, by its two steps.
func expand(cells []string) [][]string {
	if cells[0] != "BEGIN" {
		return [][]string{cells}
	}
	return [][]string{
		{"CR", "submitted/unowned/eligible_now/pending", "waiting", "0", "-", "waiting", "null"},
		{"PR", "runnable/unowned/eligible_now/pending", "waiting", "0", "-", "waiting", "="},
	}
}

func parseTitle(name string, cells []string) (Story, error) {
	s := Story{Name: name}
	if len(cells) != 2 {
		return s, fmt.Errorf("story %q wants versions and weight", name)
	}
	for _, c := range cells[0] {
		switch c {
		case 'A':
			s.Versions = append(s.Versions, V011)
		case 'N':
			s.Versions = append(s.Versions, Newest)
		default:
			return s, fmt.Errorf("story %q: version %q", name, c)
		}
	}
	var err error
	s.Weight, err = strconv.Atoi(cells[1])
	return s, err
}

// parseStep reads op | vector | public_state | pointer | attempt | effective | from.
// An op alone changes nothing that the other cells tell.
func parseStep(cells []string, before []Step) (Step, error) {
	s := Step{Op: cells[0]}
	var err error
	if s.Do, err = compose(s.Op); err != nil {
		return s, err
	}
	if len(cells) == 1 && len(before) > 0 {
		last := before[len(before)-1]
		s.State, s.Vector, s.Stored, s.Pointer = last.State, last.Vector, last.Stored, last.Pointer
		return s, nil
	}
	if len(cells) != 7 {
		return s, fmt.Errorf("step %s has %d cells, not 7", s.Op, len(cells))
	}
	if cells[1] != "gone" {
		parts := strings.Split(cells[1], "/")
		if len(parts) != len(s.Vector) {
			return s, fmt.Errorf("step %s: vector %q", s.Op, cells[1])
		}
		s.Vector = [4]string(parts)
	}
	s.Stored = [2]string(perVersion(cells[2], "/"))
	if s.Pointer, err = strconv.Atoi(cells[3]); err != nil {
		return s, err
	}
	for i, text := range perVersion(cells[4], " / ") {
		if s.Attempt[i], err = parseAttempt(text); err != nil {
			return s, err
		}
	}
	s.State = ffstream.PublicState(cells[5])
	s.Event = cells[6] != "="
	if s.Event && cells[6] != "null" {
		s.From = ffstream.PublicState(cells[6])
	}
	return s, nil
}

// perVersion splits a cell that may differ by version.
func perVersion(cell, separator string) []string {
	a, n, ok := strings.Cut(cell, separator)
	if !ok {
		n = a
	}
	return []string{a, n}
}

// parseAttempt reads "0:success e1 L".
func parseAttempt(text string) (*Attempt, error) {
	if text == "-" {
		return nil, nil
	}
	words := strings.Fields(text)
	if len(words) < 2 {
		return nil, fmt.Errorf("attempt %q", text)
	}
	index, outcome, _ := strings.Cut(words[0], ":")
	a := &Attempt{Outcome: strings.TrimPrefix(outcome, "NULL"), Leased: slices.Contains(words, "L")}
	var err error
	if a.Index, err = strconv.Atoi(index); err != nil {
		return nil, fmt.Errorf("attempt %q: %w", text, err)
	}
	if a.Epoch, err = strconv.ParseInt(strings.TrimPrefix(words[1], "e"), 10, 64); err != nil {
		return nil, fmt.Errorf("attempt %q: %w", text, err)
	}
	return a, nil
}
