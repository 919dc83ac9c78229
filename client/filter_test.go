package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestFilters: through the server comes exactly what Match accepts.
func TestFilters(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	states := append(ffstream.PublicStates(), ffstream.StatePurged)
	var events []ffstream.Event
	for n := range 300 {
		e := step(n, states[n%5], states[n%len(states)])
		e.LaneID, e.Namespace = []string{"a.b", "", "default"}[n%3], []string{"x y", "ns"}[n%2]
		e.Tags = []ffstream.Tag{{Key: "a.n", Value: fmt.Sprint(n % 4)}}
		if n%17 == 0 {
			for e.Truncate() {
				continue
			}
		}
		events = append(events, e)
	}
	subjects := map[int]string{}
	for n := range events {
		subjects[n] = events[n].Subject(f.stream)
		if n%17 == 0 { // the subject still names what the body lost
			whole := events[n]
			whole.LaneID, whole.Namespace = []string{"a.b", "", "default"}[n%3], []string{"x y", "ns"}[n%2]
			subjects[n] = whole.Subject(f.stream)
		}
		e := &events[n]
		f.commit += 0x10
		e.Type, e.ID = ffstream.TypeTransitioned, ffstream.EventID{System: 7, Position: ffstream.Position{Commit: f.commit}}
		f.put(subjects[n], e.AppendJSON(nil), e.Position().String())
	}
	f.stored()
	var many []uint16
	for p := range uint16(200) {
		many = append(many, p)
	}
	for name, filter := range map[string]client.Filter{
		"all": {}, "terminal": {Terminal: true}, "lane": {Lanes: []string{"a.b"}}, "empty lane": {Lanes: []string{""}},
		"namespaces": {Namespaces: []string{"x y", "none"}}, "execution": {Execution: execution(7)},
		"wide": {Partitions: many, Terminal: true, Lanes: []string{"default", "a.b"}}, "tag": {Tags: []ffstream.Tag{{Key: "a.n", Value: "1"}}},
		"steps":       {Steps: []client.Step{{From: states[1], To: states[1]}, {From: states[2]}}},
		"contradicts": {States: []ffstream.PublicState{ffstream.StateActive}, Terminal: true},
	} {
		var want, got []uint64
		for n := range events {
			if filter.Match(&events[n], subjects[n]) {
				want = append(want, uint64(n+1))
			}
		}
		s := f.subscriber(func(c *client.Config) { c.Filter, c.Ordered, c.UntilEnd = filter, true, true })
		err := s.Run(testContext(t), func(_ context.Context, m *client.Message) error { got = append(got, m.Sequence); return nil })
		if err != nil || !slices.Equal(got, want) || len(want) == 0 && name != "contradicts" {
			t.Errorf("%s: got %d events, want %d: %v", name, len(got), len(want), err)
		}
		if n := len(filter.Subjects("ff", false)); n > 256 {
			t.Errorf("%s: %d subjects", name, n)
		}
	}
}

// TestAfter: reading goes on right behind a position, also one between events,
// and one that the stream no longer has is told.
func TestAfter(t *testing.T) {
	t.Parallel()
	f := newFeed(t, testenv.NATSURL(t))
	for range 50 {
		f.transaction(step(1, "", ffstream.StateActive), step(2, "", ffstream.StateActive))
	}
	f.stored()
	first := func(p ffstream.Position) (seq uint64, err error) {
		s := f.subscriber(func(c *client.Config) { c.From, c.Ordered, c.UntilEnd = client.After(p), true, true })
		err = s.Run(testContext(t), func(_ context.Context, m *client.Message) error {
			if seq == 0 {
				seq = m.Sequence
			}
			return nil
		})
		return seq, err
	}
	for p, want := range map[ffstream.Position]uint64{
		{}: 1, {Commit: 0x1010}: 2, {Commit: 0x1010, Index: 1}: 3, {Commit: 0x1015}: 3, {Commit: 0x1320}: 100, {Commit: 0x1320, Index: 1}: 0,
	} {
		if seq, err := first(p); seq != want || err != nil {
			t.Errorf("after %s: begins with %d, want %d: %v", p, seq, want, err)
		}
	}
	stream, err := f.js.Stream(testContext(t), f.stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(testContext(t), jetstream.WithPurgeSequence(21)); err != nil {
		t.Fatal(err)
	}
	if _, err := first(ffstream.Position{Commit: 0x1010}); !errors.Is(err, client.ErrExpired) {
		t.Errorf("after what was removed: %v, want ErrExpired", err)
	}
	if seq, err := first(ffstream.Position{Commit: 0x10b0}); seq != 22 || err != nil {
		t.Errorf("after the first that is left: %d, want 22: %v", seq, err)
	}
}
