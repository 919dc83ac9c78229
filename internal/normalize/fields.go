package normalize

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ffstream/ffstream"
)

// Fields is what raw_fields says, as an event shows it: a value that is no
// string reads like an absent one, empty.
type Fields struct {
	Namespace, ExecutionKind, BlockingDetail, LastFailureMessage string
	Tags                                                         []ffstream.Tag // sorted by key; string values only
}

// ReadFields reads the text of a raw_fields column. The error says that the text
// is no JSON, which Postgres does not store.
func ReadFields(text []byte) (Fields, error) {
	raw, err := scanRaw(text)
	if err != nil {
		return Fields{}, fmt.Errorf("read raw_fields: %w", err)
	}
	f := Fields{
		Namespace: stringOf(raw.namespace), ExecutionKind: stringOf(raw.kind),
		BlockingDetail: stringOf(raw.detail), LastFailureMessage: stringOf(raw.failure),
	}
	// The object was walked over by scanRaw, so it has no fault.
	_ = eachMember(raw.tags, func(key, value []byte) {
		if value[0] == '"' {
			f.Tags = append(f.Tags, ffstream.Tag{Key: stringOf(key), Value: stringOf(value)})
		}
	})
	slices.SortFunc(f.Tags, func(a, b ffstream.Tag) int { return strings.Compare(a.Key, b.Key) })
	return f, nil
}

// StringField returns the string value of one key of raw_fields, empty when it
// is absent or no string. The key stands for itself: it is one that JSON writes
// without escapes.
func StringField(text []byte, key string) string {
	var found string
	// What eachMember finds wrong ReadFields reports.
	_ = eachMember(text, func(k, value []byte) {
		if len(k) == len(key)+2 && string(k[1:len(k)-1]) == key {
			found = stringOf(value)
		}
	})
	return found
}

// stringOf is the text of a JSON string, empty for any other value.
func stringOf(v []byte) string {
	var scratch []byte
	text, _ := unquote(v, &scratch)
	return string(text)
}
