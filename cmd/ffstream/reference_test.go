package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/ffstream/ffstream"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

// TestReference: docs/configuration.md is what the flags say.
func TestReference(t *testing.T) {
	t.Parallel()
	const path = "../../docs/configuration.md"
	want, err := reference()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("docs/configuration.md is not what the flags say (%v): run: make reference", err)
	}
}

// TestPrecedence: a flag wins over the environment, and that over the file.
func TestPrecedence(t *testing.T) {
	path := t.TempDir() + "/c.yaml"
	if err := os.WriteFile(path, []byte("slot: file\nstream: FILE\nsubject-prefix: file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FFSTREAM_SLOT", "environment")
	t.Setenv("FFSTREAM_STREAM", "ENVIRONMENT")
	args := []string{"--config=" + path, "run", "--slot=flag"}
	var cli commands
	parser, err := newParser(&cli)
	if err != nil {
		t.Fatal(err)
	}
	if parser, err = withConfigFile(parser, args); err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Fatal(err)
	}
	if c := cli.Run; c.Slot != "flag" || c.Stream != "ENVIRONMENT" || c.SubjectPrefix != "file" || c.Publication != "ffstream" {
		t.Errorf("slot %s, stream %s, prefix %s, publication %s", c.Slot, c.Stream, c.SubjectPrefix, c.Publication)
	}
}

// TestConfigFileValues: a flag gets of the file what it would get on the command line.
func TestConfigFileValues(t *testing.T) {
	t.Parallel()
	parse := func(text string, command ...string) (*commands, error) {
		path := t.TempDir() + "/c.yaml"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var cli commands
		parser, err := newParser(&cli)
		if err != nil {
			t.Fatal(err)
		}
		args := append([]string{"--config=" + path}, command...)
		if parser, err = withConfigFile(parser, args); err != nil {
			return nil, err
		}
		_, err = parser.Parse(args)
		return &cli, err
	}
	cli, err := parse("lane: [a, 'b,c']\nstate: active\npartition: [1, 20]\nsince: 2026-01-02\nnats-url: [nats://a:1, nats://b:2]\nstream:\nfollow: false\n", "tail")
	if err != nil {
		t.Fatal(err)
	}
	c := cli.Tail
	if got := fmt.Sprintf("%q %q %v %s %s %s %v", c.Lane, c.State, c.Partition, c.Since, c.NATSURL, c.Stream, c.Follow); got !=
		`["a" "b,c"] ["active"] [1 20] 2026-01-02 nats://a:1,nats://b:2 FFSTREAM false` {
		t.Error(got)
	}
	for text, says := range map[string]string{
		"slot: [a, b]\n": `key "slot": want one value`, "slot: {a: b}\n": `key "slot": want one value`,
		"nats-url: [[a]]\n": `key "nats-url": want a list of single values`,
	} {
		if _, err := parse(text, "run"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestReferenceIsWhole: each command has a section of its own, with each of its flags,
// and each flag of run has a variable.
func TestReferenceIsWhole(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var cli commands
	parser, err := newParser(&cli)
	if err != nil {
		t.Fatal(err)
	}
	leaves := parser.Model.Leaves(true)
	for _, c := range leaves {
		_, section, found := strings.Cut(string(text), "# "+c.FullPath()+"\n")
		section, _, _ = strings.Cut(section, "\n#")
		if !found {
			t.Errorf("%s has no section", c.FullPath())
		}
		for _, f := range c.Flags {
			env := "-"
			if len(f.Envs) > 0 {
				env = "`" + f.Envs[0] + "`"
			} else if c.Name == "run" {
				t.Errorf("run's --%s has no variable", f.Name)
			}
			if !strings.Contains(section, "\n| `--"+f.Name+"` | "+env+" | ") {
				t.Errorf("%s does not name --%s with its variable, %s", c.FullPath(), f.Name, env)
			}
		}
	}
	if len(leaves) < 15 {
		t.Errorf("%d commands", len(leaves))
	}
}

// TestStatesOfRows: a backfill takes each state that the help of its --state lists.
func TestStatesOfRows(t *testing.T) {
	t.Parallel()
	var cli commands
	parser, err := newParser(&cli)
	if err != nil {
		t.Fatal(err)
	}
	listed := 0
	for _, c := range parser.Model.Leaves(true) {
		for _, f := range c.Flags {
			if f.Name != "state" || !strings.HasPrefix(c.FullPath(), "ffstream backfill") {
				continue
			}
			_, names, _ := strings.Cut(strings.TrimSuffix(f.Help, "."), ": ")
			for name := range strings.SplitSeq(names, ", ") {
				listed++
				if _, err := (&backfillStart{State: []string{name}}).filter(); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if listed != len(ffstream.PublicStates()) {
		t.Errorf("%d states are listed", listed)
	}
}

// reference writes docs/configuration.md from the flags themselves.
func reference() (string, error) {
	var cli commands
	parser, err := newParser(&cli)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString("# Configuration\n\nEvery flag of `run` is also an environment variable, and so is, of the other commands, each that says where the servers are\n" +
		"and what things are called. What one call of a command is to do, such as a filter or `--json`, has none: a `-` stands there. Each\n" +
		"flag, of any command, is by its name without the dashes a key of the YAML file that `--config` names; several values are a list.\n" +
		"A flag wins over the environment, and the environment over the file. Durations are written like `90s` or `10m`.\n\n## All commands\n\n")
	table(&b, parser.Model.Flags)
	for _, c := range parser.Model.Children {
		section(&b, c, "##")
	}
	return strings.TrimRight(b.String(), "\n") + "\n", nil
}

// section writes a command and those below it.
func section(b *strings.Builder, c *kong.Node, level string) {
	fmt.Fprintf(b, "\n%s %s\n\n%s\n\n", level, c.FullPath(), c.Help)
	if c.Leaf() {
		table(b, c.Flags)
	} else {
		b.WriteString("Its flags are those of its commands:\n")
	}
	for _, sub := range c.Children {
		section(b, sub, level+"#")
	}
}

func table(b *strings.Builder, flags []*kong.Flag) {
	head := "| flag | environment | default | meaning |\n|---|---|---|---|\n"
	for _, f := range flags {
		if f.Name == "help" || f.Hidden {
			continue
		}
		env, value := "-", ""
		if len(f.Envs) > 0 {
			env = "`" + f.Envs[0] + "`"
		}
		if f.HasDefault {
			value = "`" + f.Default + "`"
		}
		fmt.Fprintf(b, "%s| `--%s` | %s | %s | %s |\n", head, f.Name, env, value, strings.ReplaceAll(f.Help, "|", "\\|"))
		head = ""
	}
	if head != "" {
		b.WriteString("It has no flags of its own.\n")
	}
}
