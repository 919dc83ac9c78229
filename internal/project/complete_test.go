package project_test

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestComplete: at any moment the bucket has everything up to the sequence that its
// last message carries, though projectors end in the middle of what they write, and
// nothing that it tells is ever replaced by what is older.
func TestComplete(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	d := newDesk(t, 60)
	d.remember()
	parts := 0
	for range 5 {
		d.some(rng, 200)
		// One reads all of it and ends while it writes; one behind it reads less at a time.
		for _, link := range []*rough{{room: 12_000 + rng.IntN(24_000)}, {room: 12_000 + rng.IntN(24_000), piece: 8 << 10}} {
			nc, err := nats.Connect(testenv.NATSURL(t), nats.SetCustomDialer(link), nats.NoReconnect(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
			if err != nil {
				t.Fatal(err)
			}
			p, stop := d.projectorOver(nc)
			for deadline := time.After(time.Minute); !nc.IsClosed() && p.Status().Sequence < uint64(d.commit)/8; {
				select {
				case <-time.After(time.Millisecond):
				case <-deadline:
					t.Fatalf("%+v", p.Status())
				}
			}
			nc.Close()
			stop()
			if d.inPart() {
				parts++
			}
		}
	}
	if parts == 0 {
		t.Error("no projector ended in the middle of what it wrote")
	}
	d.some(rng, 200)
	p, stop := d.projector()
	d.settled(p)
	stop()
	d.replay()
}

// rough is a connection that breaks after so many bytes were written, and on which what
// is much arrives in pieces.
type rough struct {
	net.Conn
	room, piece int
}

// Dial makes the connection, once.
func (r *rough) Dial(network, address string) (net.Conn, error) {
	var err error
	r.Conn, err = net.Dial(network, address)
	return r, err
}

func (r *rough) Write(b []byte) (int, error) {
	n, err := r.Conn.Write(b[:min(len(b), r.room)])
	if r.room -= n; err == nil && n < len(b) {
		err = errors.Join(net.ErrClosed, r.Close())
	}
	return n, err
}

func (r *rough) Read(b []byte) (int, error) {
	if r.piece == 0 {
		return r.Conn.Read(b)
	}
	n, err := r.Conn.Read(b[:min(len(b), r.piece)])
	if n == r.piece {
		<-time.After(30 * time.Millisecond) // longer than a batch is added to
	}
	return n, err
}

// inPart reports whether the bucket has a part of a batch.
func (d *desk) inPart() bool {
	d.t.Helper()
	stream, err := d.js.Stream(d.t.Context(), "KV_"+d.bucket())
	if err != nil {
		d.t.Fatal(err)
	}
	m, err := stream.GetMsg(d.t.Context(), stream.CachedInfo().State.LastSeq)
	if err != nil {
		d.t.Fatal(err)
	}
	var at [2]uint64
	for i, header := range []string{"Ffstream-Resume", "Ffstream-Until"} {
		if at[i], err = strconv.ParseUint(m.Header.Get(header), 10, 64); err != nil {
			d.t.Fatal(err)
		}
	}
	return at[0] < at[1]
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
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	for info, at := stream.CachedInfo(), uint64(0); info.State.Msgs > 0 && at < info.State.LastSeq; {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			d.t.Fatal(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			d.t.Fatal(err)
		}
		at = meta.Sequence.Stream
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
	told, passed := map[string]uint64{}, uint64(0)
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
	if passed < uint64(len(events)) {
		t.Errorf("of %d events %d were taken in", len(events), passed)
	}
}
