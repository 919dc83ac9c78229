package shard

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ffstream/ffstream/internal/repl"
)

// TestSilenceGrows: a server that is busy in one place is borne with for longer at
// each try, and one that let something be stored, no longer than at first.
func TestSilenceGrows(t *testing.T) {
	t.Parallel()
	s := New(nil, Config{})
	silent := fmt.Errorf("read: %w", repl.ErrSilent)
	for i, step := range []struct {
		err    error
		stored bool
		want   time.Duration
	}{
		{errors.New("refused"), false, 30 * time.Second},
		{silent, false, time.Minute},
		{silent, false, 2 * time.Minute},
		{errors.New("refused"), false, 2 * time.Minute},
		{silent, true, 30 * time.Second},
		{silent, false, time.Minute},
		{errors.New("reset"), true, 30 * time.Second},
		{silent, false, time.Minute}, {silent, false, 2 * time.Minute}, {silent, false, 4 * time.Minute}, {silent, false, 8 * time.Minute},
		{silent, false, 16 * time.Minute}, {silent, false, 16 * time.Minute},
	} {
		s.heed(step.err, step.stored)
		if got := s.sourceConfig().Silence; got != step.want {
			t.Errorf("step %d: %s are borne, want %s", i, got, step.want)
		}
	}
}
