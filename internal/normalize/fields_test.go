package normalize

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
)

// TestReadFields holds the scanner against encoding/json on arbitrary objects.
func TestReadFields(t *testing.T) {
	t.Parallel()
	text := rapid.SampledFrom([]string{"", "ns-a", `q"uo\te`, "\u00e9\u2603\U0001F600", "\n\t\x01", "{", "null"})
	value := rapid.OneOf(
		rapid.Map(text, func(s string) any { return s }),
		rapid.SampledFrom([]any{nil, 1.5, true, []any{"a", 1.0}, map[string]any{"namespace": "inner"}}),
	)
	tags := rapid.OneOf(value, rapid.Map(rapid.MapOf(text, value), func(m map[string]any) any { return m }))
	keys := []string{"namespace", "execution_kind", "blocking_detail", "last_failure_message", "last_mutation_at", "other", `q"uo\te`}
	rapid.Check(t, func(t *rapid.T) {
		object := rapid.MapOf(rapid.SampledFrom(keys), value).Draw(t, "object")
		if rapid.Bool().Draw(t, "tagged") {
			object["tags"] = tags.Draw(t, "tags")
		}
		raw, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		str := func(key string) string { s, _ := object[key].(string); return s }
		want := Fields{Namespace: str("namespace"), ExecutionKind: str("execution_kind"), BlockingDetail: str("blocking_detail"), LastFailureMessage: str("last_failure_message")}
		members, _ := object["tags"].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(members)) {
			if s, ok := members[key].(string); ok {
				want.Tags = append(want.Tags, ffstream.Tag{Key: key, Value: s})
			}
		}
		got, err := ReadFields(raw)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: got %+v, %v, want %+v", raw, got, err, want)
		}
		if got := StringField(raw, "last_mutation_at"); got != str("last_mutation_at") {
			t.Fatalf("%s: got %q", raw, got)
		}
	})
}

func TestReadFieldsOfOtherValues(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{}`, `[]`, `"namespace"`, `1`, `null`, `{"tags": []}`} {
		if got, err := ReadFields([]byte(text)); err != nil || !reflect.DeepEqual(got, Fields{}) {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
	if _, err := ReadFields([]byte(`{"namespace"`)); err == nil {
		t.Error("broken JSON is read")
	}
}
