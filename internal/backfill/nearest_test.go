package backfill_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
)

// TestNearest: however many executions come, in whatever order, no more are held than
// there is room for, and parts that begin where the one before ended have each once.
func TestNearest(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	all := make([]ffstream.ExecutionID, 500)
	for i := range all {
		var id uuid.UUID
		id[0], id[15] = byte(rng.Uint32()), byte(i)
		all[i] = ffstream.NewExecutionID(uint16(rng.IntN(3)-1), id) // 65535, 0, 1
	}
	sorted := slices.SortedFunc(slices.Values(all), backfill.Compare)
	for name, order := range map[string]func(){"random": func() {}, "ascending": func() { copy(all, sorted) }, "descending": func() { slices.Reverse(all) }} {
		order()
		var got []ffstream.ExecutionID
		var after ffstream.Opt[ffstream.ExecutionID]
		for more := true; more; more = after.OK {
			n := backfill.NewNearest[int](after, 20)
			for i, id := range all {
				n.Set(id, i)
				if held := len(n.Sorted()); held > 20 {
					t.Fatalf("%s: %d are held", name, held)
				}
			}
			part := n.Sorted()
			for _, id := range part {
				until, has := n.Until(id.PartitionKey())
				if i, is := n.Get(id); !is || all[i] != id || !n.Has(id) || !has || backfill.Compare(id, ffstream.NewExecutionID(id.Partition(), until)) > 0 {
					t.Errorf("%s: %s is %d, %v up to %s", name, id, i, is, until)
				}
			}
			got, after = append(got, part...), n.To()
		}
		if !slices.Equal(got, sorted) {
			t.Errorf("%s: %d parts of %d", name, len(got), len(sorted))
		}
	}
}
