package eventlogtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

func runAppending(sub func(string, func(*fixture))) {
	sub("AppendExpectedVersion", testExpectedVersion)
	sub("AppendVersionsAreDensePerTenant", testVersionsDense)
	sub("AppendRefusesFaults", testAppendFaults)
	sub("AppendToken", testToken)
	sub("AppendRepeated", testRepeated)
	sub("AppendRepeatedInPart", testRepeatedInPart)
	sub("AppendIDOfAnotherStream", testIDElsewhere)
	sub("AppendDerivedIDs", testDerivedIDs)
	sub("AppendSeveralStreams", testSeveralStreams)
}

var ref = eventlog.StreamRef{Tenant: "a", Stream: "s"}

func testExpectedVersion(t *fixture) {
	for _, tt := range []struct {
		name     string
		version  int64 // of the stream before
		expected eventlog.Expected
		ok       bool
	}{
		{"any, new stream", 0, eventlog.AnyVersion(), true},
		{"any, old stream", 3, eventlog.AnyVersion(), true},
		{"zero Expected is any", 3, eventlog.Expected{}, true},
		{"none, new stream", 0, eventlog.NoStream(), true},
		{"none, old stream", 1, eventlog.NoStream(), false},
		{"exactly 0, new stream", 0, eventlog.ExactVersion(0), true},
		{"exactly 0, old stream", 1, eventlog.ExactVersion(0), false},
		{"exactly 3", 3, eventlog.ExactVersion(3), true},
		{"exactly 2, too low", 3, eventlog.ExactVersion(2), false},
		{"exactly 4, too high", 3, eventlog.ExactVersion(4), false},
		{"exactly 1, new stream", 0, eventlog.ExactVersion(1), false},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			ref := eventlog.StreamRef{Tenant: "a", Stream: tt.name}
			if tt.version > 0 {
				t.append(one(ref.Tenant, ref.Stream, "T", int(tt.version)))
			}
			a := expect(one(ref.Tenant, ref.Stream, "T", 2), tt.expected)
			if tt.ok {
				t.append(a)
				if got, want := t.versions(ref)[0], tt.version+2; got != want {
					t.Errorf("version after = %d, want %d", got, want)
				}
				return
			}
			err := t.refuses(a)
			conflict, ok := errors.AsType[*eventlog.ConflictError](err)
			if !ok || !errors.Is(err, eventlog.ErrConflict) {
				t.Fatalf("error = %v, want a ConflictError", err)
			}
			if conflict.Stream != ref || conflict.Actual != tt.version || conflict.Expected != tt.expected {
				t.Errorf("conflict = %+v, want stream %v, expected %v, actual %d", *conflict, ref, tt.expected, tt.version)
			}
		})
	}
}

func testVersionsDense(t *fixture) {
	streams := []eventlog.StreamRef{
		{Tenant: "a", Stream: "s"}, {Tenant: "b", Stream: "s"}, {Tenant: "a", Stream: "s2"},
		{Tenant: "a/s", Stream: "x"}, {Tenant: "a", Stream: "s/x"},
	}
	want := map[eventlog.StreamRef]int64{}
	for i := range 25 {
		s := streams[i%len(streams)]
		n := 1 + i%3
		t.append(expect(one(s.Tenant, s.Stream, "T", n), eventlog.ExactVersion(want[s])))
		want[s] += int64(n)
	}
	got := map[eventlog.StreamRef]int64{}
	for _, e := range t.all() {
		s := eventlog.StreamRef{Tenant: e.Tenant, Stream: e.Stream}
		if e.Version != got[s]+1 {
			t.Errorf("stream %v: version %d follows %d", s, e.Version, got[s])
		}
		got[s] = e.Version
	}
	for i, v := range t.versions(append(streams, eventlog.StreamRef{Tenant: "a", Stream: "new"})...) {
		if i == len(streams) {
			if v != 0 {
				t.Errorf("version of a new stream = %d, want 0", v)
			}
		} else if s := streams[i]; v != want[s] || got[s] != want[s] {
			t.Errorf("stream %v: Versions says %d, the log has %d, want %d", s, v, got[s], want[s])
		}
	}
}

func testAppendFaults(t *fixture) {
	t.append(one("a", "s", "T", 1))
	good := one("a", "s", "T", 1)
	for _, tt := range []struct {
		name    string
		appends []eventlog.StreamAppend
		invalid bool // the error is a NameError
	}{
		{"no streams", nil, false},
		{"no events", []eventlog.StreamAppend{one("a", "s", "T", 0)}, false},
		{"no events beside a good one", []eventlog.StreamAppend{good, one("a", "s", "T", 0)}, false},
		{"no tenant", []eventlog.StreamAppend{one("", "s", "T", 1)}, true},
		{"no stream", []eventlog.StreamAppend{one("a", "", "T", 1)}, true},
		{"no type", []eventlog.StreamAppend{one("a", "s", "", 1)}, true},
		{"no type beside a good one", []eventlog.StreamAppend{good, one("a", "s", "", 1)}, true},
		{"an id with NUL", []eventlog.StreamAppend{withIDs("a", "s", "x\x00y")}, true},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			err := t.refuses(tt.appends...)
			if errors.Is(err, event.ErrInvalidName) != tt.invalid {
				t.Errorf("error = %v, want a NameError: %t", err, tt.invalid)
			}
		})
	}
}

// checkToken checks the token of an append whose last event is known.
func (t *fixture) checkToken(token eventlog.Token, last event.Event, tenants ...string) {
	t.Helper()
	if token.Position < last.Position {
		t.Errorf("token has position %v, want at least that of the last event, %v", token.Position, last.Position)
	}
	if head := t.head(token.Partition); token.Position > head {
		t.Errorf("token has position %v above the head %v of partition %d: it would never be reached", token.Position, head, token.Partition)
	}
	found := t.events(eventlog.ReadRequest{Partition: token.Partition, After: last.Position - 1, Until: last.Position})
	if len(found) != 1 || found[0].ID != last.ID {
		t.Errorf("token has partition %d, which has not event %q at %v but %q", token.Partition, last.ID, last.Position, brief(found))
	}
	got := slices.Sorted(slices.Values(token.Tenants))
	slices.Sort(tenants)
	if !slices.Equal(got, tenants) {
		t.Errorf("token has tenants %q, want %q", token.Tenants, tenants)
	}
}

// byID finds an event.
func (t *fixture) byID(id string) event.Event {
	t.Helper()
	for _, e := range t.all() {
		if e.ID == id {
			return e
		}
	}
	t.Fatalf("no event %q in the log", id)
	return event.Event{}
}

func testToken(t *fixture) {
	for range 3 {
		for _, tenant := range []string{"a", "b"} {
			token := t.append(one(tenant, "s", "T", 3))
			version := t.versions(eventlog.StreamRef{Tenant: tenant, Stream: "s"})[0]
			last := t.byID(event.DerivedID(tenant, "s", version))
			t.checkToken(token, last, tenant)
			if token.Position != last.Position {
				t.Errorf("token has position %v, want %v, of the last event", token.Position, last.Position)
			}
		}
	}
}

func testRepeated(t *fixture) {
	t.append(withIDs("a", "s", "x1", "x2", "x3"))
	t.append(withIDs("a", "s", "y1", "", ""))
	t.append(withIDs("b", "s", "z1"))
	t.append(one("a", "s", "T", 2))
	for _, tt := range []struct {
		name string
		a    eventlog.StreamAppend
		last int64 // the version of the last event of the append that is repeated
	}{
		{"whole", withIDs("a", "s", "x1", "x2", "x3"), 3},
		{"whole, with the version it had", expect(withIDs("a", "s", "x1", "x2", "x3"), eventlog.NoStream()), 3},
		{"whole, with a wrong version", expect(withIDs("a", "s", "x1", "x2", "x3"), eventlog.ExactVersion(77)), 3},
		{"the beginning", withIDs("a", "s", "x1"), 1},
		{"the end", withIDs("a", "s", "x2", "x3"), 3},
		{"over two appends", withIDs("a", "s", "x3", "y1"), 4},
		{"with events without an id behind", withIDs("a", "s", "y1", "", ""), 6},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			before := t.all()
			token := t.append(tt.a)
			if after := t.all(); !slices.Equal(brief(after), brief(before)) {
				t.Fatalf("the log has %q, want %q as before", brief(after), brief(before))
			}
			i := slices.IndexFunc(before, func(e event.Event) bool {
				return e.Tenant == "a" && e.Stream == "s" && e.Version == tt.last
			})
			t.checkToken(token, before[i], "a")
		})
	}
	// Without an id there is nothing to know an event again by.
	t.append(one("a", "s", "T", 2))
	if got := t.versions(ref)[0]; got != 10 {
		t.Errorf("version after an append without ids was repeated = %d, want 10", got)
	}
}

func testRepeatedInPart(t *fixture) {
	t.append(withIDs("a", "s", "x1", "x2"))
	for _, tt := range []struct {
		name string
		a    eventlog.StreamAppend
		id   string // the one that is taken; "" where several could be named
	}{
		{"old and new", withIDs("a", "s", "x2", "x3"), "x2"},
		{"new and old", withIDs("a", "s", "x0", "x1"), "x1"},
		{"with a version that fits", expect(withIDs("a", "s", "x2", "x3"), eventlog.ExactVersion(2)), "x2"},
		{"with a version that does not", expect(withIDs("a", "s", "x2", "x3"), eventlog.NoStream()), "x2"},
		{"old, new and without", withIDs("a", "s", "", "x1", "x3"), "x1"},
		{"new id twice", withIDs("a", "s", "n", "n"), "n"},
		{"old id twice", withIDs("a", "s", "x1", "x1"), "x1"},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			t.duplicate(tt.id, ref, tt.a)
		})
	}
	t.Run("new id twice, in two appends of a call", func(sub *testing.T) {
		t := &fixture{T: sub, log: t.log, f: t.f}
		t.duplicate("n", ref, withIDs("a", "s", "n"), withIDs("a", "s", "n"))
	})
}

// duplicate checks that appends are refused with a DuplicateError.
func (t *fixture) duplicate(id string, stream eventlog.StreamRef, appends ...eventlog.StreamAppend) {
	t.Helper()
	err := t.refuses(appends...)
	dup, ok := errors.AsType[*eventlog.DuplicateError](err)
	if !ok || !errors.Is(err, eventlog.ErrDuplicate) {
		t.Fatalf("error = %v, want a DuplicateError", err)
	}
	if dup.ID != id || dup.Stream != stream {
		t.Errorf("error = %+v, want id %q and stream %v", *dup, id, stream)
	}
}

func testIDElsewhere(t *fixture) {
	t.append(withIDs("a", "s", "x1"))
	for _, other := range []eventlog.StreamRef{{Tenant: "a", Stream: "other"}, {Tenant: "b", Stream: "s"}} {
		t.duplicate("x1", other, withIDs(other.Tenant, other.Stream, "x1"))
		t.duplicate("x1", other, withIDs(other.Tenant, other.Stream, "new", "x1"))
	}
	t.append(withIDs("a", "other", "X1")) // an id is what it is, to the byte
}

func testDerivedIDs(t *fixture) {
	t.append(one("a", "s", "T", 2))
	for i, e := range t.all() {
		if want := event.DerivedID("a", "s", int64(i+1)); e.ID != want {
			t.Errorf("event without an id has id %q, want %q", e.ID, want)
		}
	}
	// An export that is imported again: each id is the event's own.
	t.append(withIDs("a", "s", event.DerivedID("a", "s", 1), event.DerivedID("a", "s", 2)))
	if got := t.versions(ref)[0]; got != 2 {
		t.Errorf("version after the same events under their own ids = %d, want 2", got)
	}
	t.append(withIDs("a", "s", event.DerivedID("a", "s", 3)))
	if e := t.byID(event.DerivedID("a", "s", 3)); e.Version != 3 {
		t.Errorf("event %q has version %d, want 3", e.ID, e.Version)
	}
	for _, id := range []string{
		event.DerivedID("a", "s", 5),   // a later event of this stream
		event.DerivedID("b", "s", 1),   // an event to come of another tenant
		event.DerivedID("a", "s/x", 1), // ... of another stream
	} {
		err := t.refuses(withIDs("a", "s", id))
		if nameErr, ok := errors.AsType[*event.NameError](err); !ok || nameErr.Field != "id" {
			t.Errorf("id %q: error = %v, want a NameError of the id, because it is reserved", id, err)
		}
	}
	if err := t.refuses(withIDs("b", "s", event.DerivedID("a", "s", 1))); !errors.Is(err, eventlog.ErrDuplicate) && !errors.Is(err, event.ErrInvalidName) {
		t.Errorf("id of an event of another tenant: error = %v, want a DuplicateError or a NameError", err)
	}
	t.append(one("b", "s", "T", 1)) // and the id is there for whom it belongs to
	t.byID(event.DerivedID("b", "s", 1))
}

// together returns streams that are in one log partition, by appending to them.
func (t *fixture) together(n int) []eventlog.StreamRef {
	t.Helper()
	if t.f.Partitions == 1 {
		var out []eventlog.StreamRef
		for i := range n {
			out = append(out, eventlog.StreamRef{Tenant: fmt.Sprintf("t%d", i%2), Stream: fmt.Sprintf("new%d", i)})
		}
		return out
	}
	parts := map[int][]eventlog.StreamRef{}
	for i := range 100 * n {
		s := eventlog.StreamRef{Tenant: fmt.Sprintf("t%d", i%2), Stream: fmt.Sprintf("p%d", i)}
		p := t.append(one(s.Tenant, s.Stream, "T", 1)).Partition
		if parts[p] = append(parts[p], s); len(parts[p]) == n {
			return parts[p]
		}
	}
	t.Fatalf("no %d streams in one of %d partitions", n, t.f.Partitions)
	return nil
}

func testSeveralStreams(t *fixture) {
	refs := t.together(3)
	start := t.versions(refs...)
	multi := func(change func(as []eventlog.StreamAppend)) []eventlog.StreamAppend {
		var as []eventlog.StreamAppend
		for i, r := range refs {
			as = append(as, expect(withIDs(r.Tenant, r.Stream, fmt.Sprintf("m%d", i), ""), eventlog.ExactVersion(start[i])))
		}
		if change != nil {
			change(as)
		}
		return as
	}
	// One fault among three: nothing of the three.
	for i := range refs {
		err := t.refuses(multi(func(as []eventlog.StreamAppend) { as[i].Expected = eventlog.ExactVersion(99) })...)
		if c, ok := errors.AsType[*eventlog.ConflictError](err); !ok || c.Stream != refs[i] {
			t.Errorf("conflict in append %d of 3: error = %v, want a ConflictError of %v", i, err, refs[i])
		}
		err = t.refuses(multi(func(as []eventlog.StreamAppend) { as[i].Events[1].Type = "" })...)
		if !errors.Is(err, event.ErrInvalidName) {
			t.Errorf("no type in append %d of 3: error = %v, want a NameError", i, err)
		}
	}
	if err := t.refuses(multi(func(as []eventlog.StreamAppend) { as[2].Events[1].ID = "m0" })...); !errors.Is(err, eventlog.ErrDuplicate) {
		t.Errorf("an id twice: error = %v, want a DuplicateError", err)
	}

	before := len(t.all())
	token := t.append(multi(nil)...)
	all := t.events(eventlog.ReadRequest{Partition: token.Partition})
	got := brief(all[len(all)-6:])
	var want []string
	for i, r := range refs {
		want = append(want, fmt.Sprintf("%s/%s@%d T", r.Tenant, r.Stream, start[i]+1), fmt.Sprintf("%s/%s@%d T", r.Tenant, r.Stream, start[i]+2))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the events of one call came as %q, want the order given: %q", got, want)
	}
	tenants := map[string]bool{}
	for _, r := range refs {
		tenants[r.Tenant] = true
	}
	var names []string
	for n := range tenants {
		names = append(names, n)
	}
	t.checkToken(token, all[len(all)-1], names...)

	// Repeated whole: nothing. One of three repeated: the two others.
	again := t.append(multi(nil)...)
	if n := len(t.all()); n != before+6 {
		t.Errorf("after the call was repeated the log has %d events, want %d", n, before+6)
	}
	t.checkToken(again, all[len(all)-1], names...)
	t.append(multi(func(as []eventlog.StreamAppend) {
		as[1].Events[0].ID, as[1].Expected = "new1", eventlog.ExactVersion(start[1]+2)
		as[2].Events[0].ID, as[2].Expected = "new2", eventlog.AnyVersion()
	})...)
	if got, want := t.versions(refs...), []int64{start[0] + 2, start[1] + 4, start[2] + 4}; !slices.Equal(got, want) {
		t.Errorf("versions after one of three was repeated = %v, want %v", got, want)
	}

	// A stream named twice: the second is judged after the first.
	v := start[0] + 2
	r := refs[0]
	if err := t.refuses(expect(one(r.Tenant, r.Stream, "T", 1), eventlog.ExactVersion(v)),
		expect(one(r.Tenant, r.Stream, "T", 1), eventlog.ExactVersion(v))); !errors.Is(err, eventlog.ErrConflict) {
		t.Errorf("a stream named twice with one version: error = %v, want a ConflictError", err)
	}
	t.append(expect(one(r.Tenant, r.Stream, "T", 2), eventlog.ExactVersion(v)), expect(one(r.Tenant, r.Stream, "T", 1), eventlog.ExactVersion(v+2)))
	if got := t.versions(r)[0]; got != v+3 {
		t.Errorf("version after a stream was named twice = %d, want %d", got, v+3)
	}
}

func testAppendOverPartitions(t *fixture) {
	first := t.append(one("a", "p0", "T", 1))
	for i := 1; i < 1000; i++ {
		name := fmt.Sprintf("p%d", i)
		if t.append(one("a", name, "T", 1)).Partition != first.Partition {
			err := t.refuses(one("a", "p0", "T", 1), one("a", name, "T", 1))
			if errors.Is(err, eventlog.ErrConflict) || errors.Is(err, eventlog.ErrDuplicate) {
				t.Errorf("error = %v, want one that no other version or id would avoid", err)
			}
			return
		}
	}
	t.Errorf("1,000 streams are all in partition %d of %d", first.Partition, t.f.Partitions)
}

// testReopen: what was stored is there after the log was closed and opened.
func testReopen(t *fixture) {
	a := eventlog.StreamAppend{Tenant: "a", Stream: "s", Events: []eventlog.NewEvent{
		{ID: "x1", Type: "T", Class: "test", OccurredAt: time.Now(), Metadata: event.Metadata{"k": "v"}, Data: []byte(`{"n":1}`)},
		{Type: "U"},
	}}
	if t.f.Append {
		t.append(a)
	} else {
		t.fill(a)
	}
	before := fmt.Sprintf("%+v", t.all())
	t.log = t.f.Reopen(t.T, t.log)
	if after := fmt.Sprintf("%+v", t.all()); after != before {
		t.Errorf("after opening again the log has %s, want %s", after, before)
	}
	if !t.f.Append {
		return
	}
	t.append(a)
	if got := t.versions(ref)[0]; got != 2 {
		t.Errorf("version after repeating an append from before = %d, want 2", got)
	}
	last := t.all()[1]
	t.append(expect(one("a", "s", "T", 1), eventlog.ExactVersion(2)))
	if e := t.byID(event.DerivedID("a", "s", 3)); e.Position <= last.Position {
		t.Errorf("the first event after opening is at %v, want above %v", e.Position, last.Position)
	}
}
