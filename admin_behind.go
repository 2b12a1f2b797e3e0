package fairlead

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/letterlog"
	"github.com/fairlead-dev/fairlead/store"
)

// countBehind fills in how far lanes are behind the log. Those of tenants are
// thousands: where the log can it is asked for all at once, and for its head once.
func (a Admin) countBehind(ctx context.Context, lanes []*Lane, parts int) error {
	heads := map[int]event.Position{}
	tenants := map[int][]*Lane{}
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
		switch {
		case head <= l.Position:
		case counts && l.Tenant != "":
			tenants[part] = append(tenants[part], l)
		default:
			if err := a.behind(ctx, l, part, head); err != nil {
				return fmt.Errorf("lane %v: %w", l.LaneID, err)
			}
		}
	}
	now := time.Now()
	for part, lanes := range tenants {
		asked := make([]eventlog.TenantAfter, len(lanes))
		for i, l := range lanes {
			asked[i] = eventlog.TenantAfter{Tenant: l.Tenant, After: l.Position}
		}
		counted, err := counter.CountTenants(ctx, part, asked, heads[part], BehindLimit)
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

// behind fills in how far a lane is behind the head.
func (a Admin) behind(ctx context.Context, l *Lane, part int, head event.Position) error {
	counter, ok := a.Log.(eventlog.Counter)
	if !ok {
		l.Behind = int64(head - l.Position)
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
	n, oldest, err := counter.Count(ctx, part, f, l.Position, head, BehindLimit)
	if err != nil {
		return err
	}
	if l.Behind = int64(n); n > 0 {
		l.Lag = max(0, time.Since(oldest))
	}
	return nil
}
