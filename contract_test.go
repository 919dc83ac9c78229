package ffstream_test

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
)

const hyphenated = "550e8400-e29b-41d4-a716-446655440000"

// TestParseExecutionIDAccepts: what is accepted keeps its text, and says which
// partition and row it names.
func TestParseExecutionIDAccepts(t *testing.T) {
	t.Parallel()
	const simple = "550e8400e29b41d4a716446655440000"
	for _, tc := range []struct {
		text      string
		partition uint16
		canonical bool
	}{
		{"{fp:0}:" + hyphenated, 0, true}, // the tag holds: the UUID's own partition is 24
		{"{fp:7}:" + hyphenated, 7, true},
		{"{fp:65535}:" + hyphenated, 65535, true},
		{"{fp:007}:" + hyphenated, 7, false},
		{"{fp:0000000000000000000065535}:" + hyphenated, 65535, false},
		{"{fp:+7}:" + hyphenated, 7, false},
		{"{fp:+007}:" + hyphenated, 7, false},
		{"{fp:7}:" + simple, 7, false},
		{"{fp:7}:{" + hyphenated + "}", 7, false},
		{"{fp:7}:urn:uuid:" + hyphenated, 7, false},
		{"{fp:7}:" + strings.ToUpper(hyphenated), 7, false},
		{"{fp:7}:urn:uuid:" + strings.ToUpper(hyphenated), 7, false},
	} {
		id, err := ffstream.ParseExecutionID(tc.text)
		if err != nil {
			t.Errorf("%s: %v", tc.text, err)
			continue
		}
		if id.Partition() != tc.partition || id.UUID().String() != hyphenated || id.String() != tc.text {
			t.Errorf("%s: partition %d, uuid %s, text %s", tc.text, id.Partition(), id.UUID(), id)
		}
		plain := ffstream.NewExecutionID(tc.partition, uuid.MustParse(hyphenated))
		if (id == plain) != tc.canonical {
			t.Errorf("%s: equal to the canonical id: %t, want %t", tc.text, id == plain, tc.canonical)
		}
		if got := string(id.AppendCanonical(nil)); got != plain.String() {
			t.Errorf("%s: canonical form %s, want %s", tc.text, got, plain)
		}
		var back ffstream.ExecutionID
		if text, err := id.MarshalText(); err != nil || back.UnmarshalText(text) != nil || back != id {
			t.Errorf("%s: text marshalling gives %s (%v)", tc.text, back, err)
		}
	}
	nilID, err := ffstream.ParseExecutionID("{fp:0}:" + uuid.Nil.String())
	if err != nil || !nilID.IsZero() {
		t.Errorf("nil uuid on partition 0: zero %t, %v", nilID.IsZero(), err)
	}
}

// TestParseExecutionIDRefuses: the checks come in the engine's order, and the
// error holds the text that the engine's would.
func TestParseExecutionIDRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text    string
		kind    error
		culprit string
	}{
		{"", ffstream.ErrMissingTag, ""},
		{hyphenated, ffstream.ErrMissingTag, hyphenated},
		{"{fp:7", ffstream.ErrMissingTag, "{fp:7"},
		{"{fp:7}" + hyphenated, ffstream.ErrMissingTag, "{fp:7}" + hyphenated},
		{"{fp:x} nothing", ffstream.ErrMissingTag, "{fp:x} nothing"}, // before the index is looked at
		{" {fp:7}:" + hyphenated, ffstream.ErrMissingTag, " {fp:7}:" + hyphenated},
		{"{FP:7}:" + hyphenated, ffstream.ErrMissingTag, "{FP:7}:" + hyphenated},
		{"{b:7}:" + hyphenated, ffstream.ErrMissingTag, "{b:7}:" + hyphenated},
		{"{fp:}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, ""},
		{"{fp:+}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "+"},
		{"{fp:++7}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "++7"},
		{"{fp:-0}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "-0"},
		{"{fp:-1}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "-1"},
		{"{fp:65536}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "65536"},
		{"{fp:4294967303}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "4294967303"},
		{"{fp:18446744073709551623}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "18446744073709551623"},
		{"{fp: 7}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, " 7"},
		{"{fp:0x7}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "0x7"},
		{"{fp:7_0}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "7_0"},
		{"{fp:٧}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "٧"},
		{"{fp:７}:" + hyphenated, ffstream.ErrInvalidPartitionIndex, "７"},
		{"{fp:x}:y", ffstream.ErrInvalidPartitionIndex, "x"}, // before the uuid is looked at
		{"{fp:7}:", ffstream.ErrInvalidUUID, ""},
		{"{fp:7}:y", ffstream.ErrInvalidUUID, "y"},
		{"{fp:7}: " + hyphenated, ffstream.ErrInvalidUUID, " " + hyphenated},
		{"{fp:7}:" + hyphenated + "\n", ffstream.ErrInvalidUUID, hyphenated + "\n"},
		{"{fp:7}:{fp:8}:" + hyphenated, ffstream.ErrInvalidUUID, "{fp:8}:" + hyphenated}, // the first "}:" splits
		{"{fp:7}:(" + hyphenated + "}", ffstream.ErrInvalidUUID, "(" + hyphenated + "}"},
		{"{fp:7}:{" + hyphenated + ")", ffstream.ErrInvalidUUID, "{" + hyphenated + ")"},
		{"{fp:7}:URN:UUID:" + hyphenated, ffstream.ErrInvalidUUID, "URN:UUID:" + hyphenated},
		{"{fp:7}:" + strings.ReplaceAll(hyphenated, "-", ":"), ffstream.ErrInvalidUUID, strings.ReplaceAll(hyphenated, "-", ":")},
		{"{fp:7}:g" + hyphenated[1:], ffstream.ErrInvalidUUID, "g" + hyphenated[1:]},
	} {
		id, err := ffstream.ParseExecutionID(tc.text)
		if !errors.Is(err, tc.kind) {
			t.Errorf("%q: %v, want %v", tc.text, err, tc.kind)
			continue
		}
		if want := tc.kind.Error() + ": " + tc.culprit; err.Error() != want {
			t.Errorf("%q: %q, want %q", tc.text, err, want)
		}
		if !id.IsZero() {
			t.Errorf("%q: refused, and still %s", tc.text, id)
		}
	}
	kept := ffstream.NewExecutionID(3, uuid.MustParse(hyphenated))
	if before := kept; kept.UnmarshalText([]byte("nonsense")) == nil || kept != before {
		t.Errorf("a refused text left %s", kept)
	}
}

func TestPartitionKeyWraps(t *testing.T) {
	t.Parallel()
	for partition, key := range map[uint16]int16{0: 0, 255: 255, 32767: 32767, 32768: -32768, 65535: -1} {
		if got := ffstream.NewExecutionID(partition, uuid.Nil).PartitionKey(); got != key {
			t.Errorf("partition %d: key %d, want %d", partition, got, key)
		}
	}
}

// TestPartitions holds the vectors of an independent implementation. Modulo
// 65535 shows the checksum itself, for none of them is 65535.
func TestPartitions(t *testing.T) {
	t.Parallel()
	check := func(name string, f func(partitions uint16) uint16, crc, mod256, mod4 uint16) {
		if f(65535) != crc || f(256) != mod256 || f(4) != mod4 {
			t.Errorf("%s: crc %d, mod 256 %d, mod 4 %d, want %d, %d, %d", name, f(65535), f(256), f(4), crc, mod256, mod4)
		}
	}
	for _, tc := range []struct {
		lane              string
		crc, mod256, mod4 uint16
	}{
		{"123456789", 0x31C3, 195, 3},
		{"default", 54870, 86, 2},
		{"workers", 18850, 162, 2},
		{"workers-a", 11969, 193, 1},
		{"workers-b", 7842, 162, 2},
		{"a", 31879, 135, 3},
		{"lane-0", 10892, 140, 0},
		{"lane-1", 15021, 173, 1},
		{"lane-99", 5322, 202, 2},
		{strings.Repeat("a", 64), 32477, 221, 1},
		{"", 0, 0, 0},
	} {
		check(tc.lane, func(n uint16) uint16 { return ffstream.LanePartition(ffstream.LaneID(tc.lane), n) }, tc.crc, tc.mod256, tc.mod4)
	}
	for _, tc := range []struct {
		flow              string
		crc, mod256, mod4 uint16
	}{
		{hyphenated, 36888, 24, 0},
		{"00000000-0000-0000-0000-000000000000", 0, 0, 0},
		{"ffffffff-ffff-ffff-ffff-ffffffffffff", 65, 65, 1},
		{"11111111-1111-4111-8111-111111111111", 30399, 191, 3},
		{"66666666-6666-6666-6666-666666666666", 61493, 53, 1},
	} {
		flow, err := ffstream.ParseFlowID(tc.flow)
		if err != nil {
			t.Fatal(err)
		}
		check(tc.flow, func(n uint16) uint16 { return ffstream.FlowPartition(flow, n) }, tc.crc, tc.mod256, tc.mod4)
	}
	distinct := map[uint16]bool{}
	for i := range 100 {
		distinct[ffstream.LanePartition(ffstream.LaneID(fmt.Sprintf("lane-%d", i)), ffstream.Partitions)] = true
	}
	if len(distinct) != 92 { // the engine's own test wants more than 50
		t.Errorf("100 lanes hit %d partitions, want 92", len(distinct))
	}
}

func TestParseLaneID(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		lane string
		kind error
		text string
	}{
		{"default", nil, ""},
		{" ", nil, ""},
		{"~", nil, ""},
		{strings.Repeat("a", 64), nil, ""},
		{"", ffstream.ErrLaneEmpty, "lane id is empty"},
		{strings.Repeat("a", 65), ffstream.ErrLaneTooLong, "lane id is longer than 64 bytes: 65"},
		{strings.Repeat("\n", 65), ffstream.ErrLaneTooLong, "lane id is longer than 64 bytes: 65"}, // length first
		{"bad\nlane", ffstream.ErrLaneNonPrintable, "lane id has a byte outside 0x20 to 0x7E: at byte 3"},
		{"lane\x00x", ffstream.ErrLaneNonPrintable, "lane id has a byte outside 0x20 to 0x7E: at byte 4"},
		{"\tlane", ffstream.ErrLaneNonPrintable, "lane id has a byte outside 0x20 to 0x7E: at byte 0"},
		{"la\x7fne", ffstream.ErrLaneNonPrintable, "lane id has a byte outside 0x20 to 0x7E: at byte 2"},
		{"lané", ffstream.ErrLaneNonPrintable, "lane id has a byte outside 0x20 to 0x7E: at byte 3"},
		{"a\nb\nc", ffstream.ErrLaneNonPrintable, "lane id has a byte outside 0x20 to 0x7E: at byte 1"}, // the first
	} {
		got, err := ffstream.ParseLaneID(tc.lane)
		switch {
		case tc.kind == nil && (err != nil || string(got) != tc.lane):
			t.Errorf("%q: %q, %v", tc.lane, got, err)
		case tc.kind != nil && (!errors.Is(err, tc.kind) || err.Error() != tc.text || got != ""):
			t.Errorf("%q: %q, %v, want %s", tc.lane, got, err, tc.text)
		}
	}
}

// word is what every enum of the contract can do.
type word interface {
	~string
	encoding.TextMarshaler
}

// enum checks that consts are, in order, exactly the values that parse and text
// marshalling take. An open enum takes any text on unmarshalling.
func enum[T word, P interface {
	*T
	encoding.TextUnmarshaler
}](t *testing.T, wire string, open bool, parse func(string) (T, error), consts ...T) {
	t.Helper()
	var zero T
	words := strings.Fields(wire)
	if got := fmt.Sprint(consts); got != fmt.Sprint(words) {
		t.Errorf("%T: constants %s, want %s", zero, got, words)
	}
	for _, w := range words {
		v, err := parse(w)
		text, _ := v.MarshalText()
		var back T
		if err != nil || string(v) != w || string(text) != w || P(&back).UnmarshalText(text) != nil || back != v {
			t.Errorf("%T %s: parsed %q (%v), marshalled %q, read back %q", zero, w, v, err, text, back)
		}
		if body, err := json.Marshal(v); err != nil || string(body) != `"`+w+`"` {
			t.Errorf("%T %s: JSON %s (%v)", zero, w, body, err)
		}
	}
	for _, w := range []string{"", "nonsense", words[0] + " ", strings.ToUpper(words[0]), words[0][:1]} {
		v, err := parse(w)
		if v != "" || err == nil || !strings.HasSuffix(err.Error(), fmt.Sprintf("%q is not one of %q", w, words)) {
			t.Errorf("%T: parse %q: %q, %v", zero, w, v, err)
		}
		kept := T(words[0])
		err = P(&kept).UnmarshalText([]byte(w))
		if open && (err != nil || string(kept) != w) || !open && err == nil {
			t.Errorf("%T: unmarshal %q: %q, %v", zero, w, kept, err)
		}
	}
}

func TestEnums(t *testing.T) {
	t.Parallel()
	enum(t, "submitted runnable active suspended terminal", false, ffstream.ParseLifecyclePhase,
		ffstream.PhaseSubmitted, ffstream.PhaseRunnable, ffstream.PhaseActive, ffstream.PhaseSuspended, ffstream.PhaseTerminal)
	enum(t, "unowned leased lease_expired_reclaimable lease_revoked", false, ffstream.ParseOwnershipState,
		ffstream.OwnershipUnowned, ffstream.OwnershipLeased, ffstream.OwnershipLeaseExpiredReclaimable, ffstream.OwnershipLeaseRevoked)
	enum(t, "eligible_now not_eligible_until_time blocked_by_dependencies blocked_by_budget blocked_by_quota blocked_by_route blocked_by_lane_state blocked_by_operator not_applicable",
		false, ffstream.ParseEligibilityState,
		ffstream.EligibilityEligibleNow, ffstream.EligibilityNotEligibleUntilTime, ffstream.EligibilityBlockedByDependencies,
		ffstream.EligibilityBlockedByBudget, ffstream.EligibilityBlockedByQuota, ffstream.EligibilityBlockedByRoute,
		ffstream.EligibilityBlockedByLaneState, ffstream.EligibilityBlockedByOperator, ffstream.EligibilityNotApplicable)
	enum(t, `none waiting_for_worker waiting_for_retry_backoff waiting_for_resume_delay waiting_for_delay waiting_for_signal waiting_for_approval
		waiting_for_callback waiting_for_tool_result waiting_for_children waiting_for_budget waiting_for_quota waiting_for_capable_worker
		waiting_for_locality_match paused_by_operator paused_by_policy paused_by_flow_cancel`, false, ffstream.ParseBlockingReason,
		ffstream.BlockingNone, ffstream.BlockingWaitingForWorker, ffstream.BlockingWaitingForRetryBackoff,
		ffstream.BlockingWaitingForResumeDelay, ffstream.BlockingWaitingForDelay, ffstream.BlockingWaitingForSignal,
		ffstream.BlockingWaitingForApproval, ffstream.BlockingWaitingForCallback, ffstream.BlockingWaitingForToolResult,
		ffstream.BlockingWaitingForChildren, ffstream.BlockingWaitingForBudget, ffstream.BlockingWaitingForQuota,
		ffstream.BlockingWaitingForCapableWorker, ffstream.BlockingWaitingForLocalityMatch, ffstream.BlockingPausedByOperator,
		ffstream.BlockingPausedByPolicy, ffstream.BlockingPausedByFlowCancel)
	enum(t, "none success failed cancelled expired skipped", false, ffstream.ParseTerminalOutcome,
		ffstream.OutcomeNone, ffstream.OutcomeSuccess, ffstream.OutcomeFailed, ffstream.OutcomeCancelled, ffstream.OutcomeExpired, ffstream.OutcomeSkipped)
	enum(t, "none pending_first_attempt running_attempt attempt_interrupted pending_retry_attempt pending_replay_attempt attempt_terminal",
		false, ffstream.ParseAttemptState,
		ffstream.AttemptStateNone, ffstream.AttemptStatePendingFirst, ffstream.AttemptStateRunning, ffstream.AttemptStateInterrupted,
		ffstream.AttemptStatePendingRetry, ffstream.AttemptStatePendingReplay, ffstream.AttemptStateTerminal)
	enum(t, "waiting delayed rate_limited waiting_children active suspended resumable completed failed cancelled expired skipped",
		true, ffstream.ParsePublicState, ffstream.PublicStates()...)
	enum(t, "created started suspended ended_success ended_failure ended_cancelled interrupted_reclaimed", false, ffstream.ParseAttemptLifecycle,
		ffstream.AttemptLifecycleCreated, ffstream.AttemptLifecycleStarted, ffstream.AttemptLifecycleSuspended, ffstream.AttemptLifecycleEndedSuccess,
		ffstream.AttemptLifecycleEndedFailure, ffstream.AttemptLifecycleEndedCancelled, ffstream.AttemptLifecycleInterruptedReclaimed)
	enum(t, "initial retry reclaim replay fallback", false, ffstream.ParseAttemptType,
		ffstream.AttemptTypeInitial, ffstream.AttemptTypeRetry, ffstream.AttemptTypeReclaim, ffstream.AttemptTypeReplay, ffstream.AttemptTypeFallback)
	enum(t, "active paused draining disabled", false, ffstream.ParseLaneState,
		ffstream.LaneActive, ffstream.LanePaused, ffstream.LaneDraining, ffstream.LaneDisabled)
}

// TestTerminal: which states are a rest, and what outcome each implies.
func TestTerminal(t *testing.T) {
	t.Parallel()
	outcomes := map[ffstream.PublicState]ffstream.TerminalOutcome{
		ffstream.StateCompleted: ffstream.OutcomeSuccess, ffstream.StateFailed: ffstream.OutcomeFailed,
		ffstream.StateCancelled: ffstream.OutcomeCancelled, ffstream.StateExpired: ffstream.OutcomeExpired, ffstream.StateSkipped: ffstream.OutcomeSkipped,
	}
	states := []ffstream.PublicState{ffstream.StateWaiting, ffstream.StateDelayed, ffstream.StateRateLimited, ffstream.StateWaitingChildren,
		ffstream.StateActive, ffstream.StateSuspended, ffstream.StateResumable, ffstream.StateCompleted, ffstream.StateFailed,
		ffstream.StateCancelled, ffstream.StateExpired, ffstream.StateSkipped}
	if got := ffstream.PublicStates(); !slices.Equal(got, states) {
		t.Errorf("public states %s, want %s", got, states)
	}
	ffstream.PublicStates()[0] = "changed" // a copy: the next caller must not see it
	if ffstream.PublicStates()[0] != ffstream.StateWaiting {
		t.Error("PublicStates hands out its own memory")
	}
	for _, s := range append(states, ffstream.StatePurged, "", "someday") {
		want, terminal := outcomes[s]
		if !terminal {
			want = ffstream.OutcomeNone
		}
		if s.Terminal() != terminal || s.Outcome() != want {
			t.Errorf("%q: terminal %t, outcome %s", s, s.Terminal(), s.Outcome())
		}
	}
	for l, want := range map[ffstream.AttemptLifecycle]bool{
		ffstream.AttemptLifecycleCreated: false, ffstream.AttemptLifecycleStarted: false, ffstream.AttemptLifecycleSuspended: false,
		ffstream.AttemptLifecycleEndedSuccess: true, ffstream.AttemptLifecycleEndedFailure: true,
		ffstream.AttemptLifecycleEndedCancelled: true, ffstream.AttemptLifecycleInterruptedReclaimed: true,
	} {
		if l.Terminal() != want {
			t.Errorf("%s: terminal %t", l, l.Terminal())
		}
	}
}

func TestAppendToken(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                     "%",
		"default":              "default",
		"A-Z_a-z-09":           "A-Z_a-z-09",
		"%":                    "%25",
		"a.b":                  "a%2Eb",
		"*":                    "%2A",
		">":                    "%3E",
		"two words":            "two%20words",
		"lané":                 "lan%C3%A9",
		"\x00\xff/":            "%00%FF%2F",
		"`@[{":                 "%60%40%5B%7B", // the neighbours of the letters
		strings.Repeat(".", 3): "%2E%2E%2E",
	} {
		if got := string(ffstream.AppendToken([]byte("x."), text)); got != "x."+want {
			t.Errorf("%q: %s, want x.%s", text, got, want)
		}
	}
	token := regexp.MustCompile(`^([A-Za-z0-9_-]|%[0-9A-F]{2})+$`)
	rapid.Check(t, func(t *rapid.T) {
		text := string(rapid.SliceOfN(rapid.Byte(), 1, -1).Draw(t, "text"))
		got := string(ffstream.AppendToken(nil, text))
		if back, err := url.PathUnescape(got); !token.MatchString(got) || err != nil || back != text {
			t.Fatalf("%q: token %q, which says %q (%v)", text, got, back, err)
		}
	})
}

func TestCorruptionErrorNamesAll(t *testing.T) {
	t.Parallel()
	err := ffstream.CorruptionError{ExecutionID: ffstream.NewExecutionID(24, uuid.MustParse(hyphenated)), Column: "attempt_state", Literal: "initial"}
	if want := "execution {fp:24}:" + hyphenated + ": attempt_state: 'initial' is not a known value"; err.Error() != want {
		t.Errorf("%q, want %q", err.Error(), want)
	}
}
