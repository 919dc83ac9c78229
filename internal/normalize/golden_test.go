package normalize

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

var update = flag.Bool("update", false, "rewrite the golden transcripts; read the diff before committing it")

// TestGolden runs the scripts of testdata: row changes in, events out. A block
// is lines of commands, "----", and what they gave; a blank line ends it. Each
// file is one session, with values in text form and again in binary form.
//
// A story line is a life of one execution, one macro of testdata/macros a
// transaction, told once as the engine's version 0.11 (A) writes it and once as
// its newest (N).
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := transcript(t, string(text), false)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else {
				diff(t, string(text), got)
			}
			diff(t, got, transcript(t, string(text), true))
		})
	}
}

func diff(t *testing.T, want, got string) {
	t.Helper()
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(w), len(g)) {
		if i >= len(w) || i >= len(g) || w[i] != g[i] {
			t.Fatalf("line %d differs:\nwant %q\ngot  %q\nwhole:\n%s", i+1, w[min(i, len(w)-1)], g[min(i, len(g)-1)], got)
		}
	}
}

// transcript runs a script and returns it with its outputs renewed.
func transcript(t *testing.T, text string, binary bool) string {
	t.Helper()
	s, err := newSource(Config{SystemID: 1, Source: "/ffstream/t", Identity: true}, true, binary)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	inOutput := false
	flush := func() {
		if inOutput {
			if s.out.Len() == 0 {
				s.out.WriteString("(no event)\n")
			}
			out.WriteString(s.out.String())
		}
		s.out.Reset()
		inOutput = false
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "":
			flush()
			out.WriteString("\n")
		case inOutput:
		case line == "----":
			inOutput = true
			out.WriteString("----\n")
		default:
			out.WriteString(line + "\n")
			if strings.HasPrefix(line, "#") {
				continue
			}
			if err := s.line(line); err != nil {
				fmt.Fprintf(&s.out, "error: %v\n", err)
			}
		}
	}
	flush()
	return out.String()
}

// line runs one command.
func (s *source) line(line string) error {
	words := strings.Fields(line)
	switch words[0] {
	case "session":
		return s.session(words[1:])
	case "story":
		return s.story(strings.TrimSpace(strings.TrimPrefix(line, "story")))
	case "begin":
		s.begin = pgoutput.Begin{Xid: s.begin.Xid + 1, FinalLSN: s.begin.FinalLSN + 0x100, CommitTime: 1732323723456789}
		return s.n.Begin(&s.begin)
	case "commit":
		return s.n.Commit(&pgoutput.Commit{CommitLSN: s.begin.FinalLSN, EndLSN: s.begin.FinalLSN + 8}, s.print)
	case "truncate":
		return s.truncate(words[1:])
	case "describe":
		return s.describe(words[1], pairs(words[2:]))
	case "lookup":
		s.lookups[id(words[1])] = pairs(words[2:])
		if len(words) == 3 && words[2] == "gone" {
			delete(s.lookups, id(words[1]))
		}
		return nil
	case "stats":
		st := s.n.Stats()
		fmt.Fprintf(&s.out, "%+v\n", st)
		return nil
	}
	before, old, hasOld := strings.Cut(line, " old(")
	words = strings.Fields(before)
	var oldRow row
	if hasOld {
		oldRow = pairs(strings.Fields(strings.TrimSuffix(old, ")")))
	}
	if words[1] == "attempt" {
		return s.attemptLine(words[0], words[2], pairs(words[3:]))
	}
	return s.coreLine(words[0], words[2], pairs(words[3:]), oldRow)
}

func pairs(words []string) row {
	r := row{}
	for _, w := range words {
		k, v, _ := strings.Cut(w, "=")
		r[k] = strings.ReplaceAll(v, "_s_", " ")
	}
	return r
}

// session begins a new one: identity=none, version=A, skip=<commit>/<index>,
// recent=<executions>, -1 for a session without a memory of recent states.
func (s *source) session(words []string) error {
	cfg := Config{SystemID: 1, Source: "/ffstream/t", Identity: true}
	s.newest, s.recent = true, 0
	for k, v := range pairs(words) {
		switch k {
		case "identity":
			cfg.Identity = v != "none"
		case "version":
			s.newest = v != "A"
		case "cache":
			cfg.CacheSize, _ = strconv.Atoi(v)
		case "recent":
			s.recent, _ = strconv.Atoi(v)
		case "skip":
			p, err := ffstream.ParsePosition(v)
			if err != nil {
				return err
			}
			cfg.Skip = p
		}
	}
	return s.reset(cfg)
}

func (s *source) truncate(tables []string) error {
	var t pgoutput.Truncate
	for _, table := range tables {
		oid := uint32(coreOID)
		if table == "attempt" {
			oid = attemptOID
			clear(s.attempts)
		} else {
			clear(s.core)
		}
		t.RelationIDs = append(t.RelationIDs, oid)
	}
	return s.n.Truncate(&t)
}

// assign applies a script's assignments: v, +n (a sum), and with the key's
// suffix "?" only where the column is NULL.
func assign(to, set row) {
	for k, v := range set {
		k, ifNull := strings.CutSuffix(k, "?")
		if old, ok := to[k]; ifNull && ok && old != "NULL" {
			continue
		}
		if n, ok := strings.CutPrefix(v, "+"); ok {
			a, _ := strconv.Atoi(to[k])
			b, _ := strconv.Atoi(n)
			v = strconv.Itoa(a + b)
		}
		to[k] = v
	}
}

func (s *source) coreLine(verb, name string, set, old row) error {
	was := s.core[name]
	is := maps.Clone(was)
	if verb == "insert" {
		is = row{
			"pk": "86", "id": id(name), "lane": "default", "idx": "0", "prio": "0", "created": "1000", "later": "0", "caps": "{}",
			"lp": "submitted", "os": "unowned", "es": "eligible_now", "ps": "waiting", "as": "pending", "ns": "ns", "kind": "task", "tags": "{}",
		}
	} else if was == nil {
		was = row{"pk": "86", "id": id(name)} // the script did not insert it
		is = maps.Clone(was)
	}
	assign(is, set)
	is["xmin"] = strconv.Itoa(int(s.begin.Xid))
	s.core[name] = is
	switch verb {
	case "insert":
		return s.change(pgoutput.KindInsert, coreTable, nil, is, nil)
	case "update":
		err := s.change(pgoutput.KindUpdate, coreTable, was, is, old)
		for k, v := range is {
			if v == "~" {
				is[k] = was[k]
				if k == "raw" {
					delete(is, k)
				}
			}
		}
		return err
	case "move":
		return errors.Join(s.change(pgoutput.KindDelete, coreTable, was, nil, nil), s.change(pgoutput.KindInsert, coreTable, nil, is, nil))
	case "delete":
		delete(s.core, name)
		return s.change(pgoutput.KindDelete, coreTable, was, nil, old)
	}
	return fmt.Errorf("no command %s", verb)
}

// attemptLine changes attempt <execution>.<index>; the index may be ptr, the
// row's attempt_index, or ptr-1.
func (s *source) attemptLine(verb, name string, set row) error {
	exec, index, _ := strings.Cut(name, ".")
	if c := s.core[exec]; strings.HasPrefix(index, "ptr") {
		i, _ := strconv.Atoi(c["idx"])
		if strings.HasSuffix(index, "-1") {
			i--
		}
		index = strconv.Itoa(i)
	}
	name = exec + "." + index
	was := s.attempts[name]
	is := maps.Clone(was)
	if was == nil {
		if verb == "try" {
			return nil // an UPDATE that finds no row
		}
		is = row{"pk": "86", "id": id(exec), "idx": index, "epoch": "0"}
		if c := s.core[exec]; c != nil {
			is["pk"] = c["pk"]
		}
	}
	assign(is, set)
	is["xmin"] = strconv.Itoa(int(s.begin.Xid))
	s.attempts[name] = is
	switch {
	case verb == "insert" || was == nil && verb == "upsert":
		return s.change(pgoutput.KindInsert, attemptTable, nil, is, nil)
	case verb == "update" || verb == "upsert" || verb == "try":
		if was == nil {
			was = is
		}
		return s.change(pgoutput.KindUpdate, attemptTable, was, is, nil)
	case verb == "delete":
		delete(s.attempts, name)
		return s.change(pgoutput.KindDelete, attemptTable, is, nil, nil)
	}
	return fmt.Errorf("no command %s", verb)
}

// print writes what an event says beyond its envelope.
func (s *source) print(e *ffstream.Event) error {
	kept := *e
	kept.Tags = nil
	s.stream = append(s.stream, kept)
	w := &s.out
	fmt.Fprintf(w, "%s.%d ", e.ID.Position.Commit, e.ID.Position.Index)
	defer func() {
		if e.Tx.Last {
			w.WriteString(" last")
		}
		w.WriteString("\n")
	}()
	switch e.Type {
	case ffstream.TypeTruncated:
		w.WriteString("truncated")
		return nil
	case ffstream.TypeCorrupt:
		fmt.Fprintf(w, "%s corrupt %s=%q lane=%s", name(e.ExecutionID), e.Corrupt.Column, e.Corrupt.Literal, e.LaneID)
		return nil
	}
	v := e.StateVector
	fmt.Fprintf(w, "%s %s -> %s (%s/%s/%s/%s", name(e.ExecutionID), orNull(string(e.From)), e.To, v.LifecyclePhase, v.OwnershipState, v.EligibilityState, v.AttemptState)
	if v.TerminalOutcome != e.To.Outcome() || v.PublicState != e.To {
		fmt.Fprintf(w, " %s %s", v.PublicState, v.TerminalOutcome)
	}
	w.WriteString(")")
	field := func(name, v string, show bool) {
		if show {
			fmt.Fprintf(w, " %s=%s", name, v)
		}
	}
	field("blocking", string(v.BlockingReason), v.BlockingReason != "none")
	field("stored", string(e.StoredPublicState), e.StoredPublicState != e.To)
	field("inconsistent", "true", !e.Consistent)
	field("evidence_missing", "true", e.EvidenceMissing)
	field("candidate", "true", e.Candidate)
	field("flow", short(e.FlowID.V), e.FlowID.OK)
	field("in", e.Namespace+"/"+e.LaneID+"/"+e.ExecutionKind, e.Namespace+e.LaneID+e.ExecutionKind != "nsdefaulttask")
	field("priority", fmt.Sprint(e.Priority), e.Priority != 0)
	field("ptr", fmt.Sprint(e.CurrentAttemptIndex), e.CurrentAttemptIndex != 0)
	if a := e.Attempt.V; e.Attempt.OK {
		fmt.Fprintf(w, " attempt=%d:%s:e%d:worker=%s/%s:lease=%s:from=%s:to=%s", a.Index, opt(a.Outcome), a.LeaseEpoch,
			opt(a.WorkerID), opt(a.WorkerInstanceID), opt(a.LeaseExpiresAtMs), opt(a.StartedAtMs), opt(a.TerminalAtMs))
	}
	field("created", opt(e.CreatedAtMs), e.CreatedAtMs != ffstream.Some[int64](1000))
	field("started", opt(e.StartedAtMs), e.StartedAtMs.OK)
	field("ended", opt(e.TerminalAtMs), e.TerminalAtMs.OK)
	field("detail", e.BlockingDetail, e.BlockingDetail != "")
	field("reason", e.CancellationReason.V, e.CancellationReason.OK)
	field("by", e.CancelledBy.V, e.CancelledBy.OK)
	field("tags", fmt.Sprintf("%q", e.Tags), len(e.Tags) > 0)
	return nil
}

func name(e ffstream.ExecutionID) string { return fmt.Sprintf("%d/%s", e.Partition(), short(e.UUID())) }

func orNull(s string) string {
	if s == "" {
		return "null"
	}
	return s
}

func opt[T any](v ffstream.Opt[T]) string {
	if !v.OK {
		return "null"
	}
	return fmt.Sprint(v.V)
}
