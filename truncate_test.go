package ffstream_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
)

// TestTokenIsBounded: no token exceeds MaxToken; one that fits is whole, and one
// that does not ends with a lone %, behind whole bytes.
func TestTokenIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Repeat(rapid.StringOfN(rapid.RuneFrom([]rune("a.é")), 1, 3, -1).Draw(t, "unit"), rapid.IntRange(1, 1100).Draw(t, "times"))
		whole := 0
		for i := range len(s) {
			if whole++; s[i] != 'a' {
				whole += 2
			}
		}
		token := string(ffstream.AppendToken([]byte("x."), s)[2:])
		if len(token) > ffstream.MaxToken {
			t.Fatalf("%d bytes", len(token))
		}
		if cut := strings.HasSuffix(token, "%"); cut != (whole > ffstream.MaxToken) || !cut && len(token) != whole {
			t.Fatalf("a token of %d bytes became %d, cut: %t", whole, len(token), cut)
		}
	})
}

// TestTruncate: one field after the other is dropped, the event stays readable
// and says so, and what it is about is never dropped.
func TestTruncate(t *testing.T) {
	e := ffstream.Event{
		Type: ffstream.TypeTransitioned, ExecutionID: ffstream.NewExecutionID(7, [16]byte{1}), Namespace: "ns", LaneID: "lane", ExecutionKind: "task",
		From: ffstream.StateActive, To: ffstream.StateFailed, BlockingDetail: "d", CancellationReason: ffstream.Some("reason"), CancelledBy: ffstream.Some("somebody"),
		Tags: []ffstream.Tag{{Key: "k", Value: "v"}}, Corrupt: ffstream.Corruption{Literal: strings.Repeat("x", 1000)},
		Attempt: ffstream.Some(ffstream.Attempt{Index: 3, WorkerID: ffstream.Some("worker")}),
	}
	for size, steps := len(e.AppendJSON(nil))+len(`,"truncated":true`), 0; ; steps++ {
		if !e.Truncate() {
			if steps != 9 {
				t.Errorf("%d fields were dropped, want 9", steps)
			}
			break
		}
		body := e.AppendJSON(nil)
		if len(body) > size {
			t.Errorf("the body grew from %d to %d bytes", size, len(body))
		}
		size = len(body)
		got, err := ffstream.ParseEvent(body)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Truncated || got.ExecutionID != e.ExecutionID || got.From != e.From || got.To != e.To || got.Attempt.V.Index != 3 {
			t.Fatalf("after %d fields: %s", steps+1, body)
		}
	}
}
