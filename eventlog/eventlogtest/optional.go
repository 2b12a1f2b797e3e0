package eventlogtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

func testReadStream(t *fixture) {
	log := t.log.(eventlog.StreamReader)
	for i := range 10 { // three streams, mixed, two of one name
		t.fill(one("a", "s", "T", 1), one("b", "s", "T", 2), one("a", fmt.Sprintf("other%d", i), "T", 1))
	}
	byStream := map[eventlog.StreamRef][]event.Event{}
	for _, e := range t.all() {
		r := eventlog.StreamRef{Tenant: e.Tenant, Stream: e.Stream}
		byStream[r] = append(byStream[r], e)
	}
	for _, r := range []eventlog.StreamRef{{Tenant: "a", Stream: "s"}, {Tenant: "b", Stream: "s"}, {Tenant: "a", Stream: "other3"}, {Tenant: "b", Stream: "other3"}} {
		all := byStream[r]
		for _, after := range []int64{0, 1, 5, 9, 10, 19, 20, 1000} {
			for _, limit := range []int{1, 3, 1000} {
				var want []event.Event
				for _, e := range all {
					if e.Version > after && len(want) < limit {
						want = append(want, e)
					}
				}
				got, err := log.ReadStream(t.Context(), r, after, limit)
				if err != nil {
					t.Fatalf("ReadStream(%v, %d, %d) = %v", r, after, limit, err)
				}
				if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); len(got) != len(want) || (len(want) > 0 && g != w) {
					t.Errorf("ReadStream(%v, %d, %d) = %s, want %s", r, after, limit, g, w)
				}
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := log.ReadStream(ctx, eventlog.StreamRef{Tenant: "a", Stream: "s"}, 0, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadStream with an ended context = %v, want %v", err, context.Canceled)
	}
}

func testCount(t *fixture) {
	log := t.log.(eventlog.Counter)
	fillMixed(t)
	for p := range t.partitions() {
		all := t.events(eventlog.ReadRequest{Partition: p})
		bounds := []event.Position{0, 1, event.Unbounded}
		for i := 0; i < len(all); i += 7 {
			bounds = append(bounds, all[i].Position)
		}
		for _, f := range []eventlog.Filter{
			{}, {Tenants: []string{"a"}}, {Exclude: []string{"a", "b"}}, {Types: []string{"Paid"}}, {Tenants: []string{}},
			{Tenants: []string{"a", "b"}, Exclude: []string{"b"}, Types: []string{"Paid", "Sent"}},
			{Buckets: []eventlog.Bucket{{ByStream: true, Modulus: 3, Residue: 2}}}, {Buckets: []eventlog.Bucket{{Modulus: 2, Residue: 1}}},
			{Buckets: []eventlog.Bucket{{ByStream: true, Modulus: 3, Residue: 1}}, Tenants: []string{"a"}},
			{Buckets: []eventlog.Bucket{{ByStream: true, Modulus: 4, Residue: 3}}, Exclude: []string{"a", "b"}},
			{Buckets: []eventlog.Bucket{{ByStream: true, Modulus: 2}, {Modulus: 3, Residue: 1}}, Types: []string{"Paid"}},
			{Buckets: []eventlog.Bucket{}},
		} {
			for _, after := range bounds {
				for _, until := range bounds {
					for _, limit := range []int{1, 5, 1000} {
						n, looked, oldest := 0, 0, time.Time{}
						for _, e := range all {
							if e.Position > after && e.Position <= until && looked < limit && matches(f, e) {
								if looked++; f.Buckets != nil && !slices.ContainsFunc(f.Buckets, func(b eventlog.Bucket) bool { return b.Has(e.Tenant, e.Stream) }) {
									continue
								}
								if n == 0 {
									oldest = e.RecordedAt
								}
								n++
							}
						}
						got, gotOldest, err := log.Count(t.Context(), p, f, after, until, limit)
						if err != nil || got != n || !gotOldest.Equal(oldest) {
							t.Errorf("Count(%d, %+v, %v, %v, %d) = %d, %v, %v, want %d, %v", p, f, after, until, limit, got, gotOldest, err, n, oldest)
						}
					}
				}
			}
		}
	}
}

// testCountTenants: it is as if each tenant was counted alone.
func testCountTenants(t *fixture) {
	log := t.log.(eventlog.TenantCounter)
	fillMixed(t)
	for i := range 60 { // so many that a log which fills its index late has filled it
		t.fill(one(fmt.Sprint("t", i%30), "s", "T", 30))
	}
	fillMixed(t)
	for _, withBuckets := range []bool{false, true} {
		countsTenants(t, log, withBuckets)
	}
	if got, err := log.CountTenants(t.Context(), 0, nil, event.Unbounded, 10); err != nil || len(got) != 0 {
		t.Errorf("CountTenants of none = %v, %v", got, err)
	}
	if _, err := log.CountTenants(t.Context(), t.partitions(), []eventlog.TenantAfter{{Tenant: "a"}}, event.Unbounded, 10); err == nil {
		t.Error("a partition that does not exist was counted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := log.CountTenants(ctx, 0, []eventlog.TenantAfter{{Tenant: "a"}}, event.Unbounded, 10); !errors.Is(err, context.Canceled) {
		t.Errorf("CountTenants with an ended context = %v, want %v", err, context.Canceled)
	}
}

func countsTenants(t *fixture, log eventlog.TenantCounter, withBuckets bool) {
	t.Helper()
	for p := range t.partitions() {
		all := t.events(eventlog.ReadRequest{Partition: p})
		var asked []eventlog.TenantAfter
		for i, tenant := range append([]string{"a", "b", "c", "a/b", "nobody", "a\x00b", "t7", "a", "A"}, odd...) {
			for _, after := range []event.Position{0, all[i*7%len(all)].Position, all[len(all)-1-i].Position, event.Unbounded} {
				asked = append(asked, eventlog.TenantAfter{Tenant: tenant, After: after})
				if withBuckets {
					asked[len(asked)-1].Bucket = []*eventlog.Bucket{nil, {ByStream: true, Modulus: 3, Residue: i % 3}, {Modulus: 2, Residue: i % 2}}[len(asked)%3]
				}
			}
		}
		for _, until := range []event.Position{0, 1, all[len(all)/2].Position, all[len(all)-3].Position, event.Unbounded} {
			for _, limit := range []int{0, 1, 7, 1000} {
				got, err := log.CountTenants(t.Context(), p, asked, until, limit)
				if err != nil || len(got) != len(asked) {
					t.Fatalf("CountTenants of %d = %d, %v", len(asked), len(got), err)
				}
				for i, a := range asked {
					var want eventlog.Counted
					looked := 0
					for _, e := range all {
						if e.Tenant == a.Tenant && e.Position > a.After && e.Position <= until && looked < limit {
							if looked++; a.Bucket != nil && !a.Bucket.Has(e.Tenant, e.Stream) {
								continue
							}
							if want.Events++; want.Events == 1 {
								want.Oldest = e.RecordedAt
							}
						}
					}
					if got[i].Events != want.Events || !got[i].Oldest.Equal(want.Oldest) {
						t.Errorf("of tenant %q in %+v after %v until %v to %d: %+v, want %+v", a.Tenant, a.Bucket, a.After, until, limit, got[i], want)
					}
				}
			}
		}
	}
}

func matches(f eventlog.Filter, e event.Event) bool {
	return (f.Tenants == nil || slices.Contains(f.Tenants, e.Tenant)) && !slices.Contains(f.Exclude, e.Tenant) &&
		(f.Types == nil || slices.Contains(f.Types, e.Type)) && (f.Classes == nil || slices.Contains(f.Classes, e.Class))
}

// testTruncated drops events, part by part and then all, and reads from
// everywhere after each time.
func testTruncated(t *fixture) {
	t.fill(one("a", "s", "T", 20), one("b", "s", "T", 20))
	for p := range t.partitions() {
		all := t.events(eventlog.ReadRequest{Partition: p})
		if len(all) == 0 {
			continue
		}
		head := t.head(p)
		for _, keep := range []int{len(all) - 1, len(all) / 2, 1, 0} {
			gone := all[len(all)-keep-1].Position // the last that is dropped
			before := gone + 1
			if keep > 0 {
				before = all[len(all)-keep].Position
			}
			t.f.Truncate(t.T, t.log, p, before)
			for _, after := range []event.Position{0, all[0].Position, gone - 1} {
				if after >= gone {
					continue
				}
				_, err := t.log.Read(t.Context(), eventlog.ReadRequest{Partition: p, After: after})
				trunc, ok := errors.AsType[*eventlog.TruncatedError](err)
				if !ok || !errors.Is(err, eventlog.ErrTruncated) {
					t.Errorf("%d events kept: Read after %v = %v, want a TruncatedError", keep, after, err)
					continue
				}
				if trunc.Partition != p || trunc.After != after || trunc.First <= gone || trunc.First > before {
					t.Errorf("%d events kept: Read after %v = %+v, want partition %d and First from above %v to %v", keep, after, *trunc, p, gone, before)
				}
				// A filter is no excuse: what is gone may have been of interest.
				_, err = t.log.Read(t.Context(), eventlog.ReadRequest{Partition: p, After: after, Filter: eventlog.Filter{Tenants: []string{"nobody"}}})
				if !errors.Is(err, eventlog.ErrTruncated) {
					t.Errorf("%d events kept: filtered Read after %v = %v, want a TruncatedError", keep, after, err)
				}
			}
			got := t.events(eventlog.ReadRequest{Partition: p, After: gone})
			if want := all[len(all)-keep:]; !slices.Equal(brief(got), brief(want)) {
				t.Errorf("%d events kept: after %v there are %q, want %q", keep, gone, brief(got), brief(want))
			}
			if got := t.head(p); got < head {
				t.Errorf("%d events kept: head %v, want %v as before", keep, got, head)
			}
			at, err := t.log.PositionAt(t.Context(), p, time.Time{})
			if err != nil || at < gone {
				t.Errorf("%d events kept: PositionAt(the beginning of time) = %v, %v, want at least %v, from where one can read", keep, at, err, gone)
			}
		}
	}
}

func testTruncatedStream(t *fixture) {
	log := t.log.(eventlog.StreamReader)
	p := t.home()
	t.fill(one("a", "s", "T", 4))
	all := t.events(eventlog.ReadRequest{Partition: p})
	t.f.Truncate(t.T, t.log, p, all[3].Position)
	r := eventlog.StreamRef{Tenant: "a", Stream: "s"}
	for _, after := range []int64{0, 2} {
		if got, err := log.ReadStream(t.Context(), r, after, 10); !errors.Is(err, eventlog.ErrTruncated) {
			t.Errorf("ReadStream after %d = %q, %v, want a TruncatedError", after, brief(got), err)
		}
	}
	for _, after := range []int64{3, 4, 5} {
		got, err := log.ReadStream(t.Context(), r, after, 10)
		if err != nil || len(got) != int(5-after) {
			t.Errorf("ReadStream after %d = %q, %v, want %d events", after, brief(got), err, 5-after)
		}
	}
}

func testTruncatedKeeps(t *fixture) {
	token := t.append(withIDs("a", "s", "x1", "x2"))
	t.f.Truncate(t.T, t.log, token.Partition, token.Position+1)
	if got := t.versions(ref)[0]; got != 2 {
		t.Errorf("version of a stream whose events are gone = %d, want 2", got)
	}
	again, err := t.appender().Append(t.Context(), withIDs("a", "s", "x1", "x2"))
	if err != nil || again.Position < token.Position {
		t.Errorf("an append repeated after its events are gone = %+v, %v, want the token %+v", again, err, token)
	}
	next := t.append(expect(one("a", "s", "T", 1), eventlog.ExactVersion(2)))
	if e := t.last(next); e.Version != 3 || e.Position <= token.Position {
		t.Errorf("the next event has version %d at %v, want 3 above %v", e.Version, e.Position, token.Position)
	}
}
