package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/testenv"
)

// runNATS executes a remedy by the nats command.
func runNATS(ctx context.Context, t testing.TB, js jetstream.JetStream, command string) error {
	t.Helper()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Env = append(cmd.Environ(), "PATH="+filepath.Dir(testenv.NATSCommand(t))+":"+os.Getenv("PATH"),
		"NATS_URL="+js.Conn().ConnectedUrl(), "NATS_TIMEOUT=1m", "HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// TestStreamRemedies provokes what may be wrong with a stream's configuration, mends
// it by what is printed, and sees it gone; of what no edit mends the command is another.
func TestStreamRemedies(t *testing.T) {
	t.Parallel()
	server := testenv.NewNATS(t, testenv.NATSConfig{})
	nc, js := mustJetStream(t, server.URL())
	const edit, another, remove, words = "nats stream edit ", "ffstream run ", "nats stream rm ", ""
	owned := map[string]string{"ffstream.system_identifier": "7", "ffstream.slot": "s"}
	ours := func(subjects ...string) func(c *jetstream.StreamConfig) {
		return func(c *jetstream.StreamConfig) {
			c.Metadata = owned
			for i, s := range subjects {
				c.Subjects = append(c.Subjects[:i], s+testPrefix(c.Name)+".>")
			}
		}
	}
	for i, c := range []struct {
		name     string
		change   func(c *jetstream.StreamConfig)
		severity Severity
		remedy   string
		used     bool // the stream held something
		// then is changed after it was used. Optional.
		then func(c *jetstream.StreamConfig)
	}{
		{"interest", func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }, Fault, edit, false, nil},
		{"work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, Fault, remove, false, nil},
		{"used work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, Fault, another, true, nil},
		{"memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, Fault, remove, false, nil},
		{"used memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, Fault, another, true, nil},
		{"asynchronous", func(c *jetstream.StreamConfig) {
			c.PersistMode, c.AllowAtomicPublish = jetstream.AsyncPersistMode, false
		}, Fault, remove, false, nil},
		{"counters", func(c *jetstream.StreamConfig) { c.AllowMsgCounter = true }, Fault, remove, false, nil},
		{"no acknowledgements", func(c *jetstream.StreamConfig) { c.NoAck, c.AllowAtomicPublish = true, false }, Fault, edit, false, nil},
		{"transform", func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: c.Subjects[0], Destination: "x." + c.Subjects[0]}
		}, Fault, edit, true, nil},
		{"per subject", func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 3 }, Fault, edit, true, nil},
		{"new per subject", func(c *jetstream.StreamConfig) {
			c.MaxMsgsPerSubject, c.Discard, c.DiscardNewPerSubject = 3, jetstream.DiscardNew, true
		}, Fault, edit, true, nil},
		{"our subjects, edited", ours(""), Fault, edit, true, ours("wrong")},
		{"our subjects, edited to nobody's", ours(""), Fault, edit, true, ours("wrong.", "more")},
		{"our subjects and more", ours("", "more"), Fault, edit, false, nil},
		{"our subjects, by another prefix that writes", ours("live"), Fault, another, true, nil},
		{"our subjects, by another prefix that is yet to write", ours("live"), Fault, another, false, nil},
		{"our subjects, written by several", ours("live", ""), Fault, another, true, nil},
		{"their subjects", func(c *jetstream.StreamConfig) { c.Subjects[0] = "wrong." + c.Subjects[0] }, Fault, another, false, nil},
		{"another slot", func(c *jetstream.StreamConfig) {
			c.Metadata = map[string]string{"ffstream.slot": "other"}
		}, Fault, another, false, nil},
		{"not atomic", func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false }, Warning, edit, true, nil},
		{"not direct", func(c *jetstream.StreamConfig) { c.AllowDirect = false }, Warning, edit, true, nil},
		{"shorter", func(c *jetstream.StreamConfig) { c.MaxAge = time.Minute; c.Duplicates = time.Minute }, Warning, edit, true, nil},
		{"longer", func(c *jetstream.StreamConfig) { c.MaxAge = 2 * time.Hour }, Warning, words, true, nil},
		{"for ever", func(c *jetstream.StreamConfig) { c.MaxAge = 0 }, Warning, words, true, nil},
		{"other window", func(c *jetstream.StreamConfig) { c.Duplicates = time.Second }, Warning, edit, true, nil},
		{"bounded", func(c *jetstream.StreamConfig) { c.MaxBytes, c.MaxMsgs = 1<<20, 100 }, Warning, edit, true, nil},
		{"everything", func(c *jetstream.StreamConfig) {
			c.AllowAtomicPublish, c.AllowDirect, c.MaxAge, c.Duplicates, c.MaxMsgs = false, false, time.Minute, time.Second, 9
		}, Warning, edit, true, nil},
		{"bounded, refusing", func(c *jetstream.StreamConfig) { c.MaxBytes, c.Discard = 1<<20, jetstream.DiscardNew }, OK, words, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := testStream
			cfg.Stream = "REMEDY_" + strconv.Itoa(i)
			cfg.Prefix = testPrefix(cfg.Stream)
			made := jetstream.StreamConfig{
				Name: cfg.Stream, Subjects: []string{cfg.Prefix + ".>"}, MaxAge: cfg.MaxAge, Duplicates: 2 * time.Minute, AllowDirect: true, AllowAtomicPublish: true,
			}
			c.change(&made)
			if _, err := js.CreateStream(t.Context(), made); err != nil {
				t.Fatal(err)
			}
			if c.used {
				if _, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: publish.Bucket(cfg.Stream)}); err != nil {
					t.Fatal(err)
				}
				if _, err := js.Publish(t.Context(), strings.Replace(made.Subjects[0], ">", "x", 1), nil); err != nil {
					t.Fatal(err)
				}
			}
			if c.then != nil {
				c.then(&made)
				if _, err := js.UpdateStream(t.Context(), made); err != nil {
					t.Fatal(err)
				}
			}
			f := find(t, answered(t.Context(), nc, cfg), "stream")
			if f.Severity != c.severity || (len(f.Run) == 0) != (c.remedy == words) {
				t.Fatalf("%+v, want %s and %q", f, c.severity, c.remedy)
			}
			if c.remedy == words {
				if c.severity != OK && !strings.Contains(f.Found, "--stream-max-age=") {
					t.Errorf("%+v tells no way", f)
				}
				return
			}
			if !strings.HasPrefix(f.Run[0], c.remedy) || len(f.Run) != 1 {
				t.Fatalf("%q, want %q", f.Run, c.remedy)
			}
			if c.remedy == another {
				// The old slot is given up only by who says so, unless it is gone on with.
				if drop := strings.Contains(f.Why, "pg_drop_replication_slot('"+cfg.Slot+"')"); drop == (flag(t, f.Run[0], "--slot") == cfg.Slot) {
					t.Errorf("%+v", f)
				}
				cfg.Slot, cfg.Stream, cfg.Prefix = flag(t, f.Run[0], "--slot"), flag(t, f.Run[0], "--stream"), flag(t, f.Run[0], "--subject-prefix")
				mustOpen(t, nc, cfg) // which that command does first
				f.Run = nil
			}
			for range 2 { // the server wants one thing off for another, and then that is the finding
				for _, command := range f.Run {
					if err := runNATS(t.Context(), t, js, command); err != nil {
						t.Fatalf("%s: %v", command, err)
					}
				}
				f = find(t, answered(t.Context(), nc, cfg), "stream")
			}
			if f.Severity != OK {
				t.Errorf("after the remedy: %+v", f)
			}
		})
	}
}

// testPrefix is the prefix of the service whose stream has a name.
func testPrefix(stream string) string { return strings.ToLower(stream) + "x" }

// flag is what a command gives a flag.
func flag(t *testing.T, command, name string) string {
	t.Helper()
	for _, word := range strings.Fields(command) {
		if value, ok := strings.CutPrefix(word, name+"="); ok {
			return value
		}
	}
	t.Fatalf("%q has no %s", command, name)
	return ""
}

// TestRoom fills a stream that refuses what is beyond its bounds, by bytes and by
// messages, and makes room as the finding says.
func TestRoom(t *testing.T) {
	t.Parallel()
	server := testenv.NewNATS(t, testenv.NATSConfig{})
	nc, js := mustJetStream(t, server.URL())
	look := func(severity Severity, found string) Finding {
		t.Helper()
		f := find(t, answered(t.Context(), nc, testStream), "room")
		if f.Severity != severity || !strings.Contains(f.Found, found) || (f.Why == "") != (severity == OK) || (len(f.Run) == 0) != (severity == OK) {
			t.Fatalf("%+v, want %s and %q", f, severity, found)
		}
		return f
	}
	publishing := func(n int) {
		t.Helper()
		for range n {
			if _, err := js.Publish(t.Context(), "doctor.x", make([]byte, 1000)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s := mustOpen(t, nc, testStream); s.Edit != "" {
		t.Fatal(s.Edit)
	}
	look(OK, "no bound")
	stream, err := js.Stream(t.Context(), testStream.Stream)
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	bound := func(bytes, messages int64) {
		t.Helper()
		cfg.Discard, cfg.MaxBytes, cfg.MaxMsgs = jetstream.DiscardNew, bytes, messages
		if _, err := js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	bound(-1, 20)
	publishing(17)
	look(OK, "17 of 20 messages")
	publishing(1)
	f := look(Warning, "18 of 20 messages")
	publishing(2)
	look(Fault, "it is full")
	if err := runNATS(t.Context(), t, js, f.Run[0]); err != nil {
		t.Fatal(err)
	}
	look(OK, "20 of 40 messages")
	bound(22_000, 40)
	f = look(Warning, "of 22000 bytes and 20 of 40 messages")
	if err := runNATS(t.Context(), t, js, f.Run[0]); err != nil {
		t.Fatal(err)
	}
	look(OK, "of 44000 bytes")
	bound(21_500, -1) // less than one more
	look(Fault, "it is full")
}

// TestRoomForecast: the forecast is by the average of what the stream holds, and says
// when messages age out before.
func TestRoomForecast(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		name         string
		bytes        uint64
		bound        int64
		held, maxAge time.Duration
		severity     Severity
		says, edited string
	}{
		{"half full", 500, 1000, time.Hour, 0, OK, "500 of 1000 bytes", ""},
		{"nearly full", 900, 1000, 9 * time.Hour, 0, Warning, "it is full in 1h0m0s", "2000"},
		{"nearly full, for a while", 900, 1000, 9 * time.Hour, 200 * time.Hour, Warning, "it is full in 1h0m0s", "30000"},
		{"nearly full, for ever", 900, 1000, 9 * time.Hour, 9 * time.Hour, Warning, "age out before", "2000"},
		{"new, and nearly full", 900, 1000, 9 * time.Second, 200 * time.Hour, Warning, "it is full in 1s", "2000"},
		{"full", 1000, 1000, 9 * time.Hour, 0, Fault, "it is full", "2000"},
	} {
		info := &jetstream.StreamInfo{
			Config: jetstream.StreamConfig{Name: "S", Discard: jetstream.DiscardNew, MaxBytes: c.bound, MaxMsgs: -1, MaxAge: c.maxAge},
			State:  jetstream.StreamState{Msgs: 10, Bytes: c.bytes, FirstTime: now.Add(-c.held)},
		}
		f := room(info, now)
		if f.Severity != c.severity || !strings.Contains(f.Found, c.says) {
			t.Errorf("%s: %+v", c.name, f)
		}
		if c.edited != "" && f.Run[0] != "nats stream edit S --max-bytes="+c.edited+" --force" {
			t.Errorf("%s: %q", c.name, f.Run)
		}
	}
	old := &jetstream.StreamInfo{Config: jetstream.StreamConfig{MaxBytes: 1}, State: jetstream.StreamState{Bytes: 1}}
	if f := room(old, now); f.Severity != OK {
		t.Errorf("a stream that drops the oldest: %+v", f)
	}
}
