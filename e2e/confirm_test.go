package e2e

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream/internal/testenv/engine"
	"github.com/ffstream/ffstream/migrations"
)

// TestUnstoredIsUnconfirmed: while NATS takes nothing the slot keeps everything,
// though status messages go on; and a service that therefore cannot end is ended
// at once by a second signal. Nothing is lost.
func TestUnstoredIsUnconfirmed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	o := newOracle(w)
	// The service reports four times within the server's patience.
	w.exec("ALTER DATABASE " + w.db.Name + " SET wal_sender_timeout = '8s'")
	env := w.env()
	broker := through(t, env["FFSTREAM_NATS_URL"])
	env["FFSTREAM_NATS_URL"] = broker.url
	p := start(t, env, "run")
	w.awaitActive(p)
	e := &engine.Engine{Version: engine.Newest}
	stories := engine.StoriesOf(engine.Newest)
	w.play(e, &stories[0], engine.Exec{Partition: 1, ID: uuid.New()})
	w.caughtUp(p)

	// Two more status messages: what was read before the first was confirmed
	// wrongly would show in the second.
	var confirmed uint64
	round := 1
	for ; ; round++ {
		sender := w.sender()
		broker.silence()
		w.play(e, &stories[0], engine.Exec{Partition: int16(1 + round), ID: uuid.New()})
		sent := true
		for range 2 {
			sent = sent && w.statusSent(sender)
		}
		if sent {
			break
		}
		if round == 5 {
			t.Fatalf("the server ended %d connections for want of status messages: %s", round, p.output())
		}
		broker.heal() // the service was stopped for so long, and begins anew
		w.caughtUp(p)
	}
	w.must(w.db.Pool.QueryRow(t.Context(), "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1", w.slot).Scan(&confirmed))

	p.signal(syscall.SIGTERM)
	await(t, "the first signal to be heard", func() (bool, string) { return strings.Contains(p.output(), "stopping"), p.output() })
	p.signal(syscall.SIGTERM)
	p.code()
	if status := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() {
		t.Errorf("the second signal did not end the program: exit code %d: %s", status.ExitStatus(), p.output())
	}
	broker.heal()
	again := w.run()
	w.caughtUp(again)
	o.compare()
	if first := o.want[3*round]; fmt.Sprintf("%016X", confirmed) > first.position[:16] {
		t.Errorf("the slot was confirmed to %X, over an event that was not stored: %s", confirmed, first.position)
	}
	again.stop()
}

// anySender is whoever holds the slot.
const anySender = 0

// sender waits for a WAL sender to hold the slot, and gives its process.
func (w *world) sender() (pid int) {
	w.t.Helper()
	await(w.t, "the slot to be held", func() (bool, string) {
		w.must(w.db.Pool.QueryRow(context.Background(), "SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = $1", w.slot).Scan(&pid))
		return pid != 0, ""
	})
	return pid
}

// statusSent waits for the next standby status message to a WAL sender. It is false
// when that holds the slot no more: it gave up a client that said nothing for too long.
func (w *world) statusSent(to int) (sent bool) {
	w.t.Helper()
	ctx := context.Background()
	var now string
	w.must(w.db.Pool.QueryRow(ctx, "SELECT clock_timestamp()::text").Scan(&now))
	await(w.t, "a standby status message", func() (bool, string) {
		var there bool
		w.must(w.db.Pool.QueryRow(ctx, `SELECT count(*) > 0, coalesce(bool_or(r.reply_time > $1::timestamptz), false) FROM pg_stat_replication r
			JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_name = $2 AND $3 IN (0, r.pid)`, now, w.slot, to).Scan(&there, &sent))
		return sent || !there && to != anySender, now
	})
	return sent
}

// TestIdleTables: a log that grows by other tables alone is confirmed too, so
// that idle tables hold no WAL.
func TestIdleTables(t *testing.T) {
	t.Parallel()
	w := newWorld(t, migrations.EngineNewest)
	p := w.run()
	w.exec("CREATE TABLE other (v text)")
	w.exec("INSERT INTO other SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
	w.caughtUp(p)
	p.stop()
}
