package lane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// SetPool gives a tenant to a worker pool: it gets pinned lanes of its own in
// every processor, which only members of the pool work. Projections across
// tenants cannot let it go; their names are returned.
//
// It is one transaction and asks nobody: the owner of a lane that is not its to
// work any more sees it in the rows and hands the lane over. A tenant that is
// paused stays so. [ErrState] while partitions of a processor are to be merged.
func SetPool(ctx context.Context, s store.Store, tenant, pool string) (shared []string, err error) {
	return SetPools(ctx, s, []string{tenant}, pool)
}

// SetPools is [SetPool] for many tenants, in one transaction: all or none. Each
// writes all exclusions of the base lanes once, so that thousands at once are
// thousands of times cheaper than one after another.
func SetPools(ctx context.Context, s store.Store, tenants []string, pool string) (shared []string, err error) {
	errs := []error{CheckPool(pool)}
	for _, t := range tenants {
		errs = append(errs, event.CheckTenant(t))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	tenants = slices.Compact(slices.Sorted(slices.Values(tenants)))
	err = s.Update(ctx, func(tx store.Tx) error {
		shared = nil
		for _, t := range tenants {
			if err := tx.PutPool(t, pool); err != nil {
				return err
			}
		}
		ps, err := tx.Processors()
		if err != nil {
			return err
		}
		for _, p := range ps {
			if p.CrossTenant {
				shared = append(shared, p.Name)
				continue
			}
			for _, t := range tenants {
				if err := notMerging(tx, p, t); err != nil {
					return err
				}
			}
			if err := dedicate(tx, p, tenants); err != nil {
				return err
			}
		}
		return nil
	})
	return shared, err
}

// ClearPool gives a tenant back to the shared processes: its lanes are theirs to
// work, and merge by themselves as soon as they have caught up. [ErrUnknown] if
// it was given to no pool.
func ClearPool(ctx context.Context, s store.Store, tenant string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		pools, err := tx.Pools()
		if err != nil {
			return err
		}
		if pools[tenant] == "" {
			return fmt.Errorf("tenant %q is given to no pool: %w", tenant, ErrUnknown)
		}
		if err := tx.PutPool(tenant, ""); err != nil {
			return err
		}
		ps, err := tx.Processors()
		if err != nil {
			return err
		}
		for _, p := range ps {
			lanes, err := tx.Lanes(p.Name)
			if err != nil {
				return err
			}
			for _, l := range lanes {
				if l.Tenant != tenant || l.Number == p.Rebuild && p.RebuildTenant != "" {
					continue // a rebuild of the tenant alone has no base lane to go back to
				}
				l.Pinned = false
				l.Revision++
				if err := tx.PutLane(l); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// CheckPool returns what is wrong with the name of a pool. It has the rules of a
// tenant's.
func CheckPool(pool string) error {
	if err := event.CheckTenant(pool); err != nil {
		return fmt.Errorf("pool %q: not a name that a pool may have: %w", pool, err)
	}
	return nil
}

// dedicate pins the tenants' lanes in the live build of a processor and in the one
// in the making, and makes those that are not there. Tenants come once each. It
// reads the lanes once and writes a base lane once, which has an exclusion for each:
// tenants that are thousands would else cost millions.
func dedicate(tx store.Tx, p store.Processor, tenants []string) error {
	if len(tenants) == 0 {
		return nil
	}
	all, err := tx.Lanes(p.Name)
	if err != nil {
		return err
	}
	pin := func(l store.Lane) error {
		l.Pinned = true
		l.Revision++
		return tx.PutLane(l)
	}
	there := map[store.LaneID]store.Lane{}
	for _, l := range all {
		there[l.LaneID] = l
		if l.Number == p.Rebuild && p.RebuildTenant != "" && slices.Contains(tenants, l.Tenant) {
			if err := pin(l); err != nil { // the rebuild of one tenant has no base lane
				return err
			}
		}
	}
	for _, base := range all {
		if base.Tenant != "" || !worked(&p, base.Number) {
			continue
		}
		cut := false
		for _, t := range tenants {
			id := base.LaneID
			id.Tenant = t
			l, ok := there[id]
			if !ok {
				if l, err = takeOut(p, &base, t); err != nil {
					return err
				}
				cut = true
			}
			if err := pin(l); err != nil {
				return err
			}
		}
		if cut {
			if err := tx.PutLane(base); err != nil {
				return err
			}
		}
	}
	return nil
}

// dedicateAll does that for all tenants that are given to pools: p, or a build of
// it, is new.
func dedicateAll(tx store.Tx, p store.Processor) error {
	if p.CrossTenant {
		return nil
	}
	pools, err := tx.Pools()
	if err != nil {
		return err
	}
	return dedicate(tx, p, slices.Sorted(maps.Keys(pools)))
}

// notDedicated returns an error if the tenant is given to a pool.
func notDedicated(tx store.Tx, tenant string) error {
	pools, err := tx.Pools()
	if err == nil && pools[tenant] != "" {
		err = fmt.Errorf("tenant %q is given to the pool %q, so its lanes do not merge: clear its pool instead: %w", tenant, pools[tenant], ErrState)
	}
	return err
}
