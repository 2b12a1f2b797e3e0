package eventlogtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

func runReading(sub func(string, func(*fixture))) {
	sub("EmptyLog", testEmptyLog)
	sub("PartitionThatDoesNotExist", testNoSuchPartition)
	sub("ContextThatHasEnded", testContextEnded)
	sub("ReadFromAnywhere", testReadFromAnywhere)
	sub("ReadMaxEvents", testReadMaxEvents)
	sub("ReadMaxEventsDefault", testReadMaxEventsDefault)
	sub("ReadMaxBytes", testReadMaxBytes)
	sub("ReadMaxEventBytes", testReadMaxEventBytes)
	sub("ReadUntil", testReadUntil)
	sub("ReadFilter", testReadFilter)
	sub("ReadBuckets", testReadBuckets)
	sub("ReadSkipsWhatIsOfNoInterest", testReadSkips)
	sub("ReadAfterTheHead", testReadAfterHead)
	sub("PagesStayAsTheyWere", testPagesStay)
	sub("Head", testHead)
	sub("PositionAt", testPositionAt)
}

func testEmptyLog(t *fixture) {
	for p := range t.partitions() {
		page := t.read(eventlog.ReadRequest{Partition: p})
		if len(page.Events) != 0 {
			t.Errorf("partition %d has %d events, want 0", p, len(page.Events))
		}
		if head := t.head(p); page.Next != head || page.Head != head {
			t.Errorf("partition %d: page has Next %v and Head %v, want both %v", p, page.Next, page.Head, head)
		}
		at, err := t.log.PositionAt(t.Context(), p, time.Now())
		if err != nil || at != t.head(p) {
			t.Errorf("PositionAt(%d, now) = %v, %v, want the head %v", p, at, err, t.head(p))
		}
	}
}

func testNoSuchPartition(t *fixture) {
	for _, p := range []int{-1, t.f.Partitions, 1 << 20} {
		for name, call := range calls(t, p) {
			if name == "Partitions" {
				continue
			}
			if err := call(t.Context()); err == nil {
				t.Errorf("%s of partition %d of %d = nil, want an error", name, p, t.f.Partitions)
			}
		}
	}
}

func testContextEnded(t *fixture) {
	t.fill(one("a", "s", "T", 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range calls(t, 0) {
		if name == "Wait" {
			continue // may return early; see Waiting
		}
		if err := call(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s = %v, want %v", name, err, context.Canceled)
		}
	}
	if !t.f.Append {
		return
	}
	if _, err := t.appender().Append(ctx, one("a", "s", "T", 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("Append = %v, want %v", err, context.Canceled)
	}
	if _, err := t.appender().Versions(ctx, eventlog.StreamRef{Tenant: "a", Stream: "s"}); !errors.Is(err, context.Canceled) {
		t.Errorf("Versions = %v, want %v", err, context.Canceled)
	}
	if got := t.all(); len(got) != 1 {
		t.Errorf("the log has %d events, want 1: an append with an ended context stored something", len(got))
	}
}

// calls are the calls that take a partition.
func calls(t *fixture, p int) map[string]func(context.Context) error {
	out := map[string]func(context.Context) error{
		"Partitions": func(ctx context.Context) error { _, err := t.log.Partitions(ctx); return err },
		"Read": func(ctx context.Context) error {
			_, err := t.log.Read(ctx, eventlog.ReadRequest{Partition: p})
			return err
		},
		"Head": func(ctx context.Context) error { _, err := t.log.Head(ctx, p); return err },
		"Wait": func(ctx context.Context) error { return t.log.Wait(ctx, p, -1) },
		"PositionAt": func(ctx context.Context) error {
			_, err := t.log.PositionAt(ctx, p, time.Now())
			return err
		},
	}
	if c, ok := t.log.(eventlog.Counter); ok {
		out["Count"] = func(ctx context.Context) error {
			_, _, err := c.Count(ctx, p, eventlog.Filter{}, 0, event.Unbounded, 10)
			return err
		}
	}
	return out
}

// fillMixed fills the log with 60 events of several tenants, streams and types.
func fillMixed(t *fixture) {
	t.Helper()
	for i := range 20 {
		tenant := []string{"a", "b", "c", "a/b"}[i%4]
		stream := fmt.Sprintf("s%d", i%3)
		t.fill(one(tenant, stream, []string{"Placed", "Paid", "Sent"}[i%3], 1+i%5))
	}
}

// testReadFromAnywhere reads on from before, at and behind each event.
func testReadFromAnywhere(t *fixture) {
	fillMixed(t)
	total := 0
	for p := range t.partitions() {
		all := t.events(eventlog.ReadRequest{Partition: p})
		total += len(all)
		for i := range all {
			for _, after := range []event.Position{all[i].Position - 1, all[i].Position} {
				want := slices.DeleteFunc(slices.Clone(all), func(e event.Event) bool { return e.Position <= after })
				got := t.events(eventlog.ReadRequest{Partition: p, After: after})
				if !slices.Equal(brief(got), brief(want)) {
					t.Errorf("partition %d after %v has %q, want %q", p, after, brief(got), brief(want))
				}
			}
		}
	}
	if total != 60 {
		t.Errorf("the log has %d events, want 60", total)
	}
}

func testReadMaxEvents(t *fixture) {
	fillMixed(t)
	for p := range t.partitions() {
		want := brief(t.events(eventlog.ReadRequest{Partition: p}))
		for _, n := range []int{1, 2, 7, 60, 1000} {
			pages := t.pages(eventlog.ReadRequest{Partition: p, MaxEvents: n})
			var got []string
			for _, page := range pages {
				got = append(got, brief(page.Events)...)
			}
			if !slices.Equal(got, want) {
				t.Errorf("partition %d in pages of %d has %q, want %q", p, n, got, want)
			}
		}
	}
}

func testReadMaxEventsDefault(t *fixture) {
	t.fill(one("a", "s", "T", 1005))
	total := 0
	for p := range t.partitions() {
		for _, page := range t.pages(eventlog.ReadRequest{Partition: p}) {
			if len(page.Events) > 1000 {
				t.Errorf("a page has %d events, want 1,000 at most", len(page.Events))
			}
			total += len(page.Events)
		}
	}
	if total != 1005 {
		t.Errorf("the log has %d events, want 1,005", total)
	}
}

func testReadMaxBytes(t *fixture) {
	a := one("a", "s", "T", 12)
	for i := range a.Events {
		a.Events[i].Data = fmt.Appendf(nil, `"%s"`, strings.Repeat("x", 998)) // 1,000 bytes
	}
	t.fill(a)
	for _, tt := range []struct {
		maxBytes, most int // most events of a page
	}{
		{1, 1}, {999, 1}, {2500, 3}, {1 << 20, 12},
	} {
		total := 0
		for p := range t.partitions() {
			for _, page := range t.pages(eventlog.ReadRequest{Partition: p, MaxBytes: tt.maxBytes}) {
				total += len(page.Events)
				if len(page.Events) > tt.most {
					t.Errorf("MaxBytes %d: a page has %d events of 1,000 bytes, want %d at most", tt.maxBytes, len(page.Events), tt.most)
				}
			}
		}
		if total != 12 {
			t.Errorf("MaxBytes %d: %d events in all pages, want 12", tt.maxBytes, total)
		}
	}
}

func testReadMaxEventBytes(t *fixture) {
	sizes := []int{10, 99, 100, 101, 5000, 3}
	a := eventlog.StreamAppend{Tenant: "a", Stream: "s"}
	for _, n := range sizes {
		data := fmt.Appendf(nil, `"%s"`, strings.Repeat("x", n-2))
		a.Events = append(a.Events, eventlog.NewEvent{Type: "T", Data: data, Metadata: event.Metadata{"k": "v"}})
	}
	t.fill(a)
	for _, limit := range []int{0, 100} {
		var got []event.Event
		for p := range t.partitions() {
			got = append(got, t.events(eventlog.ReadRequest{Partition: p, MaxEventBytes: limit})...)
		}
		if len(got) != len(sizes) {
			t.Fatalf("MaxEventBytes %d: %d events, want %d", limit, len(got), len(sizes))
		}
		for i, n := range sizes {
			want, withheld := a.Events[i].Data, int64(0)
			if limit > 0 && n > limit {
				want, withheld = nil, int64(n)
			}
			if e := got[i]; !bytes.Equal(e.Data, want) || (want == nil && e.Data != nil) || e.Withheld != withheld {
				t.Errorf("MaxEventBytes %d: payload of %d bytes came as %d bytes, withheld %d, want %d and %d",
					limit, n, len(e.Data), e.Withheld, len(want), withheld)
			}
			if got[i].Metadata["k"] != "v" {
				t.Errorf("MaxEventBytes %d: metadata %v, want those that were stored", limit, got[i].Metadata)
			}
		}
	}
}

func testReadUntil(t *fixture) {
	fillMixed(t)
	for p := range t.partitions() {
		all := t.events(eventlog.ReadRequest{Partition: p})
		for _, e := range all {
			for _, until := range []event.Position{e.Position - 1, e.Position} {
				if until == 0 {
					continue // means: to the head
				}
				want := slices.DeleteFunc(slices.Clone(all), func(e event.Event) bool { return e.Position > until })
				got := t.events(eventlog.ReadRequest{Partition: p, Until: until, MaxEvents: 11})
				if !slices.Equal(brief(got), brief(want)) {
					t.Errorf("partition %d until %v has %q, want %q", p, until, brief(got), brief(want))
				}
			}
		}
		if got := t.events(eventlog.ReadRequest{Partition: p, Until: event.Unbounded}); len(got) != len(all) {
			t.Errorf("partition %d until %v has %d events, want %d", p, event.Unbounded, len(got), len(all))
		}
		if head := t.head(p); head > 1 {
			page := t.read(eventlog.ReadRequest{Partition: p, After: head, Until: head - 1})
			if len(page.Events) != 0 || page.Next != head {
				t.Errorf("partition %d after %v until %v: %d events, Next %v, want none and %v", p, head, head-1, len(page.Events), page.Next, head)
			}
		}
	}
}

func testReadFilter(t *fixture) {
	fillMixed(t)
	t.fill(eventlog.StreamAppend{Tenant: "d", Stream: "s", Events: []eventlog.NewEvent{
		{Type: "Paid", Metadata: event.Metadata{event.SchemaKey: "2"}, Data: []byte(`{}`)},
	}})
	many := []string{"a", "c"}
	for i := range 2000 {
		many = append(many, fmt.Sprintf("tenant-%d", i))
	}
	for _, tt := range []struct {
		name   string
		filter eventlog.Filter
		want   func(e *event.Event) bool
	}{
		{"all", eventlog.Filter{}, func(*event.Event) bool { return true }},
		{"one tenant", eventlog.Filter{Tenants: []string{"a"}}, func(e *event.Event) bool { return e.Tenant == "a" }},
		{"two tenants", eventlog.Filter{Tenants: []string{"b", "a/b"}}, func(e *event.Event) bool { return e.Tenant == "b" || e.Tenant == "a/b" }},
		{"2,002 tenants", eventlog.Filter{Tenants: many}, func(e *event.Event) bool { return e.Tenant == "a" || e.Tenant == "c" }},
		{"a tenant of another case", eventlog.Filter{Tenants: []string{"A"}}, func(*event.Event) bool { return false }},
		{"a pattern is a name", eventlog.Filter{Tenants: []string{"a%", "_"}}, func(*event.Event) bool { return false }},
		{"no tenant at all", eventlog.Filter{Tenants: []string{}}, func(*event.Event) bool { return false }},
		{"without a tenant", eventlog.Filter{Exclude: []string{"a"}}, func(e *event.Event) bool { return e.Tenant != "a" }},
		{"without 2,002 tenants", eventlog.Filter{Exclude: many}, func(e *event.Event) bool { return e.Tenant != "a" && e.Tenant != "c" }},
		{"without nobody", eventlog.Filter{Exclude: []string{}}, func(*event.Event) bool { return true }},
		{"one type", eventlog.Filter{Types: []string{"Paid"}}, func(e *event.Event) bool { return e.Type == "Paid" }},
		{"two types", eventlog.Filter{Types: []string{"Sent", "Placed"}}, func(e *event.Event) bool { return e.Type != "Paid" }},
		{"no type at all", eventlog.Filter{Types: []string{}}, func(*event.Event) bool { return false }},
		{"a type with schema is no type", eventlog.Filter{Types: []string{"Paid@2"}}, func(*event.Event) bool { return false }},
		{"tenants, types and exclusions", eventlog.Filter{Tenants: []string{"a", "b", "d"}, Exclude: []string{"b"}, Types: []string{"Paid", "Sent"}},
			func(e *event.Event) bool { return (e.Tenant == "a" || e.Tenant == "d") && e.Type != "Placed" }},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			for p := range t.partitions() {
				var want []event.Event
				for _, e := range t.events(eventlog.ReadRequest{Partition: p}) {
					if tt.want(&e) {
						want = append(want, e)
					}
				}
				for _, n := range []int{0, 1, 4} {
					got := t.events(eventlog.ReadRequest{Partition: p, Filter: tt.filter, MaxEvents: n})
					if !slices.Equal(brief(got), brief(want)) {
						t.Errorf("partition %d, MaxEvents %d: %q, want %q", p, n, brief(got), brief(want))
					}
				}
			}
		})
	}
}

// testReadBuckets: whatever a log makes of buckets, it hands out all events that
// they have, in order; and if it says that it filters, hardly any others.
func testReadBuckets(t *fixture) {
	for i := range 40 {
		t.fill(one(fmt.Sprint("tenant-", i%13), fmt.Sprint("s", i), "T", 3), one("a", fmt.Sprint("s", i), "T", 2))
	}
	log, ok := t.log.(eventlog.BucketFilter)
	filters := ok && log.FiltersBuckets()
	for _, tt := range []struct {
		name    string
		buckets []eventlog.Bucket
	}{
		{"all of one", []eventlog.Bucket{{Modulus: 1}}},
		{"a half by tenant", []eventlog.Bucket{{Modulus: 2, Residue: 1}}},
		{"a third by stream", []eventlog.Bucket{{ByStream: true, Modulus: 3, Residue: 2}}},
		{"two of seven by stream", []eventlog.Bucket{{ByStream: true, Modulus: 7}, {ByStream: true, Modulus: 7, Residue: 6}}},
		{"of several moduli", []eventlog.Bucket{{ByStream: true, Modulus: 8, Residue: 3}, {ByStream: true, Modulus: 16, Residue: 1}, {Modulus: 5, Residue: 4}}},
		{"of many", []eventlog.Bucket{{ByStream: true, Modulus: 1024, Residue: 1000}, {ByStream: true, Modulus: 1024, Residue: 17}}},
		{"of many moduli", []eventlog.Bucket{{Modulus: 31}, {Modulus: 32}, {Modulus: 33}, {Modulus: 34}, {Modulus: 35}, {Modulus: 36}}},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := &fixture{T: sub, log: t.log, f: t.f}
			mine := func(e event.Event) bool {
				return slices.ContainsFunc(tt.buckets, func(b eventlog.Bucket) bool { return b.Has(e.Tenant, e.Stream) })
			}
			others := func(e event.Event) bool { return !mine(e) }
			for p := range t.partitions() {
				all := t.events(eventlog.ReadRequest{Partition: p})
				want := slices.DeleteFunc(slices.Clone(all), others)
				for _, n := range []int{0, 1, 7} {
					got := t.events(eventlog.ReadRequest{Partition: p, Filter: eventlog.Filter{Buckets: tt.buckets}, MaxEvents: n})
					sent := len(got)
					if got = slices.DeleteFunc(got, others); !slices.Equal(brief(got), brief(want)) {
						t.Errorf("partition %d, MaxEvents %d: %q, want %q", p, n, brief(got), brief(want))
					}
					if few := len(tt.buckets) <= 4; filters && few && sent > len(want)+len(all)/20 {
						t.Errorf("partition %d, MaxEvents %d: it has handed out %d events, %d of them of the buckets, and says that it filters", p, n, sent, len(want))
					}
				}
				got := t.events(eventlog.ReadRequest{Partition: p, Filter: eventlog.Filter{Buckets: tt.buckets, Tenants: []string{"a"}}})
				for _, e := range got {
					if e.Tenant != "a" {
						t.Errorf("an event of tenant %q, which another filter excludes", e.Tenant)
					}
				}
				notA := func(e event.Event) bool { return e.Tenant != "a" }
				if got, want := slices.DeleteFunc(got, others), slices.DeleteFunc(want, notA); !slices.Equal(brief(got), brief(want)) {
					t.Errorf("partition %d of one tenant: %q, want %q", p, brief(got), brief(want))
				}
			}
		})
	}
}

// testReadSkips: a page whose events are all filtered out is empty and moves on,
// and a page that is full of events does not step over the next of interest.
func testReadSkips(t *fixture) {
	t.fill(one("dull", "s", "T", 300), one("a", "s", "T", 2), one("dull", "s", "T", 300))
	found := 0
	for p := range t.partitions() {
		req := eventlog.ReadRequest{Partition: p, Filter: eventlog.Filter{Tenants: []string{"a"}}, MaxEvents: 1}
		pages := t.pages(req)
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
	if found != 2 {
		t.Errorf("found %d events of interest, want 2", found)
	}
}

func testReadAfterHead(t *fixture) {
	t.fill(one("a", "s", "T", 3))
	for p := range t.partitions() {
		after := t.head(p) + 1000
		page := t.read(eventlog.ReadRequest{Partition: p, After: after})
		if len(page.Events) != 0 || page.Next != after || page.Head != t.head(p) {
			t.Errorf("partition %d after %v: %d events, Next %v, Head %v, want none, %v, %v",
				p, after, len(page.Events), page.Next, page.Head, after, t.head(p))
		}
	}
}

// testPagesStay: what was handed out is not changed by what happens later.
func testPagesStay(t *fixture) {
	t.fill(one("a", "s", "T", 5))
	before := t.all()
	want := fmt.Sprintf("%+v", before)
	t.fill(one("a", "s", "U", 500))
	t.all()
	if got := fmt.Sprintf("%+v", before); got != want {
		t.Errorf("an old page is now %s, want %s", got, want)
	}
}

func testHead(t *fixture) {
	for round := range 3 {
		t.fill(one("a", "s", "T", 4))
		for p := range t.partitions() {
			all := t.events(eventlog.ReadRequest{Partition: p})
			head := t.head(p)
			if n := len(all); n > 0 && head < all[n-1].Position {
				t.Errorf("round %d, partition %d: head %v, want at least %v, of the last event", round, p, head, all[n-1].Position)
			}
			if page := t.read(eventlog.ReadRequest{Partition: p}); page.Head != head {
				t.Errorf("round %d, partition %d: page has head %v, want %v", round, p, page.Head, head)
			}
		}
	}
}

func testPositionAt(t *fixture) {
	for range 4 {
		t.fill(one("a", "s", "T", 2), one("b", "s", "T", 1))
		t.pause(3 * time.Millisecond)
	}
	for p := range t.partitions() {
		all := t.events(eventlog.ReadRequest{Partition: p})
		times := []time.Time{time.Now().Add(-time.Hour), time.Now().Add(time.Hour), {}}
		for _, e := range all {
			times = append(times, e.RecordedAt, e.RecordedAt.Add(-time.Microsecond), e.RecordedAt.Add(time.Microsecond))
		}
		for _, at := range times {
			got, err := t.log.PositionAt(t.Context(), p, at)
			if err != nil {
				t.Fatalf("PositionAt(%d, %v) = %v", p, at, err)
			}
			first := slices.IndexFunc(all, func(e event.Event) bool { return !e.RecordedAt.Before(at) })
			if first < 0 {
				if got != t.head(p) {
					t.Errorf("PositionAt(%d, %v) = %v, want the head %v", p, at, got, t.head(p))
				}
				continue
			}
			low := event.Beginning
			if first > 0 {
				low = all[first-1].Position
			}
			if got < low || got >= all[first].Position {
				t.Errorf("PositionAt(%d, %v) = %v, want it from %v to before %v", p, at, got, low, all[first].Position)
			}
		}
	}
}
