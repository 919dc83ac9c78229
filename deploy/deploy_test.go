// Package deploy_test holds the files of this directory against what reads them and
// against what ffstream really has: flags, variables, ports, metrics, sections.
package deploy_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// variables gives the environment variables of one command, and those of all, by the
// reference, which another test holds against the flags themselves.
func variables(t *testing.T, command string) map[string]bool {
	t.Helper()
	found, here := map[string]bool{}, true // the first section is for all commands
	row := regexp.MustCompile("^\\| `--[a-z-]+` \\| `(FFSTREAM_[A-Z_]+)` ")
	for line := range strings.Lines(read(t, "../docs/configuration.md")) {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			heading = strings.TrimSpace(heading)
			here = heading == "All commands" || heading == "ffstream "+command
		}
		if m := row.FindStringSubmatch(line); m != nil && here {
			found[m[1]] = true
		}
	}
	if len(found) < 5 {
		t.Fatalf("docs/configuration.md has %d variables for %s", len(found), command)
	}
	return found
}

var variable = regexp.MustCompile(`\bFFSTREAM_[A-Z_]+`)

// checkVariables reports each FFSTREAM_* in a text that the command does not take.
func checkVariables(t *testing.T, where, text, command string) {
	t.Helper()
	known := variables(t, command)
	used := variable.FindAllString(text, -1)
	if len(used) == 0 {
		t.Errorf("%s sets nothing", where)
	}
	for _, name := range used {
		if !known[name] {
			t.Errorf("%s sets %s, which ffstream %s does not take", where, name, command)
		}
	}
}
