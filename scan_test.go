package ffstream_test

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ffstream/ffstream"
)

// same fails when the quick way to read a body takes what the other refuses, reads
// it as something else, or keeps some of it, and reports whether it takes it.
func same(t rapid.TB, body []byte) bool {
	t.Helper()
	slow, slowErr := ffstream.ReadEvent(body)
	e, err := ffstream.ParseEvent(body)
	scratch := bytes.Clone(body)
	quick, ok := ffstream.ScanEvent(scratch)
	if !bytes.Equal(scratch, body) {
		t.Fatalf("%q was changed to %q", body, scratch)
	}
	clear(scratch)
	switch {
	case ok && (slowErr != nil || !reflect.DeepEqual(quick, slow)):
		t.Fatalf("%q\nis read as\n%+v, want\n%+v, %v", body, quick, slow, slowErr)
	case fmt.Sprint(err) != fmt.Sprint(slowErr) || !reflect.DeepEqual(e, slow):
		t.Fatalf("%q\nis parsed as\n%+v, %v, want\n%+v, %v", body, e, err, slow, slowErr)
	}
	return ok
}

// gap draws an event of the type that drawer.event leaves out.
func (d drawer) gap() ffstream.Event {
	e := d.event()
	e = ffstream.Event{ID: e.ID, Type: ffstream.TypeGap, Source: e.Source, Time: e.Time}
	e.Gap = &ffstream.Gap{
		Reason: d.str("reason"), Detail: d.str("detail"), After: opt(d, rapid.Custom(drawPosition), "after"),
		AfterSequence: rapid.Uint64().Draw(d.t, "sequence"), ResumesAt: ffstream.LSN(rapid.Uint64().Draw(d.t, "resumes")),
	}
	return e
}

// TestScanTakesWhatIsWritten: whatever ffstream writes of text is read the quick
// way. Bytes that are no text can bring tags out of order.
func TestScanTakesWhatIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		isText := rapid.IntRange(0, 3).Draw(t, "text") > 0
		d := drawer{t, texts()}
		if !isText {
			d.text = anyBytes()
		}
		e := d.event()
		if rapid.IntRange(0, 5).Draw(t, "gap") == 0 {
			e = d.gap()
		}
		for truncated := true; truncated; truncated = e.Truncate() {
			if body := e.AppendJSON(nil); !same(t, body) && isText {
				t.Fatalf("%s is not taken", body)
			}
		}
	})
}

// names are what the objects of a body have, by how an object begins, and what none
// has.
var names = map[string][]string{
	`{"specversion":`:     strings.Fields(`specversion id source type time data subject datacontenttype`),
	`{"execution_id":`:    strings.Fields(`execution_id partition flow_id namespace lane_id execution_kind priority from to terminal state_vector stored_public_state consistent evidence_missing candidate truncated current_attempt_index attempt created_at_ms started_at_ms terminal_at_ms blocking_detail cancellation_reason cancelled_by tags column literal tx op run repair known status chunks executions published superseded reason detail after after_sequence resumes_at table`),
	`{"lifecycle_phase":`: strings.Fields(`lifecycle_phase ownership_state eligibility_state blocking_reason terminal_outcome attempt_state public_state`),
	`{"index":`:           strings.Fields(`index worker_id worker_instance_id lease_epoch lease_expires_at_ms started_at_ms terminal_at_ms outcome`),
	`{"xid":`:             strings.Fields(`xid commit_lsn index last`),
	`{"cairn`:             strings.Fields(`cairn.instance_id a z`),
	"":                    strings.Fields(`later x-later ID From PRIORITY \u0069d i\\u0064 K ſource wireGap Op`),
}

// scalars are values, of use for some name or for none.
var scalars = []string{
	`null`, `true`, `false`, `nul`, `tru`, `0`, `-0`, `7`, `00`, `-7`, `1.5`, `1e3`, `1E+2`, `-`, `1.`, `1e`, `.5`,
	`2147483647`, `2147483648`, `-2147483648`, `-2147483649`, `4294967295`, `4294967296`, `9223372036854775807`, `9223372036854775808`,
	`-9223372036854775808`, `-9223372036854775809`, `18446744073709551615`, `18446744073709551616`, `99999999999999999999`,
	`""`, `"1.0"`, `"2.0"`, `"active"`, `"purged"`, `"snapshot"`, `"text"`, `"é😀"`, `"a\"\\\/\b\f\n\r\tz"`, `"\u00e9\uD83D\ude00"`, `"\ud83d"`, `"\ud83d\u0061"`, `"\ud83dxxde00"`, `"\u12"`, `"\x"`, `"`, "\"\xff\"", "\"\x01\"", "\"\xe2\\u0028\xa1\"",
	`"` + ffstream.TypeGap + `"`, `"` + ffstream.TypeBackfill + `"`, `"` + ffstream.TypeTransitioned + `"`,
	`"1-0000000000000010-0000"`, `"007-00000000000000Af-00000001"`, `"1-0000000000000010-000000001"`, `"1-10-0"`, `"18446744073709551616-0000000000000010-0000"`, `"1-0000000000000010-0000 "`, `"1 -0000000000000010-0000"`,
	`"0000000000000001/0002"`, `"0/10"`,
	`"2026-11-23T01:02:03.456789Z"`, `"2026-11-23T01:02:03+01:00"`, `"2026-11-23T1:02:03Z"`, `"2026-11-23T01:02:03\u005a"`,
	`"` + hyphenated + `"`, `"` + strings.ToUpper(hyphenated) + `"`, `"urn:uuid:` + hyphenated + `"`, `"(` + hyphenated + `}"`, `"` + strings.ReplaceAll(hyphenated, "-", "") + `"`,
	`"{fp:7}:` + hyphenated + `"`, `"{fp:+7}:` + hyphenated + `"`, `"{fp:65536}:` + hyphenated + `"`, `"7}:` + hyphenated + `"`, `"{fp:7}:` + strings.ToUpper(hyphenated) + `"`,
}

// drawValue draws JSON as programs in other languages, careless ones and attackers
// might write it.
func drawValue(t *rapid.T, depth int) string {
	kind := rapid.IntRange(0, 9).Draw(t, "kind")
	if depth == 0 || kind < 6 {
		return rapid.SampledFrom(scalars).Draw(t, "scalar")
	}
	var b strings.Builder
	space := func() {
		b.WriteString(rapid.SampledFrom([]string{"", "", "", " ", "\t\r\n", "\v", ","}).Draw(t, "space"))
	}
	n := rapid.IntRange(0, 3).Draw(t, "elements")
	b.WriteByte("{["[kind/9])
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		space()
		if kind < 9 {
			b.WriteString(drawMember(t, depth))
		} else {
			b.WriteString(drawValue(t, depth-1))
		}
		space()
	}
	b.WriteByte("}]"[kind/9])
	return b.String()
}

func drawMember(t *rapid.T, depth int) string {
	object := rapid.SampledFrom(slices.Sorted(maps.Keys(names))).Draw(t, "object")
	return `"` + rapid.SampledFrom(names[object]).Draw(t, "name") + `":` + drawValue(t, depth-1)
}

// TestScanReadsTheSame: members of any name with values of any kind, put among
// those of an event or in place of them, never make the quick way differ.
func TestScanReadsTheSame(t *testing.T) {
	t.Parallel()
	taken, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		e := drawer{t, rapid.SampledFrom([]string{"", "a", "é", `"`})}.event()
		body := string(e.AppendJSON(nil))
		for range rapid.IntRange(1, 4).Draw(t, "edits") {
			// Behind a brace, a comma or a colon is where names and values begin.
			var places []int
			for i := range body {
				if strings.ContainsRune("{,:[", rune(body[i])) {
					places = append(places, i+1)
				}
			}
			at := rapid.SampledFrom(places).Draw(t, "at")
			end := at
			switch rapid.IntRange(0, 2).Draw(t, "edit") {
			case 0: // in place of what stands there
				end += max(0, strings.IndexAny(body[at:], ",}"))
				body = body[:at] + drawValue(t, 3) + body[end:]
			case 1:
				body = body[:at] + drawMember(t, 3) + "," + body[at:]
			default:
				end += rapid.IntRange(0, min(3, len(body)-at)).Draw(t, "length")
				body = body[:at] + rapid.SampledFrom([]string{"", "}", `"`, " ", "0", "\\", "null,"}).Draw(t, "put") + body[end:]
			}
		}
		if same(t, []byte(body)) {
			taken++
		} else {
			refused++
		}
	})
	if taken == 0 || refused == 0 {
		t.Errorf("%d bodies taken, %d refused: want some of each", taken, refused)
	}
}

// TestScanValues: each member with each value, behind what its object has, so that
// it counts; and each byte of a body wrong.
func TestScanValues(t *testing.T) {
	t.Parallel()
	text := compact(t, example)
	taken := 0
	for object, own := range names {
		at := strings.Index(text, object)
		end := at + closing(text[at:])
		for _, name := range slices.Concat(own, names[""]) {
			for _, value := range scalars {
				if same(t, []byte(text[:end]+`,"`+name+`":`+value+text[end:])) {
					taken++
				}
			}
		}
	}
	if taken == 0 {
		t.Error("nothing was taken")
	}
	for i := range text {
		same(t, []byte(text[:i]+text[i+1:]))
		same(t, []byte(text[:i+1]+text[i:]))
		same(t, []byte(text[:i]+" "+text[i+1:]))
		same(t, []byte(text[:i]))
	}
	for _, beside := range []string{"\x00", " ", "\n", "null", ",", "{", "}", "\ufeff", `"`} {
		same(t, []byte(text+beside))
		same(t, []byte(beside+text))
	}
}

// closing is where the object ends that text begins with.
func closing(text string) int {
	depth := 0
	for i, c := range text {
		switch c {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// TestScanOrder: members may come in any order and twice, and new ones between
// them; the quick way takes them all the same.
func TestScanOrder(t *testing.T) {
	t.Parallel()
	text := compact(t, example)
	for _, tc := range [][2]string{
		{`{"specversion":"1.0",`, `{"later":[1.5e-3,{"\"a":[[]]},null,"\ud83d\ude00"],"z_9":-0,`},
		{`"tx":{`, `"specversion":"1.0","tx":{"commit":{"at":true},`},
		{`"attempt":{"index":0,`, `"attempt":{"index":3,"lease_epoch":9,"outcome":"failed","later":{}},"attempt":{`},
		{`"attempt":{"index":0,`, `"attempt":{"index":3},"attempt":null,"attempt":{`},
		{`"state_vector":{`, `"state_vector":{"public_state":"failed","later":false},"state_vector":null,"state_vector":{`},
		{`"from":"active","to":"completed"`, `"to":"sleeping","from":null,"to":null,"from":"completed"`},
		{`"tags":{"cairn.instance_id":"i-1"}`, `"tags":{"a":"1"},"tags":{"b":"2"}`},
		{`"tags":{"cairn.instance_id":"i-1"}`, `"tags":{"a":"1"},"tags":null`},
		{`"id":"`, "\r\n\t \"id\" : \""},
		{`"created_at_ms":1732319999000`, `"created_at_ms":null,"created_at_ms":-9223372036854775808`},
		{`"consistent":false`, `"consistent":true,"consistent":null`},
		{`"priority":0`, `"priority":-2147483648`},
	} {
		body := strings.Replace(text, tc[0], tc[1], 1)
		if body == text {
			t.Errorf("%s is not in the example", tc[0])
		}
		if strings.HasPrefix(tc[1], `{"later"`) {
			body = strings.TrimSuffix(body, "}") + `,"specversion":"1.0"}`
		}
		if !same(t, []byte(body)) {
			t.Errorf("%s is not taken", body)
		}
	}
	deep := strings.Replace(text, `"tx":`, `"later":`+strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+`,"tx":`, 1)
	if same(t, []byte(deep)) {
		t.Error("9000 arrays in one another are taken")
	}
}

// BenchmarkParseEventBeside compares ParseEvent with encoding/json over the same
// types, in turns, by processor time.
func BenchmarkParseEventBeside(b *testing.B) {
	e := exampleEvent()
	body := e.AppendJSON(nil)
	const turn = 1000
	measure := func(read func([]byte) (ffstream.Event, error)) float64 {
		before := cpu()
		for range turn {
			if _, err := read(body); err != nil {
				b.Fatal(err)
			}
		}
		return float64(cpu()-before) / turn
	}
	var parse, reflection []float64
	for b.Loop() {
		parse = append(parse, measure(ffstream.ParseEvent))
		reflection = append(reflection, measure(ffstream.ReadEvent))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(parse), "ns/event")
	b.ReportMetric(median(reflection), "json-ns/event")
	b.ReportMetric(median(reflection)/median(parse), "json/parse")
}

// cpu is the processor time that this process has used so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
