package normalize

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// errJSON: Postgres stores no such text as jsonb, so the bytes were damaged or
// belong to another column.
var errJSON = errors.New("text is no JSON")

// rawFields is what an event needs of raw_fields. The slices alias the input and
// are JSON: strings with their quotes, tags an object. An absent key is nil.
type rawFields struct {
	namespace, kind, detail, failure, tags []byte
}

// scanRaw finds the keys that matter in the text of raw_fields without building
// a tree. It allocates nothing. A value that is no object has no keys.
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
			if value[0] == '{' && len(value) > len("{}") {
				f.tags = value
			}
		}
	})
	return f, err
}

// eachMember calls f with each key and value of a JSON object, both as they are
// written. Any other value has no members.
func eachMember(b []byte, f func(key, value []byte)) error {
	b = skipSpace(b)
	if len(b) == 0 || b[0] != '{' {
		return nil
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
		} else if len(b) == 0 || b[0] != '}' {
			return errJSON
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
		switch b[i] {
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
				return 0 // no value begins so
			}
			i++
			continue
		default:
			i += wordEnd(b[i:])
		}
		if depth == 0 {
			return i
		}
	}
	return 0
}

// wordEnd is the length of the number or word that b begins with.
func wordEnd(b []byte) int {
	for i, c := range b {
		switch c {
		case ',', ':', '{', '}', '[', ']', ' ', '\n', '\t', '\r', '"':
			return i
		}
	}
	return len(b)
}

// stringEnd is the length of the JSON string that b begins with, 0 when it has
// no end.
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

// unquote returns the text of a JSON string and false for any other value. The
// text aliases v, or *scratch where there was an escape to resolve.
func unquote(v []byte, scratch *[]byte) ([]byte, bool) {
	if len(v) < 2 || v[0] != '"' {
		return nil, false
	}
	v = v[1 : len(v)-1]
	i := bytes.IndexByte(v, '\\')
	if i < 0 {
		return v, true
	}
	s := append((*scratch)[:0], v[:i]...)
	for i < len(v) {
		if v[i] != '\\' || i+1 == len(v) {
			s = append(s, v[i])
			i++
			continue
		}
		var n int
		s, n = appendEscaped(s, v[i:])
		i += n
	}
	*scratch = s
	return s, true
}

// appendEscaped resolves the escape that b begins with, and returns its length.
func appendEscaped(s, b []byte) ([]byte, int) {
	const letters, meant = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if i := strings.IndexByte(letters, b[1]); i >= 0 {
		return append(s, meant[i]), 2
	}
	r := codeUnit(b)
	if r < 0 {
		return append(s, b[0]), 1
	}
	if utf16.IsSurrogate(r) {
		if pair := utf16.DecodeRune(r, codeUnit(b[6:])); pair != utf8.RuneError {
			return utf8.AppendRune(s, pair), 12
		}
	}
	return utf8.AppendRune(s, r), 6 // a lone surrogate becomes U+FFFD
}

// codeUnit reads the six bytes of \uXXXX, or returns -1.
func codeUnit(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	r := rune(0)
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}
