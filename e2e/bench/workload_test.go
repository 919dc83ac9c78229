package bench

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// seedSQL makes executions with a payload that does not compress.
const seedSQL = `INSERT INTO ff_exec_core (partition_key, execution_id, lane_id, lifecycle_phase, ownership_state, eligibility_state, public_state, attempt_state, created_at_ms, payload, raw_fields)
	SELECT n %% 256, md5(n::text)::uuid, 'default', 'submitted', 'unowned', 'eligible_now', 'waiting', 'pending', n,
		(SELECT string_agg(sha512((n::text || k)::bytea), '') FROM generate_series(1, %d) k), '{"namespace":"ns-a"}'
	FROM generate_series(1, %d) n`

// turnSQL takes each execution from waiting to suspended and back, a transaction a
// step.
const turnSQL = `DO $$ DECLARE step int; n int; BEGIN
	FOR step IN 1..%d LOOP FOR n IN 1..%d LOOP
		UPDATE ff_exec_core SET lifecycle_phase = CASE lifecycle_phase WHEN 'submitted' THEN 'suspended' ELSE 'submitted' END
			WHERE partition_key = n %% 256 AND execution_id = md5(n::text)::uuid;
		COMMIT;
	END LOOP; END LOOP;
END $$`

// transitions writes a log in which every change makes an event.
func (s *source) transitions(n int) *backlog {
	s.t.Helper()
	const executions = 1000
	s.exec("SET synchronous_commit = off")
	s.exec(fmt.Sprintf(seedSQL, 1, executions))
	s.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", origin)
	s.exec(fmt.Sprintf(turnSQL, n/executions, executions))
	events := n / executions * executions
	return s.backlog(events, events, events)
}

// wide writes one transaction of n rows, each an event.
func (s *source) wide(n int) *backlog {
	s.t.Helper()
	s.exec("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", origin)
	s.exec(fmt.Sprintf(seedSQL, 1, n))
	return s.backlog(n, 1, n)
}

func (s *source) forget() { s.exec("SELECT pg_drop_replication_slot($1)", origin) }

// TestTransitions is TestDrain where every change makes an event.
func TestTransitions(t *testing.T) {
	gate(t)
	s := newSource(t)
	k := newBroker(t, singleServer(t))
	b := s.transitions(setting(t, "FFSTREAM_BENCH_EXECUTIONS", 8000) * 5)
	t.Logf("an event for every change: %d changes in as many transactions", b.changes)
	t.Log("\n" + rounds(b, []consumer{{"pg_recvlogical to /dev/null", recvlogical}, {"ffstream, R1", k.ffstream}}, setting(t, "FFSTREAM_BENCH_ROUNDS", 3)))
}

// TestWide drains one transaction of many rows.
func TestWide(t *testing.T) {
	gate(t)
	s := newSource(t)
	k := newBroker(t, singleServer(t))
	b := s.wide(setting(t, "FFSTREAM_BENCH_WIDE", 1000000))
	t.Logf("one transaction of %d rows, each an event", b.changes)
	t.Log("\n" + rounds(b, []consumer{{"pg_recvlogical to /dev/null", recvlogical}, {"ffstream, R1", k.ffstream}}, 1))
}

// TestDoubled drains a backlog and one of twice the size: the cost of a change
// must not grow.
func TestDoubled(t *testing.T) {
	gate(t)
	s := newSource(t)
	k := newBroker(t, singleServer(t))
	n := setting(t, "FFSTREAM_BENCH_EXECUTIONS", 8000)
	for _, size := range []int{n, 2 * n} {
		b := s.write(size)
		t.Logf("backlog of %d changes", b.changes)
		t.Log("\n" + rounds(b, []consumer{{"pg_recvlogical to /dev/null", recvlogical}, {"ffstream, R1", k.ffstream}}, setting(t, "FFSTREAM_BENCH_ROUNDS", 3)))
		s.forget()
	}
}

// TestIdentity prints what the replica identity costs the source.
func TestIdentity(t *testing.T) {
	gate(t)
	const executions, steps = 500, 4
	text := "\n| payload | replica identity | transitions/s | ratio | WAL bytes a transition | ratio |\n|---|---|---:|---:|---:|---:|\n"
	for _, payload := range []int{1, 100} {
		var base, baseWAL float64
		for _, identity := range []struct{ name, sql string }{
			{"default", "REPLICA IDENTITY DEFAULT"}, {"index (migrate)", ""}, {"full", "REPLICA IDENTITY FULL"},
		} {
			s := newSource(t, "DROP PUBLICATION ffstream") // so that no identity has to be covered
			for i := range 256 {
				if identity.sql == "" {
					break
				}
				s.exec(fmt.Sprintf("ALTER TABLE ff_exec_core_p%d %s", i, identity.sql))
				s.exec(fmt.Sprintf("DROP INDEX ff_exec_core_p%d_ffstream_identity", i))
			}
			s.exec(fmt.Sprintf(seedSQL, payload*16, executions))
			s.exec(fmt.Sprintf(turnSQL, 1, executions)) // caches, and the images of pages after a checkpoint
			before := s.text("SELECT pg_current_wal_insert_lsn()::text")
			began := time.Now()
			s.exec(fmt.Sprintf(turnSQL, steps, executions))
			took := time.Since(began)
			var wal float64
			if err := s.pool.QueryRow(context.Background(), "SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before).Scan(&wal); err != nil {
				t.Fatal(err)
			}
			rate, bytes := executions*steps/took.Seconds(), wal/(executions*steps)
			if base == 0 {
				base, baseWAL = rate, bytes
			}
			text += fmt.Sprintf("| %d KiB | %s | %.0f | %.2f | %.0f | %.2f |\n", payload, identity.name, rate, rate/base, bytes, bytes/baseWAL)
		}
	}
	t.Log(text)
}
