package normalize

import (
	"encoding/binary"
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
	binary   bool // values in binary form
	core     map[string]row
	attempts map[string]row
	begin    pgoutput.Begin
	msg      pgoutput.Message
	out      strings.Builder
	lookups  map[string]row // what the table says when it is asked
}

func newSource(cfg Config, newest, binary bool) (*source, error) {
	s := &source{newest: newest, binary: binary, core: map[string]row{}, attempts: map[string]row{}, lookups: map[string]row{}}
	return s, s.reset(cfg)
}

// reset begins a session; the tables stay.
func (s *source) reset(cfg Config) error {
	cfg.Lookup = s
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
	return s.n.Row(&s.msg)
}
