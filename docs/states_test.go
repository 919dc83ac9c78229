package docs_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ffstream/ffstream"
)

// page is docs/states.md.
func page(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("states.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// section returns what follows a heading, up to the next one of its level or above.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, text, found := strings.Cut("\n"+text, "\n"+heading+"\n")
	if !found {
		t.Fatalf("no section %q", heading)
	}
	level := strings.IndexByte(heading, ' ')
	if end := regexp.MustCompile(`\n#{1,` + string(rune('0'+level)) + `} `).FindStringIndex(text); end != nil {
		text = text[:end[0]]
	}
	return text
}

// rows returns the cells of each table in text, without headers.
func rows(text string) (all [][]string) {
	header := true
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, "|"):
			header = true
		case strings.HasPrefix(line, "|---"):
			header = false
		case !header:
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			all = append(all, cells)
		}
	}
	return all
}

// transition is a pair of states; from is empty for a new row.
type transition struct{ from, to string }

var quoted = regexp.MustCompile("`([a-z_]+)`")

// states returns those that a cell names.
func states(t *testing.T, cell string) (all []string) {
	t.Helper()
	if cell == "(new row)" {
		return []string{""}
	}
	for _, s := range ffstream.PublicStates() {
		if cell == "any live" && !s.Terminal() || cell == "any terminal" && s.Terminal() {
			all = append(all, string(s))
		}
	}
	for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		t.Errorf("the cell %q names no state", cell)
	}
	for _, s := range all {
		if s != string(ffstream.StatePurged) && !slices.Contains(ffstream.PublicStates(), ffstream.PublicState(s)) {
			t.Errorf("the cell %q names the state %s, which does not exist", cell, s)
		}
	}
	return all
}

// documented returns the transitions that the page lists.
func documented(t *testing.T) map[transition]bool {
	t.Helper()
	all := map[transition]bool{}
	for _, row := range rows(section(t, page(t), "## Transitions")) {
		if len(row) != 4 {
			t.Errorf("a row of %d cells, want from, to, operation and what changes: %v", len(row), row)
			continue
		}
		for _, from := range states(t, row[0]) {
			for _, to := range states(t, row[1]) {
				all[transition{from, to}] = true
			}
		}
	}
	return all
}

// TestStates: the page lists each public state once, in the order of the enum, with
// whether it is terminal.
func TestStates(t *testing.T) {
	t.Parallel()
	var got, want []string
	for _, row := range rows(section(t, page(t), "## States")) {
		got = append(got, row[0]+" "+row[2])
	}
	for _, s := range ffstream.PublicStates() {
		terminal := map[bool]string{true: "yes", false: "no"}[s.Terminal()]
		want = append(want, "`"+string(s)+"` "+terminal)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the page lists %v, want %v", got, want)
	}
}

// TestTransitions: what occurs in the lives of executions that the tests play with the
// engine's own statements, and each arrow of the diagram, is on the page.
func TestTransitions(t *testing.T) {
	t.Parallel()
	listed := documented(t)
	played, err := os.ReadFile("../internal/testenv/engine/stories.txt")
	if err != nil {
		t.Fatal(err)
	}
	occurred := map[transition]string{}
	state, story := "", ""
	for line := range strings.Lines(string(played)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		switch {
		case strings.HasPrefix(line, "== "):
			story, state = strings.TrimPrefix(cells[0], "== "), ""
		case strings.TrimSpace(line) == "BEGIN":
			occurred[transition{state, "waiting"}], state = story, "waiting"
		case len(cells) == 7 && !strings.HasPrefix(line, "#"):
			if to := cells[5]; to != state && state != "" { // a new row may be in any state at once
				occurred[transition{state, to}] = story
			}
			state = cells[5]
		}
	}
	if len(occurred) < 25 {
		t.Errorf("%d transitions occur in the stories: they have more", len(occurred))
	}
	for tr, story := range occurred {
		if !listed[tr] {
			t.Errorf("%q has %s -> %s, which the page does not list", story, tr.from, tr.to)
		}
	}
	arrows := regexp.MustCompile(`(?m)^  (\S+) --> (\S+):`).FindAllStringSubmatch(section(t, page(t), "## State diagram"), -1)
	if len(arrows) < 15 {
		t.Errorf("the diagram has %d arrows", len(arrows))
	}
	for _, arrow := range arrows {
		if tr := (transition{strings.Trim(arrow[1], "[*]"), arrow[2]}); !listed[tr] {
			t.Errorf("the diagram has %s -> %s, which the table does not list", tr.from, tr.to)
		}
	}
}

// TestClauses: the page has the clauses of the rule, in its order.
func TestClauses(t *testing.T) {
	t.Parallel()
	rule, err := os.ReadFile("../internal/normalize/rule.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, m := range regexp.MustCompile(`"([NT]\d+[ab]?)"`).FindAllStringSubmatch(string(rule), -1) {
		if !slices.Contains(want, m[1]) {
			want = append(want, m[1])
		}
	}
	slices.Sort(want)
	var got []string
	for _, row := range rows(section(t, page(t), "## How the state is derived")) {
		if regexp.MustCompile(`^[NT]\d+[ab]?$`).MatchString(row[0]) {
			got = append(got, row[0])
		}
	}
	order := []string{"N1", "N2", "N3", "N4", "N5", "T1", "T2", "T3", "T4a", "T5", "T4b", "T6", "T7", "T8", "T9", "T10"}
	if !slices.Equal(got, order) {
		t.Errorf("the page has the clauses %v, want %v", got, order)
	}
	if slices.Sort(order); !slices.Equal(want, order) {
		t.Errorf("the rule has the clauses %v, want %v", want, order)
	}
}

// TestStatesProse: links of the page lead to files and headings, lines of prose have at
// most 100 characters and paragraphs at most five lines, and each page links here that
// should.
func TestStatesProse(t *testing.T) {
	t.Parallel()
	text := page(t)
	anchors := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		anchor := regexp.MustCompile(`[^a-z0-9_ -]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors["#"+strings.ReplaceAll(anchor, " ", "-")] = true
	}
	for _, m := range regexp.MustCompile(`\]\(([^)]*)\)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(m[1]); err != nil && !anchors[m[1]] {
			t.Errorf("the link %s leads nowhere", m[1])
		}
	}
	lines := 0
	for i, line := range strings.Split(text, "\n") {
		if lines++; line == "" || regexp.MustCompile("^([|#`*]|\\d\\.|  )").MatchString(line) {
			lines = 0
		}
		if lines > 5 {
			t.Errorf("states.md:%d: a paragraph of more than five lines", i+1)
		}
		if len([]rune(line)) > 100 && line[0] != '|' {
			t.Errorf("states.md:%d: a line of %d characters", i+1, len([]rune(line)))
		}
	}
	for _, file := range []string{"../README.md", "architecture.md", "operations.md"} {
		other, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(other), "states.md)") {
			t.Errorf("%s does not link to states.md", file)
		}
	}
}
