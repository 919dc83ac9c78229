package project_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/project"
	"github.com/ffstream/ffstream/internal/testenv"
)

// TestBuildBehind: a bucket that is built from a replica which is behind is being built
// until it has what the leader had.
func TestBuildBehind(t *testing.T) {
	t.Parallel()
	// What asks the leader of REPLICA for a message is asked of LEADER.
	file := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(file, []byte(`mappings = { "$JS.API.STREAM.MSG.GET.REPLICA": "$JS.API.STREAM.MSG.GET.LEADER" }`), 0o600); err != nil {
		t.Fatal(err)
	}
	server := testenv.NewNATS(t, testenv.NATSConfig{File: file})
	nc, err := nats.Connect(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	d := &desk{t: t, name: "REPLICA", want: map[ffstream.ExecutionID]ffstream.PublicState{}, log: slog.DiscardHandler}
	if d.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	d.create()
	if _, err := d.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "LEADER", Subjects: []string{"l.>"}, SubjectTransform: &jetstream.SubjectTransformConfig{Source: "l.>", Destination: "REPLICA.>"},
	}); err != nil {
		t.Fatal(err)
	}
	event := ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: ffstream.NewExecutionID(1, [16]byte{1}), To: ffstream.StateActive}
	if _, err := d.js.Publish(t.Context(), event.Subject("l"), event.AppendJSON(nil)); err != nil {
		t.Fatal(err)
	}
	p, stop := d.projectorOver(nc)
	defer stop()
	for s := p.Status(); !s.Building; s = p.Status() {
		if kv, err := d.js.KeyValue(t.Context(), d.bucket()); err == nil {
			if history, err := kv.History(t.Context(), ffstream.StateBuilding); err == nil && history[len(history)-1].Operation() == jetstream.KeyValueDelete {
				t.Fatal("it was built, with nothing of what the leader has")
			}
		}
		<-time.After(time.Millisecond)
	}
	d.publish(event)
	d.settled(p)
}

// TestFailLogged: what keeps a bucket from being kept is logged, though another that
// wrote into it came before, which is not.
func TestFailLogged(t *testing.T) {
	t.Parallel()
	d := newDesk(t, 1)
	d.publish(ffstream.Event{Type: ffstream.TypeTransitioned, ExecutionID: d.ids[0], To: ffstream.StateActive})
	log := lines{slog.DiscardHandler, make(chan string, 1)}
	p, err := project.New(connect(t), project.Config{Stream: d.name, Prefix: d.name, Bucket: d.bucket(), Active: func() bool { return true }, Log: slog.New(log)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { p.Run(ctx) })
	defer running.Wait()
	defer cancel()
	d.settled(p)
	stream, err := d.js.Stream(t.Context(), "KV_"+d.bucket())
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.Metadata["ffstream.stream"] = "another"
	if _, err := d.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := d.js.Publish(t.Context(), "$KV."+d.bucket()+".x", nil); err != nil {
		t.Fatal(err)
	}
	select {
	case message := <-log.said:
		if !strings.Contains(message, "was not made for stream "+d.name) {
			t.Errorf("logged: %s", message)
		}
	case <-time.After(time.Minute):
		t.Errorf("%+v, and nothing was logged", p.Status())
	}
}

// lines is a log whose first line is of interest.
type lines struct {
	slog.Handler
	said chan string
}

func (l lines) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	select {
	case l.said <- text:
	default:
	}
	return nil
}

func (l lines) Enabled(context.Context, slog.Level) bool { return true }
