package e2e

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/testenv"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
	"github.com/ffstream/ffstream/reader"
)

// readable gives a database with an execution that has completed and one that
// waits.
func readable(t *testing.T, schema migrations.EngineVersion, version engine.Version) (db *testenv.Database, done, waiting engine.Exec) {
	t.Helper()
	db = testenv.DB(t, testenv.Schema{Version: schema})
	e := &engine.Engine{Version: version, Now: func() int64 { return 1_732_320_000_000 }}
	done, waiting = engine.Exec{Partition: 86, ID: uuid.New()}, engine.Exec{Partition: 7, ID: uuid.New()}
	ctx := context.Background()
	err := pgx.BeginFunc(ctx, db.Pool, func(tx pgx.Tx) error {
		for _, do := range []func() error{
			func() error {
				return e.Create(ctx, tx, engine.NewExecution{Exec: done, Namespace: "ns-a", Kind: "task", Lane: "workers", Priority: 3})
			},
			func() error { return e.Promote(ctx, tx, done) },
			func() error { return e.Claim(ctx, tx, done) },
			func() error { return e.Complete(ctx, tx, done, []byte("\x00raw\n")) },
			func() error { return e.Create(ctx, tx, engine.NewExecution{Exec: waiting}) },
		} {
			if err := do(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return db, done, waiting
}

// TestRead: what each command prints, on either schema of the engine.
func TestRead(t *testing.T) {
	t.Parallel()
	for schema, version := range map[migrations.EngineVersion]engine.Version{migrations.Engine011: engine.V011, migrations.EngineNewest: engine.Newest} {
		db, done, waiting := readable(t, schema, version)
		env := map[string]string{"FFSTREAM_DATABASE_URL": db.URL}
		id, err := ffstream.ParseExecutionID(done.String())
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct{ args, want string }{
			{"state " + done.String(), "completed\n"},
			{"state --json " + done.String(), "\"completed\"\n"},
			{"state " + strings.ToUpper(waiting.ID.String()), ""},
			{"result " + done.String(), "\x00raw\n"},
			{"result --json " + done.String(), `{"execution_id":"` + done.String() + `","result":"AHJhdwo="}` + "\n"},
			{"attempts --json " + waiting.String(), "[]\n"},
			{"attempts --json " + done.String(), `[{"index":0,"worker_id":"worker-1","worker_instance_id":"worker-1-0","lease_epoch":1,"lease_expires_at_ms":null,` +
				`"started_at_ms":1732320000000,"terminal_at_ms":1732320000000,"outcome":"success"}]` + "\n"},
			{"attempts " + done.String(), "ATTEMPT  OUTCOME  STARTED                   ENDED                     EPOCH  LEASE EXPIRES  WORKER    INSTANCE\n" +
				"0        success  2024-11-23T00:00:00.000Z  2024-11-23T00:00:00.000Z  1      -              worker-1  worker-1-0\n"},
		} {
			p := start(t, env, append([]string{"read"}, strings.Fields(test.args)...)...)
			if code := p.code(); test.want != "" && (code != 0 || p.output() != test.want) || test.want == "" && code != 2 {
				t.Errorf("read %s: exit code %d, printed %q, want %q", test.args, code, p.output(), test.want)
			}
		}

		want, _, err := reader.New(db.Pool).ExecutionInfo(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		p := start(t, env, "read", "info", "--json", done.String())
		var got ffstream.ExecutionInfo
		if code := p.code(); code != 0 || json.Unmarshal([]byte(p.output()), &got) != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("exit code %d, printed %s, want %+v", code, p.output(), want)
		}
		p = start(t, env, "read", "info", done.String())
		stored := map[engine.Version]string{engine.V011: "waiting", engine.Newest: "active"}[version]
		text := "execution        " + done.String() + "\nstate            completed\nstored state     " + stored + " (stale)\nphase            terminal\nownership        unowned\n" +
			"eligibility      not_applicable\nblocking reason  none\noutcome          success\nattempt          0, attempt_terminal\nnamespace        ns-a\nlane             workers\n" +
			"kind             task\npriority         3\ncreated          2024-11-23T00:00:00.000Z\nstarted          2024-11-23T00:00:00.000Z\ncompleted        2024-11-23T00:00:00.000Z\n"
		if code := p.code(); code != 0 || p.output() != text {
			t.Errorf("exit code %d, printed\n%s, want\n%s", code, p.output(), text)
		}
	}
}

// TestReadFails: one line that says what, and the exit code.
func TestReadFails(t *testing.T) {
	t.Parallel()
	db, done, waiting := readable(t, migrations.EngineNewest, engine.Newest)
	empty := testenv.DB(t, testenv.Schema{})
	missing := engine.Exec{Partition: 86, ID: uuid.New()}.String()
	odd := done.String()
	if _, err := db.Pool.Exec(context.Background(), "UPDATE ff_exec_core SET attempt_state = 'odd' WHERE partition_key = 86"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		url, args string
		code      int
		want      string
	}{
		{db.URL, "state " + missing, 1, "there is no such execution"},
		{db.URL, "info " + missing, 1, "there is no such execution"},
		{db.URL, "attempts " + missing, 1, "there is no such execution"},
		{db.URL, "result " + missing, 1, "no such execution, or it has no result"},
		{db.URL, "result " + waiting.String(), 1, "no such execution, or it has no result"},
		{db.URL, "state " + odd, 1, "attempt_state: 'odd' is not a known value"},
		{empty.URL, "state " + missing, 1, "ffstream migrate is not what creates it"},
		{"postgres://127.0.0.1:1/x", "state " + missing, 1, "connect to Postgres"},
		{db.URL, "state {fp:x}:" + uuid.NewString(), 2, "partition index is not a valid u16: x"},
		{db.URL, "state", 2, "execution id"},
		{db.URL, "", 2, "state"},
		{"", "state " + missing, 2, "--database-url"},
	} {
		p := start(t, map[string]string{"FFSTREAM_DATABASE_URL": test.url}, append([]string{"read"}, strings.Fields(test.args)...)...)
		code := p.code()
		lines := strings.Split(strings.TrimSpace(p.output()), "\n")
		last := lines[len(lines)-1]
		if code != test.code || !strings.Contains(last, test.want) || !strings.HasPrefix(last, "ffstream: ") {
			t.Errorf("read %s: exit code %d, printed %q, want %d and %q", test.args, code, p.output(), test.code, test.want)
		}
	}
}
