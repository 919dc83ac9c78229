package docs_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run)) }

const (
	installing = 2 * time.Minute // longer, and the packages cannot be had
	patience   = 10 * time.Minute
)

// installs runs commands that get what an example needs; false: it cannot be had.
func installs(t *testing.T, dir string, commands ...[]string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), installing)
	defer cancel()
	return !slices.ContainsFunc(commands, func(c []string) bool { return !run(ctx, t, dir, c[0], c[1:]...) })
}

// run runs a command in a directory; false: it failed, and why is logged.
func run(ctx context.Context, t *testing.T, dir, name string, args ...string) bool {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Logf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return err == nil
}

// TestTypeScript installs the example, compiles it and lets it react.
func TestTypeScript(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("examples/typescript")); err != nil {
		t.Fatal(err)
	}
	if !installs(t, dir, []string{"node", "--version"}, []string{"npm", "install", "--no-audit", "--no-fund"}) {
		t.Skip("node, npm or its packages cannot be had here: the TypeScript example is not run")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if !run(ctx, t, dir, "npm", "run", "build") {
		t.Fatal("the example does not compile")
	}
	reacts(ctx, t, "completions-typescript", dir, "node", "dist/completions.js")
}

// TestPython likewise.
func TestPython(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("examples/python")); err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(dir, "venv", "bin", "python")
	if !installs(t, dir, []string{"python3", "-m", "venv", "venv"}, []string{python, "-m", "pip", "install", "--quiet", "-r", "requirements.txt"}) {
		t.Skip("python, venv or nats-py cannot be had here: the Python example is not run")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reacts(ctx, t, "completions-python", dir, python, "completions.py")
}

// TestShell likewise, with the nats command and jq.
func TestShell(t *testing.T) {
	t.Parallel()
	path := "PATH=" + filepath.Dir(testenv.NATSCommand(t)) + ":" + os.Getenv("PATH")
	if !installs(t, ".", []string{"jq", "--version"}) {
		t.Skip("jq cannot be had here: the example for the shell is not run")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reacts(ctx, t, "completions-shell", "examples", "env", path, "NATS_TIMEOUT=1m", "sh", "completions.sh")
}

// reacts checks that an example prints the completions of lane default, of before
// its start and behind, in order, acknowledges them, and ends when it is told to.
func reacts(ctx context.Context, t *testing.T, durable, dir, name string, args ...string) {
	t.Helper()
	url := testenv.NATSURL(t)
	js := testenv.JetStream(t, testenv.Connect(t, url))
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: durable, Subjects: []string{durable + ".>"}})
	if err != nil {
		t.Fatal(err)
	}
	want := publish(ctx, t, js, durable, 0)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Stderr, cmd.SysProcAttr = dir, os.Stderr, &syscall.SysProcAttr{Setpgid: true}
	cmd.Env = append(os.Environ(), "FFSTREAM_NATS_URL="+url, "FFSTREAM_STREAM="+durable, "FFSTREAM_SUBJECT_PREFIX="+durable)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }() // what it started, too
	lines := bufio.NewScanner(out)
	for round := range 2 {
		for _, line := range want {
			if !lines.Scan() || lines.Text() != line {
				t.Fatalf("printed %q, want %q: %v", lines.Text(), line, lines.Err())
			}
		}
		if round == 0 {
			want = publish(ctx, t, js, durable, 3)
		}
	}
	for {
		consumer, err := stream.Consumer(ctx, durable)
		if err != nil {
			t.Fatal(err)
		}
		if consumer.CachedInfo().AckFloor.Consumer >= 12 {
			break
		}
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM); err != nil { // as a terminal does, the whole group
		t.Error(err)
	}
	if lines.Scan() {
		t.Errorf("printed %q as well", lines.Text())
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Error(err)
	}
}

// publish stores three completions of lane default among others, and snapshots of what
// had completed before, and says what is to be printed.
func publish(ctx context.Context, t *testing.T, js jetstream.JetStream, prefix string, first int) (lines []string) {
	t.Helper()
	for n := first; n < first+3; n++ {
		all := events()
		completed, snapshot := all[1], all[3]
		for i, e := range []ffstream.Event{completed, snapshot, completed} {
			e.To, e.Namespace, e.LaneID = ffstream.StateCompleted, "ns", "default"
			if i == 0 {
				e.LaneID = "other"
			}
			e.ID = ffstream.EventID{System: 7, Position: ffstream.Position{Commit: 0x100, Index: uint32(3*n + i)}}
			if _, err := js.Publish(ctx, e.Subject(prefix), e.AppendJSON(nil)); err != nil {
				t.Fatal(err)
			}
			if i == 2 {
				lines = append(lines, fmt.Sprintf("%s %s active -> completed", e.ID, e.ExecutionID))
			}
		}
	}
	return lines
}
