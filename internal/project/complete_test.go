package project_test

import (
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
)

// TestComplete: at any moment the bucket has everything up to the sequence that its
// last message carries, though projectors end in the middle of what they write, and
// nothing that it tells is ever replaced by what is older.
func TestComplete(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	d := newDesk(t, 60)
	d.remember()
	for range 10 {
		d.some(rng, 200)
		nc := connect(t)
		p, stop := d.projectorOver(nc)
		for began := p.Status(); p.Status().Written == began.Written && p.Status().Error == ""; {
			<-time.After(time.Duration(rng.IntN(3000)) * time.Microsecond) // how far it gets
		}
		nc.Close()
		stop()
	}
	d.some(rng, 200)
	p, stop := d.projector()
	d.settled(p)
	stop()
	d.replay()
}

// remember makes a bucket that forgets nothing of what it ever said.
func (d *desk) remember() {
	d.t.Helper()
	_, err := d.js.CreateKeyValue(d.t.Context(), jetstream.KeyValueConfig{Bucket: d.bucket(), Metadata: map[string]string{"ffstream.stream": d.name}})
	if err != nil {
		d.t.Fatal(err)
	}
	stream, err := d.js.Stream(d.t.Context(), "KV_"+d.bucket())
	if err == nil {
		c := stream.CachedInfo().Config
		c.MaxMsgsPerSubject = 1_000_000 // more than a bucket may be made with
		_, err = d.js.UpdateStream(d.t.Context(), c)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// each reads a whole stream.
func (d *desk) each(name string, f func(m jetstream.Msg)) {
	d.t.Helper()
	stream, err := d.js.Stream(d.t.Context(), name)
	if err != nil {
		d.t.Fatal(err)
	}
	consumer, err := stream.OrderedConsumer(d.t.Context(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		d.t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		d.t.Fatal(err)
	}
	defer messages.Stop()
	for range stream.CachedInfo().State.Msgs {
		m, err := messages.Next(jetstream.NextContext(d.t.Context()))
		if err != nil {
			d.t.Fatal(err)
		}
		f(m)
	}
}

// replay holds the bucket as it was after each message against the stream.
func (d *desk) replay() {
	t := d.t
	t.Helper()
	var events []ffstream.Event
	places := map[string]uint64{}
	d.each(d.name, func(m jetstream.Msg) {
		e, err := ffstream.ParseEvent(m.Data())
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
		places[e.ID.Position.String()] = uint64(len(events))
	})
	told, passed, parts := map[string]uint64{}, uint64(0), 0
	d.each("KV_"+d.bucket(), func(m jetstream.Msg) {
		key := strings.TrimPrefix(m.Subject(), "$KV."+d.bucket()+".")
		complete, err := strconv.ParseUint(m.Headers().Get(ffstream.HeaderSequence), 10, 64)
		if err != nil || complete < passed || complete > uint64(len(events)) {
			t.Fatalf("%s: everything up to %q of %d, and it said %d before", key, m.Headers().Get(ffstream.HeaderSequence), len(events), passed)
		}
		if !strings.HasPrefix(key, "_") {
			var s ffstream.CurrentState
			if m.Headers().Get("KV-Operation") != "" {
				s.Sequence = places[m.Headers().Get(ffstream.HeaderPosition)]
				for n := complete; s.Sequence == 0; n++ { // by the next TRUNCATE
					if events[n].Type == ffstream.TypeTruncated {
						s.Sequence = n + 1
					}
				}
			} else if err := json.Unmarshal(m.Data(), &s); err != nil {
				t.Fatal(err)
			}
			if s.Sequence < told[key] {
				t.Fatalf("%s was told as of %d, and is told as of %d", key, told[key], s.Sequence)
			}
			told[key] = s.Sequence
		}
		if complete == passed {
			parts++
		}
		for ; passed < complete; passed++ {
			e := &events[passed]
			id := ffstream.StateKey(e.ExecutionID)
			if e.ExecutionID.IsZero() || told[id] == 0 && e.To == ffstream.StatePurged { // nothing to tell, nothing to delete
				continue
			}
			if told[id] <= passed {
				t.Fatalf("everything up to %d, and %s is told as of %d and not of %d", complete, id, told[id], passed+1)
			}
		}
	})
	if passed < uint64(len(events)) || parts == 0 {
		t.Errorf("of %d events %d were taken in; %d messages stood in the middle of a batch", len(events), passed, parts)
	}
}
