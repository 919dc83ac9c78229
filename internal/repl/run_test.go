package repl_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/testenv"
)

const confirmedIs = "SELECT confirmed_flush_lsn = $2::pg_lsn FROM pg_replication_slots WHERE slot_name = $1"

// TestRunReceivesInOrder: what committed arrives whole and in order, across
// sessions, and what rolled back does not.
func TestRunReceivesInOrder(t *testing.T) {
	t.Parallel()
	db := database(t)
	cfg := config(t, db)
	var f follower
	var want []int32
	for session := range 3 {
		r := run(t, start(t, cfg), session)
		for n := range 40 {
			base := 1000*session + 10*n
			exec(t, db, "INSERT INTO t SELECT generate_series($1::int, $1::int + $2::int)", base, n%5)
			exec(t, db, "DO $$ BEGIN INSERT INTO t VALUES (-1); RAISE 'back'; EXCEPTION WHEN raise_exception THEN END $$")
			for id := base; id <= base+n%5; id++ {
				want = append(want, int32(id))
			}
		}
		f.until(t, r, len(want))
		r.Confirm(f.last())
		r.stop(t)
	}
	if !slices.Equal(f.ids, want) {
		t.Errorf("received %v, want %v", f.ids, want)
	}
	if !slices.IsSorted(f.ends) {
		t.Errorf("commits end at %v", f.ends)
	}
}

// TestReplayWithoutConfirm: what was received and not confirmed comes again.
func TestReplayWithoutConfirm(t *testing.T) {
	t.Parallel()
	db := database(t)
	for session := range 2 {
		var f follower
		r := run(t, start(t, config(t, db)), 0)
		if session == 0 {
			exec(t, db, "INSERT INTO t VALUES (1)")
		}
		f.until(t, r, 1)
		r.stop(t)
		if !slices.Equal(f.ids, []int32{1}) {
			t.Errorf("received %v", f.ids)
		}
	}
}

// TestConfirm: the slot goes where Confirm says, not to what was received, and
// never back.
func TestConfirm(t *testing.T) {
	t.Parallel()
	db := database(t)
	r := run(t, start(t, config(t, db)), 1)
	created := r.Confirmed()
	if created == 0 || created != r.Slot().Confirmed {
		t.Fatalf("started at %s, and the slot is at %s", created, r.Slot().Confirmed)
	}
	for id := range 4 {
		exec(t, db, "INSERT INTO t VALUES ($1)", id)
	}
	var f follower
	f.until(t, r, 4)
	if r.Confirmed() != created {
		t.Errorf("receiving confirmed %s", r.Confirmed())
	}
	for _, step := range []struct{ confirm, want ffstream.LSN }{
		{0, created},
		{f.ends[1], f.ends[1]},
		{f.ends[0], f.ends[1]},
		{0, f.ends[1]},
		{f.ends[3], f.ends[3]},
	} {
		r.Confirm(step.confirm)
		if r.Confirmed() != step.want {
			t.Errorf("confirm %s: confirmed %s, want %s", step.confirm, r.Confirmed(), step.want)
		}
		waitFor(t, db, confirmedIs, db.Slot(), step.want.String())
		waitFor(t, db, "SELECT write_lsn = $2::pg_lsn AND flush_lsn = $2 AND replay_lsn = $2 FROM pg_stat_replication WHERE application_name = 'ffstream/' || $1", db.Slot(), step.want.String())
		// Two more status messages, and it is still there.
		for range 2 {
			at := replyTime(t, db)
			waitFor(t, db, "SELECT reply_time > $2 FROM pg_stat_replication WHERE application_name = 'ffstream/' || $1", db.Slot(), at)
		}
		if !scalar[bool](t, db, confirmedIs, db.Slot(), step.want.String()) {
			t.Errorf("confirm %s: the slot did not stay at %s", step.confirm, step.want)
		}
	}
	r.stop(t)
}

// TestCloseConfirms: what was confirmed last is taken before the connection goes,
// and so is the slot free.
func TestCloseConfirms(t *testing.T) {
	t.Parallel()
	db := database(t)
	cfg := config(t, db)
	cfg.StatusInterval = 0 // ten seconds: no status message comes by itself in time
	r := run(t, start(t, cfg), 1)
	exec(t, db, "INSERT INTO t VALUES (1)")
	var f follower
	f.until(t, r, 1)
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Fatal(err)
	}
	r.Confirm(f.last())
	closeAtOnce(t, r.Stream)
	if !scalar[bool](t, db, confirmedIs, db.Slot(), f.last().String()) {
		t.Errorf("the slot is not at %s", f.last())
	}
	waitFor(t, db, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = $1", db.Slot())
}

// TestKeepalive: a log that grows by what is not published moves on.
func TestKeepalive(t *testing.T) {
	t.Parallel()
	db := database(t)
	r := run(t, start(t, config(t, db)), 1)
	exec(t, db, "INSERT INTO u SELECT generate_series(1, 1000)")
	end, err := ffstream.ParseLSN(scalar[string](t, db, "SELECT pg_current_wal_lsn()::text"))
	if err != nil {
		t.Fatal(err)
	}
	var f follower
	for f.idle < end {
		b := r.batch(t)
		f.take(t, b)
		b.Release()
	}
	if len(f.ends) != 0 {
		t.Errorf("%d transactions came of a table that is not published", len(f.ends))
	}
	r.Confirm(f.idle)
	waitFor(t, db, confirmedIs, db.Slot(), f.idle.String())
	r.stop(t)
}

// TestBlockedConsumer: nobody takes batches, or nobody gives them back, and the
// server, which would hang up after its timeout, is told for many of those
// that the client lives. A client that is not let run tells nothing either, and gets
// another chance.
func TestBlockedConsumer(t *testing.T) {
	t.Parallel()
	for name, take := range map[string]int{"none taken": 0, "none given back": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range 5 {
				err := blocked(t, take)
				if err == nil {
					return
				}
				t.Logf("the server has hung up: %v", err)
			}
			t.Error("the server hangs up each time")
		})
	}
}

// blocked takes so many batches, and no more for three times as long as the server waits
// for a sign, and then all. The error is that the server has hung up.
func blocked(t *testing.T, take int) error {
	t.Helper()
	db := database(t)
	cfg := config(t, db)
	cfg.StatusInterval = 0
	cfg.Conn.RuntimeParams["wal_sender_timeout"] = "1500ms"
	r := run(t, start(t, cfg), 0)
	rows := 0
	var held []*repl.Batch
	var f follower
	for range take {
		exec(t, db, "INSERT INTO t VALUES ($1)", rows)
		rows++
		b, err := r.next(t)
		if err != nil {
			return err
		}
		held = append(held, b)
	}
	exec(t, db, "INSERT INTO t SELECT id, repeat('x', 1000) FROM generate_series($1::int, $1::int + 9999) id", rows)
	rows += 10000
	if err := r.survive(t, db); err != nil {
		return err
	}
	for _, b := range held {
		f.take(t, b)
		b.Release()
	}
	for len(f.ids) < rows || f.begin != 0 { // and nothing was lost
		b, err := r.next(t)
		if err != nil {
			return err
		}
		f.take(t, b)
		b.Release()
	}
	r.stop(t)
	return nil
}

// survive returns when the server has been told for 5 s that the client lives, and with
// an error when it has hung up.
func (r *running) survive(t *testing.T, db *testenv.Database) error {
	t.Helper()
	ctx := testContext(t)
	var first *time.Time
	for {
		var survived bool
		err := db.Pool.QueryRow(ctx, `SELECT coalesce($2, reply_time), coalesce(reply_time > $2::timestamptz + interval '5 s', false)
			FROM pg_stat_replication WHERE application_name = 'ffstream/' || $1`, db.Slot(), first).Scan(&first, &survived)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return errors.New("the server has no such client any more")
		case err != nil:
			t.Fatal(err)
		case survived:
			return nil
		}
		select {
		case err := <-r.ended:
			return errors.Join(errors.New("run ended"), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// replyTime is when the latest status message was sent.
func replyTime(t *testing.T, db *testenv.Database) time.Time {
	t.Helper()
	waitFor(t, db, "SELECT reply_time IS NOT NULL FROM pg_stat_replication WHERE application_name = 'ffstream/' || $1", db.Slot())
	return scalar[time.Time](t, db, "SELECT reply_time FROM pg_stat_replication WHERE application_name = 'ffstream/' || $1", db.Slot())
}

// TestLargeMessage: a row that is larger than any buffer arrives whole, between
// small ones, also when a batch is held meanwhile.
func TestLargeMessage(t *testing.T) {
	t.Parallel()
	db := database(t)
	r := run(t, start(t, config(t, db)), 1)
	sizes := []int{3, 5 << 20, 0, 1<<20 - 40, 1 << 20, 1<<20 + 40, 12 << 20, 7}
	for id, size := range sizes {
		exec(t, db, "INSERT INTO t VALUES ($1, $2)", id, strings.Repeat(string(rune('a'+id)), size))
	}
	var f follower
	for len(f.ids) < len(sizes) || f.begin != 0 {
		b := r.batch(t)
		f.take(t, b)
		b.Release()
	}
	for id, size := range sizes {
		if f.ids[id] != int32(id) || f.bodies[id] != strings.Repeat(string(rune('a'+id)), size) {
			t.Errorf("row %d has %d bytes, want %d", f.ids[id], len(f.bodies[id]), size)
		}
	}
	r.stop(t)
}

// TestBatchBelongsToItsReceiver: nothing writes to a batch before its Release.
func TestBatchBelongsToItsReceiver(t *testing.T) {
	t.Parallel()
	db := database(t)
	r := run(t, start(t, config(t, db)), 0)
	exec(t, db, "INSERT INTO t SELECT id, repeat(md5(id::text), 100) FROM generate_series(1, 5000) id")
	frames := func(b *repl.Batch) (all [][]byte, last bool) {
		for {
			frame, ok, err := b.Next()
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				return all, last
			}
			if frame.WAL != nil {
				all = append(all, frame.WAL)
				last = frame.WAL[0] == 'C'
			}
		}
	}
	type held struct {
		b      *repl.Batch
		frames [][]byte
		copies [][]byte
	}
	var queue []held // up to two are held while the third is read into
	release := func() {
		h := queue[0]
		for i := range h.frames {
			if !bytes.Equal(h.frames[i], h.copies[i]) {
				t.Fatalf("message %d of a batch changed before its release", i)
			}
		}
		h.b.Release()
		queue = queue[1:]
	}
	for done := false; !done; {
		h := held{b: r.batch(t)}
		h.frames, done = frames(h.b)
		for _, m := range h.frames {
			h.copies = append(h.copies, bytes.Clone(m))
		}
		if queue = append(queue, h); len(queue) == 3 {
			release()
		}
	}
	for len(queue) > 0 {
		release()
	}
	r.stop(t)
}

// TestCloseInTheMiddle: a server with much to send is left at once.
func TestCloseInTheMiddle(t *testing.T) {
	t.Parallel()
	db := database(t)
	r := run(t, start(t, config(t, db)), 0)
	exec(t, db, "INSERT INTO t SELECT id, repeat('x', 500) FROM generate_series(1, 100000) id")
	r.batch(t) // and never given back
	r.stop(t)
	waitFor(t, db, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = $1", db.Slot())
	var f follower
	again := run(t, start(t, config(t, db)), 1)
	f.until(t, again, 100000)
	again.stop(t)
}

// TestCloseBeforeRun: at every stage there is something to close.
func TestCloseBeforeRun(t *testing.T) {
	t.Parallel()
	db := database(t)
	closeAtOnce(t, open(t, config(t, db)))
	s := start(t, config(t, db))
	closeAtOnce(t, s)
	waitFor(t, db, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'ffstream/' || $1", db.Slot())
	// A context that has ended already is no reason to leave it open.
	s = start(t, config(t, db))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Close(ended) // whether the server answered in time is not the point
	waitFor(t, db, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'ffstream/' || $1", db.Slot())
}

// TestConnectionLost: Run ends with the server's word, also when nobody takes what
// the server sent before it, and Close does not wait for a server that is gone.
func TestConnectionLost(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*running) error{
		"consumer reads":      func(r *running) error { return r.failure(t) },
		"consumer is blocked": func(r *running) error { return <-r.ended },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := database(t)
			r := run(t, start(t, config(t, db)), 0)
			// Less than the connection holds, so that the server can say why.
			exec(t, db, "INSERT INTO t SELECT id, repeat('x', 1000) FROM generate_series(1, 100) id")
			waitFor(t, db, "SELECT sent_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication WHERE application_name = 'ffstream/' || $1", db.Slot())
			exec(t, db, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", db.Slot())
			var pg *pgconn.PgError
			if err := end(r); !errors.As(err, &pg) || pg.Code != "57P01" {
				t.Errorf("run ended with %v", err)
			}
			closeAtOnce(t, r.Stream)
		})
	}
}

// TestSilence: a server that has nothing to say is asked, and answers; a consumer
// that blocks is no silence of the server; and a connection whose other end vanished
// ends Run, after which a new one goes through.
func TestSilence(t *testing.T) {
	t.Parallel()
	db := database(t)
	relay := testenv.NewRelay(t, db.URL)
	cfg := config(t, db)
	conn, err := pgconn.ParseConfig(relay.URL)
	if err != nil {
		t.Fatal(err)
	}
	conn.RuntimeParams["wal_sender_timeout"] = "0" // of itself it never says that it is there
	cfg.Conn, cfg.Silence = conn, 5*time.Second
	r := run(t, start(t, cfg), 0)
	exec(t, db, "INSERT INTO t VALUES (1)")
	waitFor(t, db, "SELECT sent_lsn >= pg_current_wal_flush_lsn() FROM pg_stat_replication WHERE application_name = 'ffstream/' || $1", db.Slot())
	waitFor(t, db, "SELECT reply_time > $2::timestamptz + interval '6 s' FROM pg_stat_replication WHERE application_name = 'ffstream/' || $1", db.Slot(), replyTime(t, db))
	var f follower
	f.until(t, r, 1)
	// A server whose client is behind it says so at each status message, unasked.
	end := scalar[string](t, db, "SELECT pg_current_wal_flush_lsn()::text")
	lsn, err := ffstream.ParseLSN(end)
	if err != nil {
		t.Fatal(err)
	}
	r.Confirm(lsn)
	waitFor(t, db, confirmedIs, db.Slot(), end)
	for range 20 { // keepalives, for nothing is written
		b := r.batch(t)
		f.take(t, b)
		b.Release()
	}
	relay.Freeze()
	if err := r.failure(t); !errors.Is(err, repl.ErrSilent) {
		t.Errorf("run ended with %v", err)
	}
	closeAtOnce(t, r.Stream)
	exec(t, db, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", db.Slot()) // a machine that is gone holds nothing
	exec(t, db, "INSERT INTO t VALUES (2)")
	var again follower
	r = run(t, start(t, cfg), 1)
	again.until(t, r, 1)
	r.stop(t)
}
