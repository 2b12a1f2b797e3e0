package fairlead

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/letterlog"
	"github.com/fairlead-dev/fairlead/store"
)

// countBehind fills in how far lanes are behind the log. Those of tenants are
// thousands: where the log can it is asked for all at once, and for its head once.
func (a Admin) countBehind(ctx context.Context, procs map[string]store.Processor, lanes []*Lane, parts int) error {
	heads := map[int]event.Position{}
	tenants, asked := map[int][]*Lane{}, map[int][]eventlog.TenantAfter{}
	counter, counts := a.Log.(eventlog.TenantCounter)
	for _, l := range lanes {
		if l.Kept {
			continue
		}
		part := 0
		if parts > 1 {
			part = l.Partition
		}
		head, known := heads[part]
		if !known {
			var err error
			if head, err = a.Log.Head(ctx, part); err != nil {
				return fmt.Errorf("lane %v: %w", l.LaneID, err)
			}
			heads[part] = head
		}
		if head <= l.Position {
			continue
		}
		p := procs[l.Processor]
		bucket, known := lane.Bucket(&p, &l.Lane, parts)
		l.AtMost = !known
		if bucket != nil && !bucket.ByStream && l.Tenant != "" { // one partition has all its events
			if !bucket.Has(l.Tenant, "") {
				continue
			}
			bucket = nil
		}
		switch {
		case counts && l.Tenant != "":
			tenants[part] = append(tenants[part], l)
			asked[part] = append(asked[part], eventlog.TenantAfter{Tenant: l.Tenant, After: l.Position, Bucket: bucket})
		default:
			if err := a.behind(ctx, l, part, head, bucket); err != nil {
				return fmt.Errorf("lane %v: %w", l.LaneID, err)
			}
		}
	}
	now := time.Now()
	for part, lanes := range tenants {
		counted, err := counter.CountTenants(ctx, part, asked[part], heads[part], BehindLimit)
		if err != nil {
			return fmt.Errorf("%d lanes of tenants: %w", len(lanes), err)
		}
		for i, l := range lanes {
			if l.Behind = int64(counted[i].Events); l.Behind > 0 {
				l.Lag = max(0, now.Sub(counted[i].Oldest))
			}
		}
	}
	return nil
}

// countLettersBehind is countBehind of lanes whose log are the store's dead letters.
func (a Admin) countLettersBehind(ctx context.Context, lanes []*Lane) error {
	if len(lanes) == 0 {
		return nil
	}
	return a.Store.View(ctx, func(tx store.Tx) error {
		for _, l := range lanes {
			next, err := tx.Letters(store.LetterFilter{AfterID: int64(l.Position), Limit: 1})
			if err != nil {
				return err
			}
			if len(next) == 0 {
				continue
			}
			last, err := letterlog.Last(tx, l.Position)
			if err != nil {
				return err
			}
			l.Behind, l.Lag = int64(last-l.Position), max(0, time.Since(next[0].At))
		}
		return nil
	})
}

// behind fills in how far a lane, which has the events of a bucket, is behind the head.
func (a Admin) behind(ctx context.Context, l *Lane, part int, head event.Position, bucket *eventlog.Bucket) error {
	counter, ok := a.Log.(eventlog.Counter)
	if !ok {
		l.Behind = int64(head - l.Position)
		l.AtMost = l.AtMost || bucket != nil || l.Tenant != "" || len(l.Exclusions) > 0
		return nil
	}
	var f eventlog.Filter
	if l.Tenant != "" {
		f.Tenants = []string{l.Tenant}
	}
	for t, until := range l.Exclusions {
		if until == event.Unbounded {
			f.Exclude = append(f.Exclude, t)
		}
	}
	if bucket != nil {
		f.Buckets = []eventlog.Bucket{*bucket}
	}
	n, oldest, err := counter.Count(ctx, part, f, l.Position, head, BehindLimit)
	if err != nil {
		return err
	}
	if l.Behind = int64(n); n > 0 {
		l.Lag = max(0, time.Since(oldest))
	}
	return nil
}
