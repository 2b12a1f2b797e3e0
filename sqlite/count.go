package sqlite

import (
	"context"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	zs "zombiezen.com/go/sqlite"
)

// CountTenants implements [eventlog.TenantCounter].
func (db *DB) CountTenants(ctx context.Context, partition int, tenants []eventlog.TenantAfter, until event.Position, limit int) (out []eventlog.Counted, err error) {
	if err := checkPartition(partition); err != nil {
		return nil, err
	}
	err = db.read(ctx, "count", func(c *conn) error {
		m, snapshot, err := c.snapshot()
		if err != nil {
			return err
		}
		if out, err = c.countTenants(tenants, min(until, m.head), limit, m); err != nil {
			return err
		}
		return snapshot.Reset()
	})
	return out, err
}

func (c *conn) countTenants(tenants []eventlog.TenantAfter, until event.Position, limit int, m mark) ([]eventlog.Counted, error) {
	out, first, looked := make([]eventlog.Counted, len(tenants)), make([]int64, len(tenants)), make([]int, len(tenants))
	all := map[eventlog.Bucket]*bucketFilter{}
	buckets := make([]*bucketFilter, len(tenants)) // nil: all events
	found := func(i int, position, count, stream int64) bool {
		looked[i] = int(min(int64(looked[i])+count, int64(limit)))
		if b := buckets[i]; b != nil && !b.has(position, stream) {
			return looked[i] < limit
		} else if b == nil {
			out[i].Events = looked[i]
		} else {
			out[i].Events++
		}
		if first[i] == 0 {
			first[i] = position
		}
		return looked[i] < limit
	}
	of := map[int64][]int{} // the places of a tenant
	for i, t := range tenants {
		no, known, err := c.tenantNo(t.Tenant)
		if err != nil {
			return nil, err
		}
		b := t.Bucket
		if !known || t.After >= until || limit <= 0 || b != nil && !b.ByStream && !b.Has(t.Tenant, "") {
			continue
		}
		if b != nil && b.ByStream {
			if all[*b] == nil {
				all[*b] = c.buckets([]eventlog.Bucket{*b})
			}
			buckets[i] = all[*b]
		}
		of[no] = append(of[no], i)
		err = c.tenantRuns(no, t.After, min(until, m.indexed), func(start, last, events int64, s *zs.Stmt) (bool, error) {
			if buckets[i] == nil && start > int64(t.After) && last <= int64(until) {
				return found(i, start, events, 0), nil
			}
			more := true
			err := eachPosting(columnBytes(s, 3), func(p int64) bool {
				if p > int64(t.After) && p <= int64(until) {
					more = found(i, p, 1, 0)
				}
				return more && p <= int64(until)
			})
			return more, err
		})
		if err != nil {
			return nil, err
		}
	}
	tail, err := c.tailOf(m)
	if err != nil {
		return nil, err
	}
	for _, e := range tail {
		if e.position > int64(until) {
			break
		}
		for _, i := range of[e.tenant] {
			if e.position > int64(tenants[i].After) && looked[i] < limit {
				found(i, e.position, 1, e.stream)
			}
		}
	}
	for _, b := range all {
		if b.err != nil {
			return nil, b.err
		}
	}
	for i, position := range first {
		if position == 0 {
			continue
		}
		if out[i].Oldest, err = c.recordedAt(position); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// A bucketFilter tells which events are in some buckets, and remembers it by stream.
type bucketFilter struct {
	c       *conn
	buckets []eventlog.Bucket
	streams map[int64]bool
	err     error // the first; what comes after it is in no bucket
}

// buckets returns a filter for some buckets, nil where all events are wanted.
func (c *conn) buckets(buckets []eventlog.Bucket) *bucketFilter {
	if buckets == nil {
		return nil
	}
	return &bucketFilter{c: c, buckets: buckets, streams: map[int64]bool{}}
}

// has reports whether an event is in one of the buckets; stream 0: it is looked up.
func (b *bucketFilter) has(position, stream int64) bool {
	if b.err == nil && stream == 0 {
		stream, _, b.err = b.c.int64("SELECT stream_no FROM fairlead_events WHERE position = ?", position)
	}
	has, known := b.streams[stream]
	if known || b.err != nil {
		return has && b.err == nil
	}
	b.err = b.c.rows("SELECT t.name, s.name FROM fairlead_streams s JOIN fairlead_tenants t USING(tenant_no) WHERE s.stream_no = ?", func(s *zs.Stmt) error {
		tenant, name := s.ColumnText(0), s.ColumnText(1)
		has = slices.ContainsFunc(b.buckets, func(x eventlog.Bucket) bool { return x.Has(tenant, name) })
		return nil
	}, stream)
	b.streams[stream] = has
	return has && b.err == nil
}
