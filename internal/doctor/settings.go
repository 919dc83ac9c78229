package doctor

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream/migrations"
)

const (
	// minVersion is the first major version whose publications have column lists.
	minVersion = 15
	// minSenderTimeout is the patience below which a busy moment costs a connection.
	minSenderTimeout = 10_000 // milliseconds
	maxSkew          = 2 * time.Second
)

// setting reads a parameter in its unit; missing for one that the server lacks.
func setting(ctx context.Context, tx pgx.Tx, name string) (value int64, missing bool, err error) {
	var text *int64
	if err := tx.QueryRow(ctx, "SELECT (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = $1)", name).Scan(&text); err != nil {
		return 0, false, fmt.Errorf("read %s: %w", name, err)
	}
	if text == nil {
		return 0, true, nil
	}
	return *text, false, nil
}

const reload = "SELECT pg_reload_conf()"

func version(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	n, _, err := setting(ctx, tx, "server_version_num")
	f := Finding{Severity: OK, Found: fmt.Sprintf("Postgres %d.%d", n/10000, n%10000)}
	if n < minVersion*10000 {
		f.Severity, f.Why = Fault, fmt.Sprintf("publications have column lists since %d: upgrade the server", minVersion)
	}
	return f, err
}

// pooler tells a connection that is handed on by the process that answers: it is
// not the one that said hello.
func pooler(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	var pid uint32
	if err := tx.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return Finding{}, fmt.Errorf("read the process: %w", err)
	}
	if pid == tx.Conn().PgConn().PID() {
		return Finding{Severity: OK, Found: "the connection goes to the server itself"}, nil
	}
	return Finding{
		Severity: Fault, Found: fmt.Sprintf("process %d answers, and process %d said hello", pid, tx.Conn().PgConn().PID()),
		Why: "a connection pooler stands between, and poolers pass no replication: name the server itself in --database-url",
	}, nil
}

func walLevel(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	var level string
	if err := tx.QueryRow(ctx, "SELECT current_setting('wal_level')").Scan(&level); err != nil {
		return Finding{}, fmt.Errorf("read wal_level: %w", err)
	}
	f := Finding{Severity: OK, Found: "wal_level is " + level}
	if level != "logical" {
		f.Severity, f.Why, f.Restart = Fault, "a logical slot needs wal_level logical", true
		f.Remedy = []string{"ALTER SYSTEM SET wal_level = 'logical'"}
	}
	return f, nil
}

// spare judges a bounded resource of which this service needs one more.
func spare(name string, used, bound, need int64) Finding {
	f := Finding{Severity: OK, Found: fmt.Sprintf("%s is %d, of which others use %d", name, bound, used)}
	if used+need > bound {
		f.Severity, f.Why, f.Restart = Fault, "the service needs one of its own, and none is free", true
		f.Remedy = []string{fmt.Sprintf("ALTER SYSTEM SET %s = %d", name, max(10, used+2*need))}
	}
	return f
}

func replicationSlots(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error) {
	bound, _, err := setting(ctx, tx, "max_replication_slots")
	if err != nil {
		return Finding{}, err
	}
	var used int64
	if err := tx.QueryRow(ctx, "SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name <> $1", cfg.Slot).Scan(&used); err != nil {
		return Finding{}, fmt.Errorf("count replication slots: %w", err)
	}
	return spare("max_replication_slots", used, bound, 1), nil
}

func walSenders(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error) {
	bound, _, err := setting(ctx, tx, "max_wal_senders")
	if err != nil {
		return Finding{}, err
	}
	var used int64
	// Every role sees these, and of pg_stat_activity its own rows alone.
	err = tx.QueryRow(ctx, `SELECT count(*) FROM pg_catalog.pg_stat_replication r
		WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_name = $1)`, cfg.Slot).Scan(&used)
	if err != nil {
		return Finding{}, fmt.Errorf("count WAL senders: %w", err)
	}
	return spare("max_wal_senders", used, bound, 1), nil
}

func keepSize(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	megabytes, _, err := setting(ctx, tx, "max_slot_wal_keep_size")
	f := Finding{Severity: OK, Found: fmt.Sprintf("max_slot_wal_keep_size is %d MB", megabytes)}
	if megabytes < 0 {
		f.Severity, f.Found = Warning, "max_slot_wal_keep_size is -1: the log that a slot needs is kept without bound"
		f.Why = "when the service or the broker is away for long the server's disk fills up and the engine stops; with a bound the slot is given up instead, and the stream has a gap. Choose what the disk has to spare"
		f.Remedy = []string{"ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'", reload}
	}
	return f, err
}

func idleTimeout(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	v, missing, err := setting(ctx, tx, "idle_replication_slot_timeout")
	switch {
	case missing:
		return Finding{Severity: OK, Found: "this server gives up no slot for being idle"}, err
	case v == 0:
		return Finding{Severity: OK, Found: "idle_replication_slot_timeout is 0"}, err
	}
	return Finding{
		Severity: Warning, Found: fmt.Sprintf("idle_replication_slot_timeout is %d", v),
		Why:    "a slot whose service is away for longer is given up, and the stream has a gap",
		Remedy: []string{"ALTER SYSTEM SET idle_replication_slot_timeout = 0", reload},
	}, err
}

func senderTimeout(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	ms, _, err := setting(ctx, tx, "wal_sender_timeout")
	f := Finding{Severity: OK, Found: fmt.Sprintf("wal_sender_timeout is %d ms", ms)}
	switch {
	case ms == 0:
		f.Severity, f.Why = Warning, "a service whose machine vanished holds the slot until TCP gives it up, and no standby can take over"
	case ms < minSenderTimeout:
		f.Severity, f.Why = Warning, "a service that is slow for a moment loses its connection"
	}
	if f.Severity != OK {
		f.Remedy = []string{"ALTER SYSTEM SET wal_sender_timeout = '60s'", reload}
	}
	return f, err
}

// locks is a warning and no fault: a small lock table serves a server with few
// connections.
func locks(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	table, err := migrations.ReadLockTable(ctx, tx)
	f := Finding{Severity: OK, Found: table.String()}
	if table.Small() {
		f.Severity, f.Restart = Warning, true
		f.Why = fmt.Sprintf("a statement that reads ff_exec_core and names no partition key locks each of its 256 leaves and each index of a leaf, 1794 objects "+
			"with the indexes of ffstream migrate. Under load such statements, and the engine's, may fail with \"out of shared memory\". The engine asks for %d at least and recommends 512",
			migrations.MinLocksPerTransaction)
		f.Remedy = []string{migrations.LockRemedy()}
	}
	return f, err
}

// clock compares this machine's clock with the server's, within what the question
// itself took.
func clock(ctx context.Context, tx pgx.Tx, _ Config) (Finding, error) {
	var there time.Time
	before := time.Now()
	if err := tx.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&there); err != nil {
		return Finding{}, fmt.Errorf("read the clock: %w", err)
	}
	after := time.Now()
	return skew("Postgres", there, before, after), nil
}

// skew judges a clock that was read between two moments of this machine's.
func skew(whose string, there, before, after time.Time) Finding {
	off := time.Duration(0)
	if there.Before(before) {
		off = there.Sub(before)
	} else if there.After(after) {
		off = there.Sub(after)
	}
	f := Finding{Severity: OK, Found: fmt.Sprintf("the clock of %s and this machine's differ by %s at least", whose, off.Abs().Round(time.Millisecond))}
	if off.Abs() > maxSkew {
		f.Severity, f.Why = Warning, "delays in the status and metrics are wrong by so much; the order and the completeness of the stream do not depend on clocks"
		f.Run = []string{"timedatectl set-ntp true"}
	}
	return f
}
