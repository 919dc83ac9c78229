package web

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/internal/backfill"
	"github.com/ffstream/ffstream/internal/normalize"
	"github.com/ffstream/ffstream/internal/publish"
	"github.com/ffstream/ffstream/internal/shard"
)

var update = flag.Bool("update", false, "rewrite docs/metrics.md")

func TestMain(m *testing.M) {
	// net/http lingers on a connection that it refused.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

const reference = "../../docs/metrics.md"

// working is a status in which everything is known.
func working(now time.Time) shard.Status {
	return shard.Status{
		Role: shard.RoleActive, Slot: "ffstream", Stream: "FFSTREAM", SystemID: 7, Server: "15.18", Atomic: true, Since: now.Add(-time.Hour),
		ServerEnd: 5000, Received: 4000, Confirmed: 3000, Position: ffstream.Position{Commit: 3900, Index: 1}, Sequence: 12, Acked: 10, InFlight: 2, Told: 12,
		InFlightBytes: 700, Window: publish.Window{Events: 4096, Bytes: 1 << 20}, ReadWAL: 1000, StoredBytes: 900, Snapshots: 4,
		Rates:       shard.Rates{Window: 30 * time.Second, Transactions: 1, Rows: 2, Events: 3, Snapshots: 4, ReadWAL: 5, Stored: 6},
		LastFailure: shard.Failure{At: now.Add(-time.Minute), Cause: "nats_unavailable", Error: "broken"},
		CommitTime:  now.Add(-3 * time.Second), Sessions: 2, Retries: map[string]uint64{"slot_busy": 3},
		Events:     map[ffstream.PublicState]uint64{"completed": 5, "": 1},
		Normalizer: normalize.Stats{Transactions: 9, CoreRows: 8, AttemptRows: 7, NoCandidate: 6, SameState: 5, Transient: 4, Skipped: 3, Inconsistent: 2, NoEvidence: 1, Lookups: 11, Corrupt: map[string]uint64{"attempt_state": 1}},
		Backfill:   shard.Backfilling{Report: backfill.Report{Run: "r", State: backfill.Running, Executions: 5, Published: 4, Total: 10, Rate: 5}, TotalChunks: 1},
		States:     shard.States{Bucket: "b", Sequence: 9, Error: "away"},
		Heartbeat:  shard.Heartbeat{Sent: now.Add(-time.Minute), Delay: 20 * time.Millisecond, Count: 1},
		Probed: shard.Probed{At: now, WALRate: 100, SlotHealth: shard.SlotHealth{
			Exists: true, Active: true, WALStatus: "reserved", SafeWAL: ffstream.Some(int64(6000)), Restart: 2000, Confirmed: 3000, End: 6000}},
	}
}

func serve(t *testing.T, s shard.Status, limits Limits, path string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	Handler(Config{Status: func() shard.Status { return s }, Version: "v1", Limits: limits}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestReady(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(s *shard.Status)
		limits Limits
		says   string // empty: ready
	}{
		{"active", func(*shard.Status) {}, Limits{}, ""},
		{"standby", func(s *shard.Status) { s.Role = shard.RoleStandby }, Limits{Lag: 1, Behind: 1}, ""},
		{"connecting", func(s *shard.Status) { s.Role, s.LastError = shard.RoleConnecting, "no route" }, Limits{}, "the service is connecting: no route"},
		{"stopped", func(s *shard.Status) { s.Role = shard.RoleStopped }, Limits{}, "the service is stopped"},
		{"lag at its limit", func(*shard.Status) {}, Limits{Lag: 3000}, ""},
		{"lag", func(*shard.Status) {}, Limits{Lag: 2999}, "3000 bytes of WAL are not confirmed, and 2999 may be"},
		{"behind", func(*shard.Status) {}, Limits{Behind: time.Second}, "1s are allowed"},
		{"idle since long", func(s *shard.Status) { s.InFlight, s.Told, s.Received = 0, 0, 6000 }, Limits{Behind: time.Second}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := working(time.Now())
			c.change(&s)
			w := serve(t, s, c.limits, "/readyz")
			if want := map[bool]int{true: 200, false: 503}[c.says == ""]; w.Code != want || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("%d %s, want %d %q", w.Code, w.Body, want, c.says)
			}
		})
	}
	if w := serve(t, shard.Status{Role: shard.RoleStopped}, Limits{}, "/healthz"); w.Code != 200 {
		t.Errorf("healthz: %d", w.Code)
	}
}

// TestReport: what is known is in the report, and what is not is null.
func TestReport(t *testing.T) {
	t.Parallel()
	var r Report
	body := serve(t, working(time.Now()), Limits{}, "/status").Body.String()
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatal(err)
	}
	if r.Role != "active" || r.Lag.Bytes != 3000 || r.Lag.Seconds < 3 || *r.Lag.HeartbeatDelaySeconds != 0.02 || r.Postgres.EndLSN != "0/1770" ||
		r.Postgres.Slot.RetainedBytes != 4000 || *r.Postgres.Slot.RunwaySeconds != 60 || r.Stream.Position.String() != "0000000000000F3C/0001" ||
		r.Counters.Events["completed"] != 5 || r.Counters.Events["none"] != 1 || r.Counters.Suppressed["transient"] != 4 || r.Counters.Retries["slot_busy"] != 3 ||
		r.Backfill.State != "running" || r.Backfill.Published != 4 || *r.Backfill.Remaining != 1 || r.States.Sequence != 9 || *r.States.Error != "away" {
		t.Errorf("the report is %+v", r)
	}
	if want := (Rates{WindowSeconds: 30, Transactions: 1, Rows: 2, Events: 3, Snapshots: 4, WALBytes: 5, StreamBytes: 6}); r.Rates != want {
		t.Errorf("the rates are %+v, want %+v", r.Rates, want)
	}
	if r.LastError != nil || r.LastFailure == nil || r.LastFailure.Cause != "nats_unavailable" || r.LastFailure.Error != "broken" || time.Since(r.LastFailure.Time) < time.Minute ||
		r.Stream.InFlightBytes != 700 || r.Stream.Window != (Window{Events: 4096, Bytes: 1 << 20}) || r.Counters.WALBytes != 1000 || r.Counters.StreamBytes != 900 || r.Counters.Snapshots != 4 {
		t.Errorf("the report is %s", body)
	}
	body = serve(t, shard.Status{Role: shard.RoleConnecting}, Limits{}, "/status").Body.String()
	for _, field := range []string{"last_error", "last_failure", "heartbeat_delay_seconds", "runway_seconds", "safe_wal_bytes", "looked_at", "last_commit", "backfill", "state_bucket"} {
		if !strings.Contains(body, `"`+field+`": null`) {
			t.Errorf("%s is not null in %s", field, body)
		}
	}
}

// TestMetrics: every family of the table is exported with its value, under a name
// that keeps the conventions, and what is not known is absent.
func TestMetrics(t *testing.T) {
	t.Parallel()
	now := time.Now()
	known := collector{func() shard.Status { return working(now) }, "v1"}
	if n, want := testutil.CollectAndCount(known, Names()...), 0; n <= want {
		t.Errorf("%d samples", n)
	}
	problems, err := testutil.CollectAndLint(known)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, name := range Names() {
		if testutil.CollectAndCount(known, name) == 0 {
			t.Errorf("%s has no sample though everything is known", name)
		}
	}
	text := serve(t, working(now), Limits{}, "/metrics").Body.String()
	for _, line := range []string{
		`ffstream_role{role="active"} 1`, `ffstream_role{role="standby"} 0`, `ffstream_lag_bytes 3000`, `ffstream_events_total{state="completed"} 5`, `ffstream_events_total{state="purged"} 0`,
		`ffstream_corrupt_total{column="attempt_state"} 1`, `ffstream_corrupt_total{column="public_state"} 0`, `ffstream_suppressed_total{reason="no_candidate"} 6`, `ffstream_slot_wal_status{status="reserved"} 1`, `ffstream_slot_wal_status{status="lost"} 0`,
		`ffstream_slot_runway_seconds 60`, `ffstream_slot_safe_wal_bytes 6000`, `ffstream_heartbeat_delay_seconds 0.02`, `ffstream_retries_total{cause="slot_busy"} 3`, `ffstream_retries_total{cause="stream_full"} 0`,
		`ffstream_in_flight_bytes 700`, `ffstream_window_events 4096`, `ffstream_window_bytes 1.048576e+06`, `ffstream_read_wal_bytes_total 1000`, `ffstream_stored_bytes_total 900`,
		`ffstream_rows_total{table="ff_attempt"} 7`, `ffstream_sessions_total 2`, `go_goroutines`, `process_resident_memory_bytes`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %s in %s", line, text)
		}
	}
	unknown := collector{func() shard.Status { return shard.Status{} }, "v1"}
	for _, name := range []string{"ffstream_behind_seconds", "ffstream_slot_runway_seconds", "ffstream_heartbeat_delay_seconds", "ffstream_slot_safe_wal_bytes", "ffstream_slot_active", "ffstream_window_events", "ffstream_window_bytes"} {
		if n := testutil.CollectAndCount(unknown, name); n != 0 {
			t.Errorf("%s has %d samples though nothing is known", name, n)
		}
	}
}

// TestReference: docs/metrics.md is the table.
func TestReference(t *testing.T) {
	t.Parallel()
	var want bytes.Buffer
	if err := WriteReference(&want); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(reference, want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(reference)
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("docs/metrics.md is not what the code exports (%v): run: make reference", err)
	}
}

// TestServer: the server answers, refuses what is too large, hides profiles unless
// asked, and ends.
func TestServer(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	for _, profiles := range []bool{false, true} {
		s, err := Listen(t.Context(), "127.0.0.1:0", Config{Status: func() shard.Status { return working(time.Now()) }, Pprof: profiles, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		get := func(path string, header http.Header) int {
			t.Helper()
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.Addr()+path, nil)
			r.Header = header
			res, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
			return res.StatusCode
		}
		if code, want := get("/debug/pprof/", nil), map[bool]int{true: 200, false: 404}[profiles]; code != want {
			t.Errorf("profiles: %d, want %d", code, want)
		}
		if code := get("/metrics", nil); code != 200 {
			t.Errorf("metrics: %d", code)
		}
		if code := get("/healthz", http.Header{"X": {strings.Repeat("x", 64<<10)}}); code != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a large header: %d", code)
		}
		if _, err := Listen(t.Context(), s.Addr(), Config{Log: log}); err == nil {
			t.Error("two servers listen on one port")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if c, err := net.Dial("tcp", s.Addr()); err == nil {
			_ = c.Close()
			t.Error("it listens after Close")
		}
	}
}
