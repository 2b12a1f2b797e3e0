package lane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// How says how a rebuild is made. The zero How switches by itself, is limited by
// nothing but what live lanes need, and keeps nothing.
type How struct {
	Review bool          // an operator says when to switch: [Approve]
	Limit  int64         // events a second of all its lanes together; 0: none
	Keep   time.Duration // how long the build that it replaces is kept for [Back]
}

func making(how []How) store.Making {
	if len(how) == 0 {
		return store.Making{}
	}
	h := how[0]
	return store.Making{Review: h.Review, Limit: max(h.Limit, 0), Keep: max(h.Keep, 0)}
}

// seenAtMost bounds the versions that are remembered.
const seenAtMost = 100

// see remembers versions, so that none of them begins a rebuild by itself.
func see(p *store.Processor, versions ...string) {
	for _, v := range versions {
		p.Builds.Seen = append(slices.DeleteFunc(p.Builds.Seen, func(s string) bool { return s == v }), v)
	}
	if n := len(p.Builds.Seen); n > seenAtMost {
		p.Builds.Seen = p.Builds.Seen[n-seenAtMost:]
	}
}

// Changed reports whether a program with a version of a processor's code is to
// begin a rebuild by itself: where the documents are those of another version,
// and this one was never live or being made. So an old program that still runs
// beside the new ones in a deployment does not begin one back, and a rebuild
// that was given up does not begin again.
func Changed(p store.Processor, version string) bool {
	return p.Collection != "" && p.Version != version && (!slices.Contains(p.Builds.Seen, version) || mutant.Is(mutant.OldBegins)) &&
		(p.Rebuild == 0 || p.Builds.Making.Auto && p.Builds.Making.Version != version)
}

// RebuildChanged begins a rebuild with a version of the code, if [Changed] says
// so. Of many processes that call it at once one begins it; began is true there.
// A rebuild that began by itself with another version is given up: the program
// that would make it is an old one.
func RebuildChanged(ctx context.Context, s store.Store, processor, version string, how ...How) (began bool, err error) {
	err = s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		began = false
		if err != nil || !Changed(p, version) {
			return err
		}
		if p.Rebuild != 0 {
			lanes, err := tx.Lanes(processor)
			if err != nil {
				return err
			}
			if err := giveUp(tx, &p, lanes); err != nil {
				return err
			}
		}
		m := making(how)
		m.Version, m.Claimed, m.Auto = version, true, true
		see(&p, p.Version, version)
		began = true
		return beginRebuild(tx, &p, "", m)
	})
	return began, err
}

// Claim says with which version of the code a build is made that an operator has
// begun. The first one that is said stays.
func Claim(ctx context.Context, s store.Store, processor string, build int64, version string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil || p.Rebuild != build || p.RebuildTenant != "" || p.Builds.Making.Claimed {
			return err
		}
		p.Builds.Making.Version, p.Builds.Making.Claimed = version, true
		see(&p, version) // it need not begin one by itself any more
		return tx.PutProcessor(p)
	})
}

// change changes the row of a processor that is being rebuilt.
func change(ctx context.Context, s store.Store, processor string, f func(*store.Processor) error) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		if p.Rebuild == 0 {
			return fmt.Errorf("processor %q is not being rebuilt: %w", processor, ErrUnknown)
		}
		if err := f(&p); err != nil {
			return err
		}
		if err := tx.PutProcessor(p); err != nil {
			return err
		}
		// Its owners are to look at the row.
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		for _, l := range lanes {
			if l.Number == p.Rebuild {
				l.Revision++
				if err := tx.PutLane(l); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Approve lets a build that waits for an operator take the place of the live one.
func Approve(ctx context.Context, s store.Store, processor string) error {
	return change(ctx, s, processor, func(p *store.Processor) error {
		if !p.Builds.Making.Review {
			return fmt.Errorf("build %d of processor %q waits for nobody's word: it switches by itself: %w", p.Rebuild, processor, ErrState)
		}
		p.Builds.Making.Review = false
		return nil
	})
}

// Limit limits a rebuild to so many events a second, 0: to none.
func Limit(ctx context.Context, s store.Store, processor string, limit int64) error {
	return change(ctx, s, processor, func(p *store.Processor) error {
		p.Builds.Making.Limit = max(limit, 0)
		return nil
	})
}

// worked reports whether the lanes of a build are to be worked: those of the live
// one and of the one in the making.
func worked(p *store.Processor, build int64) bool { return build == p.Live || build == p.Rebuild }

// shelve keeps a build as it is: its documents, lanes and letters. The lanes get a
// new epoch, so that who works them cannot commit any more. What was kept before
// is retired. The caller puts the processor's row.
func shelve(tx store.Tx, p *store.Processor, lanes []store.Lane, build int64, k store.Kept) error {
	if err := forget(tx, p, lanes); err != nil {
		return err
	}
	for _, l := range lanes {
		if l.Number != build {
			continue
		}
		if err := still(tx, l); err != nil {
			return err
		}
	}
	if mutant.Is(mutant.KeptLetters) {
		if err := deleteLetters(tx, store.LetterFilter{Build: store.Build{Processor: p.Name, Number: build}}); err != nil {
			return err
		}
	}
	k.Number, k.Until = build, tx.Now().Add(p.Builds.Making.Keep)
	p.Builds.Kept = k
	return nil
}

// still puts a lane that nobody is to work.
func still(tx store.Tx, l store.Lane) error {
	if !mutant.Is(mutant.KeptUnfenced) {
		l.Epoch++
	}
	l.Revision++
	l.Owner = ""
	return tx.PutLane(l)
}

// shelveTenant keeps what the live build has of the tenant that is being rebuilt,
// as a build of that tenant.
func shelveTenant(tx store.Tx, p *store.Processor, lanes []store.Lane) error {
	if err := forget(tx, p, lanes); err != nil {
		return err
	}
	t, live := p.RebuildTenant, store.Build{Processor: p.Name, Number: p.Live}
	p.LastBuild++
	p.Builds.Kept = store.Kept{Number: p.LastBuild, Tenant: t, Version: p.Version, Until: tx.Now().Add(p.Builds.Making.Keep)}
	if err := tx.MoveDocuments(live, p.LastBuild, t); err != nil {
		return err
	}
	if err := moveLetters(tx, live, t, p.LastBuild); err != nil {
		return err
	}
	bs, err := bases(tx, *p)
	if err != nil {
		return err
	}
	for _, b := range bs {
		at := Covered(lanes, p.Live, b.Partition, t)
		if mutant.Is(mutant.KeptPosition) {
			at = Covered(lanes, p.Live, b.Partition, "")
		}
		b.Number = p.LastBuild
		l := Detachment(&b, t, at, nil)
		l.Pinned = true // it has no base lane to go back to
		if err := tx.PutLane(l); err != nil {
			return err
		}
	}
	return nil
}

// moveLetters moves a tenant's letters to another build of the processor.
func moveLetters(tx store.Tx, from store.Build, tenant string, to int64) error {
	letters, err := tx.Letters(store.LetterFilter{Build: from, Tenant: tenant})
	if err != nil {
		return err
	}
	for _, d := range letters {
		d.Number = to
		if err := tx.PutLetter(d); err != nil {
			return err
		}
	}
	return nil
}

// forget retires the build that is kept, if there is one. The caller puts the
// processor's row.
func forget(tx store.Tx, p *store.Processor, lanes []store.Lane) error {
	k := p.Builds.Kept.Number
	if k == 0 {
		return nil
	}
	p.Builds.Kept = store.Kept{}
	return retire(tx, p, lanes, k)
}

// Forget deletes the build that is kept.
func Forget(ctx context.Context, s store.Store, processor string) error {
	return forgetIf(ctx, s, processor, func(store.Kept, time.Time) bool { return true })
}

// ForgetOld is Forget where the time is over for which the build is kept.
func ForgetOld(ctx context.Context, s store.Store, processor string) error {
	err := forgetIf(ctx, s, processor, func(k store.Kept, now time.Time) bool { return !k.Until.After(now) })
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	return err
}

func forgetIf(ctx context.Context, s store.Store, processor string, due func(store.Kept, time.Time) bool) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		if p.Builds.Kept.Number == 0 {
			return fmt.Errorf("processor %q has no build of before that is kept: %w", processor, ErrUnknown)
		}
		if !due(p.Builds.Kept, tx.Now()) {
			return nil
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		if err := forget(tx, &p, lanes); err != nil {
			return err
		}
		return tx.PutProcessor(p)
	})
}

// Back makes the build that is kept the one in the making: it goes on from its own
// checkpoints, catches up and switches like any other. Its dead letters are as
// they were. Tenants that were paused or pinned in it are so no more: the switch
// sees to those that are now.
func Back(ctx context.Context, s store.Store, processor string, how ...How) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		k := p.Builds.Kept
		switch {
		case k.Number == 0:
			return fmt.Errorf("processor %q has no build of before that is kept: %w", processor, ErrUnknown)
		case p.Rebuild != 0:
			return fmt.Errorf("processor %q is being rebuilt: cancel that first: %w", processor, ErrState)
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		if !samePartitions(p, lanes, k.Number) {
			return fmt.Errorf("processor %q: partitions were split or merged since its build %d was kept: make them as they were, or rebuild: %w", processor, k.Number, ErrState)
		}
		for _, l := range lanes {
			if l.Number == p.Live && (l.State == store.Recut || l.Until != 0) { // its partition waits until this has ended
				if err := letGo(tx, l); err != nil {
					return err
				}
			}
			if l.Number != k.Number {
				continue
			}
			l.Want, l.Until = 0, 0
			l.Pinned = k.Tenant != ""
			if err := setState(tx, l, store.Running, ""); err != nil {
				return err
			}
		}
		m := making(how)
		m.Back, m.Version, m.Claimed = true, k.Version, k.Tenant == ""
		p.Rebuild, p.RebuildTenant, p.Builds.Making, p.Builds.Kept = k.Number, k.Tenant, m, store.Kept{}
		if err := tx.PutProcessor(p); err != nil || k.Tenant != "" {
			return err
		}
		return dedicateAll(tx, p)
	})
}

// samePartitions reports whether a build has the partitions of the live one.
func samePartitions(p store.Processor, lanes []store.Lane, build int64) bool {
	type share struct{ i, of int }
	shares := func(number int64, all bool) map[share]bool {
		m := map[share]bool{}
		for i := range lanes {
			if l := &lanes[i]; l.Number == number && (all || l.Tenant == "") {
				m[share{l.Partition, Modulus(p, l)}] = true
			}
		}
		return m
	}
	// A tenant's build has no base lanes.
	return maps.Equal(shares(p.Live, false), shares(build, true))
}
