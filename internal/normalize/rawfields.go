package normalize

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// errJSON: raw_fields is no JSON object. Postgres stores none such as jsonb, so
// it means that the bytes were damaged or belong to another column.
var errJSON = errors.New("raw_fields is no JSON object")

// rawFields is what an event needs of raw_fields. The slices alias the input and
// are JSON: strings with their quotes, tags an object. An absent key is nil.
type rawFields struct {
	namespace, kind, detail, failure, tags []byte
}

// scanRaw finds the keys that matter in the text of raw_fields without building
// a tree. It allocates nothing.
func scanRaw(b []byte) (rawFields, error) {
	var f rawFields
	err := eachMember(b, func(key, value []byte) {
		switch string(key) {
		case `"namespace"`:
			f.namespace = value
		case `"execution_kind"`:
			f.kind = value
		case `"blocking_detail"`:
			f.detail = value
		case `"last_failure_message"`:
			f.failure = value
		case `"tags"`:
			f.tags = value
		}
	})
	return f, err
}

// eachMember calls f with each key and value of a JSON object, both as they are
// written.
func eachMember(b []byte, f func(key, value []byte)) error {
	b = skipSpace(b)
	if len(b) == 0 || b[0] != '{' {
		return errJSON
	}
	b = skipSpace(b[1:])
	for len(b) > 0 && b[0] != '}' {
		n := valueEnd(b)
		if b[0] != '"' || n <= 0 {
			return errJSON
		}
		key := b[:n]
		b = skipSpace(b[n:])
		if len(b) == 0 || b[0] != ':' {
			return errJSON
		}
		b = skipSpace(b[1:])
		if n = valueEnd(b); n <= 0 {
			return errJSON
		}
		f(key, b[:n])
		b = skipSpace(b[n:])
		if len(b) > 0 && b[0] == ',' {
			b = skipSpace(b[1:])
		}
	}
	if len(b) == 0 {
		return errJSON
	}
	return nil
}

func skipSpace(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\n' || b[0] == '\t' || b[0] == '\r') {
		b = b[1:]
	}
	return b
}

// valueEnd is the length of the JSON value that b begins with, 0 when it has no
// end.
func valueEnd(b []byte) int {
	depth := 0
	for i := 0; i < len(b); {
		switch c := b[i]; c {
		case '"':
			n := stringEnd(b[i:])
			if n == 0 {
				return 0
			}
			i += n
		case '{', '[':
			depth++
			i++
		case '}', ']':
			if depth--; depth < 0 {
				return 0
			}
			i++
		case ',', ':', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
			i++
			continue
		default: // a number or a word
			for i < len(b) && !bytes.ContainsRune([]byte(",:{}[] \n\t\r\""), rune(b[i])) {
				i++
			}
		}
		if depth == 0 {
			return i
		}
	}
	return 0
}

// stringEnd is the length of the JSON string that b begins with.
func stringEnd(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// unquote returns the text of a JSON string and false for any other value. It
// allocates only where the string has an escape.
func unquote(v []byte) ([]byte, bool) {
	if len(v) < 2 || v[0] != '"' {
		return nil, false
	}
	inner := v[1 : len(v)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner, true
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return nil, false
	}
	return []byte(s), true
}

// checkRaw wraps a fault of raw_fields with the place.
func checkRaw(err error, id fmt.Stringer) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("read raw_fields of %s: %w", id, err)
}
