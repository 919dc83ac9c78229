package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/migrations"
)

// program is ffstream as a user has it, built once by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(testenv.Main(func() int { return withBinary(m) })) }

func withBinary(m *testing.M) int {
	zerolog.SetGlobalLevel(zerolog.Disabled) // the fault proxy's own log
	dir, err := os.MkdirTemp("", "ffstream-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "ffstream")
	build := exec.Command("go", "build", "-o", program, "../cmd/ffstream")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build ffstream: %v: %s\n", err, out)
		return 1
	}
	return m.Run()
}

// patience is how long a test waits for what must happen; running out of it is
// a failure and no measurement.
const patience = 2 * time.Minute

// world is one test's own database, slot and stream.
type world struct {
	t      testing.TB
	db     *testenv.Database
	slot   string
	stream string
	prefix string
	nats   string // URL that the service gets
	js     jetstream.JetStream
}

func newWorld(t testing.TB, version migrations.EngineVersion) *world {
	t.Helper()
	w := &world{t: t, db: testenv.DB(t, testenv.Schema{Version: version, Prepared: version != 0})}
	w.slot, w.stream, w.prefix = w.db.Slot(), w.db.Name, w.db.Name
	w.connect(testenv.NATSURL(t))
	shared := w.js
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := shared.DeleteStream(ctx, w.stream); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("delete stream: %v", err)
		}
		if err := shared.DeleteKeyValue(ctx, w.bucket()); err != nil && !errors.Is(err, jetstream.ErrBucketNotFound) && !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Errorf("delete bucket: %v", err)
		}
	})
	return w
}

// bucket is the name of the bucket with the stream's note.
func (w *world) bucket() string { return w.stream + "_notes" }

// connect takes a NATS server, for the service and for the test.
func (w *world) connect(url string) {
	w.t.Helper()
	w.nats = url
	w.js = testenv.JetStream(w.t, testenv.Connect(w.t, url, nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true), nats.ReconnectWait(100*time.Millisecond)))
}

// env is what tells the program of this world.
func (w *world) env() map[string]string {
	return map[string]string{
		"FFSTREAM_DATABASE_URL": w.db.URL, "FFSTREAM_NATS_URL": w.nats, "FFSTREAM_SLOT": w.slot,
		"FFSTREAM_STREAM": w.stream, "FFSTREAM_SUBJECT_PREFIX": w.prefix,
		"FFSTREAM_HTTP_ADDR": "127.0.0.1:0",
		"FFSTREAM_BACKFILL":  "never", // what exists before is none of most tests' business
	}
}

// process is one run of the program.
type process struct {
	t       testing.TB
	cmd     *exec.Cmd
	mu      sync.Mutex // guards out, which the program's output is copied to
	out     bytes.Buffer
	done    chan struct{} // closed by the goroutine that waits for the program
	waitErr error         // set before done is closed
}

// Write takes the program's output.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start runs the program with an environment and nothing else of this one's.
func start(t testing.TB, env map[string]string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return launch(t, cmd)
}

// launch starts a command and ends it with the test.
func launch(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.waitErr = p.cmd.Wait()
	}()
	t.Cleanup(p.kill)
	return p
}

// tooSlow is what is said of a server that did not answer within the seconds that a
// command has for one question.
var tooSlow = regexp.MustCompile(`deadline exceeded|(?i:statement|lock|idle-in-transaction|authentication|i/o|nats:) timeout`)

// unanswered reports whether a command's words are of a server that gave no answer in
// time, and not for want of a right.
func unanswered(text string) bool {
	return tooSlow.MatchString(text) && !strings.Contains(text, "lacks a permission")
}

// asks runs a command to its end, and again while all that it met was a machine that
// was too slow for it.
func asks(t testing.TB, env map[string]string, args ...string) (p *process, code int) {
	t.Helper()
	for began := time.Now(); ; {
		p = start(t, env, args...)
		if code = p.code(); !p.wasSlow() || time.Since(began) > patience {
			return p, code
		}
	}
}

// wasSlow reports whether a command failed of nothing but that, also of a server that
// took no connection in time.
func (p *process) wasSlow() bool {
	return p.code() != 0 && (unanswered(p.output()) || strings.Contains(p.output(), "no servers available"))
}

// run starts the service and waits until it holds the slot, from which on nothing
// that is committed is missed.
func (w *world) run(args ...string) *process {
	w.t.Helper()
	p := start(w.t, w.env(), append([]string{"run"}, args...)...)
	w.awaitActive(p)
	return p
}

// awaitActive waits until p holds the slot. That somebody does would not do: after
// a kill it is held by a WAL sender that has not noticed yet.
func (w *world) awaitActive(p *process) {
	w.t.Helper()
	await(w.t, "the service to hold the slot", func() (bool, string) {
		select {
		case <-p.done:
			w.t.Fatalf("the service ended: %s", p.output())
		default:
		}
		var active bool
		err := w.db.Pool.QueryRow(context.Background(), "SELECT active AND confirmed_flush_lsn IS NOT NULL FROM pg_replication_slots WHERE slot_name = $1", w.slot).Scan(&active)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			w.t.Fatal(err)
		}
		return active && strings.Contains(p.output(), `"msg":"streaming"`), p.output()
	})
}

func (p *process) signal(s os.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

// kill ends the program at once and waits for it.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// code waits for the program's end and gives its exit code.
func (p *process) code() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("the program goes on: %s", p.output())
		return -1
	}
}

// stop asks the program to end and checks that it does so cleanly.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		p.t.Fatalf("exit code %d after SIGTERM: %s", code, p.output())
	}
}

// await polls until ok; text says what is known when it never is.
func await(t testing.TB, what string, ok func() (bool, string)) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		done, text := ok()
		if done {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s: %s", what, text)
		}
	}
}

// caughtUp waits until the slot is confirmed to the end of the log as it is now.
func (w *world) caughtUp(p *process) {
	w.t.Helper()
	var end string
	if err := w.db.Pool.QueryRow(context.Background(), "SELECT pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
		w.t.Fatal(err)
	}
	await(w.t, "the slot to be confirmed to "+end, func() (bool, string) {
		select {
		case <-p.done:
			w.t.Fatalf("the service ended: %s", p.output())
		default:
		}
		var reached bool
		var at string
		err := w.db.Pool.QueryRow(context.Background(), "SELECT confirmed_flush_lsn >= $1::pg_lsn, confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $2", end, w.slot).Scan(&reached, &at)
		if err != nil {
			w.t.Fatal(err)
		}
		return reached, "at " + at + "; " + p.output()
	})
}

// exec runs one statement, as one transaction.
func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.db.Pool.Exec(context.Background(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// message is one stored message as a subscriber gets it.
type message struct {
	subject string
	header  nats.Header
	body    []byte
}

// validated is how many events of a stream are held against the schema; beyond
// that a test is about their number.
const validated = 20000

// stored reads the whole stream.
func (w *world) stored() (all []message) {
	w.t.Helper()
	w.each(func(m message) { all = append(all, m) })
	return all
}

// each reads the whole stream, message by message.
func (w *world) each(f func(m message)) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := w.js.Stream(ctx, w.stream)
	if err != nil {
		w.t.Fatal(err)
	}
	n := stream.CachedInfo().State.Msgs
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		w.t.Fatal(err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		w.t.Fatal(err)
	}
	defer messages.Stop()
	for i := range n {
		m, err := messages.Next(jetstream.NextMaxWait(patience))
		if err != nil {
			w.t.Fatal(err)
		}
		if i < validated {
			valid(w.t, m.Data())
		}
		f(message{m.Subject(), m.Headers(), m.Data()})
	}
}

// oneError checks that the program's output is one line, and gives it.
func oneError(t testing.TB, p *process) string {
	t.Helper()
	text := ""
	for line := range strings.Lines(p.output()) {
		if !strings.Contains(line, `"level":"INFO"`) {
			text += line
		}
	}
	text = strings.TrimSuffix(text, "\n")
	if strings.Contains(text, "\n") || text == "" {
		t.Errorf("want one line, got %q", text)
	}
	return text
}
