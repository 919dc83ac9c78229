package ffstream_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"regexp"
	"testing"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
)

func TestParsePartitionKey(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint16{
		"{fp:7}": 7, "{fp:0}": 0, "{b:3}": 3, "{q:255}": 255, "{fp:+007}": 7, "{fp:65535}": 65535,
	} {
		if got, err := ffstream.ParsePartitionKey(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for text, want := range map[string]error{
		"": ffstream.ErrPartitionKeyBraces, "fp:7": ffstream.ErrPartitionKeyBraces, "{fp:7": ffstream.ErrPartitionKeyBraces,
		"{": ffstream.ErrPartitionKeyBraces, "{}": ffstream.ErrPartitionKeyBody, "{fp7}": ffstream.ErrPartitionKeyBody,
		"{x:7}": ffstream.ErrPartitionKeyFamily, "{:7}": ffstream.ErrPartitionKeyFamily, "{FP:7}": ffstream.ErrPartitionKeyFamily,
		"{fp:}": ffstream.ErrPartitionKeyIndex, "{fp:-0}": ffstream.ErrPartitionKeyIndex, "{fp:65536}": ffstream.ErrPartitionKeyIndex,
		"{fp:7:8}": ffstream.ErrPartitionKeyIndex,
	} {
		if _, err := ffstream.ParsePartitionKey(text); !errors.Is(err, want) {
			t.Errorf("%q: got %v, want %v", text, err, want)
		}
	}
}

// TestCheckTagKey holds the rule against the expression that the engine documents.
func TestCheckTagKey(t *testing.T) {
	t.Parallel()
	rule := regexp.MustCompile(`\A[a-z][a-z0-9_]*\.[a-z0-9_][a-z0-9_.]*\z`)
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringMatching(`[a-z_0-9.A\n]{0,6}`).Draw(t, "key")
		err := ffstream.CheckTagKey(key)
		if (err == nil) != rule.MatchString(key) || err != nil && !errors.Is(err, ffstream.ErrTagKey) {
			t.Fatalf("%q: got %v", key, err)
		}
	})
	for key, ok := range map[string]bool{"cairn.instance_id": true, "a.b..c.": true, "a._": true, "a": false, "a.": false, "a..b": false, "_a.b": false, "1.b": false, ".b": false, "": false} {
		if err := ffstream.CheckTagKey(key); (err == nil) != ok {
			t.Errorf("%q: got %v", key, err)
		}
	}
}

func TestAttemptJSON(t *testing.T) {
	t.Parallel()
	for _, want := range []ffstream.Attempt{
		{Index: 3},
		{Index: 1, WorkerID: ffstream.Some("w"), WorkerInstanceID: ffstream.Some(""), LeaseEpoch: -2, LeaseExpiresAtMs: ffstream.Some[int64](5),
			StartedAtMs: ffstream.Some[int64](0), TerminalAtMs: ffstream.Some[int64](9), Outcome: ffstream.Some("success")},
	} {
		text, err := json.Marshal(want)
		var got ffstream.Attempt
		if err == nil {
			err = json.Unmarshal(text, &got)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: read back %+v, %v, want %+v", text, got, err, want)
		}
	}
}
