package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// oracle says what the stream must hold. It shares nothing with ffstream: it
// reads slots of its own through SQL, one with the plugin test_decoding for the
// rows, whose text it parses here, and one with pgoutput for nothing but the
// positions of commits; and it applies the rule of the effective state as it
// stands in the engine's documentation to images of the rows that it keeps.
type oracle struct {
	w       *world
	rows    string // slot
	commits string // slot
	// publication that commits is read by; one that a test edits would hide commits.
	publication string
	source      string // of the events
	system      uint64
	cores       map[string]row            // by execution id, the row before the transaction
	attempts    map[string]map[string]row // by execution id and index
	want        []expected
	// same has the states of executions that a transaction left as they were, by the id
	// that an event of it would have.
	same map[string]string
	// bounded: the service's memory of recent states may lack an execution.
	bounded bool
}

// row is a row's columns in text form; a column that is absent is NULL.
type row map[string]string

// expected is one message.
type expected struct {
	subject, id, position string
	body                  map[string]any
	undecided             bool // the old tuple does not decide the state before
}

func newOracle(w *world) *oracle {
	w.t.Helper()
	o := &oracle{
		w: w, rows: w.slot + "_rows", commits: w.slot + "_commits", publication: "ffstream", source: "/ffstream/" + w.slot,
		cores: map[string]row{}, attempts: map[string]map[string]row{}, same: map[string]string{},
	}
	w.exec("SELECT pg_create_logical_replication_slot($1, 'test_decoding')", o.rows)
	w.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", o.commits)
	if err := w.db.Pool.QueryRow(context.Background(), "SELECT system_identifier::text::bigint FROM pg_control_system()").Scan(&o.system); err != nil {
		w.t.Fatal(err)
	}
	return o
}

// commit is a transaction's end.
type commit struct {
	lsn  uint64
	time time.Time
}

// readCommits gives the commits of transactions that published something.
func (o *oracle) readCommits() map[uint32]commit {
	o.w.t.Helper()
	out := map[uint32]commit{}
	rows, err := o.w.db.Pool.Query(context.Background(), `SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL,
		'proto_version', '1', 'publication_names', $2) WHERE get_byte(data, 0) = ascii('B')`, o.commits, o.publication)
	if err != nil {
		o.w.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			o.w.t.Fatal(err)
		}
		micros := int64(binary.BigEndian.Uint64(b[9:])) + 946684800*1e6
		out[binary.BigEndian.Uint32(b[17:])] = commit{binary.BigEndian.Uint64(b[1:]), time.UnixMicro(micros).UTC()}
	}
	if err := rows.Err(); err != nil {
		o.w.t.Fatal(err)
	}
	return out
}

// read takes in everything that was committed since the last call.
func (o *oracle) read() {
	o.w.t.Helper()
	rows, err := o.w.db.Pool.Query(context.Background(), "SELECT xid::text::bigint, data FROM pg_logical_slot_get_changes($1, NULL, NULL, 'skip-empty-xacts', '1')", o.rows)
	if err != nil {
		o.w.t.Fatal(err)
	}
	defer rows.Close()
	var txs []*transaction
	var tx *transaction
	for rows.Next() {
		var xid uint32
		var text string
		if err := rows.Scan(&xid, &text); err != nil {
			o.w.t.Fatal(err)
		}
		switch {
		case strings.HasPrefix(text, "BEGIN "):
			tx = &transaction{xid: xid, touched: map[string]*touched{}, deleted: map[string]string{}, attempts: map[string]map[string]bool{}, states: map[string]any{}, same: map[int]string{}}
		case strings.HasPrefix(text, "COMMIT "):
			o.settle(tx)
			txs = append(txs, tx)
		default:
			o.change(tx, text)
		}
	}
	if err := rows.Err(); err != nil {
		o.w.t.Fatal(err)
	}
	commits := o.readCommits()
	for _, tx := range txs {
		o.place(tx, commits)
	}
}

// transaction is what one transaction did.
type transaction struct {
	xid      uint32
	order    []string // executions by the first touch of their ff_exec_core row
	touched  map[string]*touched
	deleted  map[string]string          // by UUID, the execution that is gone
	attempts map[string]map[string]bool // those that it wrote and that are left
	written  []string                   // executions by the first touch of an attempt
	states   map[string]any             // before it, of executions that it touched; nil: none
	events   []map[string]any           // data, in order
	index    []int
	unknown  []bool         // the old tuple does not decide the state before
	same     map[int]string // states that it left as they were, by the index
	subjects []string
}

type touched struct {
	before  row  // nil: new
	from    any  // the state before; nil: none
	gone    bool // at the end
	changed bool // a state column changed, or the row came or went
}

// stateColumns describe the state.
var stateColumns = []string{"lifecycle_phase", "ownership_state", "eligibility_state", "public_state", "attempt_state"}

// keep remembers the state of an execution that the transaction touches first.
func (o *oracle) keep(tx *transaction, id string) {
	if _, kept := tx.states[id]; kept {
		return
	}
	tx.states[id] = nil
	if r := o.cores[id]; r != nil && corrupt(r) == "" {
		tx.states[id], _ = effective(r, o.attempts[id])
	}
}

// change takes in one line of test_decoding.
func (o *oracle) change(tx *transaction, text string) {
	o.w.t.Helper()
	head, columns, _ := strings.Cut(strings.TrimPrefix(text, "table "), ": ")
	table := strings.TrimPrefix(head, "public.")
	op, columns, _ := strings.Cut(columns, ": ")
	old := ""
	if rest, ok := strings.CutPrefix(columns, "old-key: "); ok {
		if old, columns, ok = strings.Cut(rest, " new-tuple: "); !ok {
			o.w.t.Fatalf("oracle: no new tuple in %q", text)
		}
	}
	switch {
	case strings.HasPrefix(table, "ff_exec_core_p"):
		o.core(tx, op, parseColumns(o.w.t, old), parseColumns(o.w.t, columns))
	case strings.HasPrefix(table, "ff_attempt_p"):
		o.attempt(tx, op, parseColumns(o.w.t, columns))
	}
}

// parseColumns reads `a[integer]:1 b[text]:'it”s' c[text]:null`. A value that
// was not sent stands as unsent.
func parseColumns(t testing.TB, s string) row {
	t.Helper()
	r := row{}
	for s != "" {
		name, rest, _ := strings.Cut(s, "[")
		_, rest, ok := strings.Cut(rest, "]:") // text[]]: leaves a bracket in the type
		if !ok {
			t.Fatalf("oracle: cannot parse %q", s)
		}
		if strings.HasPrefix(rest, "'") {
			end := 1
			for {
				i := strings.IndexByte(rest[end:], '\'')
				if i < 0 {
					t.Fatalf("oracle: no end of the value in %q", s)
				}
				end += i + 1
				if end == len(rest) || rest[end] != '\'' {
					break
				}
				end++
			}
			r[name] = strings.ReplaceAll(rest[1:end-1], "''", "'")
			s = strings.TrimPrefix(rest[end:], " ")
			continue
		}
		value, rest, _ := strings.Cut(rest, " ")
		if value != "null" {
			r[name] = value
		}
		s = rest
	}
	return r
}

const unsent = "unchanged-toast-datum"

func key(r row) string { return "{fp:" + r["partition_key"] + "}:" + r["execution_id"] }

func (o *oracle) core(tx *transaction, op string, old, now row) {
	id := key(now)
	if op == "UPDATE" && len(old) > 0 && key(old) != id {
		o.w.t.Fatalf("oracle: %s became %s by an update of one leaf", key(old), id)
	}
	previous := o.cores[id]
	o.keep(tx, id)
	// A partition key that is updated moves the row to another leaf: a deletion
	// and an insertion, of one execution.
	if moved := tx.deleted[now["execution_id"]]; op == "INSERT" && previous == nil && moved != "" {
		t := tx.touched[moved]
		delete(tx.touched, moved)
		tx.touched[id] = t
		tx.order[slices.Index(tx.order, moved)] = id
	}
	t := tx.touched[id]
	if t == nil {
		t = &touched{before: previous, from: tx.states[id]}
		tx.touched[id] = t
		tx.order = append(tx.order, id)
	}
	t.gone = op == "DELETE"
	delete(tx.deleted, now["execution_id"])
	if op == "DELETE" {
		t.changed = true
		tx.deleted[now["execution_id"]] = id
		delete(o.cores, id)
		return
	}
	for column, v := range now {
		if v == unsent {
			now[column] = previous[column]
		}
	}
	t.changed = t.changed || op == "INSERT"
	for _, column := range stateColumns {
		t.changed = t.changed || now[column] != previous[column]
	}
	o.cores[id] = now
}

func (o *oracle) attempt(tx *transaction, op string, now row) {
	id, index := key(now), now["attempt_index"]
	o.keep(tx, id)
	if tx.attempts[id] == nil {
		tx.attempts[id] = map[string]bool{}
		tx.written = append(tx.written, id)
	}
	if o.attempts[id] == nil {
		o.attempts[id] = map[string]row{}
	}
	if op == "DELETE" {
		delete(tx.attempts[id], index)
		delete(o.attempts[id], index)
		return
	}
	tx.attempts[id][index] = true
	o.attempts[id][index] = now
}

// settle evaluates a transaction at its commit: first the executions whose
// ff_exec_core row it touched, then those of which it wrote attempts alone.
func (o *oracle) settle(tx *transaction) {
	o.w.t.Helper()
	index := 0
	add := func(before row, from any, data map[string]any, subject string) {
		if state, ok := from.(string); ok && data == nil {
			tx.same[index] = state
		}
		if data != nil {
			tx.events, tx.index, tx.subjects, tx.unknown = append(tx.events, data), append(tx.index, index), append(tx.subjects, subject), append(tx.unknown, undecided(before))
		}
		index++
	}
	for _, id := range tx.order {
		t := tx.touched[id]
		switch {
		case t.gone && t.before == nil:
			index++
		case t.gone:
			data, subject := o.purged(t)
			add(t.before, t.from, data, subject)
		default:
			data, subject := o.transition(tx, id, t)
			add(t.before, t.from, data, subject)
		}
	}
	for _, id := range tx.written {
		if tx.touched[id] != nil {
			continue
		}
		if r := o.cores[id]; r == nil {
			index++
		} else {
			data, subject := o.transition(tx, id, &touched{before: r, from: tx.states[id]})
			add(r, tx.states[id], data, subject)
		}
	}
}

// place gives a transaction's events their positions.
func (o *oracle) place(tx *transaction, commits map[uint32]commit) {
	for index, state := range tx.same {
		o.same[o.id(commits[tx.xid].lsn, index)] = state
	}
	for i, data := range tx.events {
		c, ok := commits[tx.xid]
		if !ok {
			o.w.t.Fatalf("oracle: transaction %d published nothing", tx.xid)
		}
		data["tx"] = map[string]any{
			"xid": tx.xid, "commit_lsn": fmt.Sprintf("%X/%X", c.lsn>>32, uint32(c.lsn)), "index": tx.index[i], "last": i == len(tx.events)-1,
		}
		e := expected{
			subject: tx.subjects[i], undecided: tx.unknown[i],
			id:       o.id(c.lsn, tx.index[i]),
			position: fmt.Sprintf("%016X/%04X", c.lsn, tx.index[i]),
		}
		kind := "ffstream.execution.transitioned.v1"
		if _, ok := data["column"]; ok {
			kind = "ffstream.execution.corrupt.v1"
		}
		e.body = map[string]any{
			"specversion": "1.0", "id": e.id, "source": o.source, "type": kind, "subject": data["execution_id"],
			"time": c.time.Format("2006-01-02T15:04:05.000000Z"), "datacontenttype": "application/json", "data": data,
		}
		o.want = append(o.want, e)
	}
}

// id is that of an event.
func (o *oracle) id(commit uint64, index int) string {
	return fmt.Sprintf("%d-%016X-%04X", o.system, commit, index)
}

func token(s string) string {
	if s == "" {
		return "%"
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		if strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// compare holds the stream against what the oracle expects, message by message.
func (o *oracle) compare() {
	o.w.t.Helper()
	o.compareWith(o.w.stored())
}

// forget makes what was committed until now none of the stream's business, but
// the rows stay known. A crash of Postgres would make it forget what its slots have
// read but for the checkpoint.
func (o *oracle) forget() {
	o.w.t.Helper()
	o.read()
	o.w.exec("CHECKPOINT")
	o.want = nil
}

// compareWith holds messages against what was committed.
func (o *oracle) compareWith(got []message) verdict {
	t := o.w.t
	t.Helper()
	o.read()
	if o.bounded {
		got, _, _ = o.withoutStates(got)
	}
	v := check(got, o.want)
	if !v.exact() {
		t.Fatalf("of %d events that were committed: %s", len(o.want), &v)
	}
	return v
}

func (e *expected) differs(m message) string {
	if m.subject[strings.IndexByte(m.subject, '.')+1:] != e.subject {
		return fmt.Sprintf("subject %s, expected %s (%s)", m.subject, e.subject, m.body)
	}
	for k, v := range map[string]string{"Nats-Msg-Id": e.id, "Ffstream-Position": e.position, "Content-Type": "application/cloudevents+json"} {
		if m.header.Get(k) != v {
			return fmt.Sprintf("header %s is %q, expected %q (%s)", k, m.header.Get(k), v, m.body)
		}
	}
	text, err := json.Marshal(e.body)
	if err != nil {
		return err.Error()
	}
	want, err1 := generic(text)
	have, err2 := generic(m.body)
	if err1 != nil || err2 != nil {
		return fmt.Sprint(err1, err2)
	}
	if !reflect.DeepEqual(want, have) {
		return fmt.Sprintf("\n got %s\nwant %s", m.body, text)
	}
	return ""
}

func generic(b []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	return v, d.Decode(&v)
}

// millis is a number or null.
func millis(r row, column string) any {
	if v, ok := r[column]; ok {
		return json.Number(v)
	}
	return nil
}

func text(r row, column string) any {
	if v, ok := r[column]; ok {
		return v
	}
	return nil
}

// raw reads raw_fields.
func raw(r row) map[string]any {
	m := map[string]any{}
	if err := json.Unmarshal([]byte(r["raw_fields"]), &m); err != nil {
		panic("oracle: raw_fields: " + err.Error())
	}
	return m
}

func str(m map[string]any, key string) string {
	s, _ := m[key].(string)
	return s
}

func tags(m map[string]any) map[string]any {
	out := map[string]any{}
	if all, ok := m["tags"].(map[string]any); ok {
		maps.Copy(out, all)
		maps.DeleteFunc(out, func(_ string, v any) bool { _, ok := v.(string); return !ok })
	}
	return out
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic("oracle: " + err.Error())
	}
	return n
}
