package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// TestTakeover kills the active of two instances; the other goes on where it was.
// The time until it has published is logged and not asserted.
func TestTakeover(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	e := &engine.Engine{Version: engine.Newest}
	story := &engine.StoriesOf(engine.Newest)[0]
	active := w.run()
	for i := range int16(setting(t, "FFSTREAM_E2E_TAKEOVERS", 3)) {
		standby := start(t, w.env(), "run")
		await(t, "the second instance to stand by", func() (bool, string) { return strings.Contains(standby.output(), "standby"), standby.output() })
		w.play(e, story, engine.Exec{Partition: i, ID: uuid.New()})
		active.kill()
		killed := time.Now()
		w.play(e, story, engine.Exec{Partition: i, ID: uuid.New()})
		await(t, "the standby to publish", func() (bool, string) {
			return w.jetstream().CachedInfo().State.LastSeq == uint64(i+1)*6, standby.output()
		})
		t.Logf("published %s after the active one was killed", time.Since(killed).Round(time.Millisecond))
		active = standby
	}
	w.caughtUp(active)
	o.compare()
	active.stop()
}
