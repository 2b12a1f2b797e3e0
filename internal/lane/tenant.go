package lane

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// Detachment returns the row of the lane that a tenant gets when it leaves base
// at position p, up to which base had applied the tenant's events. Whoever
// inserts it sets its epoch to base's new revision.
func Detachment(base *store.Lane, tenant string, p event.Position, done []byte) store.Lane {
	id := base.LaneID
	id.Tenant = tenant
	return store.Lane{LaneID: id, Of: base.Of, Position: p, Done: done, State: store.Running}
}

// Detach gives a tenant lanes of its own in every partition of a processor, if
// it has none, and pins them: only [Merge] by an operator takes them back. It
// is safe beside a running owner, because it changes the base lanes' revision:
// what the owner has in flight cannot commit.
func Detach(ctx context.Context, s store.Store, processor, tenant string) error {
	return eachTenantLane(ctx, s, processor, tenant, true, func(tx store.Tx, _ store.Processor, l store.Lane) error {
		l.Pinned = true
		l.Revision++
		return tx.PutLane(l)
	})
}

// Unpin lets a tenant's lanes merge by themselves as soon as they have caught up.
// Those of a tenant that is given to a pool stay: [ErrState].
func Unpin(ctx context.Context, s store.Store, processor, tenant string) error {
	var asked store.Tx // once for all lanes
	return eachTenantLane(ctx, s, processor, tenant, false, func(tx store.Tx, p store.Processor, l store.Lane) error {
		if tx != asked {
			if err := notDedicated(tx, tenant); err != nil {
				return err
			}
			asked = tx
		}
		was := l.Pinned
		if l.Pinned = false; l.Number == p.Rebuild && p.RebuildTenant != "" {
			l.Pinned = true // it has no base lane to go back to
		}
		return resume(tx, l, l.Pinned != was)
	})
}

// Pause stops a tenant in a processor: its lanes keep their place.
func Pause(ctx context.Context, s store.Store, processor, tenant, reason string) error {
	return eachTenantLane(ctx, s, processor, tenant, true, func(tx store.Tx, _ store.Processor, l store.Lane) error {
		return setState(tx, l, store.Paused, reason)
	})
}

// Resume lets the paused lanes of a tenant run again. They merge by themselves
// unless they are pinned.
func Resume(ctx context.Context, s store.Store, processor, tenant string) error {
	return eachTenantLane(ctx, s, processor, tenant, false, func(tx store.Tx, _ store.Processor, l store.Lane) error {
		return resume(tx, l, false)
	})
}

// resume lets a lane run, but one that is about to be split: it runs after that.
// Where nothing changes the row is left alone: its owner would begin again at its
// checkpoint, and with a command that is repeated it might never leave that.
func resume(tx store.Tx, l store.Lane, changed bool) error {
	state, reason := store.Running, ""
	if l.State == store.Recut {
		state, reason = l.State, l.Reason
	}
	if !changed && l.State == state && l.Reason == reason {
		return nil
	}
	return setState(tx, l, state, reason)
}

// eachTenantLane runs f on the tenant's lane of every partition of the live
// build and of the build in the making. Where there is none it makes one, or
// else fails unless some partition has one.
func eachTenantLane(ctx context.Context, s store.Store, processor, tenant string, create bool, f func(store.Tx, store.Processor, store.Lane) error) error {
	if err := event.CheckTenant(tenant); err != nil {
		return err
	}
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		found := false
		err = tenantLanes(tx, p, tenant, create, func(l store.Lane) error {
			found = true
			return f(tx, p, l)
		})
		if err == nil && !found {
			err = fmt.Errorf("processor %q: tenant %q has no lane of its own: %w", processor, tenant, ErrUnknown)
		}
		return err
	})
}

// tenantLanes runs f on the tenant's lane of every partition of the live build
// and of the build in the making. Where there is none it makes one, if create
// says so.
func tenantLanes(tx store.Tx, p store.Processor, tenant string, create bool, f func(store.Lane) error) error {
	all, err := tx.Lanes(p.Name)
	if err != nil {
		return err
	}
	for _, base := range all {
		if base.Tenant == tenant && base.Number == p.Rebuild && p.RebuildTenant != "" {
			if err := f(base); err != nil { // the rebuild of one tenant has no base lane
				return err
			}
		}
		if base.Tenant != "" || !worked(&p, base.Number) {
			continue
		}
		id := base.LaneID
		id.Tenant = tenant
		i := slices.IndexFunc(all, func(l store.Lane) bool { return l.LaneID == id })
		if i < 0 && !create {
			continue
		}
		var l store.Lane
		if i >= 0 {
			l = all[i]
		} else if l, err = cut(tx, p, base, tenant); err != nil {
			return err
		}
		if err := f(l); err != nil {
			return err
		}
	}
	return nil
}

// cut takes a tenant out of base, at base's checkpoint, and writes both lanes.
func cut(tx store.Tx, p store.Processor, base store.Lane, tenant string) (store.Lane, error) {
	l, err := takeOut(p, &base, tenant)
	if err != nil {
		return l, err
	}
	if err := tx.PutLane(base); err != nil {
		return l, err
	}
	return l, tx.PutLane(l)
}

// takeOut makes of base, at its checkpoint, a base without a tenant and a lane of
// the tenant's own.
func takeOut(p store.Processor, base *store.Lane, tenant string) (store.Lane, error) {
	if p.CrossTenant {
		return store.Lane{}, fmt.Errorf("processor %q folds all tenants into shared documents, so a tenant cannot leave: %w", p.Name, ErrState)
	}
	l := Detachment(base, tenant, base.Position, base.Done)
	// An earlier stay outside may not be over: base is still to skip the
	// tenant's events up to there.
	if until, ok := base.Exclusions[tenant]; ok && until > l.Position {
		// What Done says of later events holds. What it says of others would keep the lane
		// from merging until an event comes.
		var beyond done.Set
		if err := beyond.UnmarshalBinary(base.Done); err != nil {
			return l, fmt.Errorf("lane %v: %w", base.LaneID, err)
		}
		l.Position = beyond.Advance(until)
		l.Done = beyond.MarshalAfter(l.Position)
	}
	exclude(base, tenant, event.Unbounded)
	l.Epoch = base.Revision
	return l, nil
}

func exclude(base *store.Lane, tenant string, until event.Position) {
	if base.Exclusions == nil {
		base.Exclusions = map[string]event.Position{}
	}
	base.Exclusions[tenant] = until
	base.Revision++
}

// TryMerge gives the tenant of lane id back to its base lane, in one
// transaction: base skips the tenant's events up to the lane's checkpoint and
// applies those after it. The caller owns the lane under the epoch given and
// has nothing in flight. [ErrBehind] with base's position: catch up to there
// first; with none above the lane's: base is stopped.
func TryMerge(ctx context.Context, s store.Store, id store.LaneID, epoch int64) (base event.Position, err error) {
	// Most tries come too early, as base goes on. They are not to wait for base's commit and
	// keep all other Updates waiting meanwhile.
	err = s.View(ctx, func(tx store.Tx) error {
		b, l, err := withBase(tx, id)
		if err == nil {
			base, err = mergeable(&b, &l, epoch)
		}
		return err
	})
	if err != nil {
		return base, err
	}
	err = s.Update(ctx, func(tx store.Tx) error {
		b, l, err := withBase(tx, id)
		if err != nil {
			return err
		}
		if base, err = mergeable(&b, &l, epoch); err != nil {
			return err
		}
		until := l.Position
		if mutant.Is(mutant.MergePosition) {
			until = b.Position
		}
		// The tenant's next lane begins at an epoch above the base's revision
		// then, so above every epoch of this one: its zombies stay fenced.
		b.Revision = max(b.Revision, l.Epoch)
		exclude(&b, id.Tenant, until)
		if b.State == store.Held && b.Reason == holdReason(id.Tenant) {
			b.State, b.Reason = store.Running, ""
		}
		if err := tx.PutLane(b); err != nil {
			return err
		}
		return tx.DeleteLane(id)
	})
	return base, err
}

// withBase returns a lane and its base lane.
func withBase(tx store.Tx, id store.LaneID) (base, l store.Lane, err error) {
	lanes, err := store.LanesOf(tx, []store.LaneID{id.Base(), id})
	for _, x := range []struct {
		id   store.LaneID
		lane *store.Lane
	}{{id.Base(), &base}, {id, &l}} {
		found := false
		if *x.lane, found = lanes[x.id]; !found && err == nil {
			err = fmt.Errorf("lane %v: %w", x.id, store.ErrNotFound)
		}
	}
	return base, l, err
}

// mergeable returns why a lane cannot be given back to its base lane now, and where that is.
func mergeable(base, l *store.Lane, epoch int64) (event.Position, error) {
	switch {
	case l.Epoch != epoch:
		return base.Position, &store.FenceError{Lane: l.LaneID, Expected: store.Fence{Epoch: epoch}, Found: store.Fence{Epoch: l.Epoch}}
	case l.Pinned || l.State != store.Running:
		return base.Position, fmt.Errorf("lane %v is pinned or not running: %w", l.LaneID, ErrState)
	case base.State == store.Paused:
		return 0, fmt.Errorf("lane %v: its base is stopped: %w", l.LaneID, ErrBehind)
	case len(l.Done) > 0:
		return base.Position, fmt.Errorf("lane %v has events in flight: %w", l.LaneID, ErrBehind)
	case l.Position < base.Position && !mutant.Is(mutant.MergeBehind):
		return base.Position, fmt.Errorf("lane %v at %v, its base at %v: %w", l.LaneID, l.Position, base.Position, ErrBehind)
	}
	return base.Position, nil
}

// Hold stops the base lane of a tenant lane that cannot catch up with it
// otherwise. [TryMerge] ends it, and so does [Unhold], which base's owner calls
// if that takes too long: no safety hangs on it.
func Hold(ctx context.Context, s store.Store, id store.LaneID) error {
	return s.Update(ctx, func(tx store.Tx) error {
		b, err := tx.Lane(id.Base())
		if err != nil || b.State != store.Running {
			return err
		}
		return setState(tx, b, store.Held, holdReason(id.Tenant))
	})
}

// Unhold lets a held lane run again.
func Unhold(ctx context.Context, s store.Store, id store.LaneID) error {
	return s.Update(ctx, func(tx store.Tx) error {
		l, err := tx.Lane(id)
		if err != nil || l.State != store.Held {
			return err
		}
		return setState(tx, l, store.Running, "")
	})
}

func holdReason(tenant string) string { return "merge of tenant " + strings.ToValidUTF8(tenant, "?") }

// Stop pauses the lane that the caller owns, after a policy said so.
func Stop(ctx context.Context, s store.Store, id store.LaneID, epoch int64, reason string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		l, err := tx.Lane(id)
		if err != nil {
			return err
		}
		if l.Epoch != epoch {
			return &store.FenceError{Lane: id, Expected: store.Fence{Epoch: epoch}, Found: store.Fence{Epoch: l.Epoch}}
		}
		return setState(tx, l, store.Paused, reason)
	})
}

// PauseProcessor stops all lanes of a processor, or lets them run again.
func PauseProcessor(ctx context.Context, s store.Store, processor string, paused bool) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		p.Paused = paused
		if err := tx.PutProcessor(p); err != nil {
			return err
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		for _, l := range lanes {
			l.Revision++ // what is in flight must not commit after the pause
			if !paused && l.Tenant == "" && l.State == store.Paused {
				l.State, l.Reason = store.Running, "" // stopped by the policy "stop"
			}
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
		return nil
	})
}
