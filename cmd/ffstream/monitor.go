package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/shard"
)

const probeSQL = `SELECT s.slot_name IS NOT NULL, coalesce(s.active, false), coalesce(s.wal_status, ''), s.safe_wal_size,
	coalesce(s.restart_lsn::text, '0/0'), coalesce(s.confirmed_flush_lsn::text, '0/0'), e.lsn::text, e.recovery
	FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn, pg_is_in_recovery() AS recovery) e
	LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = $1`

// probe looks at the slot.
func (s *source) probe(ctx context.Context, slot string) (h shard.SlotHealth, err error) {
	err = s.use(ctx, func(c *pgx.Conn) error {
		var safe *int64
		var restart, confirmed, end string
		if err := c.QueryRow(ctx, probeSQL, slot).Scan(&h.Exists, &h.Active, &h.WALStatus, &safe, &restart, &confirmed, &end, &h.Recovery); err != nil {
			return fmt.Errorf("look at replication slot %s: %w", slot, err)
		}
		if safe != nil {
			h.SafeWAL = ffstream.Some(*safe)
		}
		var errs [3]error
		h.Restart, errs[0] = ffstream.ParseLSN(restart)
		h.Confirmed, errs[1] = ffstream.ParseLSN(confirmed)
		h.End, errs[2] = ffstream.ParseLSN(end)
		return errors.Join(errs[:]...)
	})
	return h, err
}

// The message belongs to no transaction. The transaction around it takes an id
// and commits for one reason: its commit flushes the log, which before Postgres
// 17 nothing else would do for the message on an idle server. It waits for no
// standby.
const emitSQL = `SELECT set_config('synchronous_commit', 'local', true), pg_logical_emit_message(false, $1, $2), pg_current_xact_id()::text`

// heartbeat writes a logical message into the log.
func (s *source) heartbeat(ctx context.Context, prefix, content string) error {
	if err := s.emit(ctx, prefix, content); err != nil {
		return fmt.Errorf("write heartbeat: %w", err)
	}
	return nil
}

// emit writes a logical message that belongs to no transaction, flushed.
func (s *source) emit(ctx context.Context, prefix, content string) error {
	return s.use(ctx, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, emitSQL, prefix, content)
		return err
	})
}

// checkAddr checks host:port.
func checkAddr(flag, addr string) error {
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return usagef("%s %q: want host:port, such as 127.0.0.1:9464, or off", flag, addr)
	}
	return nil
}
