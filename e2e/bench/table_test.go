package bench

import (
	"fmt"
	"slices"
)

// spread is the median of values and their range.
func spread(values []float64, format string) string {
	v := slices.Sorted(slices.Values(values))
	text := fmt.Sprintf(format, v[len(v)/2])
	if len(v) > 1 {
		text += fmt.Sprintf(" ("+format+"-"+format+")", v[0], v[len(v)-1])
	}
	return text
}
