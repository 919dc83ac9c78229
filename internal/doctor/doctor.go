// Package doctor looks at a source as an operator would and says what is wrong,
// why it matters and what mends it. It changes nothing: each check is a
// read-only transaction of its own with short timeouts, over the catalog and a
// bounded sample of rows.
package doctor

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ffstream/ffstream/migrations"
)

// Severity is how bad a finding is.
type Severity string

// The severities.
const (
	OK      Severity = "ok"
	Warning Severity = "warning" // the service works, for now or at a price
	Fault   Severity = "fault"   // the service does not start or will stop
)

// Finding is one thing that was looked at. Why, Remedy and Run are empty when it
// is OK.
type Finding struct {
	ID       string   `json:"id"` // stable
	Severity Severity `json:"severity"`
	Found    string   `json:"found"`
	Why      string   `json:"why,omitempty"`
	Remedy   []string `json:"remedy,omitempty"`  // SQL, one statement each, in order
	Command  string   `json:"command,omitempty"` // shell command that runs all of Remedy
	Restart  bool     `json:"restart,omitempty"` // of Postgres, after the SQL
	Run      []string `json:"run,omitempty"`     // shell commands, after the SQL
}

// Config names what is looked at.
type Config struct {
	migrations.Config
	Slot string
}

// check is one look; it returns the finding without its ID.
type check struct {
	id   string
	look func(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error)
}

// checks are the looks at a source, in the order in which an operator would mend.
var checks = []check{
	{"version", version},
	{"pooler", pooler},
	{"wal-level", walLevel},
	{"replication-slots", replicationSlots},
	{"wal-senders", walSenders},
	{"role-replication", role},
	{"grants", grants},
	{"heartbeat", heartbeat},
	{"backfill", backfill},
	{"engine-schema", engineSchema},
	{"source", source},
	{"literals", literals},
	{"slot", slot},
	{"slot-wal", slotWAL},
	{"failover", failover},
	{"slot-keep-size", keepSize},
	{"idle-slot-timeout", idleTimeout},
	{"wal-sender-timeout", senderTimeout},
	{"locks", locks},
	{"clock", clock},
}

// Source looks at the database behind conn, which must be in no transaction.
// A check that fails, for want of a right for instance, is a fault of its own
// and ends no other; so is each for which ctx left no time. What a lock or a busy
// server kept from its answer is asked once more.
func Source(ctx context.Context, conn *pgx.Conn, cfg Config) []Finding {
	findings := make([]Finding, 0, len(checks))
	for _, c := range checks {
		findings = append(findings, inspect(ctx, conn, cfg, c))
	}
	return findings
}

func inspect(ctx context.Context, conn *pgx.Conn, cfg Config, c check) Finding {
	f, err := look(ctx, conn, cfg, c)
	if cutOff(err) {
		f, err = look(ctx, conn, cfg, c)
	}
	switch {
	case ctx.Err() != nil: // whatever the connection says of that
		f = unseen()
	case cutOff(err):
		f = Finding{Severity: Fault, Found: err.Error(), Why: "what cannot be looked at may be wrong: ask again when the server has less to do and no lock is held"}
	case err != nil:
		f = Finding{Severity: Fault, Found: err.Error(), Why: "what cannot be looked at may be wrong"}
	}
	f.ID = c.id
	return f
}

// Unseen is the finding of a look that had no time, see Source and Stream.
func Unseen(id string) Finding {
	f := unseen()
	f.ID = id
	return f
}

func unseen() Finding {
	return Finding{Severity: Fault, Found: "there was no time to look", Why: "what cannot be looked at may be wrong: give it longer (--timeout)"}
}

// cutOff reports whether a look was ended by one of its own timeouts.
func cutOff(err error) bool {
	const queryCanceled, lockNotAvailable = "57014", "55P03"
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == queryCanceled || pg.Code == lockNotAvailable)
}

func look(ctx context.Context, conn *pgx.Conn, cfg Config, c check) (f Finding, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = '2s'"); err != nil {
			return fmt.Errorf("set statement_timeout: %w", err)
		}
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = '100ms'"); err != nil {
			return fmt.Errorf("set lock_timeout: %w", err)
		}
		f, err = c.look(ctx, tx, cfg)
		return err
	})
	return f, err
}
