package eventlogtest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

func runClasses(sub func(string, func(*fixture))) {
	sub("ReadFiltersByClass", testReadClasses)
	sub("ReadSkipsTheDefaultClass", testReadSkipsClasses)
}

// inClass gives the events of an append a traffic class.
func inClass(class string, a eventlog.StreamAppend) eventlog.StreamAppend {
	for i := range a.Events {
		a.Events[i].Class = class
	}
	return a
}

// fillClasses brings in events as they come in life: a few tests among production.
func fillClasses(t *fixture) {
	t.Helper()
	for i := range 24 {
		tenant, stream := []string{"a", "b", "c"}[i%3], fmt.Sprintf("s%d", i%4)
		t.fill(one(tenant, stream, []string{"Placed", "Paid"}[i%2], 1+i%4))
		switch i % 8 {
		case 1, 2, 3:
			t.fill(inClass("test", one(tenant, stream, "Paid", 2)))
		case 5:
			t.fill(inClass("load", one(tenant, stream, "Placed", 1)))
		}
	}
	mixed := one("a", "s0", "Paid", 3)
	mixed.Events[1].Class = "test"
	t.fill(mixed)
}

// classFilters are filters by class, alone and with others. That an event is
// selected is told by matches.
func classFilters() map[string]eventlog.Filter {
	many := []string{"test", ""}
	for i := range 2000 {
		many = append(many, fmt.Sprintf("class-%d", i))
	}
	tenants := []string{"b", "c"}
	for i := range 200 {
		tenants = append(tenants, fmt.Sprintf("tenant-%d", i))
	}
	return map[string]eventlog.Filter{
		"the default class":               {Classes: []string{""}},
		"a class":                         {Classes: []string{"test"}},
		"two classes":                     {Classes: []string{"load", "test"}},
		"a class twice":                   {Classes: []string{"test", "test"}},
		"a class and the default":         {Classes: []string{"test", ""}},
		"2,002 classes":                   {Classes: many},
		"2,001 classes, not the default":  {Classes: slices.Delete(slices.Clone(many), 1, 2)},
		"no class at all":                 {Classes: []string{}},
		"a class that nobody has":         {Classes: []string{"nobody"}},
		"a class of another case":         {Classes: []string{"Test"}},
		"a pattern is a name":             {Classes: []string{"%", "t_st"}},
		"a name that no class can have":   {Classes: []string{"a\x00b", "\xff"}},
		"a class of a tenant":             {Classes: []string{"test"}, Tenants: []string{"a"}},
		"a class of many tenants":         {Classes: []string{"test"}, Tenants: tenants},
		"a class without a tenant":        {Classes: []string{"test"}, Exclude: []string{"a"}},
		"a class and a type":              {Classes: []string{"load", "test"}, Types: []string{"Placed"}},
		"the default class of a tenant":   {Classes: []string{""}, Tenants: []string{"a"}},
		"the default class and a type":    {Classes: []string{""}, Types: []string{"Paid"}},
		"the default class without a few": {Classes: []string{""}, Exclude: []string{"a", "b"}},
		"class, tenant and type":          {Classes: []string{"", "test"}, Tenants: []string{"b", "c"}, Types: []string{"Paid"}},
		"a class of no tenant":            {Classes: []string{"test"}, Tenants: []string{}},
	}
}

// testReadClasses: a log hands out, and counts, the events of the classes that are
// asked for. One that has no classes has them all in the default one.
func testReadClasses(t *fixture) {
	fillClasses(t)
	classes := map[string]int{}
	for _, e := range t.all() {
		classes[e.Class]++
	}
	if want := map[string]int{"": 62, "test": 19, "load": 3}; !t.f.NoClasses && fmt.Sprint(classes) != fmt.Sprint(want) {
		t.Errorf("events by class: %v, want %v", classes, want)
	} else if t.f.NoClasses && len(classes) != 1 {
		t.Errorf("events by class: %v, want all in the default class, \"\"", classes)
	}
	for name, filter := range classFilters() {
		t.Run(name, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			for p := range t.partitions() {
				var want []event.Event
				for _, e := range t.events(eventlog.ReadRequest{Partition: p}) {
					if matches(filter, e) {
						want = append(want, e)
					}
				}
				for _, n := range []int{0, 1, 4} {
					got := t.events(eventlog.ReadRequest{Partition: p, Filter: filter, MaxEvents: n})
					if !slices.Equal(brief(got), brief(want)) {
						t.Errorf("partition %d, MaxEvents %d: %q, want %q", p, n, brief(got), brief(want))
					}
				}
				if len(want) > 1 { // from its middle
					middle := want[len(want)/2].Position
					got := t.events(eventlog.ReadRequest{Partition: p, Filter: filter, After: middle - 1, Until: middle})
					if len(got) != 1 || got[0].Position != middle {
						t.Errorf("partition %d after %v until %v: %q, want one event", p, middle-1, middle, brief(got))
					}
				}
				counter, ok := t.log.(eventlog.Counter)
				if !ok {
					continue
				}
				n, oldest, err := counter.Count(t.Context(), p, filter, 0, event.Unbounded, 1000)
				if err != nil || n != len(want) || n > 0 && !oldest.Equal(want[0].RecordedAt) {
					t.Errorf("Count = %d, %v, %v, want %d events", n, oldest, err, len(want))
				}
			}
		})
	}
}

// testReadSkipsClasses: what few events of a class there are among many others is
// found in few pages, and a page without any moves on.
func testReadSkipsClasses(t *fixture) {
	t.fill(one("dull", "s", "T", 300), inClass("test", one("a", "s", "T", 2)), one("dull", "s", "T", 300))
	found := 0
	for p := range t.partitions() {
		pages := t.pages(eventlog.ReadRequest{Partition: p, Filter: eventlog.Filter{Classes: []string{"test"}}, MaxEvents: 1})
		for _, page := range pages {
			found += len(page.Events)
		}
		if len(pages) > 100 {
			t.Errorf("partition %d: %d pages for what is of interest, want few", p, len(pages))
		}
		if last := pages[len(pages)-1]; last.Next != last.Head || last.Next != t.head(p) {
			t.Errorf("partition %d: the last page ends at %v with head %v, want %v", p, last.Next, last.Head, t.head(p))
		}
	}
	want := 2
	if t.f.NoClasses {
		want = 0
	}
	if found != want {
		t.Errorf("found %d events of the class, want %d", found, want)
	}
}

// testClassRoundTrip: a class is stored as it is, event by event, and comes back
// from every way to read.
func testClassRoundTrip(t *fixture) {
	classes := append([]string{"", "test", strings.Repeat("c", event.MaxClass), strings.Repeat("é", event.MaxClass/2)}, odd...)
	a := one("a", "s", "T", len(classes))
	for i, c := range classes {
		a.Events[i].Class = c
		if i%2 == 1 { // what else an event has does not matter
			a.Events[i].ID, a.Events[i].Metadata = fmt.Sprint("id", i), event.Metadata{"k": "v"}
		}
	}
	t.append(a)
	t.append(inClass("test", withIDs("a", "t", "x1", "x2")))
	t.append(withIDs("a", "t", "x1", "x2")) // known already: its class is that of the first time
	check := func(how string, got []event.Event) {
		t.Helper()
		if len(got) != len(classes) {
			t.Fatalf("%s: %d events, want %d", how, len(got), len(classes))
		}
		for i, e := range got {
			if e.Class != classes[i] {
				t.Errorf("%s: class %.60q came back as %.60q", how, classes[i], e.Class)
			}
		}
	}
	var s, other []event.Event
	for _, e := range t.all() {
		if e.Stream == "s" {
			s = append(s, e)
		} else {
			other = append(other, e)
		}
	}
	check("Read", s)
	if len(other) != 2 || other[0].Class != "test" || other[1].Class != "test" {
		t.Errorf("the append that was repeated without its class has %+v, want two events of class \"test\"", other)
	}
	if log, ok := t.log.(eventlog.StreamReader); ok {
		got, err := log.ReadStream(t.Context(), ref, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		check("ReadStream", got)
	}
	for _, c := range classes {
		n := 0
		for p := range t.partitions() {
			n += len(t.events(eventlog.ReadRequest{Partition: p, Filter: eventlog.Filter{Classes: []string{c}, Tenants: []string{"a"}}}))
		}
		if want := 1 + 2*len(slices.DeleteFunc([]string{c}, func(c string) bool { return c != "test" })); n != want {
			t.Errorf("filtered by class %.60q the log has %d events, want %d", c, n, want)
		}
	}
	// Several streams in one call, each event with its own class.
	refs := t.together(2)
	var as []eventlog.StreamAppend
	for i, r := range refs {
		a := one(r.Tenant, r.Stream, "T", 3)
		a.Events[i].Class = fmt.Sprint("class-", i)
		as = append(as, a)
	}
	token := t.append(as...)
	all := t.events(eventlog.ReadRequest{Partition: token.Partition})
	var got []string
	for _, e := range all[len(all)-6:] {
		got = append(got, e.Class)
	}
	if want := []string{"class-0", "", "", "", "class-1", ""}; !slices.Equal(got, want) {
		t.Errorf("the classes of one call over two streams came back as %q, want %q", got, want)
	}
}

func testClassRefused(t *fixture) {
	for why, class := range map[string]string{
		"NUL": "a\x00b", "new line": "a\nb", "right-to-left override": "a\u202eb", "zero width space": "a\u200bb",
		"not UTF-8": "a\xffb", "a byte too many": strings.Repeat("x", event.MaxClass+1),
	} {
		t.Run(why, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			bad := one("a", "s", "T", 2)
			bad.Events[1].Class = class
			err := t.refuses(one("a", "t", "T", 1), bad)
			if nameErr, ok := errors.AsType[*event.NameError](err); !ok || nameErr.Field != "class" {
				t.Errorf("error = %v, want a NameError of the class", err)
			}
		})
	}
}
