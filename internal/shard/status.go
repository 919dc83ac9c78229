package shard

import (
	"sync"
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/normalize"
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

	ServerEnd ffstream.LSN // the server's end of WAL, as far as it has told
	Received  ffstream.LSN // end of the latest commit or keepalive that was read
	Confirmed ffstream.LSN // what the slot may forget
	Position  ffstream.Position
	Sequence  uint64 // of the latest event added, in the stream
	Acked     uint64 // sequence up to which everything is stored
	InFlight  int    // events added and not acknowledged
	// CommitTime is the time of the latest transaction that was read.
	CommitTime time.Time

	Sessions   uint64 // that were established
	Retries    uint64
	Events     map[ffstream.PublicState]uint64
	Normalizer normalize.Stats
}

// Lag is how many bytes of WAL the server is ahead of what is confirmed.
func (s *Status) Lag() uint64 {
	if s.ServerEnd < s.Confirmed {
		return 0
	}
	return uint64(s.ServerEnd - s.Confirmed)
}

// board is the status that the running session writes and Status copies.
type board struct {
	mu sync.Mutex // guards status
	status
}

type status = Status

func (b *board) update(f func(*Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f(&b.status)
}

func (b *board) snapshot() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	s.Events = make(map[ffstream.PublicState]uint64, len(b.Events))
	for state, n := range b.Events {
		s.Events[state] = n
	}
	return s
}
