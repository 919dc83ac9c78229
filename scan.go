package ffstream

import (
	"bytes"
	"math"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// scan reads a JSON text from its beginning to its end, with the meaning that
// encoding/json gives it. It refuses whatever is broken, and what is no more than
// unusual with it: the caller then asks encoding/json. A refusal is for good. All
// that is read behind it is worth nothing, and there is an end to it.
//
// null leaves what it is read into as it is, unless a method says otherwise.
type scan struct {
	text []byte
	at   int
	bad  bool // refused
	kept strings.Builder
}

// A short string shares a piece of memory with others of the same text.
const (
	short = 48
	piece = 128
)

// keep copies v.
func (s *scan) keep(v []byte) string {
	if len(v) > short {
		return string(v)
	}
	if s.kept.Cap()-s.kept.Len() < len(v) {
		s.kept.Reset()
		s.kept.Grow(piece)
	}
	n := s.kept.Len()
	s.kept.Write(v)
	return s.kept.String()[n:]
}

// maxDepth is how deep a value that is skipped may be nested.
const maxDepth = 32

func (s *scan) refuse() { s.at, s.bad = len(s.text), true }

// peek is the first byte of the next token, 0 at the end.
func (s *scan) peek() byte {
	for ; s.at < len(s.text); s.at++ {
		if c := s.text[s.at]; c > ' ' || c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return c
		}
	}
	return 0
}

// took reports whether the next token is c, and takes it then.
func (s *scan) took(c byte) bool {
	if s.peek() != c {
		return false
	}
	s.at++
	return true
}

func (s *scan) take(c byte) {
	if !s.took(c) {
		s.refuse()
	}
}

// done reports whether the text was read to its end and nothing was refused.
func (s *scan) done() bool { return s.peek() == 0 && s.at == len(s.text) && !s.bad }

func (s *scan) literal(word string) {
	if rest := s.text[s.at:]; len(rest) < len(word) || string(rest[:len(word)]) != word {
		s.refuse()
		return
	}
	s.at += len(word)
}

// null takes a null and reports whether there was one.
func (s *scan) null() bool {
	if s.peek() != 'n' {
		return false
	}
	s.literal("null")
	return true
}

// more begins another element of an object or array, whose end it takes.
func (s *scan) more(first bool, end byte) bool {
	if s.took(end) {
		return false
	}
	if !first {
		s.take(',')
	}
	return !s.bad
}

// name begins another member of an object and takes its name and the colon behind
// it. At the object's end, which it takes, it reports false. A name that needs an
// escape is not decoded: it is none that the caller knows.
func (s *scan) name(first bool) ([]byte, bool) {
	// As ffstream writes it, by the shortest way.
	if rest := s.text[s.at:]; len(rest) > 1 && rest[0] == ',' && rest[1] == '"' && !first {
		n := bytes.IndexByte(rest[2:], '"')
		if n >= 0 && n+3 < len(rest) && rest[n+3] == ':' {
			s.at += n + 4
			return rest[2 : n+2], true
		}
	}
	if !s.more(first, '}') {
		return nil, false
	}
	k := s.quoted()
	s.take(':')
	return k, !s.bad
}

// quoted takes a string up to the next quote. The caller sees that it is plain.
func (s *scan) quoted() []byte {
	if s.peek() == '"' {
		rest := s.text[s.at+1:]
		if n := bytes.IndexByte(rest, '"'); n >= 0 {
			s.at += n + 2
			return rest[:n]
		}
	}
	s.refuse()
	return nil
}

// str takes a string.
func (s *scan) str() string {
	s.peek()
	start := s.at
	v := s.quoted()
	for _, c := range v {
		if c < ' ' || c == '\\' || c >= utf8.RuneSelf {
			s.at = start
			return s.unquoted()
		}
	}
	return s.keep(v)
}

// unquoted is str for any string. Bytes that are not UTF-8 are refused.
func (s *scan) unquoted() string {
	var out []byte
	s.take('"')
	for {
		from := s.at
		c := s.run()
		out = append(out, s.text[from:s.at]...)
		switch c {
		case '\\':
			out = s.escape(out)
		case '"':
			s.at++
			if !utf8.Valid(out) {
				s.refuse()
			}
			return string(out)
		default:
			return ""
		}
	}
}

// run goes to the quote or backslash that is next in a string and tells which, 0
// when there is none.
func (s *scan) run() byte {
	for ; s.at < len(s.text); s.at++ {
		if c := s.text[s.at]; c == '"' || c == '\\' {
			return c
		} else if c < ' ' {
			break
		}
	}
	s.refuse()
	return 0
}

// escape appends what the escape at hand stands for. Half of a surrogate pair is
// refused.
func (s *scan) escape(b []byte) []byte {
	s.at++ // the backslash
	if s.at == len(s.text) {
		s.refuse()
		return b
	}
	c := s.text[s.at]
	s.at++
	switch c {
	case '"', '\\', '/':
		return append(b, c)
	case 'b':
		return append(b, '\b')
	case 'f':
		return append(b, '\f')
	case 'n':
		return append(b, '\n')
	case 'r':
		return append(b, '\r')
	case 't':
		return append(b, '\t')
	case 'u':
		r := rune(s.hex(4))
		if utf16.IsSurrogate(r) {
			s.literal(`\u`)
			if r = utf16.DecodeRune(r, rune(s.hex(4))); r == utf8.RuneError {
				s.refuse()
			}
		}
		return utf8.AppendRune(b, r)
	}
	s.refuse()
	return b
}

// hex takes a number of so many hexadecimal digits, 16 at most.
func (s *scan) hex(digits int) uint64 {
	if len(s.text)-s.at < digits {
		s.refuse()
		return 0
	}
	n := uint64(0)
	for _, c := range s.text[s.at : s.at+digits] {
		digit, ok := unhex(c)
		if !ok {
			s.refuse()
			return 0
		}
		n = n<<4 | uint64(digit)
	}
	s.at += digits
	return n
}

// unhex is the value of a hexadecimal digit.
func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// digits takes a number without sign, point and exponent.
func (s *scan) digits() uint64 {
	n, start := uint64(0), s.at
	for ; s.at < len(s.text); s.at++ {
		d := uint64(s.text[s.at] - '0')
		if d > 9 {
			break
		}
		if n > math.MaxUint64/10 || n*10 > math.MaxUint64-d {
			s.refuse()
			return 0
		}
		n = n*10 + d
	}
	if length := s.at - start; length == 0 || length > 1 && s.text[start] == '0' {
		s.refuse()
	}
	return n
}

// skip takes any value, nested up to depth.
func (s *scan) skip(depth int) {
	if depth < 0 {
		s.refuse()
	}
	switch s.peek() {
	case '"':
		s.skipString()
	case '{':
		s.at++
		for first := true; s.more(first, '}'); first = false {
			s.skipString()
			s.take(':')
			s.skip(depth - 1)
		}
	case '[':
		s.at++
		for first := true; s.more(first, ']'); first = false {
			s.skip(depth - 1)
		}
	case 't':
		s.literal("true")
	case 'f':
		s.literal("false")
	case 'n':
		s.literal("null")
	default:
		s.skipNumber()
	}
}

func (s *scan) skipString() {
	s.take('"')
	for {
		switch s.run() {
		case '\\':
			var sink [utf8.UTFMax]byte
			s.escape(sink[:0])
		case '"':
			s.at++
			return
		default:
			return
		}
	}
}

// skipNumber takes any number.
func (s *scan) skipNumber() {
	s.is('-')
	if !s.is('0') {
		s.some()
	}
	if s.is('.') {
		s.some()
	}
	if s.is('e') || s.is('E') {
		if !s.is('+') {
			s.is('-')
		}
		s.some()
	}
}

// is reports whether the next byte is c, and takes it then.
func (s *scan) is(c byte) bool {
	if s.at == len(s.text) || s.text[s.at] != c {
		return false
	}
	s.at++
	return true
}

// some takes one digit or more.
func (s *scan) some() {
	start := s.at
	for s.at < len(s.text) && s.text[s.at]-'0' <= 9 {
		s.at++
	}
	if s.at == start {
		s.refuse()
	}
}
