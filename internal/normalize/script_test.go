package normalize

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/repl/pgoutput"
)

// column is one of a table in the scripts: its short name, its real one and its
// type: s smallint, i integer, b bigint, u uuid, t text, j jsonb.
type column struct {
	short, name string
	kind        byte
}

// The tables, in the order of the engine's schema. caps and later stand for
// columns that nothing needs.
var (
	coreTableColumns = []column{
		{"pk", "partition_key", 's'}, {"id", "execution_id", 'u'}, {"flow", "flow_id", 'u'}, {"lane", "lane_id", 't'},
		{"caps", "required_capabilities", 't'}, {"idx", "attempt_index", 'i'}, {"lp", "lifecycle_phase", 't'},
		{"os", "ownership_state", 't'}, {"es", "eligibility_state", 't'}, {"ps", "public_state", 't'}, {"as", "attempt_state", 't'},
		{"blocking", "blocking_reason", 't'}, {"reason", "cancellation_reason", 't'}, {"by", "cancelled_by", 't'},
		{"prio", "priority", 'i'}, {"created", "created_at_ms", 'b'}, {"terminal", "terminal_at_ms", 'b'},
		{"raw", "raw_fields", 'j'}, {"started", "started_at_ms", 'b'}, {"later", "lease_reclaim_count", 'i'},
	}
	attemptTableColumns = []column{
		{"pk", "partition_key", 's'}, {"id", "execution_id", 'u'}, {"idx", "attempt_index", 'i'}, {"worker", "worker_id", 't'},
		{"instance", "worker_instance_id", 't'}, {"epoch", "lease_epoch", 'b'}, {"lease", "lease_expires_at_ms", 'b'},
		{"started", "started_at_ms", 'b'}, {"terminal", "terminal_at_ms", 'b'}, {"outcome", "outcome", 't'}, {"later", "later", 't'},
	}
	identityColumns = []string{"pk", "id", "lp", "os", "es", "ps", "as", "lane"}
)

const (
	coreOID    = 1000
	attemptOID = 2000
)

type row map[string]string

// source plays a database whose tables a script changes: it remembers the rows,
// and logs what Postgres would, old tuples among it.
type source struct {
	n        *Normalizer
	cfg      Config
	newest   bool // the engine's newest version, else v0.11
	recent   int  // size of the memory of recent states; 0: 1000, below 0: there is none
	binary   bool // values in binary form
	core     map[string]row
	attempts map[string]row
	begin    pgoutput.Begin
	msg      pgoutput.Message
	sent     []pgoutput.Message // all row changes
	out      strings.Builder
	lookups  map[string]row   // what Row reads
	stream   []ffstream.Event // all that was yielded
}

func newSource(cfg Config, newest, binary bool) (*source, error) {
	s := &source{newest: newest, binary: binary, core: map[string]row{}, attempts: map[string]row{}, lookups: map[string]row{}}
	return s, s.reset(cfg)
}

// reset begins a session; the tables stay.
func (s *source) reset(cfg Config) error {
	cfg.Lookup = s
	past := slices.Clone(s.stream)
	if s.recent >= 0 {
		cfg.Recent = NewRecent(cmp.Or(s.recent, 1000), func(record func(*ffstream.Event)) error {
			for i := range past {
				record(&past[i])
			}
			return nil
		})
	}
	s.cfg, s.n = cfg, New(cfg)
	for _, r := range []*pgoutput.Relation{s.relation(coreOID, coreTable), s.relation(coreOID+1, coreTable+"_p0"), s.relation(attemptOID, attemptTable), s.relation(attemptOID+1, attemptTable+"_p0")} {
		if err := s.n.Relation(r); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) columns(table string) []column {
	if table == attemptTable {
		return attemptTableColumns
	}
	if !s.newest {
		return coreTableColumns[:18]
	}
	return coreTableColumns
}

func (s *source) relation(oid uint32, name string) *pgoutput.Relation {
	r := &pgoutput.Relation{ID: oid, Namespace: "public", Name: name, ReplicaIdentity: 'd'}
	if s.cfg.Identity && oid == coreOID+1 {
		r.ReplicaIdentity = 'i'
	}
	for _, c := range s.columns(strings.TrimSuffix(name, "_p0")) {
		r.Columns = append(r.Columns, pgoutput.Column{Name: c.name, Key: r.ReplicaIdentity == 'i' && slices.Contains(identityColumns, c.short)})
	}
	return r
}

// describe sends what comes before the first row of a leaf that is called name:
// its root, of=<table>, and itself, with identity=<letter> and the index key=<column>,<column>.
// Without a root it is another table.
func (s *source) describe(name string, how row) error {
	r := s.relation(coreOID+2, coreTable)
	switch how["of"] {
	case "core":
		if err := s.n.Relation(s.relation(coreOID, coreTable)); err != nil {
			return err
		}
	case "attempt":
		r = s.relation(attemptOID+2, attemptTable)
		if err := s.n.Relation(s.relation(attemptOID, attemptTable)); err != nil {
			return err
		}
	}
	r.Name, r.ReplicaIdentity = name, how["identity"][0]
	for i, c := range s.columns(map[string]string{"attempt": attemptTable}[how["of"]]) {
		if i < len(r.Columns) {
			r.Columns[i].Key = slices.Contains(strings.Split(how["key"], ","), c.short)
		}
	}
	return s.n.Relation(r)
}

// Row answers a lookup from the script's lookup lines.
func (s *source) Row(partition int16, id uuid.UUID) (LookedUp, bool, error) {
	r, ok := s.lookups[id.String()]
	fmt.Fprintf(&s.out, "looked up %d/%s\n", partition, short(id))
	if !ok {
		return LookedUp{}, false, nil
	}
	opt := func(name string) ffstream.Opt[string] {
		v, ok := r[name]
		return ffstream.Opt[string]{V: v, OK: ok && v != "NULL"}
	}
	return LookedUp{RawFields: []byte(raw(r)), BlockingReason: opt("blocking"), CancellationReason: opt("reason"), CancelledBy: opt("by")}, true, nil
}

// Attempts answers a lookup from the table of attempts.
func (s *source) Attempts(partition int16, id uuid.UUID, pointer int32, terminal ffstream.Opt[int64]) (LookedUpAttempts, bool, error) {
	fmt.Fprintf(&s.out, "looked up attempt %d of %d/%s\n", pointer, partition, short(id))
	r := row{"pk": strconv.Itoa(int(partition)), "id": id.String(), "idx": strconv.Itoa(int(pointer))}
	if terminal.OK {
		r["terminal"] = strconv.FormatInt(terminal.V, 10)
	}
	var x LookedUpAttempts
	if a, _, exists := s.below(partition, id, pointer); exists {
		x.Found = s.version(a)
	}
	if a := s.ended(r); a != nil {
		x.Ended = s.version(a)
	}
	return x, s.executionRow(partition, id) != nil, nil
}

// version is an attempt as a lookup returns it.
func (s *source) version(a row) LookedUpAttempt {
	v := LookedUpAttempt{Exists: true, Index: int32(s.number(a["idx"])), Outcome: notNull(a["outcome"]).V, Xid: uint32(s.number(a["xmin"]))}
	if ms := notNull(a["terminal"]); ms.OK {
		v.Terminal = ffstream.Some(s.number(ms.V))
	}
	return v
}

// executionRow is an execution's row in the table, or nil.
func (s *source) executionRow(partition int16, id uuid.UUID) row {
	for _, r := range s.core {
		if r["id"] == id.String() && r["pk"] == strconv.Itoa(int(partition)) {
			return r
		}
	}
	return nil
}

// ended returns the attempt that ended an execution, if it is below the pointer.
func (s *source) ended(r row) (best row) {
	for _, a := range s.attempts {
		decisive := a["outcome"] != "NULL" && outcomes[a["outcome"]] != ""
		if a["id"] == r["id"] && a["pk"] == r["pk"] && s.number(a["idx"]) < s.number(r["idx"]) && notNull(a["terminal"]).OK && a["terminal"] == r["terminal"] && decisive &&
			(best == nil || s.number(a["idx"]) > s.number(best["idx"])) {
			best = a
		}
	}
	return best
}

// below returns the row of the attempt with the greatest index up to pointer.
func (s *source) below(partition int16, id uuid.UUID, pointer int32) (best row, at int32, found bool) {
	for _, a := range s.attempts {
		index := int32(s.number(a["idx"]))
		if a["id"] == id.String() && a["pk"] == strconv.Itoa(int(partition)) && index <= pointer && (!found || index > at) {
			best, at, found = a, index, true
		}
	}
	return best, at, found
}

// Execution answers a lookup from the tables.
func (s *source) Execution(partition int16, id uuid.UUID) (x LookedUpExecution, found bool, err error) {
	fmt.Fprintf(&s.out, "looked up execution %d/%s\n", partition, short(id))
	r := s.executionRow(partition, id)
	if r == nil {
		return x, false, nil
	}
	for _, a := range s.attempts {
		if a["id"] == r["id"] && a["pk"] == r["pk"] {
			x.Attempts = append(x.Attempts, s.version(a))
		}
	}
	x.Xid = uint32(s.number(r["xmin"]))
	x.Event, err = s.snapshot(r)
	return x, true, err
}

// snapshot is a row as a backfill publishes it.
func (s *source) snapshot(r row) (ffstream.Event, error) {
	u := uuid.MustParse(r["id"])
	partition, pointer := s.number(r["pk"]), max(s.number(r["idx"]), 0)
	e := ffstream.Event{Type: ffstream.TypeSnapshotted, ExecutionID: ffstream.NewExecutionID(uint16(partition), u), LaneID: r["lane"]}
	v, a, index, found, err := s.evaluate(r)
	var corrupt *ffstream.CorruptionError
	if errors.As(err, &corrupt) {
		e.Type, e.Corrupt = ffstream.TypeCorrupt, ffstream.Corruption{Column: corrupt.Column, Literal: corrupt.Literal}
		return e, nil
	}
	e.To, e.StateVector, e.StoredPublicState, e.Consistent, e.EvidenceMissing = v.Vector.PublicState, v.Vector, v.Stored, v.Consistent, v.EvidenceMissing
	e.Namespace, e.ExecutionKind, e.CurrentAttemptIndex = r["ns"], r["kind"], uint32(pointer)
	e.CreatedAtMs = ffstream.Some(s.number(r["created"]))
	e.CancellationReason, e.CancelledBy = notNull(r["reason"]), notNull(r["by"])
	if found {
		e.Attempt = ffstream.Some(ffstream.Attempt{Index: uint32(index), Outcome: notNull(a["outcome"])})
		if ms := notNull(a["terminal"]); ms.OK {
			e.Attempt.V.TerminalAtMs = ffstream.Some(s.number(ms.V))
		}
	}
	return e, err
}

// evaluate applies the rule to the images of the tables.
func (s *source) evaluate(r row) (v Verdict, a row, index int32, found bool, err error) {
	pointer := int32(max(s.number(r["idx"]), 0))
	a, index, found = s.below(int16(s.number(r["pk"])), uuid.MustParse(r["id"]), pointer)
	var attempts Attempts
	if o := (Outcome{Exists: found, Literal: notNull(a["outcome"]).V}); index == pointer {
		attempts.At = o
	} else {
		attempts.Below = o
	}
	if ended := s.ended(r); ended != nil {
		attempts.Ended = Outcome{Exists: true, Literal: ended["outcome"]}
	}
	rule := Row{
		LifecyclePhase: r["lp"], OwnershipState: r["os"], EligibilityState: r["es"], PublicState: r["ps"], AttemptState: r["as"],
		BlockingReason: notNull(r["blocking"]).V, CancellationReason: notNull(r["reason"]), CancelledBy: notNull(r["by"]), LastFailureMessage: r["msg"],
	}
	v, err = Evaluate(&rule, attempts)
	return v, a, index, found, err
}

func (s *source) number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

// notNull is a column that may be NULL, which is not there or says so.
func notNull(v string) ffstream.Opt[string] {
	return ffstream.Opt[string]{V: strings.TrimPrefix(v, "NULL"), OK: v != "" && v != "NULL"}
}

// id is the UUID of an execution that a script calls by a number.
func id(n string) string {
	i, err := strconv.Atoi(n)
	if err != nil {
		panic("execution " + n + " is no number")
	}
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
}

func short(u uuid.UUID) string { return strings.TrimLeft(u.String()[24:], "0") }

// raw puts raw_fields together of its parts, as Postgres writes jsonb.
func raw(r row) string {
	if v, ok := r["raw"]; ok {
		return v
	}
	var parts []string
	for _, f := range [][2]string{{"ns", "namespace"}, {"kind", "execution_kind"}, {"detail", "blocking_detail"}, {"msg", "last_failure_message"}} {
		if v, ok := r[f[0]]; ok {
			parts = append(parts, fmt.Sprintf("%q: %q", f[1], v))
		}
	}
	if v, ok := r["tags"]; ok {
		parts = append(parts, `"tags": `+v)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// value renders one column; "~" is unchanged TOAST.
func (s *source) value(c column, r row) pgoutput.Value {
	v, ok := r[c.short]
	switch {
	case v == "~":
		return pgoutput.Value{Kind: pgoutput.ValueUnchanged}
	case c.kind == 'j':
		v, ok = raw(r), true
	}
	if !ok || v == "NULL" {
		return pgoutput.Value{Kind: pgoutput.ValueNull}
	}
	if !s.binary {
		return pgoutput.Value{Kind: pgoutput.ValueText, Data: []byte(v)}
	}
	b := []byte(nil)
	number := func() uint64 {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			panic(err)
		}
		return uint64(n)
	}
	switch c.kind {
	case 's':
		b = binary.BigEndian.AppendUint16(b, uint16(number()))
	case 'i':
		b = binary.BigEndian.AppendUint32(b, uint32(number()))
	case 'b':
		b = binary.BigEndian.AppendUint64(b, number())
	case 'u':
		u := uuid.MustParse(v)
		b = append(b, u[:]...)
	case 'j':
		b = append([]byte{1}, v...)
	default:
		b = []byte(v)
	}
	return pgoutput.Value{Kind: pgoutput.ValueBinary, Data: b}
}

func (s *source) tuple(table string, r row, only []string) []pgoutput.Value {
	values := []pgoutput.Value{}
	for _, c := range s.columns(table) {
		if only != nil && !slices.Contains(only, c.short) {
			values = append(values, pgoutput.Value{Kind: pgoutput.ValueNull})
			continue
		}
		values = append(values, s.value(c, r))
	}
	return values
}

// change logs one row change. old is what the script says the old tuple holds,
// nil when Postgres's rule decides.
func (s *source) change(kind pgoutput.Kind, table string, was, is, old row) error {
	s.msg = pgoutput.Message{Kind: kind, RelationID: coreOID}
	key := []string{"pk", "id"}
	if table == attemptTable {
		s.msg.RelationID = attemptOID
		key = append(key, "idx")
	} else if s.cfg.Identity {
		key = identityColumns
	}
	changed := func(c string) bool { return kind == pgoutput.KindDelete || was[c] != is[c] && is[c] != "~" }
	switch {
	case old != nil && len(old) == 0: // the script says: none
	case old != nil:
		full := maps.Clone(was)
		maps.Copy(full, old)
		only := slices.Collect(maps.Keys(old))
		s.msg.OldKind, s.msg.Old = 'K', s.tuple(table, full, append(only, "pk", "id"))
	case kind != pgoutput.KindInsert && slices.ContainsFunc(key, changed):
		s.msg.OldKind, s.msg.Old = 'K', s.tuple(table, was, key)
	}
	if kind != pgoutput.KindDelete {
		s.msg.New = s.tuple(table, is, nil)
	}
	s.sent = append(s.sent, s.msg)
	return s.n.Row(&s.msg)
}
