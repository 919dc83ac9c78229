package normalize

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// behind runs a script in which the normaliser is behind the database: what follows
// the line "behind" is committed, all of it, before the first of it is read, so that
// whatever is looked up is as of the end. "restart" begins a session after what was
// published, "empty" one whose stream has no messages. It returns the events.
func behind(t *testing.T, script string) []string {
	t.Helper()
	s, err := newSource(Config{SystemID: 1, Source: "/ffstream/t", Identity: true}, true, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	keep := func(e *ffstream.Event) error {
		kept := *e
		kept.Tags = nil
		s.stream = append(s.stream, kept)
		text := fmt.Sprintf("%d %s>%s", e.ID.Position.Commit/0x100, orNull(string(e.From)), e.To)
		if e.Type != ffstream.TypeTransitioned {
			text = fmt.Sprintf("%d %s", e.ID.Position.Commit/0x100, e.Type)
		}
		if e.Candidate {
			text += "?"
		}
		got = append(got, text)
		return nil
	}
	var wal []walTransaction
	reading := s.n
	late := false
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		switch line {
		case "":
		case "empty", "restart":
			cfg := Config{SystemID: 1, Source: "/ffstream/t", Identity: true}
			if n := len(s.stream); n > 0 {
				cfg.Skip = s.stream[n-1].ID.Position
			}
			if line == "empty" {
				s.stream = nil
			}
			if err := s.reset(cfg); err != nil {
				t.Fatal(err)
			}
			reading = s.n
		case "behind":
			late = true
			if err := s.reset(s.cfg); err != nil { // which only writes the WAL
				t.Fatal(err)
			}
			s.n.cfg.Recent, s.n.recent = nil, nil
		case "commit":
			yield := keep
			if late {
				yield = func(*ffstream.Event) error { return nil }
				wal = append(wal, walTransaction{begin: s.begin, rows: slices.Clone(s.sent)})
			}
			if err := s.n.Commit(&pgoutput.Commit{CommitLSN: s.begin.FinalLSN, EndLSN: s.begin.FinalLSN + 8}, yield); err != nil {
				t.Fatal(err)
			}
			s.sent = nil
		default:
			if err := s.line(line); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
		}
	}
	for i := range wal {
		if err := reading.Begin(&wal[i].begin); err != nil {
			t.Fatal(err)
		}
		for j := range wal[i].rows {
			if err := reading.Row(&wal[i].rows[j]); err != nil {
				t.Fatal(err)
			}
		}
		lsn := wal[i].begin.FinalLSN
		if err := reading.Commit(&pgoutput.Commit{CommitLSN: lsn, EndLSN: lsn + 8}, keep); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// created: an execution that completed, in two transactions, with the stale label
// that the engine leaves.
const created = `
	begin
	insert core 1
	commit
	begin
	update core 1 lp=active os=leased es=not_applicable as=running_attempt
	insert attempt 1.0 epoch=1
	commit
`

const completed = created + `
	begin
	update attempt 1.0 outcome=success terminal=100
	update core 1 lp=terminal os=unowned as=attempt_terminal terminal=100
	commit
`

// TestBehind: what is looked up may be of a later transaction. No event is of a state
// that its transaction did not leave, and none leads from a state that was not.
func TestBehind(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script string
		never  []string // what no event may be, by number of transaction
		want   []string // events that have to be there
	}{
		// 0016 or a tag touches a finished execution, retention deletes it.
		"touched, then purged, not in the memory": {
			completed + "empty\nbehind\n" + `
			begin
			update core 1 prio=2
			commit
			begin
			delete attempt 1.0
			delete core 1
			commit`,
			[]string{"4 null>failed?", "5 failed>purged"}, nil,
		},
		// likewise, and it is replayed.
		"touched, then replayed, not in the memory": {
			completed + "empty\nbehind\n" + `
			begin
			update core 1 prio=2
			commit
			begin
			update core 1 lp=runnable es=eligible_now as=pending_replay_attempt ps=waiting terminal=NULL
			update attempt 1.0 outcome=NULL
			commit`,
			[]string{"4 null>failed?", "5 failed>waiting"}, nil,
		},
		// A skipped execution whose lease lapses (attempts alone), then its late worker
		// completes it, then its flow is cancelled. The service was restarted and is behind.
		"skipped, lease expired, completed late, flow cancelled": {
			created + `
			begin
			update core 1 lp=terminal ps=skipped as=attempt_terminal terminal=50
			commit
			restart
			behind
			begin
			update attempt 1.0 outcome=lease_expired_reclaimable lease=NULL
			commit
			begin
			update attempt 1.0 outcome=success terminal=100
			update core 1 os=unowned terminal=100
			commit
			begin
			update core 1 lp=cancelled ps=cancelled
			update attempt 1.0 outcome=NULL
			commit`,
			[]string{"4 skipped>cancelled", "5 cancelled>completed"}, []string{"5 skipped>completed"},
		},
		"skipped, lease expired, completed late": {
			created + `
			begin
			update core 1 lp=terminal ps=skipped as=attempt_terminal terminal=50
			commit
			restart
			behind
			begin
			update attempt 1.0 outcome=lease_expired_reclaimable lease=NULL
			commit
			begin
			update attempt 1.0 outcome=success terminal=100
			update core 1 os=unowned terminal=100
			commit`,
			[]string{"4 skipped>completed"}, []string{"5 skipped>completed"},
		},
		// 0.15: reclaim to attempt 1, whose timeout expires the execution; the worker of
		// attempt 0 completes it (T4c).
		"expired by attempt 1, then completed by attempt 0": {
			created + `
			begin
			update attempt 1.0 outcome=interrupted_reclaimed
			insert attempt 1.1 epoch=2
			update core 1 idx=1
			commit
			empty
			behind
			begin
			update attempt 1.1 outcome=interrupted terminal=50
			update core 1 lp=terminal os=unowned as=attempt_terminal terminal=50 msg=attempt_timeout
			commit
			begin
			update attempt 1.0 outcome=success terminal=100
			update core 1 terminal=100
			commit`,
			[]string{"4 active>completed"}, []string{"4 active>expired"},
		},
		// A live execution that the memory does not hold: an attempt changes alone, then it ends.
		"attempt alone, then completed, not in the memory": {
			created + "empty\nbehind\n" + `
			begin
			update attempt 1.0 outcome=lease_expired_reclaimable
			commit
			begin
			update attempt 1.0 outcome=success terminal=100
			update core 1 lp=terminal os=unowned as=attempt_terminal terminal=100
			commit`,
			[]string{"3 null>completed?"}, []string{"4 active>completed"},
		},
		// The attempt makes it completed; then it is replayed, or purged.
		"attempt alone completes, then replayed": {
			created + `
			begin
			update core 1 lp=terminal as=attempt_terminal terminal=50 msg=attempt_timeout
			commit
			behind
			begin
			update attempt 1.0 outcome=success terminal=50
			commit
			begin
			update core 1 lp=runnable as=pending_replay_attempt
			update attempt 1.0 outcome=NULL
			commit`,
			[]string{"5 expired>waiting"}, nil,
		},
		"attempt alone completes, then purged": {
			created + `
			begin
			update core 1 lp=terminal as=attempt_terminal terminal=50 msg=attempt_timeout
			commit
			behind
			begin
			update attempt 1.0 outcome=success terminal=50
			commit
			begin
			delete attempt 1.0
			delete core 1
			commit`,
			[]string{"5 expired>purged"}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := behind(t, c.script)
			for _, never := range c.never {
				if slices.Contains(got, never) {
					t.Errorf("event %q is of what never was: %q", never, got)
				}
			}
			for _, want := range c.want {
				if !slices.Contains(got, want) {
					t.Errorf("no event %q: %q", want, got)
				}
			}
		})
	}
}

// TestOldEvidence: an event that does not contain the attempt which decided says nothing
// of it, also when a later transaction shows the one at the pointer.
func TestOldEvidence(t *testing.T) {
	t.Parallel()
	got := behind(t, `
		begin
		insert core 1 idx=1
		insert attempt 1.0 outcome=success terminal=50
		commit
		begin
		update core 1 lp=terminal as=attempt_terminal terminal=50
		commit
		restart
		begin
		insert attempt 1.1
		update core 1 prio=2
		commit`)
	if want := []string{"1 null>waiting", "2 waiting>completed"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

// TestBlockingAlone: a row whose blocking_reason alone becomes a literal that no table
// has is corrupt, as a read of it reports, until it has another.
func TestBlockingAlone(t *testing.T) {
	t.Parallel()
	got := behind(t, `
		begin
		insert core 1
		commit
		begin
		update core 1 blocking=bogus
		commit
		begin
		update core 1 prio=2
		commit
		begin
		update core 1 blocking=NULL
		commit
		begin
		update core 1 prio=3
		commit`)
	if want := []string{"1 null>waiting", "2 ffstream.execution.corrupt.v1", "4 null>waiting"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}
