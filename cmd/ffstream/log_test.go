package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"testing"
)

// TestLogFormat: text on a terminal and JSON elsewhere, unless told otherwise.
func TestLogFormat(t *testing.T) {
	t.Parallel()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0) // the far end of a terminal is one
	if err != nil {
		t.Skipf("no pseudo-terminal can be had here: %v", err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	_, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pipe.Close() })
	for _, c := range []struct {
		format string
		to     io.Writer
		text   bool
	}{
		{"auto", terminal, true}, {"auto", pipe, false}, {"auto", &bytes.Buffer{}, false},
		{"json", terminal, false}, {"text", terminal, true}, {"text", pipe, true}, {"json", pipe, false},
	} {
		flags := logFlags{LogLevel: "warn", LogFormat: c.format}
		log, err := flags.logger(c.to)
		if err != nil {
			t.Fatal(err)
		}
		if _, text := log.Handler().(*slog.TextHandler); text != c.text || log.Enabled(t.Context(), slog.LevelInfo) {
			t.Errorf("--log-format=%s to %T gives %T", c.format, c.to, log.Handler())
		}
	}
}
