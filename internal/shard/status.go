package shard

import (
	"maps"
	"sync"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
	"github.com/ffstream/ffstream/internal/publish"
)

// Role says what a shard is doing.
type Role string

// The roles of a shard.
const (
	RoleConnecting Role = "connecting" // waiting for a server, or between two sessions
	RoleStandby    Role = "standby"    // another process holds the slot
	RoleActive     Role = "active"     // following the slot
	RoleStopped    Role = "stopped"
)

// Status is a shard at one moment. It is a copy and belongs to the caller.
type Status struct {
	Role      Role
	Slot      string
	Stream    string
	SystemID  uint64
	Server    string // version of Postgres
	Atomic    bool   // transactions are stored atomically
	Since     time.Time
	LastError string // of the latest session that failed; empty while all is well
	// LastFailure stays when all is well again.
	LastFailure Failure

	ServerEnd ffstream.LSN // the server's end of WAL, as far as it has told
	Received  ffstream.LSN // end of the latest commit or keepalive that was read
	Confirmed ffstream.LSN // what the slot may forget
	Position  ffstream.Position
	Sequence  uint64 // of the latest event added, in the stream
	Acked     uint64 // sequence up to which everything is stored
	InFlight  int    // events added and not acknowledged
	// InFlightBytes is how many bytes of events are sent and not acknowledged, and
	// Window how much may be: it is small until the broker's speed is known.
	InFlightBytes int
	Window        publish.Window
	Told          uint64 // sequence of the latest event added that is no snapshot; 0: none by this session
	// CommitTime is the time of the latest transaction that was read.
	CommitTime time.Time

	// The counters are of the whole run, over all sessions.
	Sessions   uint64                          // that were established
	Retries    map[string]uint64               // by cause
	Events     map[ffstream.PublicState]uint64 // by the state entered; empty for corrupt rows and truncations
	Normalizer normalize.Stats
	Snapshots  uint64 // events that backfills added, without those of their progress
	// ReadWAL is how many bytes of the log were read or passed over, what is read
	// again too; StoredBytes how many bytes of events were acknowledged.
	ReadWAL, StoredBytes uint64
	Rates                Rates

	Backfill Backfilling
	// States is a state bucket, filled in by whoever keeps one.
	States    States
	Heartbeat Heartbeat
	Probed    Probed
}

// Failure is a session that failed, or could not be established, and was tried
// again. What only waits for another process is none.
type Failure struct {
	At    time.Time // zero: there was none
	Cause string    // one of Causes
	Error string
}

// States is how far a state bucket is.
type States struct {
	Bucket   string // empty: there is none
	Sequence uint64 // in the stream, up to which the bucket has everything
	Written  uint64
	Building bool
	Error    string
}

// Behind is how far the stream is behind the database: the age of what was read
// last while there is more to read or to store, else 0, and 0 unless active. What
// was read last is a transaction or a heartbeat. Where other writers move the log
// on, a heartbeat tells how long that takes: nothing is behind by more than the
// latest took, until the next is overdue. Snapshots on their way delay nobody.
func (s *Status) Behind(now time.Time) time.Duration {
	if s.Role != RoleActive || s.CommitTime.IsZero() {
		return 0
	}
	read, h := now.Sub(s.CommitTime), &s.Heartbeat
	if h.Sent.After(s.CommitTime) {
		read = now.Sub(h.Sent)
	}
	switch {
	case s.Told > s.Acked:
	case s.Received >= max(s.ServerEnd, s.Probed.End):
		return 0
	case h.Count > 0:
		read = min(read, max(h.Delay, now.Sub(h.Sent)-h.Interval))
	}
	return max(0, read)
}

// Lag is how many bytes of WAL the server is ahead of what is confirmed.
func (s *Status) Lag() uint64 {
	end := max(s.ServerEnd, s.Probed.End)
	confirmed := max(s.Confirmed, s.Probed.Confirmed)
	if end < confirmed {
		return 0
	}
	return uint64(end - confirmed)
}

// board is the status that the running session writes and Status copies.
type board struct {
	mu sync.Mutex // guards what follows
	status
	sampler sampler
}

type status = Status

func (b *board) update(f func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.status)
}

// count is update, and what the counters are then is noted for the rates.
func (b *board) count(f func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.status)
	b.sampler.take(time.Now(), countsOf(&b.status))
}

func (b *board) snapshot() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	s.Rates = b.sampler.rates(time.Now())
	s.Events = make(map[ffstream.PublicState]uint64, len(b.Events))
	maps.Copy(s.Events, b.Events)
	s.Retries = maps.Clone(b.Retries)
	s.Normalizer.Corrupt = maps.Clone(b.Normalizer.Corrupt)
	return s
}
