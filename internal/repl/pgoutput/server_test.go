package pgoutput_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

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

// changes are what a server does, each line a transaction of its own.
var changes = []string{
	`INSERT INTO t VALUES (1, -2, 3000000000, '550e8400-e29b-41d4-a716-446655440000', '{"a": 1}', 'happy', NULL, repeat('x', 5000))`,
	`UPDATE t SET small = 7 WHERE id = 1`,
	`UPDATE t SET id = 2 WHERE id = 1`,
	`UPDATE t SET small = NULL, big = '' WHERE id = 2`,
	`BEGIN; ALTER TABLE t REPLICA IDENTITY FULL; UPDATE t SET mood = 'sad'; DELETE FROM t; ALTER TABLE t REPLICA IDENTITY DEFAULT; COMMIT`,
	`INSERT INTO t (id) VALUES (3); DELETE FROM t`,
	`BEGIN; SELECT pg_logical_emit_message(true, 'in', 'rides along'); INSERT INTO u VALUES (1); COMMIT`,
	`SELECT pg_logical_emit_message(false, 'out', '\x00ff'::bytea)`,
	`BEGIN; INSERT INTO u VALUES (2); SAVEPOINT s; INSERT INTO u VALUES (3); ROLLBACK TO s; COMMIT`,
	`TRUNCATE u, t RESTART IDENTITY CASCADE`,
	`SELECT pg_replication_origin_session_setup('ORIGIN'); INSERT INTO u VALUES (4)`,
}

const transcript = `
begin
  type
  relation t d: *id small wide uuid doc mood empty big
  insert {1 -2 3000000000 550e8400-e29b-41d4-a716-446655440000 {"a": 1} happy null 5000 bytes}
commit
begin
  update {1 7 3000000000 550e8400-e29b-41d4-a716-446655440000 {"a": 1} happy null unchanged}
commit
begin
  update K{1 null null null null null null null} {2 7 3000000000 550e8400-e29b-41d4-a716-446655440000 {"a": 1} happy null unchanged}
commit
begin
  update {2 null 3000000000 550e8400-e29b-41d4-a716-446655440000 {"a": 1} happy null 0 bytes}
commit
begin
  type
  relation t f: *id *small *wide *uuid *doc *mood *empty *big
  update O{2 null 3000000000 550e8400-e29b-41d4-a716-446655440000 {"a": 1} happy null 0 bytes} {2 null 3000000000 550e8400-e29b-41d4-a716-446655440000 {"a": 1} sad null 0 bytes}
  delete O{2 null 3000000000 550e8400-e29b-41d4-a716-446655440000 {"a": 1} sad null 0 bytes}
commit
begin
  type
  relation t d: *id small wide uuid doc mood empty big
  insert {3 null null null null null null null}
  delete K{3 null null null null null null null}
commit
begin
  message in transaction in: "rides along"
  relation u d: id
  insert {1}
commit
message out: "\x00\xff"
begin
  insert {2}
commit
begin
  relation u d: id
  type
  relation t d: *id small wide uuid doc mood empty big
  truncate 2 tables, cascade true, restart true
commit
begin
  origin
  relation u d: id
  insert {4}
commit
`

// TestServer decodes what a real server sends for every kind of change.
func TestServer(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	db := testenv.DB(t, testenv.Schema{})
	conn, err := db.Pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	// The origin is the cluster's, so it takes the slot's name, which is unique.
	run := func(sql string) {
		t.Helper()
		if _, err := conn.Conn().PgConn().Exec(ctx, strings.ReplaceAll(sql, "ORIGIN", db.Slot())).ReadAll(); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	run(`CREATE TYPE mood AS ENUM ('happy', 'sad')`)
	run(`CREATE TABLE t (id int PRIMARY KEY, small smallint, wide bigint, uuid uuid, doc jsonb, mood mood, empty text, big text);
		ALTER TABLE t ALTER big SET STORAGE EXTERNAL; CREATE TABLE u (id int)`)
	run(`CREATE PUBLICATION p FOR TABLE t, u`)
	run(`SELECT pg_replication_origin_create('ORIGIN')`)
	defer run(`SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop('ORIGIN')`)
	run(`SELECT pg_create_logical_replication_slot('` + db.Slot() + `', 'pgoutput')`)
	for _, sql := range changes {
		run(sql)
	}

	rows, err := conn.Query(ctx, `SELECT lsn::text, data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
		'proto_version', '1', 'publication_names', 'p', 'binary', 'true', 'messages', 'true')`, db.Slot())
	if err != nil {
		t.Fatal(err)
	}
	type message struct {
		LSN  string
		Data []byte
	}
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByPos[message])
	if err != nil {
		t.Fatal(err)
	}
	s := scribe{types: map[uint32][]uint32{}}
	for _, m := range messages {
		if err := pgoutput.Decode(m.Data, &s.m); err != nil {
			t.Fatalf("%s: %x: %v", m.LSN, m.Data, err)
		}
		s.write(t)
	}
	if got := s.b.String(); got != transcript[1:] {
		t.Errorf("decoded\n%s\nwant%s", got, transcript)
	}
}

// scribe writes messages down, one a line.
type scribe struct {
	b     strings.Builder
	m     pgoutput.Message
	begin pgoutput.Begin
	inTx  bool
	types map[uint32][]uint32 // of a relation's columns
}

func (s *scribe) write(t *testing.T) {
	m := &s.m
	switch m.Kind {
	case pgoutput.KindBegin:
		s.begin, s.inTx = m.Begin, true
		s.b.WriteString("begin\n")
		return
	case pgoutput.KindCommit:
		if m.Commit.CommitLSN != s.begin.FinalLSN || m.Commit.CommitTime != s.begin.CommitTime || m.Commit.EndLSN <= m.Commit.CommitLSN || s.begin.Xid == 0 {
			t.Errorf("commit %+v of %+v", m.Commit, s.begin)
		}
		s.inTx = false
		s.b.WriteString("commit\n")
		return
	}
	if s.inTx {
		s.b.WriteString("  ")
	}
	switch m.Kind {
	case pgoutput.KindType:
		s.b.WriteString("type")
	case pgoutput.KindOrigin:
		s.b.WriteString("origin")
	case pgoutput.KindRelation:
		s.relation(&m.Relation)
	case pgoutput.KindInsert:
		s.b.WriteString("insert")
	case pgoutput.KindUpdate:
		s.b.WriteString("update")
	case pgoutput.KindDelete:
		s.b.WriteString("delete")
	case pgoutput.KindTruncate:
		fmt.Fprintf(&s.b, "truncate %d tables, cascade %t, restart %t", len(m.Truncate.RelationIDs), m.Truncate.Cascade, m.Truncate.RestartIdentity)
	case pgoutput.KindMessage:
		if m.Logical.Transactional {
			s.b.WriteString("message in transaction ")
		} else {
			s.b.WriteString("message ")
		}
		fmt.Fprintf(&s.b, "%s: %q", m.Logical.Prefix, m.Logical.Content)
	}
	if m.Kind == pgoutput.KindInsert || m.Kind == pgoutput.KindUpdate || m.Kind == pgoutput.KindDelete {
		if m.OldKind != 0 {
			fmt.Fprintf(&s.b, " %c{%s}", m.OldKind, s.tuple(t, m.Old))
		}
		if m.Kind != pgoutput.KindDelete {
			fmt.Fprintf(&s.b, " {%s}", s.tuple(t, m.New))
		}
	}
	s.b.WriteByte('\n')
}

func (s *scribe) relation(r *pgoutput.Relation) {
	fmt.Fprintf(&s.b, "relation %s %c:", r.Name, r.ReplicaIdentity)
	s.types[r.ID] = nil
	for _, c := range r.Columns {
		s.types[r.ID] = append(s.types[r.ID], c.TypeOID)
		key := ""
		if c.Key {
			key = "*"
		}
		s.b.WriteString(" " + key + c.Name)
	}
}

// tuple reads each value by its type's accessor.
func (s *scribe) tuple(t *testing.T, values []pgoutput.Value) string {
	types := s.types[s.m.RelationID]
	if len(types) != len(values) {
		t.Fatalf("%d values of relation %d, which has %d columns", len(values), s.m.RelationID, len(types))
	}
	var out []string
	for i, v := range values {
		out = append(out, value(t, types[i], v))
	}
	return strings.Join(out, " ")
}

func value(t *testing.T, oid uint32, v pgoutput.Value) string {
	var got any
	var err error
	switch {
	case v.Null():
		return "null"
	case v.Unchanged():
		return "unchanged"
	case oid == 21:
		got, err = v.Int16()
	case oid == 23:
		got, err = v.Int32()
	case oid == 20:
		got, err = v.Int64()
	case oid == 2950:
		var u uuid.UUID
		u, err = v.UUID()
		got = u
	case oid == 3802:
		var doc []byte
		doc, err = v.JSON()
		got = string(doc)
	case oid == 25:
		var text []byte
		text, err = v.Text()
		got = fmt.Sprintf("%d bytes", len(text))
	default:
		var text []byte
		text, err = v.Text()
		got = string(text)
	}
	if err != nil || v.Kind != pgoutput.ValueBinary {
		t.Errorf("value %q of type %d: %v", v.Data, oid, err)
	}
	return fmt.Sprint(got)
}
