package lane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// StartRebuild begins another build of a processor's documents, from the first
// event on, of one tenant or ("") of all. The live build goes on being served
// and kept fresh until [TrySwitch]. How says more of it.
func StartRebuild(ctx context.Context, s store.Store, processor, tenant string, how ...How) error {
	if tenant != "" {
		if err := event.CheckTenant(tenant); err != nil {
			return err
		}
	}
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		return beginRebuild(tx, &p, tenant, making(how))
	})
}

func beginRebuild(tx store.Tx, p *store.Processor, tenant string, m store.Making) error {
	switch {
	case p.Collection == "":
		return fmt.Errorf("processor %q keeps no documents, so there is nothing to rebuild beside the old: %w", p.Name, ErrState)
	case p.Rebuild != 0:
		return fmt.Errorf("processor %q is being rebuilt already: wait for it or cancel it: %w", p.Name, ErrState)
	case tenant != "" && p.CrossTenant:
		return fmt.Errorf("processor %q folds all tenants into shared documents: rebuild it whole: %w", p.Name, ErrState)
	}
	p.LastBuild++
	p.Rebuild, p.RebuildTenant, p.Builds.Making = p.LastBuild, tenant, m
	if err := tx.PutProcessor(*p); err != nil {
		return err
	}
	lanes, err := tx.Lanes(p.Name)
	if err != nil {
		return err
	}
	for _, base := range lanes {
		if base.Number != p.Live {
			continue
		}
		if base.State == store.Recut || base.Until != 0 { // its partition waits until the rebuild has ended
			if err := letGo(tx, base); err != nil {
				return err
			}
		}
		if base.Tenant != "" {
			continue
		}
		l := store.Lane{LaneID: base.LaneID, Of: base.Of, Position: event.Beginning, State: store.Running}
		if l.Number = p.Rebuild; tenant != "" {
			l = Detachment(&l, tenant, removedUpTo(p, tenant)[logPart(p, base.Partition)], nil)
			l.Pinned = true
		} else {
			leaveOut(p, &l)
		}
		if err := tx.PutLane(l); err != nil {
			return err
		}
	}
	if tenant != "" {
		return nil
	}
	return dedicateAll(tx, *p)
}

// CancelRebuild gives up the build in the making. One that was kept before is
// kept again.
func CancelRebuild(ctx context.Context, s store.Store, processor string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		if p.Rebuild == 0 {
			return fmt.Errorf("processor %q is not being rebuilt: %w", processor, ErrUnknown)
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		return giveUp(tx, &p, lanes)
	})
}

func giveUp(tx store.Tx, p *store.Processor, lanes []store.Lane) error {
	var err error
	if m := p.Builds.Making; m.Back && m.Keep > 0 {
		err = shelve(tx, p, lanes, p.Rebuild, store.Kept{Tenant: p.RebuildTenant, Version: m.Version})
	} else {
		err = retire(tx, p, lanes, p.Rebuild)
	}
	if err != nil {
		return err
	}
	for _, l := range lanes {
		if l.Number == p.Live && l.State == store.Held {
			if err := setState(tx, l, store.Running, ""); err != nil {
				return err
			}
		}
	}
	p.Rebuild, p.RebuildTenant, p.Builds.Making = 0, "", store.Making{}
	return tx.PutProcessor(*p)
}

// retire removes a build's lanes and letters, and leaves its documents to [Purge].
func retire(tx store.Tx, p *store.Processor, lanes []store.Lane, build int64) error {
	for _, l := range lanes {
		if l.Number == build {
			if err := tx.DeleteLane(l.LaneID); err != nil {
				return err
			}
		}
	}
	p.Retired = append(p.Retired, build)
	return deleteLetters(tx, store.LetterFilter{Build: store.Build{Processor: p.Name, Number: build}})
}

// HoldForSwitch stops the live lanes that a rebuild has nearly caught up with,
// so that it can. [TrySwitch], [CancelRebuild] and [Unhold] end it.
func HoldForSwitch(ctx context.Context, s store.Store, processor string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil || p.Rebuild == 0 {
			return err
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		for _, l := range lanes {
			if l.Number == p.Live && l.State == store.Running && (p.RebuildTenant == "" || l.Tenant == "" || l.Tenant == p.RebuildTenant) {
				if err := setState(tx, l, store.Held, "switch to a rebuilt read model"); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// TrySwitch makes the build in the making the live one, if it has caught up
// with it everywhere; else [ErrBehind] and nothing is changed. Where it waits for
// an operator, [ErrState]. Tenants that are paused or pinned stay so, in lanes of
// the new build. The old build is kept, if that was asked for.
func TrySwitch(ctx context.Context, s store.Store, processor string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		if p.Rebuild == 0 {
			return fmt.Errorf("processor %q is not being rebuilt: %w", processor, ErrUnknown)
		}
		if p.Builds.Making.Review && !mutant.Is(mutant.ReviewIgnored) {
			return fmt.Errorf("processor %q: build %d waits for an operator to switch to it: %w", processor, p.Rebuild, ErrState)
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		parked, err := tx.Parked(store.Build{Processor: processor, Number: p.Rebuild}, "")
		if err != nil {
			return err
		}
		if slices.ContainsFunc(parked, func(k store.ParkedKey) bool { return k.Retry }) {
			return fmt.Errorf("processor %q: dead letters of the new build are being retried: %w", processor, ErrBehind)
		}
		if p.RebuildTenant != "" {
			return switchTenant(tx, p, lanes)
		}
		return switchAll(tx, p, lanes)
	})
}

// Covered returns how far a build has got with a tenant in a partition: every
// event of the tenant up to there has taken effect, or is in the dead letters.
func Covered(lanes []store.Lane, build int64, partition int, tenant string) (at event.Position) {
	for i := range lanes {
		l := &lanes[i]
		if l.Number != build || l.Partition != partition {
			continue
		}
		if l.Tenant == tenant {
			return l.Position
		}
		if l.Tenant == "" {
			at = l.Position
			if until, ok := l.Exclusions[tenant]; ok && until != event.Unbounded {
				at = max(at, until) // applied by a lane that has merged
			}
		}
	}
	return at
}

func switchAll(tx store.Tx, p store.Processor, lanes []store.Lane) error {
	var keep []store.Lane
	for _, l := range lanes {
		// Every lane of either build names a tenant ("": the others) of which
		// the new build must have applied at least as much as the old.
		// So must it of those that have merged ahead of their base lane.
		for _, t := range append(slices.Sorted(maps.Keys(l.Exclusions)), l.Tenant) {
			o, n := Covered(lanes, p.Live, l.Partition, t), Covered(lanes, p.Rebuild, l.Partition, t)
			if n < o && !mutant.Is(mutant.SwitchBehind) {
				return fmt.Errorf("processor %q: partition %d, tenant %q: rebuilt up to %v, live at %v: %w", p.Name, l.Partition, t, n, o, ErrBehind)
			}
		}
		if l.Number == p.Live && l.Tenant != "" && (l.Pinned || l.State == store.Paused) && !mutant.Is(mutant.SwitchForgets) {
			keep = append(keep, l)
		}
	}
	old, m := store.Build{Processor: p.Name, Number: p.Live}, p.Builds.Making
	var err error
	if m.Keep > 0 {
		err = shelve(tx, &p, lanes, old.Number, store.Kept{Version: p.Version})
	} else {
		err = retire(tx, &p, lanes, old.Number)
	}
	if err != nil {
		return err
	}
	if m.Claimed {
		see(&p, p.Version, m.Version)
		p.Version = m.Version
	}
	p.Live, p.Rebuild, p.RebuildTenant, p.Builds.Making = p.Rebuild, 0, "", store.Making{}
	if err := tx.PutProcessor(p); err != nil {
		return err
	}
	for _, l := range lanes {
		if l.Number == p.Live { // its owner is to know that readers see it now
			l.Revision++
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
	}
	for _, l := range lanes {
		if l.Number != old.Number || l.Want == 0 {
			continue
		}
		id := l.LaneID // what was asked for its partition is still to be done
		id.Number = p.Live
		made, err := tx.Lane(id)
		if err != nil {
			return err
		}
		made.Want = l.Want
		if err := tx.PutLane(made); err != nil {
			return err
		}
	}
	for _, k := range keep {
		id := k.LaneID
		id.Number = p.Live
		l, err := tx.Lane(id)
		if errors.Is(err, store.ErrNotFound) {
			var base store.Lane
			if base, err = tx.Lane(id.Base()); err == nil {
				l, err = cut(tx, p, base, k.Tenant)
			}
		}
		if err != nil {
			return err
		}
		l.Pinned = k.Pinned
		state := k.State
		if state == store.Held {
			state = store.Running
		}
		if err := setState(tx, l, state, k.Reason); err != nil {
			return err
		}
	}
	return nil
}

func switchTenant(tx store.Tx, p store.Processor, lanes []store.Lane) error {
	t, shadow, live := p.RebuildTenant, store.Build{Processor: p.Name, Number: p.Rebuild}, store.Build{Processor: p.Name, Number: p.Live}
	bs, err := bases(tx, p)
	if err != nil {
		return err
	}
	for _, b := range bs {
		i := b.Partition
		if o, n := Covered(lanes, p.Live, i, t), Covered(lanes, p.Rebuild, i, t); n < o && !mutant.Is(mutant.SwitchBehind) {
			return fmt.Errorf("processor %q: tenant %q, partition %d: rebuilt up to %v, live at %v: %w", p.Name, t, i, n, o, ErrBehind)
		}
	}
	// A build of all that is kept is worth more than the one of a tenant.
	if k := p.Builds.Kept; p.Builds.Making.Keep > 0 && (k.Number == 0 || k.Tenant != "") {
		if err := shelveTenant(tx, &p, lanes); err != nil {
			return err
		}
	} else {
		if _, err := tx.DeleteDocuments(live, t, 0); err != nil {
			return err
		}
		if err := deleteLetters(tx, store.LetterFilter{Build: live, Tenant: t}); err != nil {
			return err
		}
	}
	if err := tx.MoveDocuments(shadow, p.Live, t); err != nil {
		return err
	}
	if err := moveLetters(tx, shadow, t, p.Live); err != nil {
		return err
	}
	for _, b := range bs {
		if err := adopt(tx, p, t, b.Partition); err != nil {
			return err
		}
	}
	if bs, err = bases(tx, p); err != nil {
		return err
	}
	for _, b := range bs {
		if b.State == store.Held {
			if err := setState(tx, b, store.Running, ""); err != nil {
				return err
			}
		}
	}
	p.Rebuild, p.RebuildTenant, p.Builds.Making = 0, "", store.Making{}
	return tx.PutProcessor(p)
}

// adopt puts the rebuilt lane of a tenant in the place of the live one, under a
// new epoch; where the tenant was in its base lane, it leaves that.
func adopt(tx store.Tx, p store.Processor, tenant string, partition int) error {
	id := store.LaneID{Build: store.Build{Processor: p.Name, Number: p.Rebuild}, Partition: partition, Tenant: tenant}
	l, err := tx.Lane(id)
	if err != nil {
		return err
	}
	if err := tx.DeleteLane(id); err != nil {
		return err
	}
	l.Number, l.Pinned, l.Owner, l.State, l.Reason = p.Live, false, "", store.Running, ""
	switch old, err := tx.Lane(l.LaneID); {
	case errors.Is(err, store.ErrNotFound):
		base, err := tx.Lane(l.Base())
		if err != nil {
			return err
		}
		exclude(&base, tenant, event.Unbounded)
		l.Epoch = max(l.Epoch, base.Revision)
		if err := tx.PutLane(base); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		l.Pinned, l.Epoch = old.Pinned, max(l.Epoch, old.Epoch)
		if old.State == store.Paused {
			l.State, l.Reason = old.State, old.Reason
		}
	}
	l.Epoch++
	l.Revision++
	return tx.PutLane(l)
}

// Purge deletes at most limit documents of retired builds. It reports whether
// there may be more.
func Purge(ctx context.Context, s store.Store, limit int) (more bool, err error) {
	var ps []store.Processor
	if err := s.View(ctx, func(tx store.Tx) (err error) { ps, err = tx.Processors(); return err }); err != nil {
		return false, err
	}
	i := slices.IndexFunc(ps, func(p store.Processor) bool { return len(p.Retired) > 0 })
	if i < 0 {
		return false, nil
	}
	return true, s.Update(ctx, func(tx store.Tx) error {
		p, err := tx.Processor(ps[i].Name)
		if err != nil || len(p.Retired) == 0 {
			return err
		}
		n, err := tx.DeleteDocuments(store.Build{Processor: p.Name, Number: p.Retired[0]}, "", limit)
		if err != nil || n == int64(limit) {
			return err
		}
		p.Retired = p.Retired[1:]
		return tx.PutProcessor(p)
	})
}
