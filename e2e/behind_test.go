package e2e

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream/migrations"
)

// TestLookedUpLater: what a service that was down finds when it comes back are
// executions that have gone on. Whatever it has to look up, no event leads from a state,
// or to one, that its execution did not have.
func TestLookedUpLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	do := func(statements ...string) {
		t.Helper()
		tx, err := w.db.Pool.Begin(t.Context())
		for _, sql := range statements {
			if err == nil {
				_, err = tx.Exec(t.Context(), sql)
			}
		}
		if err == nil {
			err = tx.Commit(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	core := func(id string) string {
		return `INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, attempt_index, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms)
			VALUES (86, '` + id + `', 'default', 0, 'active', 'leased', 'not_applicable', 'running', 'running_attempt', 1)`
	}
	ids := []string{uuid.NewString(), uuid.NewString(), uuid.NewString()}
	purged, replayed, skipped := ids[0], ids[1], ids[2]
	p := w.run("--recent-states=1") // the others are evicted, as by 40 000 later ones
	for _, id := range ids {
		do(core(id), `INSERT INTO ff_attempt (partition_key, execution_id, attempt_index, lease_epoch) VALUES (86, '`+id+`', 0, 1)`)
	}
	for _, id := range ids[:2] {
		do(`UPDATE ff_attempt SET outcome = 'success', terminal_at_ms = 100 WHERE partition_key = 86 AND execution_id = '`+id+`'`,
			`UPDATE ff_exec_core SET lifecycle_phase = 'terminal', ownership_state = 'unowned', attempt_state = 'attempt_terminal', terminal_at_ms = 100 WHERE partition_key = 86 AND execution_id = '`+id+`'`)
	}
	do(`UPDATE ff_exec_core SET lifecycle_phase = 'terminal', public_state = 'skipped', attempt_state = 'attempt_terminal', terminal_at_ms = 50 WHERE partition_key = 86 AND execution_id = '` + skipped + `'`)
	w.caughtUp(p)
	p.kill()
	// A migration of the engine touches what has ended, retention and a replay follow.
	do(`UPDATE ff_exec_core SET started_at_ms = 7 WHERE partition_key = 86 AND execution_id IN ('` + purged + `', '` + replayed + `')`)
	do(`DELETE FROM ff_attempt WHERE partition_key = 86 AND execution_id = '`+purged+`'`, `DELETE FROM ff_exec_core WHERE partition_key = 86 AND execution_id = '`+purged+`'`)
	do(`UPDATE ff_exec_core SET lifecycle_phase = 'runnable', eligibility_state = 'eligible_now', public_state = 'waiting', attempt_state = 'pending_replay_attempt', terminal_at_ms = NULL WHERE partition_key = 86 AND execution_id = '`+replayed+`'`,
		`UPDATE ff_attempt SET outcome = NULL WHERE partition_key = 86 AND execution_id = '`+replayed+`'`)
	// The lease of the skipped one lapses; its late worker completes it; its flow is cancelled.
	do(`UPDATE ff_attempt SET outcome = 'lease_expired_reclaimable' WHERE partition_key = 86 AND execution_id = '` + skipped + `'`)
	do(`UPDATE ff_attempt SET outcome = 'success', terminal_at_ms = 100 WHERE partition_key = 86 AND execution_id = '`+skipped+`'`,
		`UPDATE ff_exec_core SET ownership_state = 'unowned', terminal_at_ms = 100 WHERE partition_key = 86 AND execution_id = '`+skipped+`'`)
	do(`UPDATE ff_exec_core SET lifecycle_phase = 'cancelled', public_state = 'cancelled' WHERE partition_key = 86 AND execution_id = '`+skipped+`'`,
		`UPDATE ff_attempt SET outcome = NULL WHERE partition_key = 86 AND execution_id = '`+skipped+`'`)
	p = start(t, w.env(), "run", "--recent-states=1")
	w.awaitActive(p)
	w.caughtUp(p)
	was := map[string][]string{ // the states in their order
		purged: {"active", "completed", "purged"}, replayed: {"active", "completed", "waiting"}, skipped: {"active", "skipped", "completed", "cancelled"},
	}
	for _, m := range w.stored() {
		var e struct {
			Data struct {
				ExecutionID string `json:"execution_id"`
				From        string
				To          string
				Candidate   bool
			}
		}
		if err := json.Unmarshal(m.body, &e); err != nil {
			t.Fatal(err)
		}
		d := e.Data
		if len(d.ExecutionID) < 36 {
			continue
		}
		states := was[d.ExecutionID[len(d.ExecutionID)-36:]]
		to, from := slices.Index(states, d.To), slices.Index(states, d.From)
		if to < 0 || d.From != "" && from != to-1 {
			t.Errorf("%s was %q, and an event is %q -> %q, candidate %t", d.ExecutionID, states, d.From, d.To, d.Candidate)
		}
	}
	p.stop()
}
