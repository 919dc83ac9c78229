package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// verdict is what a stream is found to be, held against what was committed:
// how many messages are in each way not as they should be, and where the first is.
type verdict struct {
	lost       int // committed and not stored
	duplicated int // stored again
	reordered  int // stored behind what was committed later
	altered    int // stored otherwise than committed, or never committed
	half       int // transactions of one batch, of which only a part can be read
	first      string
}

func (v *verdict) exact() bool { return v.first == "" && v.half == 0 }

func (v *verdict) String() string {
	return fmt.Sprintf("lost %d, duplicated %d, reordered %d, altered %d, half visible %d: %s", v.lost, v.duplicated, v.reordered, v.altered, v.half, v.first)
}

// wholeUpTo is how many events a transaction may have that becomes visible at once.
const wholeUpTo = 1000

// check holds messages against what is expected.
func check(got []message, want []expected) (v verdict) {
	place := make(map[string]int, len(want))
	size, has := map[uint64]int{}, map[uint64]int{} // by commit: events, and those that are stored
	for i := range want {
		place[want[i].id] = i
		size[want[i].commit()]++
	}
	seen, stored := make(map[string]bool, len(got)), make(map[string]bool, len(got))
	for _, m := range got {
		stored[m.header.Get("Nats-Msg-Id")] = true
	}
	highest := -1
	for n, m := range got {
		id := m.header.Get("Nats-Msg-Id")
		i, committed := place[id]
		switch {
		case !committed:
			v.altered++
			v.note(n, got, "altered: nothing was committed as "+id+": "+string(m.body))
		case seen[id]:
			v.duplicated++
			v.note(n, got, "duplicated: "+id+" was stored before")
		case i < highest:
			v.reordered++
			v.note(n, got, "reordered: "+id+" was committed before what stands in front of it")
		}
		if !committed || seen[id] {
			continue
		}
		if text := want[i].differs(m); text != "" {
			v.altered++
			v.note(n, got, "altered: "+text)
		}
		if i > highest+1 {
			class := "lost"
			if stored[want[highest+1].id] {
				class = "reordered"
			}
			v.note(n, got, class+": "+want[highest+1].id+" was committed here")
		}
		seen[id], highest = true, max(highest, i)
		has[want[i].commit()]++
	}
	for i := range want {
		if !seen[want[i].id] {
			v.lost++
			v.note(len(got), got, fmt.Sprintf("lost: %s: %v", want[i].id, want[i].body["data"]))
		}
	}
	for commit, n := range has {
		if n < size[commit] && size[commit] <= wholeUpTo {
			v.half++
		}
	}
	return v
}

// note keeps the first difference that is found. Those are looked for in the order
// of the stream.
func (v *verdict) note(n int, got []message, what string) {
	if v.first == "" {
		v.first = fmt.Sprintf("message %d of %d: %s", n+1, len(got), what)
	}
}

// TestChecker: what is done to a stream that was exact is found, under its name
// and at its place.
func TestChecker(t *testing.T) {
	t.Parallel()
	var want []expected
	var exact []message
	for commit, events := range []int{1, 3, 1, 1} {
		for i := range events {
			e := expected{subject: "exec.1.a.b.active", id: fmt.Sprintf("7-%016X-%04X", commit, i), position: fmt.Sprintf("%016X/%04X", commit, i)}
			e.body = map[string]any{"id": e.id, "data": map[string]any{"to": "active"}}
			want = append(want, e)
			exact = append(exact, message{"ff." + e.subject, map[string][]string{"Nats-Msg-Id": {e.id}, "Ffstream-Position": {e.position}, "Content-Type": {"application/cloudevents+json"}},
				fmt.Appendf(nil, `{"id":%q,"data":{"to":"active"}}`, e.id)})
		}
	}
	other := exact[4]
	other.body = []byte(strings.Replace(string(other.body), "active", "waiting", 1))
	foreign := exact[4]
	foreign.header = map[string][]string{"Nats-Msg-Id": {"mine"}}
	for _, c := range []struct {
		name  string
		got   []message
		want  verdict
		first string
	}{
		{"exact", exact, verdict{}, ""},
		{"dropped", splice(exact, 4, 5), verdict{lost: 1}, "message 5 of 5: lost: " + want[4].id},
		{"dropped at the end", exact[:5], verdict{lost: 1}, "message 6 of 5: lost: " + want[5].id},
		{"doubled", splice(exact, 5, 5, exact[4]), verdict{duplicated: 1}, "message 6 of 7: duplicated: " + want[4].id},
		{"doubled at the end", splice(exact, 6, 6, exact[0]), verdict{duplicated: 1}, "message 7 of 7: duplicated: " + want[0].id},
		{"swapped", splice(exact, 4, 6, exact[5], exact[4]), verdict{reordered: 1}, "message 5 of 6: reordered: " + want[4].id},
		{"altered", splice(exact, 4, 5, other), verdict{altered: 1}, "message 5 of 6: altered: "},
		{"foreign", splice(exact, 2, 2, foreign), verdict{altered: 1}, "message 3 of 7: altered: nothing was committed as mine"},
		{"half a transaction", exact[:3], verdict{lost: 3, half: 1}, "message 4 of 3: lost: " + want[3].id},
		{"the middle of a transaction", splice(exact, 2, 3), verdict{lost: 1, half: 1}, "message 3 of 5: lost: " + want[2].id},
		{"empty", nil, verdict{lost: 6}, "message 1 of 0: lost: " + want[0].id},
	} {
		v := check(c.got, want)
		if !strings.HasPrefix(v.first, c.first) || (v.first == "") != (c.first == "") || v.exact() != (c.name == "exact") {
			t.Errorf("%s: the first difference is %q, want %q", c.name, v.first, c.first)
		}
		v.first = ""
		if v != c.want {
			t.Errorf("%s: %s, want %s", c.name, &v, &c.want)
		}
	}
}

// splice gives messages with those from one place to another replaced.
func splice(all []message, from, to int, by ...message) []message {
	return append(append(append([]message(nil), all[:from]...), by...), all[to:]...)
}
