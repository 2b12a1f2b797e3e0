package projectiontest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/fairlead-dev/fairlead/event"
)

// most is how many events and documents a message lists.
const most = 20

// describe names an event.
func describe(e *event.Event) string {
	return fmt.Sprintf("event %d (%s, stream %q of tenant %q, version %d)", e.Position, e.Type, e.Stream, e.Tenant, e.Version)
}

// line is an event with its payload.
func (f *Fold[S]) line(i int) string {
	s := describe(f.events[i]) + " " + short(f.events[i].Data)
	if f.notes[i] != "" {
		s += ": " + f.notes[i]
	}
	return s
}

// short is a payload in one line.
func short(data []byte) string {
	const limit = 120
	if len(data) > limit {
		data = append(data[:limit:limit], "…"...)
	}
	if !utf8.Valid(data) {
		return strconv.Quote(string(data))
	}
	return string(data)
}

// history says which events touched a document or, if none did, which events
// and documents there are.
func (f *Fold[S]) history(tenant, id string) string {
	var b strings.Builder
	if d := f.docs[key{tenant, id}]; d != nil {
		b.WriteString("Events that belong to it:")
		for i, t := range d.touched[max(0, len(d.touched)-most):] {
			if i == 0 && len(d.touched) > most {
				fmt.Fprintf(&b, "\n  %d before these", len(d.touched)-most)
			}
			fmt.Fprintf(&b, "\n  %s: %s", f.line(t.event), t.outcome)
		}
		return b.String()
	}
	b.WriteString("No event belongs to it.")
	if f.p.CrossTenant() && tenant != "" {
		b.WriteString(" The projection is across tenants: its documents have the tenant \"\".")
	}
	if len(f.events) > 0 {
		b.WriteString(" Events given:")
	}
	for i := max(0, len(f.events)-most); i < len(f.events); i++ {
		b.WriteString("\n  " + f.line(i))
	}
	if len(f.order) > 0 {
		b.WriteString("\nDocuments that have events:")
	}
	for i, k := range f.order {
		if i == most {
			fmt.Fprintf(&b, "\n  and %d more", len(f.order)-most)
			break
		}
		fmt.Fprintf(&b, "\n  %q of tenant %q", k.id, k.tenant)
	}
	return b.String()
}

// indent returns a document as lines: JSON with one member to a line, anything
// else quoted.
func indent(data []byte) string {
	var b bytes.Buffer
	if err := json.Indent(&b, data, "  ", "  "); err != nil {
		return "  " + strconv.Quote(string(data))
	}
	return "  " + b.String()
}

// diff returns the lines of want and got: in both "    ", in one only "  - "
// and "  + ".
func diff(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	// What is equal at both ends is most of it, and need not be searched.
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		start++
	}
	end := 0
	for end < len(a)-start && end < len(b)-start && a[len(a)-1-end] == b[len(b)-1-end] {
		end++
	}
	var out []string
	put := func(mark string, lines ...string) {
		for _, l := range lines {
			out = append(out, mark+strings.TrimPrefix(l, "  "))
		}
	}
	put("    ", a[:start]...)
	middle(a[start:len(a)-end], b[start:len(b)-end], put)
	put("    ", a[len(a)-end:]...)
	return strings.Join(out, "\n")
}

// middle finds the longest common subsequence of a and b, and puts out the way
// from a to b.
func middle(a, b []string, put func(mark string, lines ...string)) {
	if len(a)*len(b) > 1<<22 { // too large to search: all of it differs
		put("  - ", a...)
		put("  + ", b...)
		return
	}
	// common[i][j] is the length of it for a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			put("    ", a[i])
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
			put("  - ", a[i])
			i++
		default:
			put("  + ", b[j])
			j++
		}
	}
}
