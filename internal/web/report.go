package web

import (
	"time"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/shard"
)

// Report is the body of /status. Times are RFC 3339, durations seconds, LSNs and
// positions text; what is not known is null. Counters begin with the process.
// Fields are only ever added.
type Report struct {
	Version   string    `json:"version"`
	Role      string    `json:"role"` // connecting, standby, active, stopped
	Since     time.Time `json:"since"`
	LastError *string   `json:"last_error"` // null while active
	// LastFailure stays when the service is active again.
	LastFailure *Failure `json:"last_failure"`

	Postgres Postgres  `json:"postgres"`
	Stream   Stream    `json:"stream"`
	Lag      Lag       `json:"lag"`
	Rates    Rates     `json:"rates"`
	Counters Counters  `json:"counters"`
	Backfill *Backfill `json:"backfill"` // the latest that this process saw
	States   *States   `json:"state_bucket"`
}

// Failure is the latest session that failed and was tried again.
type Failure struct {
	Time  time.Time `json:"time"`
	Cause string    `json:"cause"` // as in ffstream_retries_total
	Error string    `json:"error"`
}

// Rates are a second's worth, over a window that ends now.
type Rates struct {
	WindowSeconds float64 `json:"window_seconds"` // less than 30 in a young process
	Transactions  float64 `json:"transactions"`
	Rows          float64 `json:"rows"`
	Events        float64 `json:"events"`
	Snapshots     float64 `json:"snapshots"`
	WALBytes      float64 `json:"wal_bytes"`    // of the log, read or passed over
	StreamBytes   float64 `json:"stream_bytes"` // of events, stored
}

func newRates(r *shard.Rates) Rates {
	return Rates{
		WindowSeconds: r.Window.Seconds(), Transactions: r.Transactions, Rows: r.Rows, Events: r.Events,
		Snapshots: r.Snapshots, WALBytes: r.ReadWAL, StreamBytes: r.Stored,
	}
}

// States is the state bucket.
type States struct {
	Bucket   string  `json:"bucket"`
	Sequence uint64  `json:"sequence"` // in the stream, up to which it has everything
	Written  uint64  `json:"written"`
	Building bool    `json:"building"`
	Error    *string `json:"error"`
}

// Backfill is the backfill that was ordered last.
type Backfill struct {
	Run        string     `json:"run"`
	State      string     `json:"state"` // waiting, running, paused, completed, cancelled
	Waiting    *string    `json:"waiting"`
	Error      *string    `json:"error"` // of the latest try, while it is tried again
	Chunks     uint64     `json:"chunks"`
	Executions uint64     `json:"executions"` // looked at
	Published  uint64     `json:"published"`
	Superseded uint64     `json:"superseded"`
	Total      uint64     `json:"total"` // about; 0: not known
	Rate       float64    `json:"executions_per_second"`
	Remaining  *float64   `json:"remaining_seconds"`
	Started    *time.Time `json:"started"`
	Ended      *time.Time `json:"ended"`
}

func newBackfill(s *shard.Status) *Backfill {
	b := &s.Backfill
	if b.Run == "" {
		return nil
	}
	r := &Backfill{
		Run: b.Run, State: string(b.State), Waiting: text(b.Waiting), Error: text(b.Error), Chunks: b.Chunks, Executions: b.Executions,
		Published: b.Published, Superseded: b.Superseded, Total: b.Total, Rate: b.Rate, Started: moment(b.Started), Ended: moment(b.Ended),
	}
	if left, ok := b.Remaining(); ok {
		seconds := left.Seconds()
		r.Remaining = &seconds
	}
	return r
}

// Postgres is the source's end.
type Postgres struct {
	SystemIdentifier string `json:"system_identifier"`
	Server           string `json:"server"`
	Slot             Slot   `json:"slot"`
	ReceivedLSN      string `json:"received_lsn"`
	ConfirmedLSN     string `json:"confirmed_lsn"`
	EndLSN           string `json:"end_lsn"`
}

// Slot is the slot as the server shows it.
type Slot struct {
	Name           string     `json:"name"`
	LookedAt       *time.Time `json:"looked_at"`
	Error          *string    `json:"error"` // of the latest look
	Exists         bool       `json:"exists"`
	Active         bool       `json:"active"`
	WALStatus      string     `json:"wal_status"`
	SafeWALBytes   *int64     `json:"safe_wal_bytes"`
	RetainedBytes  uint64     `json:"retained_wal_bytes"`
	WALBytesSecond float64    `json:"wal_bytes_per_second"`
	RunwaySeconds  *float64   `json:"runway_seconds"`
}

// Stream is JetStream's end.
type Stream struct {
	Name          string            `json:"name"`
	Atomic        bool              `json:"atomic"`
	Position      ffstream.Position `json:"position"`
	Sequence      uint64            `json:"sequence"`
	AckedSequence uint64            `json:"acked_sequence"`
	InFlight      int               `json:"in_flight"`
	InFlightBytes int               `json:"in_flight_bytes"` // of those that are sent
	Window        Window            `json:"window"`
}

// Window bounds what is in flight; 0 before the first session.
type Window struct {
	Events int `json:"events"`
	Bytes  int `json:"bytes"`
}

// Lag is how far the stream is behind the database.
type Lag struct {
	Bytes                 uint64     `json:"bytes"`
	Seconds               float64    `json:"seconds"` // 0 unless active
	LastCommit            *time.Time `json:"last_commit"`
	HeartbeatDelaySeconds *float64   `json:"heartbeat_delay_seconds"`
	HeartbeatError        *string    `json:"heartbeat_error"`
}

// Counters count since the process began.
type Counters struct {
	Sessions        uint64            `json:"sessions"`
	Retries         map[string]uint64 `json:"retries"`
	Transactions    uint64            `json:"transactions"`
	ExecutionRows   uint64            `json:"execution_rows"`
	AttemptRows     uint64            `json:"attempt_rows"`
	Events          map[string]uint64 `json:"events"`
	Suppressed      map[string]uint64 `json:"suppressed"`
	Inconsistent    uint64            `json:"inconsistent"`
	EvidenceMissing uint64            `json:"evidence_missing"`
	Corrupt         map[string]uint64 `json:"corrupt"`
	Lookups         uint64            `json:"lookups"`
	Snapshots       uint64            `json:"snapshots"`
	WALBytes        uint64            `json:"wal_bytes"`
	StreamBytes     uint64            `json:"stream_bytes"`
}

// NewReport describes a status.
func NewReport(s *shard.Status, version string, now time.Time) *Report {
	r := &Report{
		Version: version, Role: string(s.Role), Since: s.Since, LastError: text(s.LastError),
		Postgres: Postgres{
			SystemIdentifier: formatUint(s.SystemID), Server: s.Server, Slot: newSlot(s),
			ReceivedLSN: s.Received.String(), ConfirmedLSN: s.Confirmed.String(), EndLSN: max(s.ServerEnd, s.Probed.End).String(),
		},
		Stream: Stream{
			Name: s.Stream, Atomic: s.Atomic, Position: s.Position, Sequence: s.Sequence, AckedSequence: s.Acked,
			InFlight: s.InFlight, InFlightBytes: s.InFlightBytes, Window: Window{Events: s.Window.Events, Bytes: s.Window.Bytes},
		},
		Rates: newRates(&s.Rates),
		Lag:   Lag{Bytes: s.Lag(), Seconds: s.Behind(now).Seconds(), LastCommit: moment(s.CommitTime), HeartbeatError: text(s.Heartbeat.Error)},
		Counters: Counters{
			Sessions: s.Sessions, Retries: s.Retries,
			Transactions: s.Normalizer.Transactions, ExecutionRows: s.Normalizer.CoreRows, AttemptRows: s.Normalizer.AttemptRows,
			Events: eventsByState(s), Suppressed: suppressed(s), Inconsistent: s.Normalizer.Inconsistent,
			EvidenceMissing: s.Normalizer.NoEvidence, Corrupt: s.Normalizer.Corrupt, Lookups: s.Normalizer.Lookups,
			Snapshots: s.Snapshots, WALBytes: s.ReadWAL, StreamBytes: s.StoredBytes,
		},
	}
	if f := &s.LastFailure; !f.At.IsZero() {
		r.LastFailure = &Failure{Time: f.At, Cause: f.Cause, Error: f.Error}
	}
	r.Backfill = newBackfill(s)
	if b := &s.States; b.Bucket != "" {
		r.States = &States{Bucket: b.Bucket, Sequence: b.Sequence, Written: b.Written, Building: b.Building, Error: text(b.Error)}
	}
	if s.Heartbeat.Count > 0 {
		delay := s.Heartbeat.Delay.Seconds()
		r.Lag.HeartbeatDelaySeconds = &delay
	}
	return r
}

func newSlot(s *shard.Status) Slot {
	p := &s.Probed
	slot := Slot{
		Name: s.Slot, LookedAt: moment(p.At), Error: text(p.Error), Exists: p.Exists, Active: p.Active, WALStatus: p.WALStatus,
		RetainedBytes: p.Retained(), WALBytesSecond: p.WALRate,
	}
	if p.SafeWAL.OK {
		slot.SafeWALBytes = &p.SafeWAL.V
	}
	if d, ok := p.Runway(); ok {
		seconds := d.Seconds()
		slot.RunwaySeconds = &seconds
	}
	return slot
}

// eventsByState names what entered no state.
func eventsByState(s *shard.Status) map[string]uint64 {
	m := make(map[string]uint64, len(s.Events))
	for state, n := range s.Events {
		name := string(state)
		if name == "" {
			name = "none"
		}
		m[name] += n
	}
	return m
}

// suppressed counts executions that a transaction touched and no event came of,
// by reason.
func suppressed(s *shard.Status) map[string]uint64 {
	n := &s.Normalizer
	return map[string]uint64{"no_candidate": n.NoCandidate, "same_state": n.SameState, "transient": n.Transient, "stored_already": n.Skipped}
}

func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
