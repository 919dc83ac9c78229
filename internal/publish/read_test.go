package publish_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
)

// lagging makes two streams that hold events of prefix r: what asks the leader of
// REPLICA for a message is asked of LEADER, so consumers of REPLICA read what a replica
// has that is behind. Events for LEADER are published with the prefix l.
func lagging(t *testing.T) jetstream.JetStream {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(`mappings = { "$JS.API.STREAM.MSG.GET.REPLICA": "$JS.API.STREAM.MSG.GET.LEADER" }`), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _ := ownBench(t, testenv.NATSConfig{File: file})
	for _, cfg := range []jetstream.StreamConfig{
		{Name: "REPLICA", Subjects: []string{"r.>"}},
		{Name: "LEADER", Subjects: []string{"l.>"}, SubjectTransform: &jetstream.SubjectTransformConfig{Source: "l.>", Destination: "r.>"}},
	} {
		if _, err := b.js.CreateStream(testContext(t), cfg); err != nil {
			t.Fatal(err)
		}
	}
	return b.js
}

// TestReadBehind: a reading by subjects gives all that the leader has of them, by a
// replica too that comes to have it meanwhile, and no more than up to the sequence that
// is named; and it ends at once where there is nothing.
func TestReadBehind(t *testing.T) {
	t.Parallel()
	js := lagging(t)
	events := transaction(1, 12)
	for i := range events {
		events[i].ExecutionID = ffstream.NewExecutionID(uint16(i%3), events[i].ExecutionID.UUID())
	}
	publishing := func(prefix string, from, to int) { // sequences
		for i := from; i <= to; i++ {
			e := &events[i-1]
			if _, err := js.Publish(testContext(t), e.Subject(prefix), e.AppendJSON(nil)); err != nil {
				t.Error(err)
			}
		}
	}
	publishing("l", 1, 12)
	for _, c := range []struct {
		name     string
		has      int // the replica, when the reading begins
		subjects []string
		from, to uint64
		want     []uint64
	}{
		{"nothing yet", 0, []string{"r.exec.1.>"}, 1, 12, []uint64{2, 5, 8, 11}},
		{"half of it", 6, []string{"r.exec.1.>", "r.exec.2.>"}, 1, 12, []uint64{2, 3, 5, 6, 8, 9, 11, 12}},
		{"all but what is asked for last", 10, []string{"r.exec.1.>", "r.truncated"}, 3, 12, []uint64{5, 8, 11}},
		{"up to another's", 4, []string{"r.exec.1.>"}, 1, 9, []uint64{2, 5, 8}},
		{"up to one of its own", 7, []string{"r.exec.1.>"}, 1, 8, []uint64{2, 5, 8}},
		{"nothing there", 4, []string{"r.exec.3.>", "r.truncated"}, 1, 12, nil},
		{"nothing from there", 4, []string{"r.exec.1.>"}, 12, 12, nil},
		{"everything", 4, nil, 2, 5, []uint64{2, 3, 4, 5}},
	} {
		err := js.DeleteStream(testContext(t), "REPLICA") // so that sequences begin anew
		if err == nil {
			_, err = js.CreateStream(testContext(t), jetstream.StreamConfig{Name: "REPLICA", Subjects: []string{"r.>"}})
		}
		if err != nil {
			t.Fatal(err)
		}
		publishing("r", 1, c.has)
		done := make(chan struct{})
		var got []uint64
		go func() {
			defer close(done)
			r := publish.Reading{Stream: "REPLICA", Subjects: c.subjects, From: c.from, To: c.to, Patience: patience}
			err = r.Events(testContext(t), js, func(_ *ffstream.Event, sequence uint64) error {
				got = append(got, sequence)
				return nil
			})
		}()
		if len(c.want) > 0 { // else nothing is waited for
			awaitReader(t, js, "REPLICA", done)
			publishing("r", c.has+1, len(events))
		}
		<-done
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v (%v)", c.name, got, c.want, err)
		}
	}
}

// TestReadLost: reading goes on where what it asked for was lost in silence, and ends
// with a stream that is deleted, however long it would wait for an event.
func TestReadLost(t *testing.T) {
	t.Parallel()
	for _, deleted := range []bool{false, true} {
		t.Run(fmt.Sprintf("deleted=%t", deleted), func(t *testing.T) {
			t.Parallel()
			b := sharedBench(t)
			b.create(t, func(*jetstream.StreamConfig) {})
			events, js, want := transaction(1, 2), b.js, publish.ErrStreamLost
			stored := events[:1]
			if !deleted {
				nc, err := nats.Connect(testenv.NATSURL(t), nats.SetCustomDialer(&testenv.Deaf{}))
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(nc.Close)
				if js, err = jetstream.New(nc); err != nil {
					t.Fatal(err)
				}
				stored, want = events, nil
			}
			for _, e := range stored {
				if _, err := b.js.Publish(testContext(t), e.Subject(b.cfg.Prefix), e.AppendJSON(nil)); err != nil {
					t.Fatal(err)
				}
			}
			got, ended := make(chan uint64, len(events)), make(chan error, 1)
			go func() {
				r := publish.Reading{Stream: b.cfg.Stream, From: 1, To: uint64(len(events)), Patience: patience}
				ended <- r.Events(testContext(t), js, func(_ *ffstream.Event, sequence uint64) error {
					got <- sequence
					return nil
				})
			}()
			<-got
			if deleted {
				if err := b.js.DeleteStream(testContext(t), b.cfg.Stream); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case err := <-ended:
				if !errors.Is(err, want) {
					t.Errorf("it ended with %v, want %v", err, want)
				}
			case <-time.After(time.Minute):
				t.Error("it does not end")
			}
		})
	}
}

// awaitReader waits until somebody reads a stream, or has.
func awaitReader(t *testing.T, js jetstream.JetStream, name string, done <-chan struct{}) {
	t.Helper()
	for tick := time.NewTicker(time.Millisecond); ; {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		stream, err := js.Stream(testContext(t), name)
		if err != nil {
			t.Fatal(err)
		}
		if stream.CachedInfo().State.Consumers > 0 {
			return
		}
	}
}
