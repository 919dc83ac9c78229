package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/ffstream/ffstream/migrations"
)

// TestUnprivileged: the service runs as a user who owns nothing, without a home, in
// a directory that nobody may write to and without another for temporary files; it
// holds no file open for writing.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("not root: no other user can be taken, and this test's own may write to its files")
	}
	w := newWorld(t, migrations.EngineNewest)
	dir, err := os.MkdirTemp("", "ffstream-nobody-") // a test's own is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(dir, "ffstream")
	if err := os.WriteFile(installed, binary, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{installed, dir} {
		if err := os.Chmod(path, 0o555); err != nil { // #nosec G302 -- everybody executes it
			t.Fatal(err)
		}
	}
	cmd := exec.Command(installed, "run")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: nobody(t)}
	cmd.Env = []string{"TMPDIR=" + dir}
	for k, v := range w.env() {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	p := launch(t, cmd)
	w.awaitActive(p)
	w.passes(p)
	if code, body := p.get("/readyz"); code != 200 {
		t.Errorf("/readyz says %d: %s", code, body)
	}
	if files := writable(t, cmd.Process.Pid); len(files) > 0 {
		t.Errorf("the service holds %s open for writing", files)
	}
	p.stop()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("the service left %s: %v", left, err)
	}
	// Without a broker it would need a directory of its own, and says so.
	cmd = exec.Command(installed, "run", "--database-url="+w.db.URL)
	cmd.Dir, cmd.SysProcAttr, cmd.Env = dir, &syscall.SysProcAttr{Setpgid: true, Credential: nobody(t)}, []string{"TMPDIR=" + dir}
	refused(t, launch(t, cmd), 1, []string{"--nats-embedded-dir"}, nil)
}

func nobody(t *testing.T) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Skipf("no user to run the service as: %v", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{}}
}

// writable lists the files on disk that a process holds open for writing.
func writable(t *testing.T, pid int) (files []string) {
	t.Helper()
	descriptors := fmt.Sprintf("/proc/%d/fd", pid)
	all, err := os.ReadDir(descriptors)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		path, err := os.Readlink(filepath.Join(descriptors, d.Name()))
		if err != nil || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "/dev/") {
			continue // closed by now, a socket or a pipe
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, d.Name()))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(info)) {
			if flags, ok := strings.CutPrefix(line, "flags:"); ok && !strings.HasSuffix(strings.TrimSpace(flags), "0") { // O_RDONLY
				files = append(files, path)
			}
		}
	}
	return files
}
