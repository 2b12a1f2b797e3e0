// Package projectiontest tests projections: given events, when projected,
// expect documents. It runs in memory, in microseconds, without log, store or
// engine, and treats events as the engine does.
//
//	projectiontest.For(t, carts).
//		Given("acme", "cart-1", "ItemAdded", ItemAdded{SKU: "tea", Count: 2}).
//		Given("acme", "cart-1", "Confirmed", Confirmed{}).
//		Expect("acme", "cart-1", Cart{Confirmed: true, Products: 2})
//
// What the engine would put into the dead letters fails the test, unless
// [Fold.ExpectError] asks for it. And each document is folded twice: once as a
// state that stays in memory, once as one that is stored and loaded again
// between any two events. Both happen in production, so they must agree. They
// do not where the state has fields that its codec leaves out, where a handler
// reads the clock, or where two documents share memory.
package projectiontest

import (
	"fmt"
	"reflect"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/projection"
)

// TB is what is needed of a [testing.TB].
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Start is when the first event occurs, unless [Fold.At] says otherwise. Each
// later one occurs a second after the one before.
var Start = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// A Fold is a projection with what was folded into it. Its methods return it,
// so that a test can be one expression. It is used by one goroutine.
type Fold[S any] struct {
	tb       TB
	p        *projection.Projection[S]
	events   []*event.Event
	notes    []string // of each event: what became of it besides its documents
	versions map[stream]int64
	docs     map[key]*document[S]
	order    []key // of docs, as they came
	next     time.Time

	// Failures of the last event that nobody has asked for yet.
	failures []failure
}

type stream struct{ tenant, name string }

type failure struct {
	what   string // the event and the document
	reason string
	err    error
}

// For returns a Fold without events. A projection with faults of its making
// fails the test at once.
func For[S any](tb TB, p *projection.Projection[S]) *Fold[S] {
	tb.Helper()
	if err := p.Err(); err != nil {
		tb.Fatalf("%v", err)
	}
	f := &Fold[S]{tb: tb, p: p, versions: map[stream]int64{}, docs: map[key]*document[S]{}, next: Start}
	tb.Cleanup(func() {
		tb.Helper()
		f.settle()
	})
	return f
}

// Given projects an event. It gets the next version of its stream and the next
// position. payload is encoded by the projection's codec; a []byte is taken as
// it is, so that a test can give what cannot be decoded. The type may have a
// schema version, as in "Paid@2".
func (f *Fold[S]) Given(tenant, stream, typ string, payload any) *Fold[S] {
	f.tb.Helper()
	data, ok := payload.([]byte)
	if !ok {
		var err error
		if data, err = f.encode(payload); err != nil {
			f.tb.Fatalf("payload of event %q: %v", typ, err)
			return f
		}
	}
	return f.GivenEvent(event.Event{Tenant: tenant, Stream: stream, Type: typ, Data: data})
}

// encode encodes a payload. A codec takes pointers.
func (f *Fold[S]) encode(payload any) ([]byte, error) {
	if v := reflect.ValueOf(payload); v.IsValid() && v.Kind() != reflect.Pointer {
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		payload = p.Interface()
	}
	return f.p.Encode(payload)
}

// GivenEvent projects an event of which everything can be said: metadata, a
// payload that was withheld, a version again (a duplicate) or further on (a
// gap). Version, OccurredAt, RecordedAt and ID are filled in where they are
// zero, Position always.
func (f *Fold[S]) GivenEvent(e event.Event) *Fold[S] {
	f.tb.Helper()
	f.settle()
	e.Position = event.Position(len(f.events) + 1)
	s := stream{e.Tenant, e.Stream}
	if e.Version == 0 {
		e.Version = f.versions[s] + 1
	}
	if e.OccurredAt.IsZero() {
		e.OccurredAt = f.next
	}
	f.next = e.OccurredAt.Add(time.Second)
	if e.RecordedAt.IsZero() {
		e.RecordedAt = e.OccurredAt
	}
	if e.ID == "" {
		e.ID = event.DerivedID(e.Tenant, e.Stream, e.Version)
	}
	f.events, f.notes = append(f.events, &e), append(f.notes, "")
	f.project(&e, f.versions[s])
	f.versions[s] = max(f.versions[s], e.Version)
	return f
}

// At says when the next event occurs.
func (f *Fold[S]) At(t time.Time) *Fold[S] {
	f.next = t
	return f
}

// Expect fails the test unless there is the document, equal to want by what
// the codec makes of both. The tenant of a projection across tenants is "".
func (f *Fold[S]) Expect(tenant, id string, want S) *Fold[S] {
	f.tb.Helper()
	f.settle()
	wanted, err := f.p.Encode(&want)
	if err != nil {
		f.tb.Fatalf("%s %q of tenant %q: what is wanted cannot be encoded: %v", f.p.Name(), id, tenant, err)
		return f
	}
	d := f.docs[key{tenant, id}]
	switch {
	case d == nil || d.data == nil:
		f.tb.Errorf("%s %q of tenant %q: there is no such document, want\n%s\n%s", f.p.Name(), id, tenant, indent(wanted), f.history(tenant, id))
	case string(d.data) != string(wanted):
		f.tb.Errorf("%s %q of tenant %q (- want, + got):\n%s\n%s", f.p.Name(), id, tenant, diff(indent(wanted), indent(d.data)), f.history(tenant, id))
	}
	return f
}

// ExpectNone fails the test if there is the document.
func (f *Fold[S]) ExpectNone(tenant, id string) *Fold[S] {
	f.tb.Helper()
	f.settle()
	if d := f.docs[key{tenant, id}]; d != nil && d.data != nil {
		f.tb.Errorf("%s %q of tenant %q: want no such document, got\n%s\n%s", f.p.Name(), id, tenant, indent(d.data), f.history(tenant, id))
	}
	return f
}

// ExpectError fails the test unless the last event could not be applied, to one
// document at least, for this reason: one of [projection.HandlerError], "name"
// (tenant, stream or type cannot be) or "gap" (a version of the stream is
// missing). The documents are then as before the event, and parked: later
// events of theirs wait.
func (f *Fold[S]) ExpectError(reason string) *Fold[S] {
	f.tb.Helper()
	rest := f.failures[:0:0]
	for _, x := range f.failures {
		if x.reason != reason {
			rest = append(rest, x)
		}
	}
	if len(rest) == len(f.failures) {
		last := "no event was given"
		if n := len(f.events); n > 0 {
			last = f.line(n - 1)
		}
		f.tb.Errorf("want an error %q, got none:\n  %s", reason, last)
	}
	f.failures = rest
	return f
}

// Get returns a document, for what Expect cannot say.
func (f *Fold[S]) Get(tenant, id string) (state S, ok bool) {
	f.tb.Helper()
	f.settle()
	d := f.docs[key{tenant, id}]
	if d == nil || d.data == nil {
		return state, false
	}
	state, err := f.p.DecodeState(d.data)
	if err != nil {
		f.tb.Fatalf("%s %q of tenant %q: %v", f.p.Name(), id, tenant, err)
	}
	return state, true
}

// settle reports the failures of the last event that nobody asked for.
func (f *Fold[S]) settle() {
	f.tb.Helper()
	for _, x := range f.failures {
		f.tb.Errorf("%s cannot be applied: %v\nIf that is right, say ExpectError(%q) after it.", x.what, x.err, x.reason)
	}
	f.failures = nil
}

// fail notes that an event could not be applied.
func (f *Fold[S]) fail(e *event.Event, what string, err *projection.HandlerError) {
	f.failures = append(f.failures, failure{fmt.Sprintf("%s, %s,", describe(e), what), err.Reason, err})
}
