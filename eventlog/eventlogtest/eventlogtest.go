// Package eventlogtest is the conformance suite of event logs. An adapter's test
// opens its log on the real system and calls [Run]:
//
//	func TestLog(t *testing.T) {
//		eventlogtest.Run(t, openTemp, eventlogtest.Features{Append: true, ReadStream: true})
//	}
//
// Each sentence of the contract in package eventlog has a sub-test. What an
// adapter does not claim in its [Features] is not run; what it can do and does
// not claim fails, so that nothing stays untested by oversight.
package eventlogtest

import (
	"cmp"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// Features says what a log can do.
type Features struct {
	Append     bool // it is an [eventlog.Appender]
	ReadStream bool // it is an [eventlog.StreamReader]
	Count      bool // it is an [eventlog.Counter]

	CountTenants bool // it is an [eventlog.TenantCounter]

	Partitions     int           // of a log that was just opened; default 1
	SparseVersions bool          // versions have gaps or are 0; never so with Append
	JSONOnly       bool          // payloads that are not JSON are refused
	NoClasses      bool          // events have no traffic class: it is always ""; never so with Append
	TimePrecision  time.Duration // of OccurredAt; default 1 ns, at most 1 µs

	// Fill brings events into a log without Append. Their ids may be lost.
	Fill func(t *testing.T, log eventlog.Log, appends ...eventlog.StreamAppend)

	// Truncate drops the events of a partition below a position; nil: this log
	// cannot lose events.
	Truncate func(t *testing.T, log eventlog.Log, partition int, before event.Position)

	// Reopen closes a log and opens what it has stored again; nil: it forgets.
	Reopen func(t *testing.T, log eventlog.Log) eventlog.Log
}

// Run runs the suite. Open returns a new, empty log each time; it closes it with
// t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) eventlog.Log, f Features) {
	f.Partitions = cmp.Or(f.Partitions, 1)
	f.TimePrecision = cmp.Or(f.TimePrecision, time.Nanosecond)
	if f.TimePrecision > time.Microsecond {
		t.Errorf("time precision is %v, want 1 µs at most", f.TimePrecision)
	}
	if !f.Append && f.Fill == nil {
		t.Fatal("a log without Append needs Fill")
	}
	sub := func(name string, test func(*fixture)) {
		t.Run(name, func(t *testing.T) {
			test(&fixture{T: t, log: open(t), f: f})
		})
	}
	sub("Features", testFeatures)
	runReading(sub)
	runClasses(sub)
	runWaiting(sub)
	if f.Append {
		runAppending(sub)
		runNames(sub)
		sub("Concurrent", testConcurrent)
		if f.Partitions > 1 {
			sub("AppendOverPartitionsIsRefused", testAppendOverPartitions)
		}
	}
	if f.ReadStream {
		sub("ReadStream", testReadStream)
	}
	if f.Count {
		sub("Count", testCount)
	}
	if f.CountTenants {
		sub("CountTenants", testCountTenants)
	}
	if f.Truncate != nil {
		sub("Truncated", testTruncated)
		if f.ReadStream {
			sub("TruncatedStream", testTruncatedStream)
		}
		if f.Append {
			sub("TruncatedKeepsVersionsAndIDs", testTruncatedKeeps)
		}
	}
	if f.Reopen != nil {
		sub("Reopen", testReopen)
	}
}

// A fixture is one sub-test with a log of its own.
type fixture struct {
	*testing.T
	log eventlog.Log
	f   Features
}

func testFeatures(t *fixture) {
	_, appends := t.log.(eventlog.Appender)
	_, reads := t.log.(eventlog.StreamReader)
	_, counts := t.log.(eventlog.Counter)
	_, countsTenants := t.log.(eventlog.TenantCounter)
	for _, tt := range []struct {
		name          string
		is, announced bool
	}{
		{"eventlog.Appender", appends, t.f.Append},
		{"eventlog.StreamReader", reads, t.f.ReadStream},
		{"eventlog.Counter", counts, t.f.Count},
		{"eventlog.TenantCounter", countsTenants, t.f.CountTenants},
	} {
		if tt.is != tt.announced {
			t.Errorf("the log is an %s: %t, its features say %t", tt.name, tt.is, tt.announced)
		}
	}
	if t.f.Append && t.f.SparseVersions {
		t.Error("a log that appends has dense versions")
	}
	if t.f.Append && t.f.NoClasses {
		t.Error("a log that appends keeps the classes of its events")
	}
	if got := t.partitions(); got != t.f.Partitions {
		t.Errorf("Partitions = %d, want %d", got, t.f.Partitions)
	}
}

func (t *fixture) partitions() int {
	t.Helper()
	n, err := t.log.Partitions(t.Context())
	if err != nil {
		t.Fatalf("Partitions: %v", err)
	}
	return n
}

func (t *fixture) appender() eventlog.Appender {
	t.Helper()
	a, ok := t.log.(eventlog.Appender)
	if !ok {
		t.Fatal("the log is no eventlog.Appender")
	}
	return a
}

// fill brings events into the log, one call per stream, so that it works over
// partitions.
func (t *fixture) fill(appends ...eventlog.StreamAppend) {
	t.Helper()
	if !t.f.Append {
		t.f.Fill(t.T, t.log, appends...)
		return
	}
	for _, a := range appends {
		t.append(a)
	}
}

// append appends, and fails the test unless it works.
func (t *fixture) append(appends ...eventlog.StreamAppend) eventlog.Token {
	t.Helper()
	token, err := t.appender().Append(t.Context(), appends...)
	if err != nil {
		t.Fatalf("Append(%s) = %v", describe(appends), err)
	}
	return token
}

// refuses appends, and fails the test unless there is an error and the log is
// what it was. It returns the error.
func (t *fixture) refuses(appends ...eventlog.StreamAppend) error {
	t.Helper()
	before := t.all()
	var refs []eventlog.StreamRef
	for _, a := range appends {
		refs = append(refs, eventlog.StreamRef{Tenant: a.Tenant, Stream: a.Stream})
	}
	versions := t.versions(refs...)
	token, err := t.appender().Append(t.Context(), appends...)
	if err == nil {
		t.Fatalf("Append(%s) = %+v, nil, want an error", describe(appends), token)
	}
	if after := t.all(); len(after) != len(before) {
		t.Errorf("Append(%s) = %v, and yet the log has %d events, want %d as before", describe(appends), err, len(after), len(before))
	}
	if got := t.versions(refs...); !slices.Equal(got, versions) {
		t.Errorf("Append(%s) = %v, and yet versions are %v, want %v as before", describe(appends), err, got, versions)
	}
	return err
}

func (t *fixture) versions(refs ...eventlog.StreamRef) []int64 {
	t.Helper()
	got, err := t.appender().Versions(t.Context(), refs...)
	if err != nil {
		t.Fatalf("Versions(%q) = %v", refs, err)
	}
	if len(got) != len(refs) {
		t.Fatalf("Versions of %d streams = %v, want as many", len(refs), got)
	}
	return got
}

func (t *fixture) head(partition int) event.Position {
	t.Helper()
	head, err := t.log.Head(t.Context(), partition)
	if err != nil {
		t.Fatalf("Head(%d) = %v", partition, err)
	}
	return head
}

func (t *fixture) read(req eventlog.ReadRequest) eventlog.Page {
	t.Helper()
	page, err := t.log.Read(t.Context(), req)
	if err != nil {
		t.Fatalf("Read(%+v) = %v", req, err)
	}
	checkPage(t.T, req, page)
	return page
}

// pages reads from req.After to the end, or to req.Until.
func (t *fixture) pages(req eventlog.ReadRequest) []eventlog.Page {
	t.Helper()
	var out []eventlog.Page
	for {
		page := t.read(req)
		out = append(out, page)
		end := page.Head
		if req.Until != 0 {
			end = min(end, req.Until)
		}
		if page.Next >= end {
			return out
		}
		if page.Next <= req.After {
			t.Fatalf("Read(%+v): Next = %v, want progress towards %v", req, page.Next, end)
		}
		req.After = page.Next
	}
}

// events is pages without the pages.
func (t *fixture) events(req eventlog.ReadRequest) []event.Event {
	t.Helper()
	var out []event.Event
	for _, p := range t.pages(req) {
		out = append(out, p.Events...)
	}
	return out
}

// all reads the whole log, one partition after another.
func (t *fixture) all() []event.Event {
	t.Helper()
	var out []event.Event
	for p := range t.partitions() {
		out = append(out, t.events(eventlog.ReadRequest{Partition: p})...)
	}
	return out
}

// checkPage checks what holds for each page.
func checkPage(t *testing.T, req eventlog.ReadRequest, page eventlog.Page) {
	t.Helper()
	end := page.Head
	if req.Until != 0 {
		end = min(end, req.Until)
	}
	if page.Next < req.After || page.Next > max(req.After, end) {
		t.Errorf("Read(%+v): Next = %v, want it from %v to %v (head %v)", req, page.Next, req.After, max(req.After, end), page.Head)
	}
	after := req.After
	for i := range page.Events {
		e := &page.Events[i]
		if e.Position <= after || e.Position > page.Next {
			t.Errorf("Read(%+v): event %d is at %v, want it above %v and up to Next = %v", req, i, e.Position, after, page.Next)
		}
		after = e.Position
		if e.ID == "" || e.Tenant == "" || e.Stream == "" || e.Type == "" || e.RecordedAt.IsZero() {
			t.Errorf("Read(%+v): event %d is %+v, want id, tenant, stream, type and a recorded time", req, i, *e)
		}
		if e.OccurredAt.Location() != time.UTC || e.RecordedAt.Location() != time.UTC {
			t.Errorf("Read(%+v): event %d has times %v and %v, want both in UTC", req, i, e.OccurredAt, e.RecordedAt)
		}
	}
	if req.MaxEvents > 0 && len(page.Events) > req.MaxEvents {
		t.Errorf("Read(%+v) has %d events", req, len(page.Events))
	}
}

// one is an append of n events of a type, with data that differ.
func one(tenant, stream, typ string, n int) eventlog.StreamAppend {
	a := eventlog.StreamAppend{Tenant: tenant, Stream: stream}
	for i := range n {
		a.Events = append(a.Events, eventlog.NewEvent{Type: typ, Data: fmt.Appendf(nil, `{"n":%d}`, i+1)})
	}
	return a
}

// withIDs is an append of one event for each id; "" is an event without one.
func withIDs(tenant, stream string, ids ...string) eventlog.StreamAppend {
	a := one(tenant, stream, "T", len(ids))
	for i, id := range ids {
		a.Events[i].ID = id
	}
	return a
}

func expect(a eventlog.StreamAppend, x eventlog.Expected) eventlog.StreamAppend {
	a.Expected = x
	return a
}

func describe(appends []eventlog.StreamAppend) string {
	var out []string
	for i, a := range appends {
		if i == 3 {
			out = append(out, fmt.Sprintf("and %d more", len(appends)-i))
			break
		}
		out = append(out, fmt.Sprintf("%.40q/%.40q %v: %d events", a.Tenant, a.Stream, a.Expected, len(a.Events)))
	}
	return fmt.Sprint(out)
}

// brief is what identifies an event, for comparing and for messages.
func brief(events []event.Event) []string {
	out := make([]string, len(events))
	for i := range events {
		e := &events[i]
		out[i] = fmt.Sprintf("%s/%s@%d %s", e.Tenant, e.Stream, e.Version, e.Type)
		if e.Class != "" {
			out[i] += " of " + e.Class
		}
	}
	return out
}
