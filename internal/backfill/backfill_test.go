package backfill_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run)) }

func open(t *testing.T) *backfill.Store {
	t.Helper()
	s, _ := openBucket(t)
	return s
}

// openBucket takes values of up to 400 bytes.
func openBucket(t *testing.T) (*backfill.Store, jetstream.KeyValue) {
	t.Helper()
	nc, err := nats.Connect(testenv.NATSURL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	bucket := "b" + uuid.NewString()
	if _, err := backfill.Open(t.Context(), js, bucket); !errors.Is(err, backfill.ErrNoBucket) {
		t.Errorf("a bucket that is not there: %v", err)
	}
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: bucket, MaxValueSize: 400})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = js.DeleteKeyValue(t.Context(), bucket) })
	s, err := backfill.Open(t.Context(), js, bucket)
	if err != nil {
		t.Fatal(err)
	}
	return s, kv
}

// TestOrders: one run is open at a time, its lists go with it, and of two
// commands that saw the same order one fails.
func TestOrders(t *testing.T) {
	t.Parallel()
	ctx, s := t.Context(), open(t)
	if _, err := s.Ask(ctx, backfill.Pause); !errors.Is(err, backfill.ErrNone) {
		t.Errorf("pause without a run: %v", err)
	}
	list := []backfill.Listed{{ID: ffstream.NewExecutionID(7, uuid.New()), Known: "purged"}, {ID: ffstream.NewExecutionID(8, uuid.New())}}
	o, err := s.Place(ctx, backfill.Order{Filter: backfill.Filter{Lanes: []string{"a"}}, Rate: 5}, list, list[:1])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Place(ctx, backfill.Order{}); !errors.Is(err, backfill.ErrOpen) {
		t.Errorf("a second run: %v", err)
	}
	for n, want := range map[uint64]int{0: 2, 1: 1} {
		got, err := s.List(ctx, o.Run, n)
		if err != nil || len(got) != want || got[0] != list[0] {
			t.Errorf("list %d is %v (%v)", n, got, err)
		}
	}
	if _, err := s.Ask(ctx, backfill.Pause); err != nil {
		t.Fatal(err)
	}
	now, report, found, err := s.Current(ctx)
	if err != nil || !found || now.Wish != backfill.Pause || now.Run != o.Run || now.Lists != 2 || now.Listed != 3 || now.Rate != 5 || report.State != backfill.Waiting {
		t.Errorf("%+v %+v %v %v", now, report, found, err)
	}
	late := report // of a process that has read it too
	for _, state := range []backfill.State{backfill.Running, backfill.Completed} {
		report.State, report.Chunks = state, 3
		if err := s.Report(ctx, &o, &report); err != nil {
			t.Fatal(err)
		}
	}
	late.State = backfill.Running
	if err := s.Report(ctx, &o, &late); err == nil {
		t.Error("a report goes over one that it did not know")
	}
	if _, err := s.Ask(ctx, backfill.Cancel); !errors.Is(err, backfill.ErrNone) {
		t.Errorf("cancel of a run that has ended: %v", err)
	}
	if got, err := s.List(ctx, o.Run, 0); !errors.Is(err, backfill.ErrNoList) {
		t.Errorf("the list is still there: %v %v", got, err)
	}
	next, err := s.Place(ctx, backfill.Order{})
	if err != nil || next.Run == o.Run {
		t.Errorf("%+v %v", next, err)
	}
	if _, report, _, err := s.Current(ctx); err != nil || report.Chunks != 0 {
		t.Errorf("the report of the run before is taken for this one's: %+v %v", report, err)
	}
}

// TestPlaceFails: an order that cannot be written leaves no lists, and one that was
// deleted from the bucket is no hindrance.
func TestPlaceFails(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, kv := openBucket(t)
	if _, err := s.Place(ctx, backfill.Order{Filter: backfill.Filter{Lanes: []string{strings.Repeat("x", 500)}}}, []backfill.Listed{{ID: ffstream.NewExecutionID(7, uuid.New())}}); err == nil {
		t.Fatal("an order of more than a value may have is placed")
	}
	if keys, err := kv.Keys(ctx); !errors.Is(err, jetstream.ErrNoKeysFound) {
		t.Errorf("an order that was not placed leaves %v (%v)", keys, err)
	}
	for range 2 {
		if _, err := s.Place(ctx, backfill.Order{}); err != nil {
			t.Fatal(err)
		}
		if err := kv.Delete(ctx, "backfill.order"); err != nil {
			t.Fatal(err)
		}
		if _, _, found, err := s.Current(ctx); found || err != nil {
			t.Errorf("an order that was deleted is found (%v)", err)
		}
	}
}

// TestPlaceRetires: an order takes the place of one whose lists were not removed when it
// ended, and they go; a run over everything stays known behind orders of less, and until
// the next one is over.
func TestPlaceRetires(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	s, kv := openBucket(t)
	place := func(o backfill.Order, lists ...[]backfill.Listed) backfill.Order {
		t.Helper()
		o, err := s.Place(ctx, o, lists...)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	end := func(o *backfill.Order, state backfill.State) {
		t.Helper()
		b, err := json.Marshal(backfill.Report{Run: o.Run, State: state})
		if err == nil {
			_, err = kv.Put(ctx, "backfill.report", b) // and then the service crashed
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	wholes := func(want ...string) {
		t.Helper()
		if got, err := s.Wholes(ctx); err != nil || !slices.Equal(got, want) {
			t.Errorf("the runs over everything are %v, want %v (%v)", got, want, err)
		}
	}
	wholes()
	list := []backfill.Listed{{ID: ffstream.NewExecutionID(7, uuid.New())}}
	repair := place(backfill.Order{}, list, list)
	end(&repair, backfill.Completed)
	if _, err := s.List(ctx, repair.Run, 1); err != nil {
		t.Fatal(err)
	}
	first := place(backfill.Order{})
	for n := range uint64(2) {
		if _, err := s.List(ctx, repair.Run, n); !errors.Is(err, backfill.ErrNoList) {
			t.Errorf("list %d of the run before is still there (%v)", n, err)
		}
	}
	wholes(first.Run)
	end(&first, backfill.Completed)
	lane := place(backfill.Order{Filter: backfill.Filter{Lanes: []string{"l"}}})
	wholes(first.Run)
	end(&lane, backfill.Completed)
	second := place(backfill.Order{})
	wholes(second.Run, first.Run)
	end(&second, backfill.Cancelled)
	repair = place(backfill.Order{}, list)
	wholes(first.Run)
	end(&repair, backfill.Completed)
	third := place(backfill.Order{})
	end(&third, backfill.Completed)
	place(backfill.Order{Filter: backfill.Filter{Partitions: []uint16{1}}})
	wholes(third.Run)
}

// TestFilter: each field alone, and both together.
func TestFilter(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1000)
	e := ffstream.Event{Type: ffstream.TypeSnapshotted, LaneID: "l", Namespace: "n", To: ffstream.StateActive, CreatedAtMs: ffstream.Some(int64(1000))}
	corrupt := ffstream.Event{Type: ffstream.TypeCorrupt}
	for _, c := range []struct {
		f    backfill.Filter
		want bool
	}{
		{backfill.Filter{}, true},
		{backfill.Filter{Lanes: []string{"x", "l"}, Namespaces: []string{"n"}}, true},
		{backfill.Filter{Lanes: []string{"x"}, Namespaces: []string{"n"}}, false},
		{backfill.Filter{Namespaces: []string{"x"}}, false},
		{backfill.Filter{States: []ffstream.PublicState{ffstream.StateWaiting}}, false},
		{backfill.Filter{States: []ffstream.PublicState{ffstream.StateActive}}, true},
		{backfill.Filter{Since: at}, true},
		{backfill.Filter{Since: at.Add(time.Millisecond)}, false},
	} {
		if c.f.Allows(&e) != c.want {
			t.Errorf("%+v: %v", c.f, !c.want)
		}
		if !c.f.Allows(&corrupt) {
			t.Errorf("%+v hides a corrupt row", c.f)
		}
	}
}

// TestOf: how much there is to do is told where it is known.
func TestOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		o    backfill.Order
		want uint64
	}{
		{backfill.Order{}, 2560},
		{backfill.Order{Filter: backfill.Filter{Namespaces: []string{"n"}}}, 2560}, // all are looked at
		{backfill.Order{Filter: backfill.Filter{Partitions: []uint16{1, 2}}}, 20},
		{backfill.Order{Filter: backfill.Filter{Lanes: []string{"l"}, Partitions: []uint16{1}}}, 0},
		{backfill.Order{Lists: 2, Listed: 1000}, 1000},
	} {
		if got := c.o.Of(2560); got != c.want {
			t.Errorf("%+v is about %d of 2560, want %d", c.o, got, c.want)
		}
	}
}
