package repl

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/ffstream/ffstream"
)

// MinServerVersion is the oldest major version of Postgres whose publications
// have column lists.
const MinServerVersion = 15

// Config says which slot to hold and how.
type Config struct {
	// Conn names the server and the database. Open adds the replication
	// parameters to a copy.
	Conn *pgconn.Config
	// Slot is the slot's name: lower-case letters, digits and underscores, at most 63.
	Slot string
	// Publication is the name of the publication that the slot decodes for.
	Publication string
	// Messages makes the slot send logical messages too, everybody's.
	Messages bool
	// StatusInterval is the longest time between two standby status messages
	// while nothing is confirmed. Default 10 s, and never above a quarter of
	// the server's wal_sender_timeout, or of Silence.
	StatusInterval time.Duration
	// Silence is how long nothing may come from the server, while Run reads and asks
	// for a reply, until it is taken for gone. Default DefaultSilence, and never
	// below the server's wal_sender_timeout.
	Silence time.Duration
}

// DefaultSilence is what Config.Silence is when it is not set.
const DefaultSilence = 30 * time.Second

// System is the server at the other end.
type System struct {
	ID       uint64 // system identifier
	Timeline int32
	End      ffstream.LSN // flushed end of WAL when the connection was made
	Database string
	Version  string
}

// Slot is what pg_replication_slots says of the configured slot.
type Slot struct {
	Exists    bool
	Confirmed ffstream.LSN // confirmed_flush_lsn: the slot sends transactions that commit there or behind
	// Invalidated is why Postgres gave the slot up: its invalidation_reason where
	// it has one (17), else what wal_status stands for. Empty: it did not.
	Invalidated string
}

// Stream is one replication connection. Its methods belong to one goroutine at
// a time, but for Confirm, which any goroutine may call.
type Stream struct {
	cfg    Config
	system System
	slot   Slot

	pg   *pgconn.PgConn // until Start, then conn and in own the socket
	conn net.Conn
	in   *bufio.Reader // the socket's bytes behind the last message that pg read

	confirmed  atomic.Uint64 // greatest LSN given to Confirm
	reported   uint64        // what the last status message confirmed
	lastStatus time.Time
	silent     time.Duration // for how long reads have waited in vain
	free       chan *Batch   // batches to read into: receivers put them back; capacity is the number made
	carry      []byte        // an incomplete message at the end of the last batch
	pace       pace
	failed     bool // Run ended before its context did
}

// Open connects, identifies the server and looks at the slot. It changes
// nothing on the server. The caller must Close the stream.
func Open(ctx context.Context, cfg Config) (*Stream, error) {
	if cfg.StatusInterval == 0 {
		cfg.StatusInterval = 10 * time.Second
	}
	if cfg.Silence == 0 {
		cfg.Silence = DefaultSilence
	}
	s := &Stream{cfg: cfg}
	conn := cfg.Conn.Copy()
	conn.RuntimeParams["replication"] = "database"
	conn.RuntimeParams["application_name"] = "ffstream/" + cfg.Slot
	conn.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		s.in = bufio.NewReaderSize(r, handshakeBuffer)
		return pgproto3.NewFrontend(byteReader{s.in}, w)
	}
	dial := conn.DialFunc
	conn.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if tcp, ok := c.(interface{ SetReadBuffer(bytes int) error }); ok && err == nil {
			// A large window lets the walsender run ahead between two bulk reads.
			if err := tcp.SetReadBuffer(socketBuffer); err != nil {
				return nil, errors.Join(fmt.Errorf("set socket buffer: %w", err), c.Close())
			}
		}
		return c, err
	}
	pg, err := pgconn.ConnectConfig(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("connect to Postgres: %w", cfg.classify(stepConnect, redact(err)))
	}
	s.pg = pg
	if err := s.inspect(ctx); err != nil {
		return nil, errors.Join(err, s.Close(ctx))
	}
	return s, nil
}

const (
	handshakeBuffer = 64 << 10
	socketBuffer    = 2 << 20
)

// byteReader hands out one byte a read, so that the pgproto3 frontend, which
// reads ahead as far as its reader lets it, never holds bytes behind the
// message that it returned. The connection can then be taken over in place.
type byteReader struct{ r io.Reader }

func (b byteReader) Read(p []byte) (int, error) { return b.r.Read(p[:min(1, len(p))]) }

// redact removes the connection string from pgconn's errors: it holds the
// user's name and host twice and may hold more.
func redact(err error) error {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		if inner := connect.Unwrap(); inner != nil {
			return inner
		}
	}
	return err
}

// System returns the server at the other end.
func (s *Stream) System() System { return s.system }

// Slot returns the slot as Open found it or CreateSlot made it.
func (s *Stream) Slot() Slot { return s.slot }

func (s *Stream) inspect(ctx context.Context) error {
	s.system.Version = s.pg.ParameterStatus("server_version")
	if err := checkVersion(s.system.Version); err != nil {
		return err
	}
	id, err := pglogrepl.IdentifySystem(ctx, s.pg)
	if err != nil {
		return fmt.Errorf("identify system: %w", s.cfg.classify(stepConnect, err))
	}
	s.system.Timeline, s.system.End, s.system.Database = id.Timeline, ffstream.LSN(id.XLogPos), id.DBName
	if s.system.ID, err = strconv.ParseUint(id.SystemID, 10, 64); err != nil {
		return fmt.Errorf("identify system: system identifier %q is not a number", id.SystemID)
	}
	row, err := s.query(ctx, "SELECT pg_is_in_recovery()")
	if err != nil || row == nil {
		return fmt.Errorf("ask for recovery: %w", err)
	}
	if row[0] == "t" { // its slots and settings say nothing of the primary's
		return fmt.Errorf("%w: it is a standby, and the slot is the primary's: promote it, or let the database URL lead to the primary", ErrRecovery)
	}
	row, err = s.query(ctx, "SELECT setting FROM pg_settings WHERE name = 'wal_level'")
	if err != nil || row == nil {
		return fmt.Errorf("read wal_level: %w", err)
	}
	if row[0] != "logical" {
		return fmt.Errorf("%w: it is %s: set wal_level = logical and restart Postgres", ErrWALLevel, row[0])
	}
	if err := s.readTimeout(ctx); err != nil {
		return err
	}
	return s.readSlot(ctx)
}

// checkVersion refuses servers older than MinServerVersion by the text of the
// parameter server_version, such as "15.18 (Debian 15.18-0+deb12u1)".
func checkVersion(text string) error {
	digits := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(text)
	}
	major, err := strconv.Atoi(text[:digits])
	if err != nil {
		return fmt.Errorf("read server version: %q does not begin with a number", text)
	}
	if major < MinServerVersion {
		return fmt.Errorf("%w: it is Postgres %s, and publications have column lists since %d: upgrade the server", ErrServerTooOld, text, MinServerVersion)
	}
	return nil
}

// readTimeout bounds the status interval by the server's patience and by our own,
// which is no shorter.
func (s *Stream) readTimeout(ctx context.Context) error {
	row, err := s.query(ctx, "SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'")
	if err != nil || row == nil {
		return fmt.Errorf("read wal_sender_timeout: %w", err)
	}
	ms, err := strconv.Atoi(row[0])
	if err != nil {
		return fmt.Errorf("read wal_sender_timeout: %q is not a number of milliseconds", row[0])
	}
	timeout := time.Duration(ms) * time.Millisecond // 0: the server has none
	if timeout > 0 {
		s.cfg.StatusInterval = min(s.cfg.StatusInterval, timeout/4)
	}
	s.cfg.Silence = max(s.cfg.Silence, timeout)
	s.cfg.StatusInterval = min(s.cfg.StatusInterval, s.cfg.Silence/4)
	return nil
}

func (s *Stream) readSlot(ctx context.Context) error {
	row, err := s.query(ctx, `SELECT slot_type, coalesce(plugin, ''), coalesce(database, ''),
		coalesce(wal_status, ''), coalesce(confirmed_flush_lsn::text, ''), restart_lsn IS NULL,
		coalesce(to_jsonb(s) ->> 'invalidation_reason', CASE WHEN to_jsonb(s) -> 'conflicting' = 'true' THEN 'conflict with recovery' END, '')
		FROM pg_replication_slots s WHERE slot_name = '`+s.cfg.Slot+`'`)
	if err != nil {
		return fmt.Errorf("read replication slot %s: %w", s.cfg.Slot, err)
	}
	if row == nil {
		return nil
	}
	kind, plugin, database, status, confirmed, noRestart, reason := row[0], row[1], row[2], row[3], row[4], row[5], row[6]
	switch {
	case kind != "logical" || plugin != "pgoutput":
		return fmt.Errorf("%w: slot %s is %s with plugin %q, and ffstream reads pgoutput: name another slot (--slot)", ErrSlotForeign, s.cfg.Slot, kind, plugin)
	case database != s.system.Database:
		return fmt.Errorf("%w: slot %s is of database %q, and the URL names %q: name another slot (--slot) or correct the URL", ErrSlotForeign, s.cfg.Slot, database, s.system.Database)
	case reason == "" && (status == "lost" || noRestart == "t" && confirmed != ""):
		reason = "wal_removed" // the only reason before 16
	}
	lsn := ffstream.LSN(0)
	if confirmed != "" {
		if lsn, err = ffstream.ParseLSN(confirmed); err != nil {
			return fmt.Errorf("read replication slot %s: %w", s.cfg.Slot, err)
		}
	}
	s.slot = Slot{Exists: true, Confirmed: lsn, Invalidated: reason}
	return nil
}

// DropSlot drops the slot. While a process holds it that waits, as long as ctx lasts.
func (s *Stream) DropSlot(ctx context.Context) error {
	if err := pglogrepl.DropReplicationSlot(ctx, s.pg, s.cfg.Slot, pglogrepl.DropReplicationSlotOptions{Wait: true}); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", ErrSlotBusy, err)
		}
		return fmt.Errorf("drop replication slot %s: %w", s.cfg.Slot, s.cfg.classify(stepCreate, err))
	}
	s.slot = Slot{}
	return nil
}

// Fork returns where the server's history left a timeline; false when it never
// was on it. Call it before Start.
func (s *Stream) Fork(ctx context.Context, timeline int32) (ffstream.LSN, bool, error) {
	if timeline == s.system.Timeline {
		return 0, false, nil
	}
	history, err := pglogrepl.TimelineHistory(ctx, s.pg, s.system.Timeline)
	if err != nil {
		return 0, false, fmt.Errorf("read history of timeline %d: %w", s.system.Timeline, err)
	}
	for line := range strings.Lines(string(history.Content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != strconv.Itoa(int(timeline)) {
			continue
		}
		lsn, err := ffstream.ParseLSN(fields[1])
		if err != nil {
			return 0, false, fmt.Errorf("read history of timeline %d: %w", s.system.Timeline, err)
		}
		return lsn, true, nil
	}
	return 0, false, nil
}

// query returns the first row of a statement's result as text, nil when there
// is none. A replication connection knows the simple protocol only.
func (s *Stream) query(ctx context.Context, sql string) ([]string, error) {
	results, err := s.pg.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 || len(results[0].Rows) == 0 {
		return nil, nil
	}
	row := make([]string, len(results[0].Rows[0]))
	for i, v := range results[0].Rows[0] {
		row[i] = string(v)
	}
	return row, nil
}

// CreateSlot creates the slot. It returns when every transaction that was
// running has ended, which may take long.
func (s *Stream) CreateSlot(ctx context.Context) error {
	made, err := pglogrepl.CreateReplicationSlot(ctx, s.pg, s.cfg.Slot, "pgoutput",
		pglogrepl.CreateReplicationSlotOptions{Mode: pglogrepl.LogicalReplication, SnapshotAction: "NOEXPORT_SNAPSHOT"})
	if err != nil {
		return fmt.Errorf("create replication slot %s: %w", s.cfg.Slot, s.cfg.classify(stepCreate, err))
	}
	lsn, err := ffstream.ParseLSN(made.ConsistentPoint)
	if err != nil {
		return fmt.Errorf("create replication slot %s: %w", s.cfg.Slot, err)
	}
	s.slot = Slot{Exists: true, Confirmed: lsn}
	return nil
}

// Start begins replication at the slot's confirmed position. From here on the
// slot is this process's alone.
func (s *Stream) Start(ctx context.Context) error {
	name := `"` + strings.ReplaceAll(s.cfg.Publication, `"`, `""`) + `"`
	args := []string{
		"proto_version '1'",
		"publication_names '" + strings.ReplaceAll(name, "'", "''") + "'",
		"binary 'true'",
	}
	if s.cfg.Messages {
		args = append(args, "messages 'true'")
	}
	err := pglogrepl.StartReplication(ctx, s.pg, s.cfg.Slot, 0, pglogrepl.StartReplicationOptions{Mode: pglogrepl.LogicalReplication, PluginArgs: args})
	if err != nil {
		return fmt.Errorf("start replication from slot %s: %w", s.cfg.Slot, s.cfg.classify(stepStart, err))
	}
	hijacked, err := s.pg.Hijack()
	if err != nil {
		return fmt.Errorf("take over connection: %w", err)
	}
	s.pg, s.conn = nil, hijacked.Conn
	s.confirmed.Store(uint64(s.slot.Confirmed))
	s.lastStatus = time.Now()
	return nil
}

// Confirm says that everything that commits before lsn is stored. The next
// status message tells the server. Zero, and what is behind an earlier call,
// is ignored.
func (s *Stream) Confirm(lsn ffstream.LSN) {
	for {
		old := s.confirmed.Load()
		if uint64(lsn) <= old || s.confirmed.CompareAndSwap(old, uint64(lsn)) {
			return
		}
	}
}

// Confirmed returns the greatest LSN that was given to Confirm, or that the slot
// had when it was started.
func (s *Stream) Confirmed() ffstream.LSN { return ffstream.LSN(s.confirmed.Load()) }
