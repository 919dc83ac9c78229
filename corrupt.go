package ffstream

import "fmt"

// CorruptionError says that a row holds a literal which no rule knows. Point
// reads return it; the stream publishes a TypeCorrupt event instead. It is
// never mended by waiting: either the engine has grown a literal and ffstream
// must be upgraded, or the row was written by hand.
type CorruptionError struct {
	ExecutionID ExecutionID
	Column      string // of ff_exec_core, or "ff_attempt.outcome"
	Literal     string
}

// Error names the execution, the column and the literal.
func (e *CorruptionError) Error() string {
	return fmt.Sprintf("execution %s: %s: '%s' is not a known value", e.ExecutionID, e.Column, e.Literal)
}
