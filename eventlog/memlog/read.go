package memlog

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
)

// Read implements [eventlog.Log].
func (l *Log) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if err := ctx.Err(); err != nil {
		return eventlog.Page{}, err
	}
	maxEvents := cmp.Or(max(req.MaxEvents, 0), 1000)
	maxBytes := cmp.Or(max(req.MaxBytes, 0), 4<<20)

	l.mu.Lock()
	p, err := l.partition(req.Partition)
	if err == nil {
		err = p.truncated(req.Partition, req.After)
	}
	if err != nil {
		l.mu.Unlock()
		return eventlog.Page{}, err
	}
	// What is in this slice never changes, so it can be read without the lock.
	events, head := p.events[p.after(req.After):], p.last
	l.mu.Unlock()

	end := head
	if req.Until != 0 && req.Until < end {
		end = req.Until
	}
	page := eventlog.Page{Next: max(req.After, end), Head: head}
	sel := newSelector(req.Filter)
	if req.Filter.All() {
		page.Events = make([]event.Event, 0, min(len(events), maxEvents))
	}
	size := 0
	for i := range events {
		e := &events[i]
		if e.Position > end {
			break
		}
		if !sel.selects(e) {
			continue
		}
		out := *e
		if req.MaxEventBytes > 0 && len(e.Data) > req.MaxEventBytes {
			out.Data, out.Withheld = nil, int64(len(e.Data))
		}
		page.Events = append(page.Events, out)
		size += out.Size()
		if len(page.Events) >= maxEvents || size >= maxBytes {
			page.Next = e.Position
			break
		}
	}
	return page, nil
}

// ReadStream implements [eventlog.StreamReader].
func (l *Log) ReadStream(ctx context.Context, ref eventlog.StreamRef, after int64, limit int) ([]event.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.streams[ref]
	after = max(after, 0)
	if s == nil || after >= s.version() || limit <= 0 {
		return nil, nil
	}
	p := l.parts[s.partition]
	positions := s.positions[after:]
	if err := p.truncated(s.partition, positions[0]-1); err != nil {
		return nil, err
	}
	positions = positions[:min(len(positions), limit)]
	out := make([]event.Event, len(positions))
	for i, x := range positions {
		out[i] = p.events[p.after(x-1)]
	}
	return out, nil
}

// Count implements [eventlog.Counter].
func (l *Log) Count(ctx context.Context, partition int, f eventlog.Filter, after, until event.Position, limit int) (
	n int, oldest time.Time, err error,
) {
	if err := ctx.Err(); err != nil {
		return 0, time.Time{}, err
	}
	l.mu.Lock()
	p, err := l.partition(partition)
	if err != nil {
		l.mu.Unlock()
		return 0, time.Time{}, err
	}
	events := p.events[p.after(after):]
	l.mu.Unlock()

	sel := newSelector(f)
	buckets := sel.buckets
	sel.buckets = nil // they do not count towards the limit
	for i, looked := 0, 0; i < len(events) && events[i].Position <= until && looked < limit; i++ {
		e := &events[i]
		if !sel.selects(e) {
			continue
		}
		if looked++; !inBuckets(buckets, e) {
			continue
		}
		if n == 0 {
			oldest = e.RecordedAt
		}
		n++
	}
	return n, oldest, nil
}

// CountTenants implements [eventlog.TenantCounter].
func (l *Log) CountTenants(ctx context.Context, partition int, tenants []eventlog.TenantAfter, until event.Position, limit int) ([]eventlog.Counted, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	first, of := until, make(map[string][]int, len(tenants))
	for i, t := range tenants {
		first = min(first, t.After)
		of[t.Tenant] = append(of[t.Tenant], i)
	}
	l.mu.Lock()
	p, err := l.partition(partition)
	if err != nil {
		l.mu.Unlock()
		return nil, err
	}
	events := p.events[p.after(first):]
	l.mu.Unlock()

	out, looked := make([]eventlog.Counted, len(tenants)), make([]int, len(tenants))
	for i := range events {
		e := &events[i]
		if e.Position > until {
			break
		}
		for _, n := range of[e.Tenant] {
			c := &out[n]
			if e.Position <= tenants[n].After || looked[n] >= limit {
				continue
			}
			if looked[n]++; tenants[n].Bucket != nil && !tenants[n].Bucket.Has(e.Tenant, e.Stream) {
				continue
			}
			if c.Events == 0 {
				c.Oldest = e.RecordedAt
			}
			c.Events++
		}
	}
	return out, nil
}

// A selector is a filter in which names are quick to find.
type selector struct {
	tenants, exclude, types, classes func(string) bool // nil: not filtered
	buckets                          []eventlog.Bucket // nil: not filtered
}

// FiltersBuckets implements [eventlog.BucketFilter].
func (l *Log) FiltersBuckets() bool { return true }

func newSelector(f eventlog.Filter) selector {
	s := selector{buckets: f.Buckets}
	if f.Tenants != nil {
		s.tenants = finder(f.Tenants)
	}
	if len(f.Exclude) > 0 {
		s.exclude = finder(f.Exclude)
	}
	if f.Types != nil {
		s.types = finder(f.Types)
	}
	if f.Classes != nil {
		s.classes = finder(f.Classes)
	}
	return s
}

func (s *selector) selects(e *event.Event) bool {
	return (s.tenants == nil || s.tenants(e.Tenant)) &&
		(s.exclude == nil || !s.exclude(e.Tenant)) &&
		(s.types == nil || s.types(e.Type)) &&
		(s.classes == nil || s.classes(e.Class)) &&
		inBuckets(s.buckets, e)
}

// inBuckets reports whether an event is in one of the buckets; nil has all.
func inBuckets(buckets []eventlog.Bucket, e *event.Event) bool {
	return buckets == nil || slices.ContainsFunc(buckets, func(b eventlog.Bucket) bool { return b.Has(e.Tenant, e.Stream) })
}

// finder returns a function that tells whether a name is in names.
func finder(names []string) func(string) bool {
	if len(names) <= 8 {
		return func(s string) bool { return slices.Contains(names, s) }
	}
	set := make(map[string]bool, len(names))
	for _, n := range names {
		set[n] = true
	}
	return func(s string) bool { return set[s] }
}
