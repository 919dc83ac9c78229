package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// recording is what FlowFabric's Postgres backend did, and what its client called.
// testdata/engine/README.md describes the files.
type recording struct {
	transactions []recordedTransaction // in commit order
	calls        []recordedCall
}

// recordedTransaction is one transaction of the engine.
type recordedTransaction struct {
	XID  uint32
	Time int64 `json:"t"` // of the commit
	Rows []recordedRow
}

// recordedRow is one row that a transaction changed.
type recordedRow struct {
	table, op string
	execution string
	columns   map[string]json.RawMessage // of core and att
	kind      string                     // of an outbox
}

// UnmarshalJSON reads [table, operation, execution, columns or kind].
func (r *recordedRow) UnmarshalJSON(b []byte) error {
	var fields []json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return err
	}
	if len(fields) != 4 {
		return fmt.Errorf("row of %d fields: %s", len(fields), b)
	}
	err := errors.Join(json.Unmarshal(fields[0], &r.table), json.Unmarshal(fields[1], &r.op), json.Unmarshal(fields[2], &r.execution))
	switch {
	case err != nil:
		return err
	case r.stored():
		return json.Unmarshal(fields[3], &r.columns)
	default:
		return json.Unmarshal(fields[3], &r.kind)
	}
}

// stored reports whether the row is of a table that ffstream follows.
func (r *recordedRow) stored() bool { return r.table == "core" || r.table == "att" }

// recordedCall is one call of the client.
type recordedCall struct {
	Begin   int64 `json:"t0"`
	End     int64 `json:"t1"`
	Op      string
	ID      string // execution, or flow
	To      string // state that the call requests
	OK      bool
	Result  string   `json:"r"`
	Policy  string   `json:"pol"`
	Members []string `json:"m"` // of the flow
}

func readRecording(t testing.TB) *recording {
	t.Helper()
	return &recording{
		transactions: readLines[recordedTransaction](t, "testdata/engine/v0.11-rows.jsonl.gz"),
		calls:        readLines[recordedCall](t, "testdata/engine/v0.11-client.jsonl.gz"),
	}
}

// readLines reads a compressed file of one JSON object a line.
func readLines[T any](t testing.TB, name string) (all []T) {
	t.Helper()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	unzipped, err := gzip.NewReader(bufio.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(unzipped); ; {
		var line T
		err := d.Decode(&line)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("%s, line %d: %v", name, len(all)+1, err)
		}
		all = append(all, line)
	}
}

// replay executes the recorded transactions, each as one transaction, and calls after
// whenever it has executed a batch of them.
func (r *recording) replay(w *world, batch int, after func()) {
	w.t.Helper()
	ctx := context.Background()
	pooled, err := w.db.Pool.Acquire(ctx)
	w.must(err)
	defer pooled.Release()
	w.must(execAll(ctx, pooled.Conn(), "SET synchronous_commit = off; SET standard_conforming_strings = on"))
	for part := range slices.Chunk(r.transactions, batch) {
		var sql strings.Builder
		for i := range part {
			part[i].appendSQL(w.t, &sql)
		}
		w.must(execAll(ctx, pooled.Conn(), sql.String()))
		after()
	}
}

// execAll executes statements in one round trip.
func execAll(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// appendSQL writes the statements of a transaction. One that changed outboxes alone
// has none.
func (tx *recordedTransaction) appendSQL(t testing.TB, sql *strings.Builder) {
	t.Helper()
	if !slices.ContainsFunc(tx.Rows, func(r recordedRow) bool { return r.stored() }) {
		return
	}
	sql.WriteString("BEGIN;")
	for i := range tx.Rows {
		if r := &tx.Rows[i]; r.stored() {
			sql.WriteString(r.statement(t))
			sql.WriteString(";")
		}
	}
	sql.WriteString("COMMIT;")
}

// statement is the statement that changes the row.
func (r *recordedRow) statement(t testing.TB) string {
	t.Helper()
	partition, id, ok := strings.Cut(strings.TrimPrefix(r.execution, "{fp:"), "}:")
	if !ok {
		t.Fatalf("execution %q is not {fp:<partition>}:<uuid>", r.execution)
	}
	columns := maps.Clone(r.columns)
	table, where := "ff_exec_core", fmt.Sprintf("partition_key = %s AND execution_id = '%s'", partition, id)
	if r.table == "att" {
		table = "ff_attempt"
		if r.op != "I" {
			where += " AND attempt_index = " + literal(columns["attempt_index"])
			delete(columns, "attempt_index")
		}
	}
	names := slices.Sorted(maps.Keys(columns))
	switch r.op {
	case "I":
		values := []string{partition, "'" + id + "'"}
		for _, name := range names {
			values = append(values, literal(columns[name]))
		}
		return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", table, strings.Join(append([]string{"partition_key", "execution_id"}, names...), ", "), strings.Join(values, ", "))
	case "U":
		assignments := []string{"execution_id = execution_id"} // also of an update that changed no recorded column
		for _, name := range names {
			assignments = append(assignments, name+" = "+literal(columns[name]))
		}
		return fmt.Sprintf("UPDATE %s SET %s WHERE %s", table, strings.Join(assignments, ", "), where)
	case "D":
		return fmt.Sprintf("DELETE FROM %s WHERE %s", table, where)
	default:
		t.Fatalf("operation %q", r.op)
		return ""
	}
}

// literal is a JSON value as an SQL literal; an object is of type jsonb.
func literal(v json.RawMessage) string {
	text := string(bytes.TrimSpace(v))
	switch text[0] {
	case 'n':
		return "NULL"
	case '"':
		var s string
		if err := json.Unmarshal(v, &s); err != nil {
			panic(err) // what json has decoded is valid
		}
		text = s
	case '{', '[':
	default:
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", "''") + "'"
}
