package pgoutput

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"
)

// ValueKind says in what form a column came.
type ValueKind byte

// The forms of a column.
const (
	ValueNull      ValueKind = 'n'
	ValueUnchanged ValueKind = 'u' // TOASTed and not changed, so not sent: unknown, not null
	ValueText      ValueKind = 't'
	ValueBinary    ValueKind = 'b'
)

// Value is one column of a tuple. Data aliases the decoded input.
type Value struct {
	Kind ValueKind
	Data []byte
}

// ErrNoValue says that a column is null or was not sent where a value is needed.
var ErrNoValue = errors.New("column has no value")

var errForm = errors.New("value has not the form of its type")

// Null reports SQL NULL.
func (v Value) Null() bool { return v.Kind == ValueNull }

// Unchanged reports a TOASTed value that was not sent because it did not change.
func (v Value) Unchanged() bool { return v.Kind == ValueUnchanged }

func (v Value) present() error {
	if v.Kind == ValueNull || v.Kind == ValueUnchanged {
		return ErrNoValue
	}
	return nil
}

// Int16 reads a smallint.
func (v Value) Int16() (int16, error) {
	n, err := v.integer(2)
	return int16(n), err
}

// Int32 reads an integer.
func (v Value) Int32() (int32, error) {
	n, err := v.integer(4)
	return int32(n), err
}

// Int64 reads a bigint.
func (v Value) Int64() (int64, error) { return v.integer(8) }

func (v Value) integer(size int) (int64, error) {
	if err := v.present(); err != nil {
		return 0, err
	}
	if v.Kind == ValueText {
		return parseInteger(v.Data, size)
	}
	if len(v.Data) != size {
		return 0, errForm
	}
	switch size {
	case 2:
		return int64(int16(binary.BigEndian.Uint16(v.Data))), nil
	case 4:
		return int64(int32(binary.BigEndian.Uint32(v.Data))), nil
	default:
		return int64(binary.BigEndian.Uint64(v.Data)), nil
	}
}

// parseInteger reads a decimal that fits size bytes.
func parseInteger(b []byte, size int) (int64, error) {
	negative := len(b) > 0 && b[0] == '-'
	if negative {
		b = b[1:]
	}
	limit := uint64(1)<<(8*size-1) - 1
	if negative {
		limit++
	}
	if len(b) == 0 || len(b) > 19 {
		return 0, errForm
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, errForm
		}
		n = n*10 + uint64(c-'0')
	}
	if n > limit {
		return 0, fmt.Errorf("%w: it does not fit %d bytes", errForm, size)
	}
	if negative {
		return int64(-n), nil
	}
	return int64(n), nil
}

// UUID reads a uuid.
func (v Value) UUID() (uuid.UUID, error) {
	if err := v.present(); err != nil {
		return uuid.UUID{}, err
	}
	if v.Kind == ValueBinary {
		if len(v.Data) != 16 {
			return uuid.UUID{}, errForm
		}
		return uuid.UUID(v.Data), nil
	}
	if len(v.Data) != 36 {
		return uuid.UUID{}, errForm
	}
	return uuid.ParseBytes(v.Data)
}

// Text returns the bytes of a text value, which are the same in both forms.
func (v Value) Text() ([]byte, error) { return v.Data, v.present() }

// JSON returns the text of a json or jsonb value. Binary jsonb begins with a
// version byte, which is 1.
func (v Value) JSON() ([]byte, error) {
	if err := v.present(); err != nil {
		return nil, err
	}
	if v.Kind == ValueText || len(v.Data) > 0 && v.Data[0] != 1 {
		return v.Data, nil
	}
	if len(v.Data) == 0 {
		return nil, errForm
	}
	return v.Data[1:], nil
}
