package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/verify"
	"github.com/ffstream/ffstream/migrations"
)

// isOne is a condition for one execution.
func isOne(id string) string {
	return fmt.Sprintf("'{fp:' || partition_key || '}:' || execution_id = '%s'", id)
}

// repairs gives what the snapshots of a run say of executions: what was told before,
// where they repair that, and what is.
func (w *world) repairs(run string) (repairs map[string]string, plain map[string]string) {
	w.t.Helper()
	repairs, plain = map[string]string{}, map[string]string{}
	w.each(func(m message) {
		switch e := parsed(w.t, m); {
		case e.Data.Run != run || e.Data.ExecutionID == "":
		case !e.Data.Repair:
			plain[e.Data.ExecutionID] = e.Data.To
		default:
			known := "nothing"
			if e.Data.Known != nil {
				known = *e.Data.Known
			}
			repairs[e.Data.ExecutionID] = known + " " + e.Data.To
		}
	})
	return repairs, plain
}

// TestBackfillRepairs: behind a gap a backfill says of which executions the stream
// told another state last, of those too that are gone, and of no others.
func TestBackfillRepairs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	w.exec(fmt.Sprintf(insertBulk, 512))
	w.caughtUp(p)
	changed, gone, moved, early, late, told := w.one(4), w.one(200), w.one(7), w.one(8), w.one(10), w.one(20)
	p.stop()
	dropSlot(w)
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'suspended' WHERE " + strings.Join([]string{isOne(changed), isOne(moved), isOne(early), isOne(late), isOne(told)}, " OR "))
	w.exec("DELETE FROM ff_exec_core WHERE partition_key = 5 OR " + isOne(gone))
	w.exec("UPDATE ff_exec_core SET priority = 7 WHERE partition_key = 9")
	w.exec(fmt.Sprintf(insertBulk, 3)) // nothing was told of these
	w.orders("resume", "--accept-gap")
	p = w.run()
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'active' WHERE " + isOne(moved)) // the stream is right again
	w.caughtUp(p)

	// One at a time: an execution that is gone takes a place too.
	w.orders("backfill", "--partition", "4,5", "--rate", "5", "--wait")
	r := w.backfilled(p)
	repairs, plain := w.repairs(r.Run)
	if repairs[changed] != "waiting suspended" || len(repairs) != 3 || len(plain) != 1 || r.Published != 4 {
		t.Errorf("of two partitions %v is repaired, and %v is not: %+v", repairs, plain, r)
	}
	w.orders("backfill", "--lane", "bulk", "--partition", "200,8", "--wait") // of what is gone nobody knows the lane
	repairs, plain = w.repairs(w.backfilled(p).Run)
	if repairs[early] != "waiting suspended" || len(repairs) != 1 || len(plain) != 2 {
		t.Errorf("of a lane %v is repaired, and %v is not", repairs, plain)
	}
	// One a second: what is told while the run goes on is true.
	w.orders("backfill", "--partition", "4,11,12,13,20", "--rate", "1")
	await(t, "the first execution", func() (bool, string) { r, text := w.backfillStatus(); return r.Published > 0, text })
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'active' WHERE " + isOne(told))
	repairs, plain = w.repairs(w.backfilled(p).Run)
	if _, again := plain[told]; len(repairs) > 0 || !again && len(plain) != 9 {
		t.Errorf("%v is repaired that was told of meanwhile, and %v is not", repairs, plain)
	}
	w.orders("backfill", "--wait")
	r = w.backfilled(p)
	repairs, plain = w.repairs(r.Run)
	if want := map[string]string{late: "waiting suspended", gone: "waiting purged"}; !maps.Equal(repairs, want) {
		t.Errorf("%v is repaired, want %v", repairs, want)
	}
	if plain[moved] != "active" || plain[changed] != "suspended" || len(plain) != 512+3-3-1 || r.Published != len(plain)+2 {
		t.Errorf("%d are told as they were: %s %s: %+v", len(plain), plain[moved], plain[changed], r)
	}
	if found := w.differences(0); len(found) > 0 {
		t.Errorf("after the backfill: %v", found)
	}
	w.orders("backfill", "--wait")
	if repairs, _ := w.repairs(w.backfilled(p).Run); len(repairs) > 0 {
		t.Errorf("a second one repairs %v", slices.Collect(maps.Keys(repairs)))
	}
	p.stop()
}

// TestBackfillRepairsEmpty: what was deleted in a gap is told as purged also where no row
// is left: in the first partitions, in those that the engine does not use, in all.
func TestBackfillRepairsEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	w.exec(fmt.Sprintf(insertBulk, 512))
	w.exec(fmt.Sprintf(strings.Replace(insertBulk, "n %% 256", "300", 1), 2))
	w.exec(fmt.Sprintf(strings.Replace(insertBulk, "n %% 256", "-5", 1), 2))
	w.caughtUp(p)
	lost := func(condition string, n int) {
		t.Helper()
		p.stop()
		dropSlot(w)
		w.exec("DELETE FROM ff_exec_core WHERE " + condition)
		w.orders("resume", "--accept-gap")
		p = w.run()
		w.caughtUp(p)
		found := w.differences(1)
		if len(found["surplus"]) != n || len(found) != 1 {
			t.Errorf("with %s gone verify finds %d surplus, want %d", condition, len(found["surplus"]), n)
		}
		for _, few := range []int{0, 100} {
			if v := w.verified(verify.Config{Held: few}); len(v.found) != n {
				t.Errorf("with %s gone and memory for %d verify finds %d, want %d", condition, few, len(v.found), n)
			}
		}
		w.orders("backfill", "--wait")
		repairs, _ := w.repairs(w.backfilled(p).Run)
		for id, text := range repairs {
			if text != "waiting purged" {
				t.Errorf("%s is repaired as %s", id, text)
			}
		}
		if len(repairs) != n {
			t.Errorf("with %s gone %d are repaired, want %d", condition, len(repairs), n)
		}
		if found := w.differences(0); len(found) > 0 {
			t.Errorf("after the backfill: %v", found)
		}
	}
	lost("partition_key BETWEEN 0 AND 3 OR partition_key = 300", 10)
	lost("true", 506)
	p.stop()
}

// TestBackfillGivenUp: the end of a backfill that went with a stream which an operator gave
// up was not forgotten by the broker: nothing begins unasked.
func TestBackfillGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	w.exec(fmt.Sprintf(insertBulk, 300))
	p := start(t, w.with(map[string]string{"FFSTREAM_BACKFILL": "initial"}), "run")
	w.awaitActive(p)
	r := w.backfilled(p)
	w.caughtUp(p)
	p.stop()
	deleteStream(w)
	w.orders("resume", "--accept-gap")
	p = w.run()
	await(t, "the service to have looked at the order", func() (bool, string) {
		store, err := backfill.Open(t.Context(), w.js, w.bucket())
		w.must(err)
		_, report, _, err := store.Current(t.Context())
		w.must(err)
		return report.Sequence == 0, mustJSON(report) + p.output()
	})
	if again, text := w.backfillStatus(); again.State != "completed" || again.Run != r.Run || again.Executions != r.Executions {
		t.Errorf("the backfill that was over goes on: %s", text)
	}
	w.orders("backfill", "--partition", "999", "--wait") // one at a time
	if n := w.messages(); n != 2 || strings.Contains(p.output(), r.Run) || strings.Contains(p.output(), "forgot") {
		t.Errorf("behind the gap's event and the end of what was ordered the stream has %d messages: %s", n, p.output())
	}
	p.stop()
}

// TestBackfillFull: a stream is full when only a backfill has something to say. That
// is counted as what it is, and the backfill goes on when there is room.
func TestBackfillFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	w.exec(fmt.Sprintf(insertBulk, 500))
	p := w.run()
	w.passes(p)
	w.caughtUp(p)
	limit := func(bytes int64, discard jetstream.DiscardPolicy) {
		t.Helper()
		cfg := w.jetstream().CachedInfo().Config
		cfg.MaxBytes, cfg.Discard = bytes, discard
		_, err := w.js.UpdateStream(t.Context(), cfg)
		w.must(err)
	}
	limit(int64(w.jetstream().CachedInfo().State.Bytes), jetstream.DiscardNew)
	w.orders("backfill")
	await(t, "the full stream to be counted", func() (bool, string) {
		r := p.report()
		return r.Counters.Retries["stream_full"] > 0, mustJSON(r)
	})
	limit(-1, jetstream.DiscardOld)
	if r := w.backfilled(p); r.State != "completed" || r.Published != 501 {
		t.Errorf("%+v", r)
	}
	w.caughtUp(p)
	if n := w.snapshotted(w.stored()); n != 501 {
		t.Errorf("%d snapshots, want 501", n)
	}
	p.stop()
}
