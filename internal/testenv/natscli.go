package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// NATSCommand is the nats command that scripts/natscli installed, or else the one in
// PATH. A test that runs what the documents show with it is skipped where there is none.
func NATSCommand(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
			continue
		}
		if installed := filepath.Join(dir, ".cache", "bin", "nats"); executable(installed) {
			return installed
		}
		break
	}
	path, err := exec.LookPath("nats")
	if err != nil {
		tb.Skip("no nats command: make test installs one")
	}
	return path
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
