package normalize

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// TestTranscriptsCoverAlphabet: a literal that joins a table joins a transcript,
// so that somebody reads what it stands for.
func TestTranscriptsCoverAlphabet(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	words := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range strings.Fields(string(text)) {
			words[w] = true
		}
	}
	check := func(column, literal string) {
		if literal != "" && !words[column+"="+literal] {
			t.Errorf("no transcript has %s=%s", column, literal)
		}
	}
	for l := range phases {
		check("lp", l)
	}
	for l := range ownerships {
		check("os", l)
	}
	for l := range eligibilities {
		check("es", l)
	}
	for l := range labels {
		check("ps", l)
	}
	for l := range attemptStates {
		check("as", l)
	}
	for l := range outcomes {
		check("outcome", l)
	}
}

// TestBefore: what the state columns decide alone is what the rule returns for
// them, whatever the attempts and texts are; they decide nothing else.
func TestBefore(t *testing.T) {
	texts := []Row{
		{}, {CancellationReason: ffstream.Some("suspension_timeout_cancel")}, {CancellationReason: ffstream.Some("suspension_timeout_fail")},
		{LastFailureMessage: "attempt_timeout"}, {CancelledBy: ffstream.Some("x")},
	}
	for phase := range phases {
		for owner := range ownerships {
			for eligibility := range eligibilities {
				for label := range labels {
					for attempt := range attemptStates {
						r := Row{LifecyclePhase: phase, OwnershipState: owner, EligibilityState: eligibility, PublicState: label, AttemptState: attempt}
						state, known, valid := Before(&r)
						if !valid {
							t.Fatalf("%+v: a literal is not known", r)
						}
						alone := map[ffstream.PublicState]bool{}
						for _, more := range texts {
							row := r
							row.CancellationReason, row.CancelledBy, row.LastFailureMessage = more.CancellationReason, more.CancelledBy, more.LastFailureMessage
							for outcome := range outcomes {
								v, err := Evaluate(&row, Attempts{At: Outcome{Exists: true, Literal: outcome}})
								if err != nil {
									t.Fatal(err)
								}
								alone[v.Vector.PublicState] = true
							}
						}
						if known && (len(alone) != 1 || !alone[state]) || !known && len(alone) == 1 {
							t.Fatalf("%+v: the state columns decide %q (%t), the rule returns %v", r, state, known, alone)
						}
					}
				}
			}
		}
	}
}

func begin(t testing.TB, s *source) {
	t.Helper()
	if err := s.line("begin"); err != nil {
		t.Fatal(err)
	}
}

// TestHeartbeatAllocatesNothing: lease renewals are most of the log.
func TestHeartbeatAllocatesNothing(t *testing.T) {
	s, err := newSource(Config{SystemID: 1, Source: "/ffstream/t", Identity: true}, true, true)
	if err != nil {
		t.Fatal(err)
	}
	begin(t, s)
	for _, line := range []string{"insert core 1", "insert attempt 1.0 worker=w instance=w-0 epoch=1 lease=9000 started=2000"} {
		if err := s.line(line); err != nil {
			t.Fatal(err)
		}
	}
	renewal := s.msg
	renewal.Kind = pgoutput.KindUpdate
	yield := func(*ffstream.Event) error { t.Error("a renewal made an event"); return nil }
	if err := s.line("commit"); err != nil {
		t.Fatal(err)
	}
	lsn := s.begin.FinalLSN
	heartbeat := func() {
		lsn += 0x100
		if err := s.n.Begin(&pgoutput.Begin{FinalLSN: lsn}); err != nil {
			t.Fatal(err)
		}
		if err := s.n.Row(&renewal); err != nil {
			t.Fatal(err)
		}
		if err := s.n.Commit(&pgoutput.Commit{CommitLSN: lsn}, yield); err != nil {
			t.Fatal(err)
		}
	}
	heartbeat()
	if n := testing.AllocsPerRun(1000, heartbeat); n != 0 {
		t.Errorf("a renewal allocates %v times", n)
	}
}

func BenchmarkTransition(b *testing.B) {
	s, err := newSource(Config{SystemID: 1, Source: "/ffstream/t", Identity: true}, true, true)
	if err != nil {
		b.Fatal(err)
	}
	begin(b, s)
	for _, line := range []string{"insert core 1", "commit", "begin", "update core 1 lp=active os=leased es=not_applicable as=running_attempt ps=running"} {
		if err := s.line(line); err != nil {
			b.Fatal(err)
		}
	}
	update, lsn, events := s.msg, s.begin.FinalLSN, 0
	if err := s.line("commit"); err != nil {
		b.Fatal(err)
	}
	yield := func(*ffstream.Event) error { events++; return nil }
	b.ReportAllocs()
	for b.Loop() {
		lsn += 0x100
		if err := s.n.Begin(&pgoutput.Begin{FinalLSN: lsn}); err != nil {
			b.Fatal(err)
		}
		if err := s.n.Row(&update); err != nil {
			b.Fatal(err)
		}
		if err := s.n.Commit(&pgoutput.Commit{CommitLSN: lsn}, yield); err != nil {
			b.Fatal(err)
		}
	}
	if events != b.N {
		b.Errorf("%d events of %d updates", events, b.N)
	}
}

// TestLiteralColumns: an unknown literal is told under one of the columns that are
// listed, and each of these can have one.
func TestLiteralColumns(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, change := range []func(r *Row, at *Outcome){
		func(r *Row, _ *Outcome) { r.LifecyclePhase = "?" }, func(r *Row, _ *Outcome) { r.OwnershipState = "?" },
		func(r *Row, _ *Outcome) { r.EligibilityState = "?" }, func(r *Row, _ *Outcome) { r.PublicState = "?" },
		func(r *Row, _ *Outcome) { r.AttemptState = "?" }, func(r *Row, _ *Outcome) { r.BlockingReason = "?" },
		func(_ *Row, at *Outcome) { at.Literal = "?" },
	} {
		r := Row{LifecyclePhase: "terminal", OwnershipState: "unowned", EligibilityState: "not_applicable", PublicState: "completed", AttemptState: "attempt_terminal"}
		at := Outcome{Exists: true}
		change(&r, &at)
		_, err := Evaluate(&r, Attempts{At: at})
		var corrupt *ffstream.CorruptionError
		if !errors.As(err, &corrupt) {
			t.Fatalf("%+v %+v: %v", r, at, err)
		}
		seen[corrupt.Column] = true
	}
	if listed := LiteralColumns(); len(listed) != len(seen) || slices.ContainsFunc(listed, func(c string) bool { return !seen[c] }) {
		t.Errorf("%v are listed, and %v can be corrupt", listed, seen)
	}
}
