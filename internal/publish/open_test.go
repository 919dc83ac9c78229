package publish_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
)

func (b *bench) config(t *testing.T) jetstream.StreamConfig {
	t.Helper()
	stream, err := b.js.Stream(testContext(t), b.cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo().Config
}

// TestOpenCreates holds the configuration that the contract names.
func TestOpenCreates(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	if _, err := publish.Open(testContext(t), b.nc, b.cfg, false); !errors.Is(err, publish.ErrStreamLost) || !strings.Contains(err.Error(), b.cfg.Stream) {
		t.Errorf("open what is not there: %v", err)
	}
	s := b.open(t)
	if !s.Atomic || len(s.Warnings) > 0 || s.LastSequence() != 0 {
		t.Errorf("atomic %t, warnings %q, last sequence %d", s.Atomic, s.Warnings, s.LastSequence())
	}
	c := b.config(t)
	want := b.promised()
	if c.Name != want.Name || !reflect.DeepEqual(c.Subjects, want.Subjects) || c.Storage != want.Storage || c.Retention != want.Retention ||
		c.MaxAge != want.MaxAge || c.Replicas != want.Replicas || !c.AllowDirect || !c.AllowAtomicPublish || c.Duplicates != want.Duplicates {
		t.Errorf("created %+v, want %+v", c, want)
	}
	if c.MaxMsgs != -1 || c.MaxBytes != -1 || c.MaxMsgsPerSubject != -1 || c.MaxMsgSize != -1 || c.Discard != jetstream.DiscardOld || c.NoAck || c.Sealed {
		t.Errorf("created with limits: %+v", c)
	}
	if c.Metadata["ffstream.system_identifier"] != fmt.Sprint(system) || c.Metadata["ffstream.slot"] != "ffstream" {
		t.Errorf("created with metadata %v", c.Metadata)
	}
	if tail, err := s.ReadTail(testContext(t)); err != nil || tail.Sequence != 0 || tail.Stored || tail.State.Deleted != 0 || tail.State.MaxAge != want.MaxAge {
		t.Errorf("tail %+v, %v", tail, err)
	}
	if again := b.open(t); !again.Atomic || len(again.Warnings) > 0 || !reflect.DeepEqual(b.config(t), c) {
		t.Errorf("opened again: atomic %t, warnings %q", again.Atomic, again.Warnings)
	}

	other := sharedBench(t)
	other.cfg.MaxAge = time.Minute // the duplicate window cannot be longer
	if s := other.open(t); len(s.Warnings) > 0 || other.config(t).Duplicates != time.Minute {
		t.Errorf("duplicate window %s, warnings %q", other.config(t).Duplicates, s.Warnings)
	}
}

// TestOpenRefuses: each difference that breaks the promise is an error that names
// the field, and the stream is left as it is.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	other := sharedBench(t)
	other.create(t, func(*jetstream.StreamConfig) {})
	for name, tc := range map[string]struct {
		kind   error
		field  string
		change func(*jetstream.StreamConfig)
	}{
		"other subjects": {publish.ErrStreamConfig, "subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{c.Name + "x.>"} }},
		"more subjects":  {publish.ErrStreamConfig, "subjects", func(c *jetstream.StreamConfig) { c.Subjects = append(c.Subjects, c.Name+"x") }},
		"fewer subjects": {publish.ErrStreamConfig, "subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{c.Name + ".exec.>"} }},
		"work queue":     {publish.ErrStreamConfig, "retention", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }},
		"interest":       {publish.ErrStreamConfig, "retention", func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }},
		"no_ack":         {publish.ErrStreamConfig, "no_ack", func(c *jetstream.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false }},
		"memory":         {publish.ErrStreamConfig, "storage", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }},
		"one a subject":  {publish.ErrStreamConfig, "max_msgs_per_subject", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }},
		"async persistence": {publish.ErrStreamConfig, "persist_mode", func(c *jetstream.StreamConfig) {
			c.PersistMode, c.AllowAtomicPublish = jetstream.AsyncPersistMode, false
		}},
		"counters": {publish.ErrStreamConfig, "allow_msg_counter", func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }},
		"transform": {publish.ErrStreamConfig, "subject_transform", func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: c.Name + ".>", Destination: c.Name + ".x.>"}
		}},
		"source": {publish.ErrStreamConfig, "sources", func(c *jetstream.StreamConfig) {
			c.Sources = []*jetstream.StreamSource{{Name: other.cfg.Stream}}
		}},
		"mirror": {publish.ErrStreamConfig, "mirror", func(c *jetstream.StreamConfig) {
			*c = jetstream.StreamConfig{Name: c.Name, Mirror: &jetstream.StreamSource{Name: other.cfg.Stream}}
		}},
		"sealed": {publish.ErrStreamConfig, "sealed", nil},
		"another database": {publish.ErrStreamForeign, "database system 1", func(c *jetstream.StreamConfig) {
			c.Metadata = map[string]string{"ffstream.system_identifier": "1", "ffstream.slot": "ffstream"}
		}},
		"another slot": {publish.ErrStreamForeign, "slot other", func(c *jetstream.StreamConfig) {
			c.Metadata = map[string]string{"ffstream.system_identifier": fmt.Sprint(system), "ffstream.slot": "other"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := sharedBench(t)
			if tc.change != nil {
				b.create(t, tc.change)
			} else {
				b.create(t, func(*jetstream.StreamConfig) {})
				sealed := b.promised()
				sealed.Sealed = true
				if _, err := b.js.UpdateStream(testContext(t), sealed); err != nil {
					t.Fatal(err)
				}
			}
			before := b.config(t)
			s, err := publish.Open(testContext(t), b.nc, b.cfg, true)
			if !errors.Is(err, tc.kind) || s != nil {
				t.Fatalf("%v, want %v", err, tc.kind)
			}
			if text := err.Error(); !strings.Contains(text, tc.field) || !strings.Contains(text, "stream "+b.cfg.Stream) || strings.Contains(text, "\n") {
				t.Errorf("%q, want it to name the stream and %s", text, tc.field)
			}
			if after := b.config(t); !reflect.DeepEqual(before, after) {
				t.Errorf("open changed %+v into %+v", before, after)
			}
		})
	}
}

// TestOpenWarns: any other difference is a warning that names the field.
func TestOpenWarns(t *testing.T) {
	t.Parallel()
	for field, change := range map[string]func(*jetstream.StreamConfig){
		"":                 func(c *jetstream.StreamConfig) { c.Metadata = nil },
		"allow_atomic":     func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false },
		"allow_direct":     func(c *jetstream.StreamConfig) { c.AllowDirect = false },
		"max_age":          func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"duplicate_window": func(c *jetstream.StreamConfig) { c.Duplicates = time.Hour },
		"max_msgs":         func(c *jetstream.StreamConfig) { c.MaxMsgs = 100 },
		"max_bytes":        func(c *jetstream.StreamConfig) { c.MaxBytes = 1 << 20 },
	} {
		b := sharedBench(t)
		b.create(t, change)
		before := b.config(t)
		s := b.open(t)
		if field == "" && len(s.Warnings) != 0 || field != "" && (len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], field)) {
			t.Errorf("%s: warnings %q", field, s.Warnings)
		}
		if s.Atomic != (field != "allow_atomic") || !reflect.DeepEqual(b.config(t), before) {
			t.Errorf("%s: atomic %t, configuration %+v", field, s.Atomic, b.config(t))
		}
	}
	b := sharedBench(t)
	b.create(t, func(*jetstream.StreamConfig) {})
	b.cfg.Replicas = 3
	if s := b.open(t); len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "num_replicas") {
		t.Errorf("three replicas asked for: warnings %q", s.Warnings)
	}
}

// TestOpenFails: what the server refuses is told by what mends it.
func TestOpenFails(t *testing.T) {
	t.Parallel()
	b := sharedBench(t)
	b.open(t)
	overlapping := sharedBench(t)
	overlapping.cfg.Prefix = b.cfg.Prefix
	replicated := sharedBench(t)
	replicated.cfg.Replicas = 3
	plain, _ := ownBench(t, testenv.NATSConfig{NoJetStream: true})
	closed := sharedBench(t)
	closed.nc.Close()
	for name, tc := range map[string]struct {
		b    *bench
		kind error
		text string
	}{
		"subjects of another stream": {overlapping, publish.ErrStreamConfig, "--subject-prefix"},
		"replicas without a cluster": {replicated, publish.ErrStreamConfig, "--stream-replicas"},
		"no JetStream":               {plain, publish.ErrNoJetStream, "-js"},
		"not connected":              {closed, publish.ErrUnavailable, "not connected"},
	} {
		if s, err := publish.Open(testContext(t), tc.b.nc, tc.b.cfg, true); !errors.Is(err, tc.kind) || s != nil || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v, want %v that names %s", name, err, tc.kind, tc.text)
		}
	}
	secret := testenv.Connect(t, strings.Replace(testenv.NATSURL(t), "nats://", "nats://me:secret@", 1))
	secret.Close()
	if _, err := publish.Open(testContext(t), secret, b.cfg, true); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("with a password in the URL: %v", err)
	}
}

// TestReadTailRefuses: an end of the stream that is not ours, or is gone, is no
// place to go on.
func TestReadTailRefuses(t *testing.T) {
	t.Parallel()
	position := "0000000000000001/0000"
	for name, tc := range map[string]struct {
		kind   error
		header nats.Header
	}{
		"no headers":       {publish.ErrStreamForeign, nil},
		"no id":            {publish.ErrStreamForeign, nats.Header{"Ffstream-Position": {position}}},
		"another id":       {publish.ErrStreamForeign, nats.Header{"Nats-Msg-Id": {"x"}, "Ffstream-Position": {position}}},
		"no position":      {publish.ErrStreamForeign, nats.Header{"Nats-Msg-Id": {fmt.Sprintf("%d-0000000000000001-0000", system)}}},
		"another position": {publish.ErrStreamForeign, nats.Header{"Nats-Msg-Id": {fmt.Sprintf("%d-0000000000000002-0000", system)}, "Ffstream-Position": {position}}},
		"another database": {publish.ErrStreamForeign, nats.Header{"Nats-Msg-Id": {"1-0000000000000001-0000"}, "Ffstream-Position": {position}}},
		"ours":             {nil, nats.Header{"Nats-Msg-Id": {fmt.Sprintf("%d-0000000000000001-0000", system)}, "Ffstream-Position": {position}}},
	} {
		b := sharedBench(t)
		s := b.open(t)
		if _, err := b.js.PublishMsg(testContext(t), &nats.Msg{Subject: b.cfg.Prefix + ".x", Header: tc.header}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadTail(testContext(t)); tc.kind != nil && !errors.Is(err, tc.kind) || tc.kind == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	b := sharedBench(t)
	s := b.open(t)
	mustStore(t, b.publisher(t), transaction(1, 3))
	stream, err := b.js.Stream(testContext(t), b.cfg.Stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(testContext(t), 3); err != nil {
		t.Fatal(err)
	}
	if tail, err := s.ReadTail(testContext(t)); err != nil || tail.Stored || tail.Sequence != 3 || tail.State.Deleted != 1 {
		t.Errorf("last message deleted: %+v, %v", tail, err)
	}
}
