package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/doctor"
	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// breach is a way to lose continuity.
type breach struct {
	name string
	// strike breaks it behind the back of a service that is stopped, or at work
	// when live.
	live   bool
	strike func(w *world)
	reason string
	says   []string
	// left is how many of the four events so far the stream has afterwards.
	left int
	// lost is how many more the strike commits that never come into it.
	lost int
	// healed: the database is mended before the gap is accepted, which does not mend
	// what is in the log.
	healed bool
}

const addAttempts = "ALTER PUBLICATION ffstream ADD TABLE ff_attempt (partition_key, execution_id, attempt_index, worker_id, worker_instance_id, lease_epoch, lease_expires_at_ms, started_at_ms, terminal_at_ms, outcome)"

func (w *world) jetstream() jetstream.Stream {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := w.js.Stream(ctx, w.stream)
	if err != nil {
		w.t.Fatal(err)
	}
	return stream
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// advance moves the slot of a service that was stopped to the end of the log.
func advance(w *world) {
	w.t.Helper()
	w.exec("CREATE TABLE skipped ()")
	awaitInactive(w.t, w.db.Pool, w.slot)
	w.exec("SELECT pg_replication_slot_advance($1, pg_current_wal_lsn())", w.slot)
}

// dropSlot drops the slot of a service that was stopped: its walsender ends a moment
// after it.
func dropSlot(w *world) {
	w.t.Helper()
	awaitInactive(w.t, w.db.Pool, w.slot)
	w.exec("SELECT pg_drop_replication_slot($1)", w.slot)
}

// awaitInactive waits until no walsender holds a slot.
func awaitInactive(t testing.TB, pool *pgxpool.Pool, slot string) {
	t.Helper()
	await(t, "the walsender of slot "+slot+" to end", func() (bool, string) {
		var active bool
		err := pool.QueryRow(context.Background(), "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE slot_name = $1", slot).Scan(&active)
		return err == nil && !active, fmt.Sprint(err)
	})
}

func deleteStream(w *world) { w.must(w.js.DeleteStream(context.Background(), w.stream)) }

var breaches = []breach{
	{"slot dropped", false, dropSlot, "slot_missing", []string{"does not exist", "message 4", "restore the slot"}, 4, 0, false},
	{"slot made again", false, func(w *world) {
		dropSlot(w)
		w.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", w.slot)
	}, "slot_moved", []string{"advanced, or dropped and made again", "message 4", "restore the slot"}, 4, 0, false},
	{"slot advanced", false, advance, "slot_moved", []string{"advanced, or dropped and made again", "message 4"}, 4, 0, false},
	{"stream deleted", false, deleteStream, "stream_missing", []string{"does not exist", "restore the stream"}, 0, 0, false},
	{"stream made again", false, func(w *world) {
		config := w.jetstream().CachedInfo().Config
		deleteStream(w)
		_, err := w.js.CreateStream(context.Background(), config)
		w.must(err)
	}, "stream_forgot", []string{"ends with message 0, and messages up to 4", "restore the stream"}, 0, 0, false},
	{"stream purged", false, func(w *world) { w.must(w.jetstream().Purge(context.Background())) }, "stream_purged", []string{"messages up to 4", "restore the stream"}, 0, 0, false},
	{"stream purged in part", false, func(w *world) {
		w.must(w.jetstream().Purge(context.Background(), jetstream.WithPurgeSequence(4)))
	}, "stream_purged", []string{"messages up to 3", "restore the stream"}, 1, 0, false},
	{"stream purged while it is written", true, func(w *world) { w.must(w.jetstream().Purge(context.Background())) }, "stream_purged", []string{"messages up to 4"}, 0, 0, false},
	{"stream deleted while it is written", true, deleteStream, "stream_missing", []string{"does not exist", "restore the stream"}, 0, 0, false},
	{"message deleted", false, func(w *world) { w.must(w.jetstream().DeleteMsg(context.Background(), 2)) }, "stream_edited", []string{"1 messages were deleted", "restore the stream"}, 3, 0, false},
	{"last message deleted", false, func(w *world) { w.must(w.jetstream().DeleteMsg(context.Background(), 4)) }, "stream_edited", []string{"1 messages were deleted"}, 3, 0, false},
	{"message deleted while it is written", true, func(w *world) { w.must(w.jetstream().DeleteMsg(context.Background(), 2)) }, "stream_edited", []string{"1 messages were deleted"}, 3, 0, false},
	{"publication edited", false, func(w *world) {
		w.exec("ALTER PUBLICATION ffstream DROP TABLE ff_exec_core")
		transitions(w)
		migrate(w)
	}, "publication_edited", []string{"publication was edited", "never sent", "made anew"}, 4, 2, false},
	{"publication made again", false, func(w *world) {
		w.exec("DROP PUBLICATION ffstream")
		transitions(w)
		migrate(w)
	}, "publication_edited", []string{"publication was edited", "never sent", "made anew"}, 4, 2, false},
	{"publication dropped while it is followed", true, func(w *world) {
		w.exec("DROP PUBLICATION ffstream")
		transitions(w)
	}, "publication_edited", []string{"publication", "never sent", "made anew"}, 4, 2, true},
	{"publication edited while it is followed", true, func(w *world) {
		w.exec("ALTER PUBLICATION ffstream DROP TABLE ff_attempt")
		w.exec(addAttempts)
	}, "publication_edited", []string{"publication was edited"}, 4, 0, false},
	{"leaf without identity while it is followed", true, func(w *world) { unlogged(w, "DEFAULT") }, "identity_lost",
		[]string{"leaf public.ff_exec_core_previous of ff_exec_core has replica identity 'd'", "message 4", "run: ffstream migrate, then stop"}, 4, 2, true},
	{"leaf with another identity", false, func(w *world) {
		unlogged(w, "USING INDEX LEAF_pkey")
		w.exec("ALTER TABLE ff_exec_core_previous REPLICA IDENTITY DEFAULT")
		migrate(w)
	}, "identity_lost",
		[]string{"leaf public.ff_exec_core_previous of ff_exec_core has an index as replica identity that lacks column", "message 4"}, 4, 2, false},
	{"note deleted", false, func(w *world) { w.must(w.js.DeleteKeyValue(context.Background(), w.bucket())) }, "note_missing", []string{"note"}, 4, 0, false},
}

// unlogged makes the leaf of the execution so far one that does not log the state,
// under another name, and changes that twice.
func unlogged(w *world, identity string) {
	var leaf string
	w.must(w.db.Pool.QueryRow(context.Background(), "SELECT tableoid::regclass FROM ff_exec_core").Scan(&leaf))
	w.exec("ALTER TABLE " + leaf + " RENAME TO ff_exec_core_previous")
	w.exec("ALTER TABLE ff_exec_core_previous REPLICA IDENTITY " + strings.ReplaceAll(identity, "LEAF", leaf))
	transitions(w)
}

// transitions changes the state of the execution so far twice.
func transitions(w *world) {
	w.exec("UPDATE ff_exec_core SET public_state = 'suspended', lifecycle_phase = 'suspended'")
	w.exec("UPDATE ff_exec_core SET public_state = 'waiting', lifecycle_phase = 'submitted'")
}

func migrate(w *world) {
	if m := start(w.t, w.env(), "migrate"); m.code() != 0 {
		w.t.Fatalf("migrate: %s", m.output())
	}
}

// TestContinuity: each way in which continuity is lost ends the service with one
// line that says what is lost, and nothing is published behind the hole. An
// operator who accepts it finds the gap in the stream, at its place, and the
// stream goes on exactly behind it.
func TestContinuity(t *testing.T) {
	t.Parallel()
	for _, b := range breaches {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, migrations.EngineNewest)
			b.check(w)
		})
	}
}

func (b *breach) check(w *world) {
	t := w.t
	t.Helper()
	e := &engine.Engine{Version: engine.Newest}
	story := &engine.StoriesOf(engine.Newest)[0]
	o := newOracle(w)
	w.exec("CREATE PUBLICATION oracle FOR TABLE ff_exec_core, ff_attempt")
	o.publication = "oracle"
	p := w.run()
	w.play(e, story, engine.Exec{Partition: 1, ID: uuid.New()})
	w.exec("UPDATE ff_exec_core SET lifecycle_phase = 'submitted', ownership_state = 'unowned', public_state = 'waiting', attempt_state = 'pending'")
	w.caughtUp(p)
	w.exec("CREATE TABLE unrelated ()") // an idle log is confirmed further than its last event
	w.caughtUp(p)
	if !b.live {
		p.stop()
	}
	b.strike(w)
	w.exec("DROP TABLE unrelated")
	if !b.live {
		p = start(t, w.env(), "run")
	}
	if code := p.code(); code != 1 {
		t.Fatalf("exit code %d: %s", code, p.output())
	}
	line := lastLines(p.output(), 1)
	for _, words := range append(b.says, "continuity is lost", "ffstream resume --accept-gap") {
		if !strings.Contains(line, words) {
			t.Errorf("%q does not say %q", line, words)
		}
	}
	if b.healed {
		migrate(w)
		p = start(t, w.env(), "run")
		if code, again := p.code(), lastLines(p.output(), 1); code != 1 || !strings.Contains(again, b.says[0]) {
			t.Errorf("with the database healed: exit code %d: %q does not say %q", code, again, b.says[0])
		}
	}
	resumes := b.accept(w, o)
	p = w.run()
	w.play(e, story, engine.Exec{Partition: 2, ID: uuid.New()})
	w.caughtUp(p)
	o.read()
	got := w.stored()
	if len(got) != b.left+1+3 {
		t.Fatalf("%d messages are stored, want %d, the gap and 3", len(got), b.left)
	}
	for i, e := range o.want {
		if lost := i >= 4 && i < 4+b.lost; i >= 4 && lost != (e.commit() < resumes) {
			t.Errorf("event %d of %d, at %s, is lost: %t; the gap says that the stream resumes at %X", i+1, len(o.want), e.position, lost, resumes)
		}
	}
	if len(o.want) != 4+b.lost+3 {
		t.Errorf("%d events were committed, want %d", len(o.want), 4+b.lost+3)
	}
	for i, m := range got[b.left+1:] {
		if text := o.want[len(o.want)-3+i].differs(m); text != "" {
			t.Errorf("behind the gap: %s", text)
		}
	}
	p.kill()
	p = w.run()
	w.caughtUp(p)
	if n := len(w.stored()); n != len(got) {
		t.Errorf("%d messages are stored after a restart, and %d were before", n, len(got))
	}
	p.stop()
	if again, code := asks(t, w.env(), "resume", "--accept-gap"); code != 0 || !strings.Contains(again.output(), "Nothing is lost") {
		t.Errorf("accepted again: %s", again.output())
	}
}

// commit is the LSN of the transaction's commit record.
func (e *expected) commit() uint64 {
	n, err := strconv.ParseUint(e.position[:16], 16, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// accept takes the gap and looks for it in the stream. It returns where the gap says
// that the stream resumes.
func (b *breach) accept(w *world, o *oracle) uint64 {
	w.t.Helper()
	if p := start(w.t, w.env(), "resume"); p.code() != 2 || !strings.Contains(p.output(), "--accept-gap is required") {
		w.t.Errorf("resume alone: %s", p.output())
	}
	p, code := asks(w.t, w.env(), "resume", "--accept-gap")
	if code != 0 || !strings.Contains(p.output(), "Accepted: ") {
		w.t.Fatalf("resume: exit code %d: %s", code, p.output())
	}
	got := w.stored()
	if len(got) != b.left+1 {
		w.t.Fatalf("%d messages are stored, want %d and the gap: %s", len(got), b.left, p.output())
	}
	var body struct {
		Type string
		Data struct {
			Reason        string
			After         string
			AfterSequence uint64 `json:"after_sequence"`
			ResumesAt     string `json:"resumes_at"`
		}
	}
	gap := got[b.left]
	if err := json.Unmarshal(gap.body, &body); err != nil {
		w.t.Fatal(err)
	}
	if gap.subject != w.prefix+".gap" || body.Type != "ffstream.gap.v1" || body.Data.Reason != b.reason {
		w.t.Errorf("the gap is %s: %s", gap.subject, gap.body)
	}
	o.read()
	last := o.want[3].id
	if want := last[strings.IndexByte(last, '-')+1:]; body.Data.AfterSequence != 4 || strings.Replace(body.Data.After, "/", "-", 1) != want {
		w.t.Errorf("the gap is behind %d, %s; want 4, %s: %s", body.Data.AfterSequence, body.Data.After, want, gap.body)
	}
	resumes, err := ffstream.ParseLSN(body.Data.ResumesAt)
	w.must(err)
	return uint64(resumes)
}

// TestResumeRefuses: nothing is given up while the service holds the slot, or
// where nothing is lost.
func TestResumeRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	if r, code := asks(t, w.env(), "resume", "--accept-gap"); code != 0 || !strings.Contains(r.output(), "Nothing is lost") {
		t.Errorf("before the first run: %s", r.output())
	}
	var slots int
	w.must(w.db.Pool.QueryRow(context.Background(), "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1", w.slot).Scan(&slots))
	if slots != 0 {
		t.Error("resume made a slot, which is for the first run")
	}
	p := w.run()
	w.play(&engine.Engine{Version: engine.Newest}, &engine.StoriesOf(engine.Newest)[0], engine.Exec{Partition: 1, ID: uuid.New()})
	w.caughtUp(p)
	for flag, words := range map[string]string{"--slot=another": "is fed by slot", "--stream=" + w.stream + "x": "name another prefix"} {
		if r, code := asks(t, w.env(), "resume", "--accept-gap", flag); code != 1 || !strings.Contains(oneError(t, r), words) {
			t.Errorf("%s: %s", flag, r.output())
		}
	}
	r, code := asks(t, w.env(), "resume", "--accept-gap")
	if code != 1 || !strings.Contains(oneError(t, r), "in use by another process") {
		t.Errorf("exit code %d: %s", code, r.output())
	}
	p.stop()
	r, code = asks(t, w.env(), "resume", "--accept-gap")
	if code != 0 || !strings.Contains(oneError(t, r), "nothing was changed") {
		t.Errorf("exit code %d: %s", code, r.output())
	}
	if n := len(w.stored()); n != 3 {
		t.Errorf("%d messages are stored, want 3", n)
	}
}

// offline runs f while the database's server is stopped.
func (a *arena) offline(f func()) {
	a.t.Helper()
	a.must(a.pg.Stop("fast"))
	f()
	a.must(a.pg.Start(context.Background()))
	a.db.Pool.Reset()
	await(a.t, "the server to take writes", func() (bool, string) {
		var recovering bool
		a.must(a.db.Pool.QueryRow(context.Background(), "SELECT pg_is_in_recovery()").Scan(&recovering))
		return !recovering, ""
	})
}

// promote makes a stopped server begin a new timeline, as the promotion of a
// standby or the end of a recovery does.
func (a *arena) promote() {
	a.t.Helper()
	f, err := os.OpenFile(filepath.Join(a.pg.DataDir(), "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0o600)
	a.must(err)
	_, err = f.WriteString("restore_command = 'false'\n")
	a.must(errors.Join(err, f.Close()))
	a.must(os.WriteFile(filepath.Join(a.pg.DataDir(), "recovery.signal"), nil, 0o644))
}

// copyDir replaces a directory by a copy of another, with owners and modes.
func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-aT", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %s", from, out)
	}
}

// TestTimeline: a database that went over to another timeline with everything
// that the stream has is followed on.
func TestTimeline(t *testing.T) {
	t.Parallel()
	a := newArena(t, 1, 1)
	a.startService()
	a.awaitActive(a.service)
	e := &engine.Engine{Version: engine.Newest}
	story := &engine.StoriesOf(engine.Newest)[0]
	a.play(e, story, engine.Exec{Partition: 1, ID: uuid.New()})
	a.caughtUp(a.service)
	for i := range int16(2) {
		a.service.stop()
		a.offline(a.promote)
		a.startService()
		a.awaitActive(a.service)
		a.play(e, story, engine.Exec{Partition: 2 + i, ID: uuid.New()})
		a.caughtUp(a.service)
	}
	a.beside(func() { a.play(e, story, engine.Exec{Partition: 4, ID: uuid.New()}) })
	a.caughtUp(a.service)
	if n := len(a.stored()); n != 12 {
		t.Errorf("%d messages are stored, want 12", n)
	}
	a.service.stop()
}

// TestTimelineLost: a database that went over to another timeline without what
// the stream has cannot be followed on, and there is nothing to accept, since
// positions would repeat.
func TestTimelineLost(t *testing.T) {
	t.Parallel()
	a := newArena(t, 1, 1)
	a.startService()
	a.awaitActive(a.service)
	e := &engine.Engine{Version: engine.Newest}
	story := &engine.StoriesOf(engine.Newest)[0]
	a.play(e, story, engine.Exec{Partition: 1, ID: uuid.New()})
	a.caughtUp(a.service)
	a.service.stop()
	saved := a.pg.Dir() + "-saved"
	t.Cleanup(func() { _ = os.RemoveAll(saved) })
	a.offline(func() { copyDir(t, a.pg.Dir(), saved) })
	a.startService()
	a.awaitActive(a.service)
	a.play(e, story, engine.Exec{Partition: 2, ID: uuid.New()})
	a.caughtUp(a.service)
	a.service.stop()
	a.offline(func() {
		copyDir(t, saved, a.pg.Dir())
		a.promote()
	})
	a.play(e, story, engine.Exec{Partition: 3, ID: uuid.New()})
	for _, args := range [][]string{{"run"}, {"resume", "--accept-gap"}} {
		p := start(t, a.env, args...)
		code := p.code()
		for _, words := range []string{"continuity is lost", "on timeline 2", "follows timeline 1", "which it left at", "begin a new stream (--stream) with a new slot (--slot)"} {
			if text := lastLines(p.output(), 1); code != 1 || !strings.Contains(text, words) {
				t.Errorf("%s: exit code %d: %q does not say %q", args, code, text, words)
			}
		}
	}
	if n := len(a.stored()); n != 6 {
		t.Errorf("%d messages are stored, want 6", n)
	}
}

// TestInvalidated: a slot that Postgres gave up is named with the reason, and
// accepting the gap makes another.
func TestInvalidated(t *testing.T) {
	t.Parallel()
	a := newArena(t, 1, 1)
	a.startService()
	a.awaitActive(a.service)
	e := &engine.Engine{Version: engine.Newest}
	story := &engine.StoriesOf(engine.Newest)[0]
	a.play(e, story, engine.Exec{Partition: 1, ID: uuid.New()})
	a.caughtUp(a.service)
	a.service.stop()
	for _, sql := range []string{
		"ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "ALTER SYSTEM SET max_wal_size = '32MB'", "ALTER SYSTEM SET min_wal_size = '32MB'", "SELECT pg_reload_conf()",
		"CREATE TABLE a ()", "SELECT pg_switch_wal()", "CREATE TABLE b ()", "SELECT pg_switch_wal()", "CREATE TABLE c ()", "CHECKPOINT",
	} {
		a.exec(sql)
	}
	await(t, "the slot to be invalidated", func() (bool, string) {
		var status string
		a.must(a.db.Pool.QueryRow(context.Background(), "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'ffstream'").Scan(&status))
		if status != "lost" {
			a.exec("SELECT pg_switch_wal()")
			a.exec("CHECKPOINT")
		}
		return status == "lost", status
	})
	p := start(t, a.env, "run")
	code := p.code()
	for _, words := range []string{"continuity is lost", "invalidated slot ffstream (wal_removed)", "max_slot_wal_keep_size", "--accept-gap"} {
		if text := lastLines(p.output(), 1); code != 1 || !strings.Contains(text, words) {
			t.Errorf("exit code %d: %q does not say %q", code, text, words)
		}
	}
	lost := look(t, a.env, 1)["slot"]
	if lost.Severity != doctor.Fault || len(lost.Run) != 1 {
		t.Fatalf("doctor says of a lost slot: %+v", lost)
	}
	if p, code := asks(t, a.env, words(t, lost.Run[0])...); code != 0 || !strings.Contains(p.output(), "wal_removed") {
		t.Fatalf("resume: %s", p.output())
	}
	a.startService()
	a.awaitActive(a.service)
	if f := look(t, a.env, 0)["slot"]; f.Severity != doctor.OK {
		t.Errorf("after its remedy doctor says: %+v", f)
	}
	a.play(e, story, engine.Exec{Partition: 2, ID: uuid.New()})
	a.caughtUp(a.service)
	if got := a.stored(); len(got) != 7 || !strings.Contains(string(got[3].body), `"reason":"slot_invalidated"`) {
		t.Errorf("%d messages are stored, want 3, the gap and 3", len(got))
	}
	a.service.stop()
}
