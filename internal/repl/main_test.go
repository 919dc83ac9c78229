package repl_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
	"github.com/ffstream/ffstream/internal/testenv"
)

func TestMain(m *testing.M) {
	code := testenv.Main(m.Run)
	if err := testenv.Leaks(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const patience = time.Minute // with what a test waits for; a green one never takes it

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// database has a table t (id, body), published, and a table u that is not.
func database(t *testing.T) *testenv.Database {
	t.Helper()
	db := testenv.DB(t, testenv.Schema{})
	for _, sql := range []string{
		"CREATE TABLE t (id int PRIMARY KEY, body text)", "CREATE TABLE u (id int)",
		"ALTER TABLE t ALTER body SET STORAGE EXTERNAL", "CREATE PUBLICATION ffstream FOR TABLE t",
	} {
		exec(t, db, sql)
	}
	return db
}

func exec(t *testing.T, db *testenv.Database, sql string, args ...any) {
	t.Helper()
	if _, err := db.Pool.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func scalar[T any](t *testing.T, db *testenv.Database, sql string, args ...any) (v T) {
	t.Helper()
	if err := db.Pool.QueryRow(context.Background(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// waitFor asks until the statement says true; null, or no row, is not yet.
func waitFor(t *testing.T, db *testenv.Database, sql string, args ...any) {
	t.Helper()
	ctx := testContext(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !scalar[bool](t, db, "SELECT coalesce(("+sql+"), false)", args...) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never true: %s %v", sql, args)
		}
	}
}

func config(t *testing.T, db *testenv.Database) repl.Config {
	t.Helper()
	conn, err := pgconn.ParseConfig(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	return repl.Config{Conn: conn, Slot: db.Slot(), Publication: "ffstream", StatusInterval: 20 * time.Millisecond}
}

// open opens a stream that the test closes, itself or at its end.
func open(t *testing.T, cfg repl.Config) *repl.Stream {
	t.Helper()
	s, err := repl.Open(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(testContext(t)) }) // twice after a test that closed it
	return s
}

// start opens a stream and starts it, with a new slot unless there is one. The
// server holds a slot for a moment after its client has closed.
func start(t *testing.T, cfg repl.Config) *repl.Stream {
	t.Helper()
	ctx := testContext(t)
	s := open(t, cfg)
	if !s.Slot().Exists {
		if err := s.CreateSlot(ctx); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.Start(ctx)
		if err == nil {
			return s
		}
		if !errors.Is(err, repl.ErrSlotBusy) || ctx.Err() != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
}

// running is a stream whose Run goes on.
type running struct {
	*repl.Stream
	out    chan *repl.Batch
	cancel context.CancelFunc
	ended  chan error // Run's result
}

func run(t *testing.T, s *repl.Stream, capacity int) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(testContext(t))
	r := &running{Stream: s, out: make(chan *repl.Batch, capacity), cancel: cancel, ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.ended <- s.Run(ctx, r.out)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		select {
		case err := <-r.ended:
			if t.Failed() {
				t.Logf("run ended with %v", err)
			}
		default: // the test has seen it
		}
	})
	return r
}

// stop ends Run and closes the stream.
func (r *running) stop(t *testing.T) {
	t.Helper()
	r.cancel()
	if err := <-r.ended; err != nil {
		t.Errorf("run ended with %v", err)
	}
	closeAtOnce(t, r.Stream)
}

// closeAtOnce closes a stream that has no reason to wait for its context's end.
func closeAtOnce(t *testing.T, s *repl.Stream) {
	t.Helper()
	ctx := testContext(t)
	if err := s.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	if ctx.Err() != nil {
		t.Error("close waited until its context ended")
	}
}

// failure takes batches until Run ends by itself.
func (r *running) failure(t *testing.T) error {
	t.Helper()
	for {
		select {
		case b := <-r.out:
			b.Release()
		case err := <-r.ended:
			return err
		}
	}
}

func (r *running) batch(t *testing.T) *repl.Batch {
	t.Helper()
	b, err := r.next(t)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// next is the next batch, or why Run has ended.
func (r *running) next(t *testing.T) (*repl.Batch, error) {
	t.Helper()
	select {
	case b := <-r.out:
		return b, nil
	case err := <-r.ended:
		return nil, errors.Join(errors.New("run ended"), err)
	case <-time.After(patience):
		t.Fatal("no batch came")
	}
	return nil, nil
}

// follower reads the rows of table t out of batches.
type follower struct {
	msg    pgoutput.Message
	ids    []int32
	bodies []string
	ends   []ffstream.LSN // of commits
	begin  uint64         // final LSN of the open transaction; 0: none
	idle   ffstream.LSN   // end that a keepalive named
}

func (f *follower) take(t *testing.T, b *repl.Batch) {
	t.Helper()
	for {
		frame, ok, err := b.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return
		}
		if frame.WAL == nil {
			f.idle = frame.End
			continue
		}
		if err := pgoutput.Decode(frame.WAL, &f.msg); err != nil {
			t.Fatal(err)
		}
		f.change(t)
	}
}

func (f *follower) change(t *testing.T) {
	t.Helper()
	switch m := &f.msg; m.Kind {
	case pgoutput.KindBegin:
		if f.begin != 0 {
			t.Fatalf("begin of %x inside of %x", m.Begin.FinalLSN, f.begin)
		}
		f.begin = m.Begin.FinalLSN
	case pgoutput.KindCommit:
		if m.Commit.CommitLSN != f.begin {
			t.Fatalf("commit of %x inside of %x", m.Commit.CommitLSN, f.begin)
		}
		f.begin = 0
		f.ends = append(f.ends, ffstream.LSN(m.Commit.EndLSN))
	case pgoutput.KindInsert:
		id, err := m.New[0].Int32()
		if err != nil || f.begin == 0 {
			t.Fatalf("row %v outside of a transaction (%v)", m.New, err)
		}
		body, _ := m.New[1].Text() // null has none
		f.ids, f.bodies = append(f.ids, id), append(f.bodies, string(body))
	}
}

// until takes batches until it has n rows and the commit of the last.
func (f *follower) until(t *testing.T, r *running, n int) {
	t.Helper()
	for len(f.ids) < n || f.begin != 0 {
		b := r.batch(t)
		f.take(t, b)
		b.Release()
	}
}

func (f *follower) last() ffstream.LSN { return f.ends[len(f.ends)-1] }
