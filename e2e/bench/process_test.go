package bench

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ticks is USER_HZ, the unit of the times in /proc: 100 on every Linux.
const tick = time.Second / 100

// cpu is the processor time that a process has used so far; the last value that
// was seen when it is gone.
type cpu struct {
	pid  int
	last time.Duration
}

func (c *cpu) read() time.Duration {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(c.pid) + "/stat")
	if err != nil {
		return c.last
	}
	// The name may hold blanks; what follows its parenthesis does not.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	c.last = time.Duration(user+system) * tick
	return c.last
}

// used is the processor time of a process that has ended.
func used(state *os.ProcessState) time.Duration { return state.UserTime() + state.SystemTime() }

// peak is the most memory that a process that runs has had resident, in bytes; 0
// when it is gone. The figure of wait4 counts what the parent had at the fork.
func peak(pid int) int {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kib << 10
		}
	}
	return 0
}

// start starts a program with the environment of a world and nothing else.
func start(t testing.TB, out *bytes.Buffer, env []string, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}
