package read

import (
	"fmt"
	"slices"
	"testing"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// TestHasLane looks in every partition, those too that the engine does not use.
func TestHasLane(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	lanes := map[string]int{"first": 0, "last": 255, "beyond": 256, "far": 32767, "below": -1, "lowest": -32768}
	for lane, partition := range lanes {
		_, err := db.Pool.Exec(ctx, fmt.Sprintf(`INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms)
			VALUES (%d, gen_random_uuid(), '%s', 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending', 1)`, partition, lane))
		if err != nil {
			t.Fatal(err)
		}
	}
	for lane := range lanes {
		if has, err := HasLane(ctx, db.Pool, lane); err != nil || !has {
			t.Errorf("lane %s: %v %v", lane, has, err)
		}
	}
	if has, err := HasLane(ctx, db.Pool, "nobody's"); err != nil || has {
		t.Errorf("a lane of nobody: %v %v", has, err)
	}
	if keys, err := Unusual(ctx, db.Pool); err != nil || !slices.Equal(keys, []int16{-32768, -1, 256, 32767}) {
		t.Errorf("unusual partitions are %v (%v)", keys, err)
	}
}
