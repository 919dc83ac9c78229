package ffstream

import (
	"errors"
	"fmt"
	"strings"
)

// ExecutionSnapshot is the fullest point read of one execution: what describing
// it tells. Times are Unix milliseconds. It has no JSON form of its own.
type ExecutionSnapshot struct {
	Info ExecutionInfo
	// CurrentAttempt is the attempt at Info.CurrentAttemptIndex, else the one
	// with the greatest index below it, as in an event.
	CurrentAttempt Opt[Attempt]
	// TotalAttemptCount is the number of attempts that the execution has. The
	// engine's own counter stays 0.
	TotalAttemptCount int64
	// LeaseReclaimCount is absent in schemas before the engine's migration 0017.
	LeaseReclaimCount  Opt[int32]
	DeadlineAtMs       Opt[int64]  // a delay overwrites it with its end
	CancellationReason Opt[string] // sticky: does not imply cancelled
	CancelledBy        Opt[string]
	// LastMutationAtMs is what the engine's rare writers of raw_fields'
	// last_mutation_at left there, absent when it is no decimal text.
	LastMutationAtMs   Opt[int64]
	CurrentWaitpointID string // empty when there is none
	Tags               []Tag  // sorted by key; string values only
}

// ExecutionContext is what a worker needs to run an execution.
type ExecutionContext struct {
	Payload       []byte // the caller's; never nil
	ExecutionKind string // empty when the row has none
	Tags          []Tag  // sorted by key; string values only
}

// ExecutionPage is a part of a partition's executions, in the order of their
// UUIDs.
type ExecutionPage struct {
	IDs []ExecutionID
	// Next is the cursor to go on with: the last of IDs, absent at the end.
	Next Opt[ExecutionID]
}

// Ways in which the text of a partition key is refused, in the order of the
// checks.
var (
	ErrPartitionKeyBraces = errors.New("partition key is not in braces")
	ErrPartitionKeyBody   = errors.New("partition key has no colon between family and index")
	ErrPartitionKeyFamily = errors.New("partition key's family is none of fp, b and q")
	ErrPartitionKeyIndex  = errors.New("partition key's index is not a valid u16")
)

// ParsePartitionKey reads "{fp:7}" with the engine's rules and returns the
// index. The family (fp, b or q) is checked and otherwise ignored, as the engine
// does where it lists executions. The error is one of ErrPartitionKeyBraces,
// ErrPartitionKeyBody, ErrPartitionKeyFamily and ErrPartitionKeyIndex, wrapped
// with the offending text.
func ParsePartitionKey(s string) (uint16, error) {
	body, open := strings.CutPrefix(s, "{")
	body, closed := strings.CutSuffix(body, "}")
	if !open || !closed {
		return 0, fmt.Errorf("%w: %q", ErrPartitionKeyBraces, s)
	}
	family, index, ok := strings.Cut(body, ":")
	if !ok {
		return 0, fmt.Errorf("%w: %q", ErrPartitionKeyBody, s)
	}
	if family != "fp" && family != "b" && family != "q" {
		return 0, fmt.Errorf("%w: %q", ErrPartitionKeyFamily, s)
	}
	n, ok := parsePartition(index)
	if !ok {
		return 0, fmt.Errorf("%w: %q", ErrPartitionKeyIndex, s)
	}
	return n, nil
}

// ErrTagKey is what CheckTagKey wraps.
var ErrTagKey = errors.New("tag key does not match ^[a-z][a-z0-9_]*\\.[a-z0-9_][a-z0-9_.]*$")

// CheckTagKey applies the engine's rule for the keys of tags: a prefix of lower-
// case letters, digits and underscores that starts with a letter, a dot, and a
// rest of the same and dots that does not start with one. The engine applies it
// where it reads and writes single tags and not where it creates executions, so
// rows may hold others.
func CheckTagKey(key string) error {
	prefix, rest, ok := strings.Cut(key, ".")
	if !ok || !tagWord(prefix) || prefix[0] < 'a' || rest == "" || rest[0] == '.' {
		return fmt.Errorf("%w: %q", ErrTagKey, key)
	}
	for word := range strings.SplitSeq(rest, ".") {
		if word != "" && !tagWord(word) {
			return fmt.Errorf("%w: %q", ErrTagKey, key)
		}
	}
	return nil
}

// tagWord reports whether s is one or more of [a-z0-9_].
func tagWord(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return s != ""
}
