package doctor

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// failoverVersion is the first major version that synchronises slots to standbys.
const failoverVersion = 17

// failover looks whether a standby that is promoted has the slot.
func failover(ctx context.Context, tx pgx.Tx, cfg Config) (Finding, error) {
	n, _, err := setting(ctx, tx, "server_version_num")
	if err != nil {
		return Finding{}, err
	}
	// Every role sees that these exist. Whatever serves no logical slot is taken for a standby.
	standbys, database := 0, ""
	err = tx.QueryRow(ctx, `SELECT count(*), current_database() FROM pg_catalog.pg_stat_replication r
		WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')`).Scan(&standbys, &database)
	if err != nil {
		return Finding{}, fmt.Errorf("count standbys: %w", err)
	}
	s, exists, err := readSlot(ctx, tx, cfg.Slot)
	if err != nil {
		return Finding{}, err
	}
	synchronised := false
	if exists && n >= failoverVersion*10000 { // else there is no such column
		if err := tx.QueryRow(ctx, "SELECT failover FROM pg_catalog.pg_replication_slots WHERE slot_name = $1", cfg.Slot).Scan(&synchronised); err != nil {
			return Finding{}, fmt.Errorf("read failover of slot %s: %w", cfg.Slot, err)
		}
	}
	return judgeFailover(int(n/10000), standbys, exists && s.kind == "logical", synchronised, cfg.Slot, database), nil
}

func judgeFailover(version, standbys int, exists, synchronised bool, slot, database string) Finding {
	switch {
	case standbys == 0:
		return Finding{Severity: OK, Found: "no standby follows the server"}
	case version < failoverVersion:
		return Finding{Severity: OK, Found: fmt.Sprintf("a standby that is promoted has no slot: Postgres synchronises them since %d, and the service then says what is lost", failoverVersion)}
	case !exists:
		return Finding{Severity: OK, Found: "slot " + slot + " does not exist yet"}
	case synchronised:
		return Finding{Severity: OK, Found: "slot " + slot + " is synchronised to standbys that have sync_replication_slots on"}
	}
	return Finding{
		Severity: Warning, Found: fmt.Sprintf("standbys: %d, and slot %s is not synchronised to them", standbys, slot),
		Why: "a standby that is promoted has no slot, and the stream has a gap. Run this with the service stopped; each standby needs sync_replication_slots and hot_standby_feedback on, primary_slot_name, and dbname in primary_conninfo; " +
			"name their slots in synchronized_standby_slots of this server",
		Run: []string{fmt.Sprintf(`psql %s -c 'ALTER_REPLICATION_SLOT "%s" (FAILOVER true)'`, quoted("dbname="+value(database)+" replication=database"), slot)},
	}
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// value is a value as a connection string has it.
func value(text string) string {
	if plain.MatchString(text) {
		return text
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
}

// quoted is a text as one word of the shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
