package client

import (
	"testing"

	"github.com/ffstream/ffstream"
)

// TestPassed: what is not behind the position is not given, wherever reading begins.
func TestPassed(t *testing.T) {
	t.Parallel()
	at := func(commit ffstream.LSN) *delivery {
		d := &delivery{}
		d.ID.Position.Commit = commit
		return d
	}
	cfg := Config{From: After(ffstream.Position{Commit: 5})}
	for commit, want := range map[ffstream.LSN]bool{0: false, 4: true, 5: true, 6: false} {
		if got := cfg.passed(at(commit)); got != want {
			t.Errorf("at %d: %t, want %t", commit, got, want)
		}
	}
	broken := at(4)
	broken.broken = ErrPoison
	durable := cfg
	durable.Durable = "d"
	if all := (&Config{From: All()}); cfg.passed(broken) || durable.passed(at(4)) || all.passed(at(4)) {
		t.Error("something else is passed over")
	}
}
