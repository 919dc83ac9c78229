package normalize

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// story runs a life: "story CR PR CL CO", or "story N CR ..." for one version.
func (s *source) story(line string) error {
	words := strings.Fields(line)
	versions := []string{"A", "N"}
	if slices.Contains(versions, words[0]) {
		versions, words = words[:1], words[1:]
	}
	macros, err := readMacros()
	if err != nil {
		return err
	}
	for _, version := range versions {
		life, err := newSource(Config{SystemID: 1, Source: "/ffstream/t", Identity: true}, version == "N", s.binary)
		if err != nil {
			return err
		}
		for _, word := range words {
			body, ok := macros[word]
			if !ok {
				return fmt.Errorf("no macro %s", word)
			}
			if err := life.step(body); err != nil {
				return fmt.Errorf("%s %s: %w", version, word, err)
			}
			told := strings.TrimSuffix(life.out.String(), "\n")
			if told == "" {
				told = "-"
			}
			_, told, _ = strings.Cut("- "+told, " 86/1 ") // one execution: the same in each line
			told = strings.TrimSuffix(told, " last")
			if told == "" {
				told = "(no event)"
			}
			fmt.Fprintf(&s.out, "%s %-4s %s\n", version, word, told)
			life.out.Reset()
		}
	}
	return nil
}

// step runs a macro as one transaction.
func (s *source) step(body []string) error {
	version, other := "A:", "N:"
	if s.newest {
		version, other = other, version
	}
	if err := s.line("begin"); err != nil {
		return err
	}
	for _, line := range body {
		var words []string
		for _, w := range strings.Fields(line) {
			if w == other {
				words = nil
				break
			}
			if !strings.HasPrefix(w, other) {
				words = append(words, strings.TrimPrefix(w, version))
			}
		}
		words = slices.DeleteFunc(words, func(w string) bool { return w == "" })
		if len(words) == 0 {
			continue
		}
		if err := s.line(strings.Join(words, " ")); err != nil {
			return err
		}
	}
	return s.line("commit")
}

// readMacros reads testdata/macros: a name at the start of a line, and the
// indented lines of its body.
func readMacros() (map[string][]string, error) {
	text, err := os.ReadFile("testdata/macros")
	if err != nil {
		return nil, err
	}
	macros := make(map[string][]string)
	name := ""
	for line := range strings.Lines(string(text)) {
		body, indented := strings.CutPrefix(line, "  ")
		switch {
		case strings.TrimSpace(line) == "" || line[0] == '#':
		case indented:
			macros[name] = append(macros[name], strings.TrimSpace(body))
		default:
			name = strings.TrimSpace(line)
			macros[name] = nil
		}
	}
	return macros, nil
}
