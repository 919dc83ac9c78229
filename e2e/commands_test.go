package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// TestWithoutIdentity: where no index may be added, each update that could be a
// transition is published and marked, and nothing is said of what was before.
func TestWithoutIdentity(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	env := w.env()
	env["FFSTREAM_REPLICA_IDENTITY"] = "none"
	if p := start(t, env, "migrate", "--engine-schema"); p.code() != 0 {
		t.Fatal(p.output())
	}
	if p := start(t, w.env(), "run"); p.code() != 1 || !strings.Contains(p.output(), "do not log the old state") {
		t.Errorf("run takes a source without replica identity: %s", p.output())
	}
	p := start(t, env, "run")
	w.awaitActive(p)
	ctx := context.Background()
	e := &engine.Engine{Version: engine.Newest}
	x := engine.Exec{Partition: 3, ID: uuid.New(), Lane: "default", Namespace: "ns-a"}
	for _, f := range []func(ctx context.Context, tx engine.Tx, x engine.Exec) error{
		func(ctx context.Context, tx engine.Tx, x engine.Exec) error {
			return e.Create(ctx, tx, engine.NewExecution{Exec: x, Namespace: x.Namespace})
		},
		e.Promote, e.Claim, e.Renew,
		func(ctx context.Context, tx engine.Tx, x engine.Exec) error { return e.Complete(ctx, tx, x, nil) },
		e.TrimRetention,
	} {
		if err := pgx.BeginFunc(ctx, w.db.Pool, func(tx pgx.Tx) error { return f(ctx, tx, x) }); err != nil {
			t.Fatal(err)
		}
	}
	w.caughtUp(p)
	var got []string
	for _, m := range w.stored() {
		var body struct {
			Data struct {
				From, To  *string
				Candidate bool
			}
		}
		if err := json.Unmarshal(m.body, &body); err != nil {
			t.Fatal(err)
		}
		if body.Data.From != nil {
			t.Errorf("from is %q: nothing can have told", *body.Data.From)
		}
		got = append(got, fmt.Sprint(*body.Data.To, " ", body.Data.Candidate))
	}
	want := []string{"waiting false", "waiting true", "active true", "completed true", "purged false"}
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	p.stop()
}

// transitionLine is an execution and its previous state, as demo and tail print them.
var transitionLine = regexp.MustCompile(`(\{fp:\d+\}:\S+) +(\S+) -> \S+`)

// TestDemo: the demonstration agrees with itself and leaves nothing behind,
// whether its time is up or it is told to end.
func TestDemo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		args []string
		stop bool
	}{
		{"its time is up", []string{"demo", "--for=2s", "--rate=40", "--quiet"}, false},
		{"it is told to end", []string{"demo", "--rate=40"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir, err := os.MkdirTemp("", "ffstream-demo-test-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if err := os.Chmod(dir, 0o755); err != nil { // Postgres runs as another user
				t.Fatal(err)
			}
			p := start(t, map[string]string{"TMPDIR": dir}, c.args...)
			if c.stop {
				await(t, "transitions to be printed", func() (bool, string) {
					text := p.output()
					return strings.Contains(text, "-> completed"), text
				})
				p.signal(syscall.SIGINT)
			}
			if p.code() != 0 || !strings.Contains(p.output(), " 0 executions differ") {
				t.Errorf("exit code %d: %s", p.code(), p.output())
			}
			begun := map[string]bool{}
			for _, m := range transitionLine.FindAllStringSubmatch(p.output(), -1) {
				if begun[m[1]] && m[2] == "-" {
					t.Errorf("the previous state of an execution is not known: %s", m[0])
				}
				begun[m[1]] = true
			}
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(left) > 0 {
				t.Errorf("the demo left %s behind", left)
			}
		})
	}
}

// TestMigrateUnderLoad: the engine goes on writing while the source is prepared
// and while that is undone, and afterwards nothing of it is left.
func TestMigrateUnderLoad(t *testing.T) {
	t.Parallel()
	db := testenv.DB(t, testenv.Schema{Version: migrations.EngineNewest})
	env := map[string]string{"FFSTREAM_DATABASE_URL": db.URL}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	played := make(chan error, 1)
	go func() {
		_, err := engine.Run(ctx, db.Pool, engine.WorkloadConfig{Version: engine.Newest, Writers: 2, Seed: 1})
		played <- err
	}()
	for _, args := range [][]string{{"migrate"}, {"migrate"}, {"migrate", "--down"}} {
		if p := start(t, env, args...); p.code() != 0 {
			t.Fatalf("%s: %s", args, p.output())
		}
	}
	cancel()
	if err := <-played; err != nil {
		t.Errorf("the engine's statements failed: %v", err)
	}
	var left int
	err := db.Pool.QueryRow(context.Background(), `SELECT (SELECT count(*) FROM pg_publication) + (SELECT count(*) FROM pg_class WHERE relname LIKE '%ffstream\_identity')
		+ (SELECT count(*) FROM pg_class WHERE relreplident <> 'd' AND relname LIKE 'ff\_exec%' AND relkind IN ('r', 'p'))`).Scan(&left)
	if err != nil {
		t.Fatal(err)
	}
	if left != 0 {
		t.Errorf("%d things are left of what migrate added", left)
	}
}
