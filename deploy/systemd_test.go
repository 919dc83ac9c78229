package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const unitPath = "systemd/ffstream.service"

// TestUnit: systemd takes every line of the unit, and rates its exposure low. A
// directive that this systemd does not know is a finding.
func TestUnit(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed: apt-get install systemd")
	}
	// The program need not be installed here; any executable stands for it.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, unitPath)
	text = strings.Replace(text, "ExecStart=/usr/local/bin/ffstream", "ExecStart="+self, 1)
	path := filepath.Join(t.TempDir(), "ffstream.service")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", path).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// In tenths: 0 is shut, 100 is open.
	out, err = exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", path).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// TestUnitSettings: the unit and its environment set what run takes, and each
// credential that is named is loaded.
func TestUnitSettings(t *testing.T) {
	t.Parallel()
	unit, env := read(t, unitPath), read(t, "systemd/ffstream.env")
	checkVariables(t, unitPath, unit, "run")
	checkVariables(t, "systemd/ffstream.env", env, "run")
	if regexp.MustCompile(`(?m)^[^#]*(://[^/@\s]*:[^/@\s]*@|PASSWORD=|TOKEN=)`).MatchString(env) {
		t.Error("a secret stands in the environment file")
	}
	if !regexp.MustCompile(`(?m)^FFSTREAM_DATABASE_URL=\S+sslmode=verify-full$`).MatchString(env) {
		t.Error("the environment file's database need not prove its name")
	}
	loaded := regexp.MustCompile(`LoadCredential=([a-z.-]+):`).FindAllStringSubmatch(unit, -1)
	used := regexp.MustCompile(`=%d/([a-z.-]+)`).FindAllStringSubmatch(unit, -1)
	if len(loaded) != 2 || len(used) != 2 {
		t.Fatalf("%d credentials are loaded and %d used, want 2", len(loaded), len(used))
	}
	for i := range used {
		if used[i][1] != loaded[i][1] {
			t.Errorf("credential %s is used and %s loaded", used[i][1], loaded[i][1])
		}
	}
	for _, line := range []string{"DynamicUser=yes", "ProtectSystem=strict", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "SystemCallFilter=@system-service"} {
		if !strings.Contains(unit, "\n"+line+"\n") {
			t.Errorf("the unit lacks %s", line)
		}
	}
}
