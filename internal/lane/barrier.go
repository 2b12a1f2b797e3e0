package lane

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// Passed returns nil when a build has applied all that comes before a barrier: each lane
// that has the tenant's events of the partitions before has come to where these end, and
// nothing of the tenant is parked there. Else it is an [ErrBehind] that says what is
// waited for. Once passed a barrier stays so: those lanes have nothing of the tenant
// left that could be parked.
func Passed(ctx context.Context, s store.Store, b store.Build, barrier *eventlog.Barrier) error {
	return s.View(ctx, func(tx store.Tx) error {
		p, err := known(tx, b.Processor)
		if err != nil {
			return err
		}
		tenant := barrier.Tenant
		if p.CrossTenant {
			tenant = ""
		}
		for part, end := range barrier.After {
			at, err := tenantAt(tx, &p, store.LaneID{Build: b, Partition: part, Tenant: tenant})
			if err != nil {
				return err
			}
			if at < end {
				return fmt.Errorf("tenant %q has moved: its events in partition %d are applied to %v, and come first to %v: %w", barrier.Tenant, part, at, end, ErrBehind)
			}
		}
		parked, err := tx.Parked(b, tenant)
		if err != nil {
			return err
		}
		for _, k := range parked {
			if p.Collection != "" && strings.HasPrefix(k.Key, projection.ReservedDocument) {
				continue // it holds up nothing
			}
			if _, ok := barrier.After[k.Partition]; ok {
				return fmt.Errorf("tenant %q has moved, and key %q is parked in partition %d, where it was before: retry or skip its dead letters: %w",
					barrier.Tenant, k.Key, k.Partition, ErrBehind)
			}
		}
		return nil
	})
}

// tenantAt returns up to where a tenant's events in a partition are applied.
func tenantAt(tx store.Tx, p *store.Processor, id store.LaneID) (event.Position, error) {
	if l, err := tx.Lane(id); err == nil || !errors.Is(err, store.ErrNotFound) {
		return l.Position, err
	}
	base, err := tx.Lane(id.Base())
	switch {
	case errors.Is(err, store.ErrNotFound) && id.Number == p.Rebuild && p.RebuildTenant != "":
		return event.Unbounded, nil // a tenant's rebuild has lanes of the partitions that there were
	case errors.Is(err, store.ErrNotFound):
		return event.Beginning, nil // the lane is still to be made
	case err != nil:
		return 0, err
	}
	at := base.Position
	if until, ok := base.Exclusions[id.Tenant]; ok && until != event.Unbounded {
		at = max(at, until)
	}
	return at, nil
}

// DetachHere gives a tenant a lane of its own beside one base lane, at that one's
// checkpoint, if it has none. It merges by itself when it has caught up.
func DetachHere(ctx context.Context, s store.Store, base store.LaneID, tenant string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, base.Processor)
		if err != nil {
			return err
		}
		b, err := tx.Lane(base)
		if err != nil {
			return err
		}
		if b.Exclusions[tenant] == event.Unbounded {
			return nil
		}
		if _, err := cut(tx, p, b, tenant); err != nil {
			return fmt.Errorf("lane %v: %w", base, err)
		}
		return nil
	})
}
