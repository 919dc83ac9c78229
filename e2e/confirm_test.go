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
	w.exec("ALTER DATABASE " + w.db.Name + " SET wal_sender_timeout = '4s'")
	env := w.env()
	broker := through(t, env["FFSTREAM_NATS_URL"])
	env["FFSTREAM_NATS_URL"] = broker.url
	p := start(t, env, "run")
	w.awaitActive(p)
	e := &engine.Engine{Version: engine.Newest}
	stories := engine.StoriesOf(engine.Newest)
	w.play(e, &stories[0], engine.Exec{Partition: 1, ID: uuid.New()})
	w.caughtUp(p)

	broker.silence()
	ctx := context.Background()
	w.play(e, &stories[0], engine.Exec{Partition: 2, ID: uuid.New()})
	// Two more status messages: what was read before the first was confirmed
	// wrongly would show in the second.
	for range 2 {
		w.statusSent()
	}
	var confirmed uint64
	if err := w.db.Pool.QueryRow(ctx, "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = $1", w.slot).Scan(&confirmed); err != nil {
		t.Fatal(err)
	}

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
	if first := o.want[3]; fmt.Sprintf("%016X", confirmed) > first.position[:16] {
		t.Errorf("the slot was confirmed to %X, over an event that was not stored: %s", confirmed, first.position)
	}
	again.stop()
}

// statusSent waits for the next standby status message.
func (w *world) statusSent() {
	w.t.Helper()
	ctx := context.Background()
	var now string
	if err := w.db.Pool.QueryRow(ctx, "SELECT clock_timestamp()::text").Scan(&now); err != nil {
		w.t.Fatal(err)
	}
	await(w.t, "a standby status message", func() (bool, string) {
		var sent bool
		err := w.db.Pool.QueryRow(ctx, `SELECT coalesce(bool_or(r.reply_time > $1::timestamptz), false) FROM pg_stat_replication r
			JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE s.slot_name = $2`, now, w.slot).Scan(&sent)
		if err != nil {
			w.t.Fatal(err)
		}
		return sent, now
	})
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
