package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/migrations"
)

// TestBackfillOrders: filters, pause and cancel, what is refused and what is said.
func TestBackfillOrders(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	w.exec(fmt.Sprintf(insertBulk, 2000))
	w.exec("UPDATE ff_exec_core SET lane_id = 'few', lifecycle_phase = 'suspended', raw_fields = '{\"namespace\":\"ns-few\"}', created_at_ms = 4102444800000 WHERE partition_key = 7")
	if p, code := asks(t, w.env(), "backfill"); code != 1 || !strings.Contains(oneError(t, p), "let the service run once") {
		t.Errorf("without a service: %s", p.output())
	}
	p := w.run()
	if text := w.orders("backfill", "status"); !strings.Contains(text, "No backfill was ever ordered") {
		t.Error(text)
	}
	w.orders("backfill", "--partition", "999", "--wait") // there are none
	if all := w.stored(); len(all) != 1 || parsed(t, all[0]).Data.Status != "completed" {
		t.Errorf("of a run that finds nothing the stream has %d messages, want its end", len(all))
	}
	if text := w.orders("backfill", "--lane", "nobody's"); !strings.Contains(text, `warning: no execution is in lane "nobody's"`) || !strings.Contains(text, "0 executions match") {
		t.Error(text)
	}
	var few int
	w.must(w.db.Pool.QueryRow(t.Context(), "SELECT count(*) FROM ff_exec_core WHERE lane_id = 'few'").Scan(&few))
	for _, args := range [][]string{
		{"--lane", "few"}, {"--lane", "few,nobody's"}, {"--partition", "7"}, {"--state", "suspended"}, {"--namespace", "ns-few"}, {"--since", "2099-01-01"},
		{"--state", "suspended,active", "--lane", "few,bulk"},
	} {
		if text := w.orders(append([]string{"backfill", "--wait"}, args...)...); !strings.Contains(text, fmt.Sprintf(" %d published", few)) {
			t.Errorf("%s: %s", args, text)
		}
	}
	// From where nothing but the broker is reached.
	away := w.env()
	delete(away, "FFSTREAM_DATABASE_URL")
	if p := start(t, away, "backfill", "--lane", "few"); p.code() != 2 || !strings.Contains(oneError(t, p), "--database-url (FFSTREAM_DATABASE_URL) is required") {
		t.Errorf("a lane without a database to look into: %s", p.output())
	}
	if p := start(t, away, "backfill", "--lane", "few,nobody's", "--force", "--wait"); p.code() != 0 || !strings.Contains(p.output(), fmt.Sprintf(" %d published", few)) {
		t.Errorf("a lane that is insisted on: %s", p.output())
	}
	before := len(w.stored())
	w.orders("backfill", "--rate", "150")
	await(t, "the first chunk", func() (bool, string) { r, text := w.backfillStatus(); return r.Published > 0, text })
	if p, code := asks(t, w.env(), "backfill"); code != 1 || !strings.Contains(oneError(t, p), "another backfill is open") {
		t.Errorf("two at once: %s", p.output())
	}
	w.orders("backfill", "pause")
	await(t, "the pause", func() (bool, string) { r, text := w.backfillStatus(); return r.State == "paused", text })
	r, _ := w.backfillStatus()
	await(t, "the stream to say again how far the run is that is paused", func() (bool, string) { // which may be stored a moment later
		all := w.stored()
		last := all[len(all)-1]
		return len(all) > 1 && parsed(t, last).Data.Executions == r.Executions && parsed(t, all[len(all)-2]).Type == "ffstream.backfill.v1", string(last.body)
	})
	p.stop()
	p = w.run("--backfill-rate=5") // what is paused stays so
	await(t, "the pause", func() (bool, string) {
		r, text := w.backfillStatus()
		return r.State == "paused" && strings.Count(p.output(), "backfill begins") == 1, text
	})
	w.orders("backfill", "resume")
	await(t, "more", func() (bool, string) { r, text := w.backfillStatus(); return r.Executions > 400, text })
	w.orders("backfill", "cancel")
	if r := w.backfilled(p); r.State != "cancelled" || r.Executions >= 2000 {
		t.Errorf("%+v", r)
	}
	if p, code := asks(t, w.env(), "backfill", "resume"); code != 1 || !strings.Contains(oneError(t, p), "no backfill is open") {
		t.Errorf("nothing to resume: %s", p.output())
	}
	// A rate of the service's: 5 chunks a second, of one execution each.
	w.orders("backfill", "--partition", "7", "--wait")
	if r := w.backfilled(p); r.Chunks < few || r.Executions != few {
		t.Errorf("with the service's rate: %+v", r)
	}
	all := w.stored()[before:]
	s := newSnapshots(t)
	for _, m := range all {
		s.message(m)
	}
	if !slices.ContainsFunc(all, func(m message) bool { return parsed(t, m).Data.Status == "cancelled" }) {
		t.Error("the stream does not say that a run was cancelled")
	}
	// What an ANALYZE says of the table counts.
	w.exec("UPDATE pg_class SET reltuples = 10000 WHERE relname LIKE 'ff_exec_core_p%' AND relkind = 'r'")
	for _, filter := range []struct{ flag, value string }{{"--state", "active"}, {"--namespace", "ns-few"}, {"--since", "24h"}} {
		p, code := asks(t, w.env(), "backfill", filter.flag, filter.value)
		if code != 2 || !strings.Contains(oneError(t, p), filter.flag+": no index serves it, so all of about 2560000 executions would be read") {
			t.Errorf("%s on a big table: %s", filter.flag, p.output())
		}
	}
	w.orders("backfill", "--state", "active", "--force", "--rate", "100000", "--wait")
	// Whoever writes that a run goes on which is over is contradicted.
	store, err := backfill.Open(t.Context(), w.js, w.bucket())
	w.must(err)
	o, late, _, err := store.Current(t.Context())
	w.must(err)
	late.State = backfill.Running
	w.must(store.Report(t.Context(), &o, &late))
	if r := w.backfilled(p); r.State != "completed" || r.Run != o.Run {
		t.Errorf("%+v", r)
	}
}

// TestBackfillHeld: what a stream says of the progress of a run that does not get on does
// not age out of it, whether it is paused or waits for a transaction.
func TestBackfillHeld(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	w.exec(fmt.Sprintf(insertBulk, 2048))
	p := w.run("--stream-max-age=20s")
	w.orders("backfill", "--rate", "250")
	await(t, "some chunks", func() (bool, string) { r, text := w.backfillStatus(); return r.Chunks > 1, text })
	w.orders("backfill", "pause")
	await(t, "the pause", func() (bool, string) { r, text := w.backfillStatus(); return r.State == "paused", text })
	renewed := func() {
		t.Helper()
		var last uint64
		await(t, "the progress to be renewed, and what was there before to age out", func() (bool, string) {
			state := w.jetstream().CachedInfo().State
			if last == 0 {
				last = state.LastSeq
			}
			if state.Msgs == 0 {
				t.Fatalf("the progress has aged out: %s", p.output())
			}
			return state.FirstSeq > last, p.output()
		})
	}
	renewed()
	tx, err := w.db.Pool.Begin(t.Context())
	w.must(err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	_, err = tx.Exec(t.Context(), "UPDATE ff_exec_core SET priority = 1")
	w.must(err)
	r, _ := w.backfillStatus()
	w.orders("backfill", "resume")
	await(t, "the backfill to wait", func() (bool, string) {
		r, text := w.backfillStatus()
		return r.State == "waiting" && strings.Contains(r.Waiting, "transactions"), text
	})
	renewed()
	p.stop()
	p = w.run()
	await(t, "the backfill to wait", func() (bool, string) {
		r, text := w.backfillStatus()
		return r.State == "waiting" && strings.Contains(r.Waiting, "transactions"), text
	})
	if again, text := w.backfillStatus(); again.Executions < r.Executions {
		t.Errorf("after a restart it has begun anew: %s", text)
	}
	w.must(tx.Rollback(t.Context()))
	if r := w.backfilled(p); r.State != "completed" || r.Executions != 2048 {
		t.Errorf("%+v", r)
	}
	p.stop()
}

// TestBackfillForbidden: a role that may not write watermarks. Transitions go on,
// the backfill says what to grant, and goes on when that is done.
func TestBackfillForbidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	role := "r_" + w.db.Name
	w.exec(fmt.Sprintf("REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC; CREATE ROLE %s LOGIN REPLICATION PASSWORD 'p'; GRANT SELECT ON ff_exec_core, ff_attempt TO %[1]s", role))
	t.Cleanup(func() {
		w.exec(fmt.Sprintf("GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO PUBLIC; DROP OWNED BY %s; DROP ROLE %[1]s", role))
	})
	w.exec(fmt.Sprintf(insertBulk, 10))
	p := start(t, w.with(map[string]string{"FFSTREAM_BACKFILL": "initial", "FFSTREAM_DATABASE_URL": withUser(t, w.db.URL, role, "p")}), "run")
	w.awaitActive(p)
	await(t, "the backfill to say what it lacks", func() (bool, string) {
		r, text := w.backfillStatus()
		return strings.Contains(r.Error, "GRANT EXECUTE ON FUNCTION pg_logical_emit_message("), text
	})
	w.exec(fmt.Sprintf(insertBulk, 5))
	await(t, "transitions", func() (bool, string) { return w.messages() == 5, p.output() })
	w.exec(fmt.Sprintf("GRANT EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) TO %s", role))
	if r := w.backfilled(p); r.State != "completed" || r.Published != 15 || r.Error != "" {
		t.Errorf("%+v", r)
	}
	p.stop()
}
