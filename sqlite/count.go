package sqlite

import (
	"context"

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
	out, first := make([]eventlog.Counted, len(tenants)), make([]int64, len(tenants))
	found := func(i int, position, count int64) bool {
		if first[i] == 0 {
			first[i] = position
		}
		out[i].Events = int(min(int64(out[i].Events)+count, int64(limit)))
		return out[i].Events < limit
	}
	of := map[int64][]int{} // the places of a tenant
	for i, t := range tenants {
		no, known, err := c.tenantNo(t.Tenant)
		if err != nil {
			return nil, err
		}
		if !known || t.After >= until || limit <= 0 {
			continue
		}
		of[no] = append(of[no], i)
		err = c.tenantRuns(no, t.After, min(until, m.indexed), func(start, last, events int64, s *zs.Stmt) (bool, error) {
			if start > int64(t.After) && last <= int64(until) {
				return found(i, start, events), nil
			}
			more := true
			err := eachPosting(columnBytes(s, 3), func(p int64) bool {
				if p > int64(t.After) && p <= int64(until) {
					more = found(i, p, 1)
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
			if e.position > int64(tenants[i].After) && out[i].Events < limit {
				found(i, e.position, 1)
			}
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
