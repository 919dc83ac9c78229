package ffstream_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/ffstream/ffstream"
)

// info is an ExecutionInfo with every field that is always there.
func info() ffstream.ExecutionInfo {
	return ffstream.ExecutionInfo{
		ExecutionID: ffstream.NewExecutionID(86, uuid.MustParse("0190f5c2-0000-7000-8000-000000000001")),
		Namespace:   "ns-a", LaneID: "workers", Priority: -3, ExecutionKind: "task",
		StateVector: ffstream.StateVector{
			LifecyclePhase: ffstream.PhaseTerminal, OwnershipState: ffstream.OwnershipUnowned,
			EligibilityState: ffstream.EligibilityNotApplicable, BlockingReason: ffstream.BlockingNone,
			TerminalOutcome: ffstream.OutcomeSuccess, AttemptState: ffstream.AttemptStateTerminal, PublicState: ffstream.StateCompleted,
		},
		PublicState: ffstream.StateCompleted, StoredPublicState: ffstream.StateActive,
		CreatedAtMs: 1732319999000,
	}
}

func TestExecutionInfoJSON(t *testing.T) {
	t.Parallel()
	const vector = `"state_vector":{"lifecycle_phase":"terminal","ownership_state":"unowned","eligibility_state":"not_applicable",` +
		`"blocking_reason":"none","terminal_outcome":"success","attempt_state":"attempt_terminal","public_state":"completed"},"public_state":"completed",`
	const head = `{"execution_id":"{fp:86}:0190f5c2-0000-7000-8000-000000000001","namespace":"ns-a","lane_id":"workers","priority":-3,"execution_kind":"task",` + vector
	bare := info()
	full := info()
	full.StartedAtMs, full.CompletedAtMs = ffstream.Some[int64](0), ffstream.Some[int64](-1)
	full.FlowID = ffstream.Some(uuid.MustParse("66666666-6666-6666-6666-666666666666"))
	full.BlockingDetail, full.CurrentAttemptIndex = "a \"b\"", 7
	full.Consistent, full.EvidenceMissing = true, true
	for name, test := range map[string]struct {
		info ffstream.ExecutionInfo
		want string
	}{
		"absent": {bare, head + `"created_at":"1732319999000","current_attempt_index":0,"flow_id":null,"blocking_detail":"",` +
			`"stored_public_state":"active","consistent":false}`},
		"present": {full, head + `"created_at":"1732319999000","started_at":"0","completed_at":"-1","current_attempt_index":7,` +
			`"flow_id":"66666666-6666-6666-6666-666666666666","blocking_detail":"a \"b\"","stored_public_state":"active","consistent":true,"evidence_missing":true}`},
	} {
		got, err := json.Marshal(test.info)
		if err != nil || string(got) != test.want {
			t.Errorf("%s: got %s, %v\nwant %s", name, got, err, test.want)
		}
		var back ffstream.ExecutionInfo
		if err := json.Unmarshal(got, &back); err != nil || !reflect.DeepEqual(back, test.info) {
			t.Errorf("%s: read back %+v, %v\nwant %+v", name, back, err, test.info)
		}
	}
}

// TestExecutionInfoSpelling: the id keeps the caller's spelling both ways.
func TestExecutionInfoSpelling(t *testing.T) {
	t.Parallel()
	want := info()
	var err error
	if want.ExecutionID, err = ffstream.ParseExecutionID("{fp:+007}:0190F5C2000070008000000000000001"); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	var got ffstream.ExecutionInfo
	if err := json.Unmarshal(text, &got); err != nil || got.ExecutionID != want.ExecutionID {
		t.Errorf("got %s, %v, want %s", got.ExecutionID, err, want.ExecutionID)
	}
}

func TestExecutionInfoRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`[]`, `{}`, `{"execution_id":"x"}`,
		`{"execution_id":"{fp:0}:0190f5c2-0000-7000-8000-000000000001","created_at":"soon"}`,
		`{"execution_id":"{fp:0}:0190f5c2-0000-7000-8000-000000000001","flow_id":"x"}`,
	} {
		got := info()
		if err := json.Unmarshal([]byte(text), &got); err == nil || !reflect.DeepEqual(got, info()) {
			t.Errorf("%s: got %v and %+v", text, err, got)
		}
	}
}
