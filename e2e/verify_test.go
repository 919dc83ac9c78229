package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/internal/verify"
	"github.com/ffstream/ffstream/migrations"
)

// differences runs verify, and gives what it finds by kind.
func (w *world) differences(code int, args ...string) map[string][]string {
	w.t.Helper()
	p, got := asks(w.t, w.env(), append([]string{"verify", "--json", "--timeout=2m"}, args...)...)
	if got != code {
		w.t.Fatalf("verify ends with %d, want %d: %s", got, code, p.output())
	}
	found := map[string][]string{}
	for line := range strings.Lines(p.output()) {
		var d struct {
			Kind, Told, Is string
			ID             string `json:"execution_id"`
		}
		if json.Unmarshal([]byte(line), &d) == nil && d.Kind != "" {
			found[d.Kind] = append(found[d.Kind], fmt.Sprintf("%s %s %s", d.ID, d.Told, d.Is))
		}
	}
	return found
}

// one gives an execution of a partition.
func (w *world) one(partition int) (id string) {
	w.t.Helper()
	w.must(w.db.Pool.QueryRow(context.Background(), "SELECT '{fp:' || partition_key || '}:' || execution_id FROM ff_exec_core WHERE partition_key = $1 ORDER BY execution_id LIMIT 1", partition).Scan(&id))
	return id
}

// lastOf is the sequence of the last message about an execution.
func (w *world) lastOf(id string) (sequence uint64) {
	w.t.Helper()
	n := uint64(0)
	w.each(func(m message) {
		n++
		if parsed(w.t, m).Data.ExecutionID == id {
			sequence = n
		}
	})
	return sequence
}

// TestVerify finds what was lost, what was made up and what was changed unseen, and
// a repair mends each.
func TestVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	w.populate(1200)
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'active' WHERE lane_id = 'bulk' AND partition_key IN (3, 4, 5)")
	w.caughtUp(p)
	if found := w.differences(0); len(found) > 0 {
		t.Fatalf("of a stream that is right: %v", found)
	}
	deleted, lost, edited, gone := w.one(3), w.one(200), w.one(4), w.one(5)
	p.stop()

	stream := w.jetstream()
	w.must(stream.DeleteMsg(t.Context(), w.lastOf(deleted))) // told to be waiting again
	w.must(stream.DeleteMsg(t.Context(), w.lastOf(lost)))    // never told
	// A publication without the table sends nothing of what is changed meanwhile.
	w.exec("ALTER PUBLICATION ffstream DROP TABLE ff_exec_core")
	w.exec(fmt.Sprintf("UPDATE ff_exec_core SET lifecycle_phase = 'suspended' WHERE '{fp:' || partition_key || '}:' || execution_id = '%s'", edited))
	w.exec(fmt.Sprintf("DELETE FROM ff_exec_core WHERE '{fp:' || partition_key || '}:' || execution_id = '%s'", gone))
	w.orders("migrate")
	if text := w.orders("resume", "--accept-gap"); !strings.Contains(text, "Accepted") {
		t.Fatal(text)
	}
	p = w.run()
	want := map[string]string{"missing": lost + "  waiting", "surplus": gone + " active purged"}
	found := w.differences(1)
	for kind, one := range want {
		if len(found[kind]) != 1 || found[kind][0] != one {
			t.Errorf("%s: %v, want %s", kind, found[kind], one)
		}
	}
	differing := strings.Join(found["differing"], ", ")
	if len(found["differing"]) != 2 || !strings.Contains(differing, deleted+" waiting active") || !strings.Contains(differing, edited+" active suspended") {
		t.Errorf("differing: %s", differing)
	}
	if found := w.differences(1, "--partition", "4", "--ignore-missing"); len(found["differing"]) != 1 || len(found) != 1 {
		t.Errorf("of one partition: %v", found)
	}
	if found := w.differences(0, "--partition", "200", "--ignore-missing"); len(found) != 0 {
		t.Errorf("of one whose missing are ignored: %v", found)
	}
	if few := w.verified(verify.Config{Held: 40}); len(few.found) != 4 || few.Events <= w.verified(verify.Config{}).Events {
		t.Errorf("held in little memory: %+v", few)
	}
	some := 0
	for seed := range uint64(8) {
		some += len(w.verified(verify.Config{Sample: 0.5, Seed: seed, Partitions: []uint16{3, 4, 5, 200}}).found)
	}
	if some == 0 || some == 32 {
		t.Errorf("of 8 halves %d of 32 were found", some)
	}
	if p, code := asks(t, w.env(), "verify", "--repair", "--timeout=2m"); code != 1 || !strings.Contains(p.output(), "of what differs is ordered") {
		t.Fatalf("repair: %s", p.output())
	}
	if r := w.backfilled(p); r.Published != 4 {
		t.Errorf("the repair: %+v", r)
	}
	w.caughtUp(p)
	repaired := map[string]string{}
	w.each(func(m message) {
		if e := parsed(t, m); e.Data.Repair {
			known := "nothing"
			if e.Data.Known != nil {
				known = *e.Data.Known
			}
			repaired[e.Data.ExecutionID] = known + " " + e.Data.To
		}
	})
	for id, text := range map[string]string{deleted: "waiting active", lost: "nothing waiting", edited: "active suspended", gone: "active purged"} {
		if repaired[id] != text {
			t.Errorf("%s is repaired as %q, want %q", id, repaired[id], text)
		}
	}
	if found := w.differences(0); len(found) > 0 {
		t.Errorf("after the repair: %v", found)
	}
	p.stop()
}

// verification is what a comparison says.
type verification struct {
	verify.Summary
	found []string
}

// verified compares in this process, as far as cfg says how.
func (w *world) verified(cfg verify.Config) (v verification) {
	w.t.Helper()
	cfg.Stream, cfg.Prefix, cfg.Sample = w.stream, w.prefix, cmp.Or(cfg.Sample, 1)
	if cfg.Timeout == 0 {
		cfg.Timeout = patience
	}
	var err error
	v.Summary, err = verify.Run(w.t.Context(), w.db.Pool, w.js, cfg, func(d verify.Difference) error {
		v.found = append(v.found, fmt.Sprintf("%s %s %s %s", d.Kind, d.ID, d.Told, d.Is))
		return nil
	})
	w.must(err)
	return v
}

// TestVerifyAwaits: what the stream does not have yet, since the service is slow, is
// awaited and no difference.
func TestVerifyAwaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	w.exec(fmt.Sprintf(insertBulk, 300))
	w.caughtUp(p)
	p.signal(syscall.SIGSTOP)
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'active' WHERE partition_key = 3")
	q := start(t, w.env(), "verify", "--timeout=2m")
	await(t, "verify to have read what differs", func() (bool, string) {
		select {
		case <-q.done:
			return true, ""
		default:
		}
		var read bool
		w.must(w.db.Pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ffstream verify'
			AND state = 'idle' AND query LIKE 'SELECT pg_current_snapshot()::text, %c.execution_id, c.lifecycle_phase%')`).Scan(&read))
		return read, q.output()
	})
	p.signal(syscall.SIGCONT)
	if code := q.code(); code != 0 || !strings.Contains(q.output(), "300 executions and 302 events compared: 0 missing, 0 surplus, 0 differing") {
		t.Errorf("%d: %s", code, q.output())
	}
	p.stop()
}

// TestVerifyPurged: a range of the stream is gone.
func TestVerifyPurged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	w.exec(fmt.Sprintf(insertBulk, 300))
	w.caughtUp(p)
	p.stop()
	w.must(w.jetstream().Purge(t.Context(), jetstream.WithPurgeSequence(101)))
	w.orders("resume", "--accept-gap")
	p = w.run()
	if found := w.differences(1); len(found["missing"]) != 100 || len(found) != 1 {
		t.Errorf("%v", found)
	}
	p.stop()
	// What the service has not dealt with is no difference.
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'active'")
	if p, code := asks(t, w.env(), "verify", "--timeout", "20s"); code != 1 || !strings.Contains(oneError(t, p), "stream is behind the database") {
		t.Errorf("a service that is away: %s", p.output())
	}
}

// TestVerifyAged: what limits removed is not judged, unless the stream holds a
// backfill of everything, from which on it has to tell.
func TestVerifyAged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	w.exec(fmt.Sprintf(insertBulk, 300))
	w.orders("backfill", "--rate", "500") // 100 a chunk
	w.backfilled(p)
	w.caughtUp(p)
	told := w.messages()
	limit := func(messages uint64) {
		t.Helper()
		cfg := w.jetstream().CachedInfo().Config
		cfg.MaxMsgs = int64(messages)
		_, err := w.js.UpdateStream(t.Context(), cfg)
		w.must(err)
	}
	p.stop()
	lost := w.one(100)
	w.must(w.jetstream().DeleteMsg(t.Context(), w.lastOf(lost)))
	w.orders("resume", "--accept-gap") // which is an event too
	p = w.run()
	limit(told - 300) // all transitions are gone, and no snapshot
	if v := w.verified(verify.Config{}); len(v.found) != 1 || v.found[0] != "missing "+lost+"  waiting" || v.AgedOut != 0 {
		t.Errorf("within the backfill: %+v", v)
	}
	// What is ordered later does not make it forget that run.
	limit(told)
	w.orders("backfill", "--partition", "999", "--wait")
	limit(told - 300 + 1)
	if v := w.verified(verify.Config{}); len(v.found) != 1 || v.found[0] != "missing "+lost+"  waiting" || v.AgedOut != 0 {
		t.Errorf("behind a later order: %+v", v)
	}
	limit(told - 310)
	if v := w.verified(verify.Config{}); len(v.found) != 0 || v.AgedOut < 9 || v.AgedOut > 12 {
		t.Errorf("beyond the backfill's beginning: %+v", v)
	}
	// What was created when the stream's oldest message was there cannot have aged out.
	w.exec("UPDATE ff_exec_core SET created_at_ms = extract(epoch FROM now() + interval '1 hour') * 1000 WHERE " + isOne(lost))
	if v := w.verified(verify.Config{}); len(v.found) != 1 || v.found[0] != "missing "+lost+"  waiting" || v.AgedOut < 8 || v.AgedOut > 11 {
		t.Errorf("of one that is young: %+v", v)
	}
	w.exec("UPDATE ff_exec_core SET created_at_ms = 1 WHERE " + isOne(lost))
	q, code := asks(t, w.env(), "verify", "--timeout=2m")
	if code != 0 || !strings.Contains(q.output(), "0 missing") || !strings.Contains(q.output(), "and need not: what is older than") {
		t.Errorf("%d %s", code, q.output())
	}
	p.stop()
}

// TestVerifyYoung: where age alone removes messages, an execution that is younger was
// told, or the message was removed by somebody.
func TestVerifyYoung(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run("--stream-max-age=1s")
	w.exec(fmt.Sprintf(insertBulk, 5))
	young := w.one(3)
	w.exec("UPDATE ff_exec_core SET created_at_ms = extract(epoch FROM now() + interval '1 hour') * 1000 WHERE " + isOne(young))
	w.caughtUp(p)
	await(t, "the stream to forget", func() (bool, string) { return w.messages() == 0, p.output() })
	if v := w.verified(verify.Config{}); len(v.found) != 1 || v.found[0] != "missing "+young+"  waiting" || v.AgedOut != 4 {
		t.Errorf("%+v", v)
	}
	if v := w.verified(verify.Config{IgnoreMissing: true}); len(v.found) != 0 || v.AgedOut != 5 {
		t.Errorf("with all that is missing ignored: %+v", v)
	}
	p.stop()
}

// TestVerifyCrowded: a partition of more executions than memory has room for is compared
// in parts.
func TestVerifyCrowded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	w.exec(fmt.Sprintf(strings.Replace(insertBulk, "n %% 256", "86", 1), 300))
	w.exec(fmt.Sprintf(insertBulk, 256))
	w.caughtUp(p)
	p.stop()
	w.exec("ALTER PUBLICATION ffstream DROP TABLE ff_exec_core")
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'suspended' WHERE created_at_ms % 10 = 1")
	w.exec("DELETE FROM ff_exec_core WHERE created_at_ms % 10 = 2")
	w.exec(fmt.Sprintf(strings.Replace(insertBulk, "n %% 256", "86", 1), 25))
	w.orders("migrate")
	w.orders("resume", "--accept-gap")
	p = w.run()
	whole := w.verified(verify.Config{})
	if d := whole.Differ; d[verify.Differing] != 56 || d[verify.Surplus] != 56 || d[verify.Missing] != 25 {
		t.Fatalf("%+v", whole)
	}
	slices.Sort(whole.found)
	for _, c := range []verify.Config{{Held: 40}, {Held: 40, Partitions: []uint16{85, 86, 87}}} {
		parts := w.verified(c)
		slices.Sort(parts.found)
		if n := len(c.Partitions); n == 0 && !slices.Equal(parts.found, whole.found) || n > 0 && parts.Differ[verify.Missing] != 25 || parts.Events < 2*300 {
			t.Errorf("with memory for %d: %d differ of %d, and %d events are read", c.Held, len(parts.found), len(whole.found), parts.Events)
		}
		if len(c.Partitions) == 0 && parts.Executions != whole.Executions {
			t.Errorf("with memory for %d: %d executions of %d", c.Held, parts.Executions, whole.Executions)
		}
	}
	p.stop()
}

// TestVerifyOdd: after a TRUNCATE, with rows that no rule understands, and beside a
// transaction that stays open.
func TestVerifyOdd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	w.exec(fmt.Sprintf(insertBulk, 300))
	w.exec("TRUNCATE ff_exec_core, ff_attempt")
	w.exec(fmt.Sprintf(insertBulk, 50))
	nonsense := func(id string) {
		w.exec(fmt.Sprintf("UPDATE ff_exec_core SET lifecycle_phase = 'nonsense' WHERE '{fp:' || partition_key || '}:' || execution_id = '%s'", id))
	}
	nonsense(w.one(7))
	w.caughtUp(p)
	if v := w.verified(verify.Config{}); len(v.found) != 0 || v.Executions != 50 {
		t.Errorf("of a stream that is right: %+v", v)
	}
	p.stop()
	// What happens now is told by nothing.
	edited, held, gone := w.one(8), w.one(9), w.one(10)
	w.exec("ALTER PUBLICATION ffstream DROP TABLE ff_exec_core")
	nonsense(edited)
	nonsense(w.one(7))
	w.exec("DELETE FROM ff_exec_core WHERE partition_key IN (9, 10, 11, 12)")
	w.orders("migrate")
	w.orders("resume", "--accept-gap")
	p = w.run()
	if v := w.verified(verify.Config{}); len(v.found) != 5 || !slices.Contains(v.found, "differing "+edited+" waiting corrupt") || !slices.Contains(v.found, "surplus "+gone+" waiting purged") {
		t.Errorf("%+v", v)
	}
	tx, err := w.db.Pool.Begin(t.Context())
	w.must(err)
	defer func() { _ = tx.Rollback(context.Background()) }()  // the pool's end waits for it
	_, err = tx.Exec(t.Context(), fmt.Sprintf(insertBulk, 1)) // it may be about to make what is not there
	w.must(err)
	v := w.verified(verify.Config{Timeout: 2 * time.Second, Partitions: []uint16{9, 10, 11, 12}})
	if v.Unsettled != 4 || len(v.found) != 0 {
		t.Errorf("beside an open transaction: %+v", v)
	}
	if q, code := asks(t, w.env(), "verify", "--timeout", "20s", "--partition", "9"); code != 1 || !strings.Contains(q.output(), "not everything could be judged: 1 executions") {
		t.Errorf("%d %s", q.code(), q.output())
	}
	w.must(tx.Rollback(t.Context()))
	if v := w.verified(verify.Config{Partitions: []uint16{9}}); len(v.found) != 1 || v.found[0] != "surplus "+held+" waiting purged" {
		t.Errorf("once it is over: %+v", v)
	}
	p.stop()
}

// TestVerifyUnderLoad: nothing is found while writers and a backfill go on.
func TestVerifyUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	w.exec(fmt.Sprintf(insertBulk, 600))
	p := start(t, w.with(map[string]string{"FFSTREAM_BACKFILL": "initial"}), "run")
	w.awaitActive(p)
	w.backfilled(p)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = engine.Run(ctx, w.db.Pool, engine.WorkloadConfig{Version: engine.Newest, Writers: 1, Rate: 30, Seed: 1})
	})
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			_, err := w.db.Pool.Exec(ctx, fmt.Sprintf("UPDATE ff_exec_core SET lifecycle_phase = CASE lifecycle_phase WHEN 'active' THEN 'suspended' ELSE 'active' END WHERE lane_id = 'bulk' AND partition_key %% 16 = %d", i%16))
			if err != nil && ctx.Err() == nil && !strings.Contains(err.Error(), "40P01") {
				t.Error(err)
			}
			pause(ctx, 250*time.Millisecond) // some 150 events a second
		}
	})
	w.orders("backfill", "--rate", "300")
	for range 2 {
		if found := w.differences(0); len(found) > 0 {
			t.Errorf("%v", found)
		}
	}
	w.backfilled(p)
	stop()
	wg.Wait()
	p.stop()
}

// TestVerifyRefuses: what cannot be compared is said to be so.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--sample", "0"}, 2, "--sample 0: want a part above 0"},
		{[]string{"--sample", "2"}, 2, "--sample 2: want a part above 0"},
		{[]string{"--timeout", "0s"}, 2, "--timeout 0s: want more than 0"},
		{nil, 1, "stream not found"},
	} {
		p := start(t, w.env(), append([]string{"verify"}, c.args...)...)
		if p.code() != c.code || !strings.Contains(oneError(t, p), c.says) {
			t.Errorf("%s: %d %s", c.args, p.code(), p.output())
		}
	}
}
