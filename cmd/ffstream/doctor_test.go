package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/ffstream/ffstream/internal/doctor"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run)) }

// TestDoctorExitCodes holds the command's exit codes and both its outputs.
func TestDoctorExitCodes(t *testing.T) {
	t.Parallel()
	bare := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	prepared := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest, Prepared: true})
	for _, c := range []struct {
		name string
		args []string
		code int
	}{
		{"no URL", []string{"--database-url="}, exitUsage},
		{"fault", []string{"--database-url=" + bare.URL}, exitFatal},
		{"sound", []string{"--database-url=" + prepared.URL}, exitOK},
	} {
		var text, raw, stderr bytes.Buffer
		if code := execute(append([]string{"doctor"}, c.args...), terminal{out: &text, err: &stderr}); code != c.code {
			t.Errorf("%s: exit %d, want %d: %s%s", c.name, code, c.code, text.String(), stderr.String())
		}
		if c.code == exitUsage {
			continue
		}
		if fault := c.code == exitFatal; strings.Contains(text.String(), "        $ ffstream migrate\n") != fault || strings.Contains(text.String(), "CREATE UNIQUE INDEX") {
			t.Errorf("%s: migrate is to be run, or its statements are printed: %s", c.name, text.String())
		}
		if code := execute(append([]string{"doctor", "--json"}, c.args...), terminal{out: &raw, err: &stderr}); code != c.code {
			t.Errorf("%s: exit %d with --json, want %d", c.name, code, c.code)
		}
		var findings []doctor.Finding
		if err := json.Unmarshal(raw.Bytes(), &findings); err != nil || len(findings) == 0 {
			t.Fatalf("%s: %d findings: %v: %s", c.name, len(findings), err, raw.String())
		}
		for _, f := range findings {
			if !strings.Contains(text.String(), f.ID+": "+f.Found) {
				t.Errorf("%s: the text lacks %s: %s", c.name, f.ID, text.String())
			}
		}
	}
}
