package doctor

import "strings"

const (
	// firstRun ends what is found of an end that is not there, unless the other one
	// has a past.
	firstRun  = "; the first run creates it"
	acceptGap = "ffstream resume --accept-gap"
)

// WithContinuity adds what both ends say together: gap is the loss that a start
// stops with, and err why that could not be told. Each end alone may look as it does
// before the first run, or as if a start were all that it needs, so a gap takes
// that back.
func WithContinuity(findings []Finding, gap, err error) []Finding {
	f := Finding{ID: "continuity", Severity: OK, Found: "the slot and the stream fit together: a start loses nothing"}
	switch {
	case gap != nil:
		f.Severity, f.Found, f.Why = Fault, gap.Error(), "the service stops for good, rather than go on with a hole that nobody knows of"
		if strings.Contains(f.Found, acceptGap) { // no gap leads over a history that parted
			f.Run = []string{acceptGap}
		}
		for i := range findings {
			if end := &findings[i]; end.ID == "slot" || end.ID == "stream" {
				end.Found = strings.TrimSuffix(end.Found, firstRun)
				if end.Severity == Warning {
					end.Run = nil
				}
			}
		}
	case err != nil:
		f.Severity, f.Found, f.Why = Warning, err.Error(), "whether a start would lose something cannot be told before that is mended"
	}
	return append(findings, f)
}
