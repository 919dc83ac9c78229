package web

import (
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/shard"
)

// metric is one family of the table. Values gives its samples: by label, or one
// under "" for a family without.
type metric struct {
	name, label string
	kind        prometheus.ValueType
	help        string
	values      func(s *shard.Status, now time.Time) map[string]float64
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

func one(v float64) map[string]float64 { return map[string]float64{"": v} }

// maybe gives no sample where a value is not known: an absent series alarms
// nobody, a made-up zero could.
func maybe(v float64, known bool) map[string]float64 {
	if !known {
		return nil
	}
	return one(v)
}

func floats(m map[string]uint64, always ...string) map[string]float64 {
	out := make(map[string]float64, len(m))
	for _, k := range always {
		out[k] = 0
	}
	for k, v := range m {
		out[k] = float64(v)
	}
	return out
}

// oneOf gives 1 for the present value and 0 for the others.
func oneOf(present string, all ...string) map[string]float64 {
	out := make(map[string]float64, len(all))
	for _, v := range all {
		out[v] = 0
	}
	if present != "" {
		out[present] = 1
	}
	return out
}

func unix(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

// table is every metric of ffstream's own. docs/metrics.md is made from it.
var table = []metric{
	{"ffstream_role", "role", gauge, "1 for the role that the service has, 0 for the others.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return oneOf(string(s.Role), string(shard.RoleConnecting), string(shard.RoleStandby), string(shard.RoleActive), string(shard.RoleStopped))
	}},
	{"ffstream_role_since_timestamp_seconds", "", gauge, "When the service took its role.", func(s *shard.Status, _ time.Time) map[string]float64 { return one(unix(s.Since)) }},
	{"ffstream_received_lsn_bytes", "", gauge, "End of the latest transaction or keepalive that was read, as a byte position in the log.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.Received))
	}},
	{"ffstream_confirmed_lsn_bytes", "", gauge, "Byte position in the log up to which the slot may forget.", func(s *shard.Status, _ time.Time) map[string]float64 { return one(float64(s.Confirmed)) }},
	{"ffstream_server_end_lsn_bytes", "", gauge, "Byte position of the end of the server's log, as far as it is known.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(max(s.ServerEnd, s.Probed.End)))
	}},
	{"ffstream_lag_bytes", "", gauge, "Bytes of the log that are not confirmed.", func(s *shard.Status, _ time.Time) map[string]float64 { return one(float64(s.Lag())) }},
	{"ffstream_behind_seconds", "", gauge, "Age of the latest transaction or heartbeat that was read, while there is more to read or to store, and no more than the latest heartbeat took until the next is overdue; else 0. Absent unless active.", func(s *shard.Status, now time.Time) map[string]float64 {
		return maybe(s.Behind(now).Seconds(), s.Role == shard.RoleActive)
	}},
	{"ffstream_heartbeat_delay_seconds", "", gauge, "From the writing of the latest heartbeat until everything before it was stored.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(s.Heartbeat.Delay.Seconds(), s.Heartbeat.Count > 0)
	}},
	{"ffstream_heartbeat_timestamp_seconds", "", gauge, "When the latest heartbeat that came back was written.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(unix(s.Heartbeat.Sent), s.Heartbeat.Count > 0)
	}},
	{"ffstream_transactions_total", "", counter, "Transactions read that touched the tables; those read again after a reconnection count again.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.Normalizer.Transactions))
	}},
	{"ffstream_rows_total", "table", counter, "Row changes read, by table.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return map[string]float64{"ff_exec_core": float64(s.Normalizer.CoreRows), "ff_attempt": float64(s.Normalizer.AttemptRows)}
	}},
	{"ffstream_events_total", "state", counter, "Events handed to the broker, by the state entered; none for corrupt rows and truncations.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return floats(eventsByState(s), stateNames()...)
	}},
	{"ffstream_suppressed_total", "reason", counter, "Executions that a transaction touched and no event came of: no_candidate (no column that decides the state changed), same_state, transient (began and ended inside it), stored_already.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return floats(suppressed(s))
	}},
	{"ffstream_inconsistent_total", "", counter, "Events whose row bears another label than the effective state.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.Normalizer.Inconsistent))
	}},
	{"ffstream_evidence_missing_total", "", counter, "Events of terminal rows from which no clause derives how they ended (T10): their state is failed.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.Normalizer.NoEvidence))
	}},
	{"ffstream_corrupt_total", "column", counter, "Rows with a literal that no rule knows, by column.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return floats(s.Normalizer.Corrupt, shard.CorruptColumns()...)
	}},
	{"ffstream_previous_states_total", "source", counter, "Previous states that the WAL does not contain, by where they were found: memory (--recent-states), or unknown.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return map[string]float64{"memory": float64(s.Normalizer.Recalled), "unknown": float64(s.Normalizer.Unrecalled)}
	}},
	{"ffstream_lookups_total", "", counter, "Point reads for what the WAL does not contain: long columns that did not change, and attempts.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.Normalizer.Lookups))
	}},
	{"ffstream_in_flight_events", "", gauge, "Events handed to the broker and not acknowledged: what the publish window holds.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.InFlight))
	}},
	{"ffstream_in_flight_bytes", "", gauge, "Bytes of events that are sent and not acknowledged.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.InFlightBytes))
	}},
	{"ffstream_window_events", "", gauge, "How many events may be in flight; few until the broker's speed is known. Absent before the first session.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(float64(s.Window.Events), s.Window.Events > 0)
	}},
	{"ffstream_window_bytes", "", gauge, "How many bytes of events may be in flight. Absent before the first session.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(float64(s.Window.Bytes), s.Window.Bytes > 0)
	}},
	{"ffstream_read_wal_bytes_total", "", counter, "Bytes of the log that were read or passed over; those read again after a reconnection count again.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.ReadWAL))
	}},
	{"ffstream_stored_bytes_total", "", counter, "Bytes of events that the broker acknowledged, without headers.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.StoredBytes))
	}},
	{"ffstream_stream_sequence", "", gauge, "Sequence in the stream up to which everything is stored.", func(s *shard.Status, _ time.Time) map[string]float64 { return one(float64(s.Acked)) }},
	{"ffstream_stream_atomic", "", gauge, "1 when the broker stores transactions atomically, else 0.", func(s *shard.Status, _ time.Time) map[string]float64 {
		if s.Atomic {
			return one(1)
		}
		return one(0)
	}},
	{"ffstream_sessions_total", "", counter, "Sessions that were established; each but the first is a reconnection.", func(s *shard.Status, _ time.Time) map[string]float64 { return one(float64(s.Sessions)) }},
	{"ffstream_retries_total", "cause", counter, "Sessions that failed and are tried again, by cause.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return floats(s.Retries, shard.Causes()...)
	}},
	{"ffstream_slot_looked_at_timestamp_seconds", "", gauge, "When the slot was looked at last; the slot's other metrics are of that moment.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(unix(s.Probed.At), !s.Probed.At.IsZero())
	}},
	{"ffstream_slot_active", "", gauge, "1 when a WAL sender serves the slot, this process's or another's.", func(s *shard.Status, _ time.Time) map[string]float64 {
		if s.Probed.Active {
			return maybe(1, !s.Probed.At.IsZero())
		}
		return maybe(0, !s.Probed.At.IsZero())
	}},
	{"ffstream_slot_wal_status", "status", gauge, "1 for the slot's wal_status, 0 for the others; missing for a slot that does not exist.", func(s *shard.Status, _ time.Time) map[string]float64 {
		status := s.Probed.WALStatus
		if !s.Probed.At.IsZero() && !s.Probed.Exists {
			status = "missing"
		}
		return oneOf(status, "reserved", "extended", "unreserved", "lost", "missing")
	}},
	{"ffstream_slot_retained_wal_bytes", "", gauge, "Bytes of the log that the server keeps for the slot.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(float64(s.Probed.Retained()), !s.Probed.At.IsZero())
	}},
	{"ffstream_slot_safe_wal_bytes", "", gauge, "Bytes that may still be written before the slot is in danger (safe_wal_size); absent without max_slot_wal_keep_size.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(float64(s.Probed.SafeWAL.V), s.Probed.SafeWAL.OK)
	}},
	{"ffstream_server_wal_rate_bytes_per_second", "", gauge, "How fast the server writes its log, smoothed over five minutes.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(s.Probed.WALRate, !s.Probed.At.IsZero())
	}},
	{"ffstream_slot_runway_seconds", "", gauge, "How long until the slot is in danger if nothing were confirmed any more and the server wrote on at this rate; absent where nothing bounds it.", func(s *shard.Status, _ time.Time) map[string]float64 {
		d, ok := s.Probed.Runway()
		return maybe(d.Seconds(), ok)
	}},
	{"ffstream_backfill_state", "state", gauge, "1 for what the backfill that was ordered last is doing, 0 for the others; all 0 when this process never saw one.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return oneOf(string(s.Backfill.State), "waiting", "running", "paused", "completed", "cancelled")
	}},
	{"ffstream_backfill_failing", "", gauge, "1 while a backfill tries again what failed, else 0.", func(s *shard.Status, _ time.Time) map[string]float64 {
		if s.Backfill.Error != "" {
			return one(1)
		}
		return one(0)
	}},
	{"ffstream_backfill_progress_ratio", "", gauge, "Part of the executions that the backfill has looked at, as far as the tables' statistics tell.", func(s *shard.Status, _ time.Time) map[string]float64 {
		b := &s.Backfill
		return maybe(min(1, float64(b.Executions)/float64(b.Total)), b.Total > 0)
	}},
	{"ffstream_backfill_chunks_total", "", counter, "Chunks read by backfills.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.Backfill.TotalChunks))
	}},
	{"ffstream_backfill_snapshots_total", "", counter, "Snapshots of executions that backfills handed to the broker.", func(s *shard.Status, _ time.Time) map[string]float64 { return one(float64(s.Snapshots)) }},
	{"ffstream_backfill_superseded_total", "", counter, "Executions that backfills read and did not publish, because the stream had newer.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return one(float64(s.Backfill.TotalSuperseded))
	}},
	{"ffstream_state_bucket_sequence", "", gauge, "Sequence in the stream up to which the state bucket has everything; absent without one.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(float64(s.States.Sequence), s.States.Bucket != "")
	}},
	{"ffstream_state_bucket_writes_total", "", counter, "Values and deletions written into the state bucket.", func(s *shard.Status, _ time.Time) map[string]float64 {
		return maybe(float64(s.States.Written), s.States.Bucket != "")
	}},
	{"ffstream_state_bucket_failing", "", gauge, "1 while the state bucket cannot be kept and it is tried again, else 0; absent without one.", func(s *shard.Status, _ time.Time) map[string]float64 {
		if s.States.Error != "" {
			return maybe(1, s.States.Bucket != "")
		}
		return maybe(0, s.States.Bucket != "")
	}},
}

// buildInfo is beside the table, for it has two labels.
const (
	buildInfo     = "ffstream_build_info"
	buildInfoHelp = "1, with the program's version and Go's as labels."
)

func stateNames() []string {
	var names []string
	for _, s := range ffstream.PublicStates() {
		names = append(names, string(s))
	}
	return append(names, string(ffstream.StatePurged))
}

// collector makes the table's metrics of one status a scrape.
type collector struct {
	status  func() shard.Status
	version string
}

// Describe sends nothing: which series there are depends on the status.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends every sample of the table.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s, now := c.status(), time.Now()
	out <- prometheus.MustNewConstMetric(prometheus.NewDesc(buildInfo, buildInfoHelp, []string{"version", "goversion"}, nil), gauge, 1, c.version, runtime.Version())
	for i := range table {
		m := &table[i]
		var labels []string
		if m.label != "" {
			labels = []string{m.label}
		}
		desc := prometheus.NewDesc(m.name, m.help, labels, nil)
		for label, v := range m.values(&s, now) {
			var values []string
			if m.label != "" {
				values = []string{label}
			}
			out <- prometheus.MustNewConstMetric(desc, m.kind, v, values...)
		}
	}
}

// Names lists ffstream's own metrics.
func Names() []string {
	names := []string{buildInfo}
	for i := range table {
		names = append(names, table[i].name)
	}
	return names
}

// WriteReference writes the table of metrics as Markdown.
func WriteReference(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# Metrics\n\nWhat `/metrics` serves. Units are in the names; counters begin at 0 with the process. Beside these there are the usual\n" +
		"metrics of the Go runtime (`go_*`) and of the process (`process_*`).\n\n| metric | type | label | meaning |\n|---|---|---|---|\n")
	fmt.Fprintf(&b, "| `%s` | gauge | `version`, `goversion` | %s |\n", buildInfo, buildInfoHelp)
	for i := range table {
		m, kind, label := &table[i], "gauge", ""
		if m.kind == counter {
			kind = "counter"
		}
		if m.label != "" {
			label = "`" + m.label + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.name, kind, label, m.help)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func formatUint(n uint64) string { return strconv.FormatUint(n, 10) }
