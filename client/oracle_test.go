package client_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
	"github.com/ffstream/ffstream/client"
)

// Words that an event or a filter may have. Of the long ones only the subject is
// the same.
var (
	someStates = append(append(ffstream.PublicStates(), ffstream.StatePurged), "later")
	someNames  = []string{"", "a", "a.b", "a*b", "%", "é x", strings.Repeat("l", 1100), strings.Repeat("l", 1100) + "k"}
	someTags   = []ffstream.Tag{{Key: "a.n", Value: "1"}, {Key: "a.n", Value: "2"}, {Key: "b.n", Value: ""}}
	somePart   = rapid.SampledFrom([]uint16{0, 1, 2, 300})
	someUUIDs  = []uuid.UUID{uuid.NewSHA1(uuid.Nil, []byte{1}), uuid.NewSHA1(uuid.Nil, []byte{2})}
)

func drawEvent(t *rapid.T) (e ffstream.Event, subject string) {
	e = ffstream.Event{
		Type: ffstream.TypeTransitioned, ExecutionID: ffstream.NewExecutionID(somePart.Draw(t, "partition"), rapid.SampledFrom(someUUIDs).Draw(t, "uuid")),
		LaneID: rapid.SampledFrom(someNames).Draw(t, "lane"), Namespace: rapid.SampledFrom(someNames).Draw(t, "namespace"),
		From: rapid.SampledFrom(append([]ffstream.PublicState{""}, ffstream.PublicStates()...)).Draw(t, "from"),
		To:   rapid.SampledFrom(someStates[:len(someStates)-1]).Draw(t, "to"),
	}
	e.ID = ffstream.EventID{System: 7, Position: ffstream.Position{Commit: 0x10}}
	for _, tag := range someTags[rapid.IntRange(0, len(someTags)).Draw(t, "tags"):] {
		if !slices.ContainsFunc(e.Tags, func(other ffstream.Tag) bool { return other.Key == tag.Key }) {
			e.Tags = append(e.Tags, tag)
		}
	}
	subject = e.Subject("ff")
	for range rapid.SampledFrom([]int{0, 0, 1, 2, 20}).Draw(t, "dropped") {
		e.Truncate()
	}
	return e, subject
}

func drawFilter(t *rapid.T) (f client.Filter) {
	few := func(name string) int { return rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, name) }
	state := rapid.SampledFrom(someStates)
	f.States = rapid.SliceOfN(state, 0, few("states")).Draw(t, "wanted states")
	f.Lanes = rapid.SliceOfN(rapid.SampledFrom(someNames), 0, few("lanes")).Draw(t, "wanted lanes")
	f.Namespaces = rapid.SliceOfN(rapid.SampledFrom(someNames), 0, few("namespaces")).Draw(t, "wanted namespaces")
	f.Partitions = rapid.SliceOfN(somePart, 0, few("partitions")).Draw(t, "wanted partitions")
	if rapid.IntRange(0, 9).Draw(t, "wide") == 0 { // more subjects than are asked for
		for p := range uint16(200) {
			f.Partitions = append(f.Partitions, p)
		}
	}
	f.Terminal = rapid.IntRange(0, 4).Draw(t, "terminal") == 0
	if rapid.IntRange(0, 4).Draw(t, "execution") == 0 {
		id := ffstream.NewExecutionID(somePart.Draw(t, "wanted partition"), rapid.SampledFrom(someUUIDs).Draw(t, "wanted uuid"))
		f.Execution, _ = ffstream.ParseExecutionID(strings.Replace(id.String(), id.UUID().String(), strings.ToUpper(id.UUID().String()), 1))
	}
	for range few("steps") {
		step := client.Step{From: rapid.SampledFrom(append(ffstream.PublicStates(), "", "")).Draw(t, "from"), To: rapid.SampledFrom(append(someStates[:3:3], "", "")).Draw(t, "to")}
		f.Steps = append(f.Steps, step)
	}
	f.Tags = rapid.SliceOfN(rapid.SampledFrom(someTags), 0, few("tags")).Draw(t, "wanted tags")
	return f
}

// wanted reads a filter against the body and the subject as documented, with nothing
// of the package.
func wanted(f *client.Filter, body []byte, subject string) bool {
	var e struct {
		Data struct {
			ExecutionID string `json:"execution_id"`
			Partition   uint16
			Namespace   string
			LaneID      string `json:"lane_id"`
			From        *string
			To          string
			Truncated   bool
			Tags        map[string]string
		}
	}
	if err := json.Unmarshal(body, &e); err != nil {
		panic(err)
	}
	d := &e.Data
	ends := []string{"completed", "failed", "cancelled", "expired", "skipped"}
	tokens := strings.Split(subject, ".")
	name := func(want []string, got, token string) bool {
		for _, w := range want {
			if w == got && (got != "" || !d.Truncated) || d.Truncated && got == "" && tokenOf(w) == token {
				return true
			}
		}
		return len(want) == 0
	}
	step := len(f.Steps) == 0
	for _, s := range f.Steps {
		step = step || (s.From == "" || d.From != nil && string(s.From) == *d.From) && (s.To == "" || string(s.To) == d.To)
	}
	for _, tag := range f.Tags {
		if value, ok := d.Tags[tag.Key]; (!ok || value != tag.Value) && (!d.Truncated || len(d.Tags) > 0) {
			return false
		}
	}
	return step && (len(f.States) == 0 || slices.Contains(f.States, ffstream.PublicState(d.To))) &&
		(!f.Terminal || slices.Contains(ends, d.To)) &&
		(len(f.Partitions) == 0 || slices.Contains(f.Partitions, d.Partition)) &&
		(f.Execution.IsZero() || strings.EqualFold(f.Execution.String(), d.ExecutionID)) &&
		name(f.Namespaces, d.Namespace, tokens[3]) && name(f.Lanes, d.LaneID, tokens[4])
}

// tokenOf is a name as a subject has it: escaped, and cut so that no escape is.
func tokenOf(name string) string {
	if name == "" {
		return "%"
	}
	var all []string
	size := 0
	for _, c := range []byte(name) {
		one := string(c)
		if !strings.Contains("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", one) {
			one = fmt.Sprintf("%%%02X", c)
		}
		all, size = append(all, one), size+len(one)
	}
	if size <= ffstream.MaxToken {
		return strings.Join(all, "")
	}
	cut := ""
	for _, one := range all {
		if len(cut) > ffstream.MaxToken-4 {
			break
		}
		cut += one
	}
	return cut + "%"
}

// takes is how a server matches.
func takes(filter, subject string) bool {
	want, got := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, w := range want {
		if w == ">" {
			return len(got) > i
		}
		if i >= len(got) || w != "*" && w != got[i] {
			return false
		}
	}
	return len(want) == len(got)
}

// TestFilterOracle: whatever the event and the filter, Match decides as the filter's
// documentation reads against the body, and what it accepts is on one of the subjects
// that the server is asked for, of which no two take one message.
func TestFilterOracle(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := drawFilter(t)
		for range 10 {
			e, subject := drawEvent(t)
			body := e.AppendJSON(nil)
			parsed, err := ffstream.ParseEvent(body)
			if err != nil {
				t.Fatal(err)
			}
			want := wanted(&f, body, subject)
			if got := f.Match(&parsed, subject); got != want {
				t.Fatalf("%+v: Match says %t, want %t: %s on %s", f, got, want, body, subject)
			}
			for _, control := range []bool{false, true} {
				subjects := f.Subjects("ff", control)
				count := 0
				for _, s := range subjects {
					if takes(s, subject) {
						count++
					}
				}
				if want && count == 0 || count > 1 || len(subjects) > 258 {
					t.Fatalf("%+v: %d of %d subjects take %s, which is wanted: %t", f, count, len(subjects), subject, want)
				}
				for _, other := range []string{"ff.truncated", "ff.gap", "ff.backfill", "ff.corrupt.7", "ff.later"} {
					if n := len(slices.DeleteFunc(slices.Clone(subjects), func(s string) bool { return !takes(s, other) })); n > 1 || control && n != 1 || !control && n != 0 {
						t.Fatalf("%+v: %d subjects take %s, control %t", f, n, other, control)
					}
				}
			}
		}
	})
}
