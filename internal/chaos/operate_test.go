package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	pool          = "gold" // that w0 is in, and nobody else
	dedicatedMost = 6      // tenants at a time
	partitionMost = 8      // of a processor
	uniteAtMost   = 8 * time.Second
)

// An operator does to a fleet what operators do.
type operator struct {
	*fleet
	rng  *rand.Rand
	zipf *rand.Zipf

	cancelled bool // a whole rebuild was, for a merge, and none was begun since
}

// operate moves, pauses and rebuilds tenants, and splits and merges partitions,
// until ctx ends.
func (f *fleet) operate(ctx context.Context) {
	rng := rand.New(rand.NewPCG(f.seed, 2))
	o := &operator{fleet: f, rng: rng, zipf: zipf(rng)}
	first := rng.Perm(len(operations))
	for ctx.Err() == nil {
		kind, p, tenant := o.kind(), processors[rng.IntN(len(processors))], tenantName(o.zipf.Uint64())
		if len(first) > 0 && rng.IntN(2) == 0 { // one of each, early
			kind, first = operations[first[0]], first[1:]
		}
		if o.cancelled && rng.IntN(4) == 0 { // it may have been the only one
			kind = allRebuilt
		}
		if (kind == merged || kind == resumed) && rng.IntN(4) > 0 {
			tenant = cmp.Or(o.away(ctx, p), tenant)
		}
		if !slices.Contains(f.plan.operate, kind) {
			continue
		}
		err := o.do(ctx, kind, p, tenant)
		if err != nil && !errors.Is(err, fairlead.ErrUnknown) && !errors.Is(err, fairlead.ErrState) && !errors.Is(err, context.DeadlineExceeded) && !f.passing(err) && ctx.Err() == nil {
			f.t.Errorf("%s: %s, %s: %v", kind, p, tenant, err)
		}
		if i := slices.Index(operations, kind); err != nil && f.never(kind) && !slices.Contains(first, i) {
			first = append(first, i) // later
		}
		rest(ctx, time.Duration(rng.IntN(400))*time.Millisecond)
	}
}

func (f *fleet) never(kind string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tally[kind] == 0
}

func (o *operator) kind() string {
	switch k := o.rng.IntN(1000); {
	case k < 240:
		return detached
	case k < 500:
		return merged
	case k < 590:
		return paused
	case k < 780:
		return resumed
	case k < 840:
		return tenantRebuilt
	case k < 865:
		return allRebuilt
	case k < 910:
		return dedicated
	case k < 945:
		return shared
	case k < 965:
		return toSplit
	case k < 975:
		return toMerge
	}
	return allPaused
}

func (o *operator) do(ctx context.Context, kind, p, tenant string) (err error) {
	done := true
	switch kind {
	case detached:
		err = o.admin.Detach(ctx, p, tenant)
	case merged:
		err = o.admin.Merge(ctx, p, tenant)
	case paused:
		err = o.admin.Pause(ctx, p, tenant, "chaos")
	case resumed:
		err = o.admin.Resume(ctx, p, tenant)
	case tenantRebuilt:
		err = o.admin.Rebuild(ctx, p, tenant)
	case allRebuilt:
		if err = o.admin.Rebuild(ctx, p, ""); err == nil && o.rng.IntN(4) == 0 {
			rest(ctx, time.Duration(o.rng.IntN(1500))*time.Millisecond)
			err = o.admin.CancelRebuild(ctx, p)
			done = false
		}
	case allPaused:
		if err = o.admin.Pause(ctx, p, "", "chaos"); err == nil {
			rest(ctx, time.Duration(o.rng.IntN(1500))*time.Millisecond)
			err = o.admin.Resume(ctx, p, "")
		}
	case dedicated:
		pools, perr := o.admin.Pools(ctx)
		if err = perr; err == nil {
			if done = len(pools) < dedicatedMost; done {
				_, err = o.admin.SetPool(ctx, tenant, pool)
			}
		}
	case shared:
		pools, perr := o.admin.Pools(ctx)
		if err = perr; err == nil {
			if len(pools) == 0 {
				return fmt.Errorf("nobody is in the pool: %w", fairlead.ErrUnknown)
			}
			names := slices.Sorted(maps.Keys(pools))
			tenant = names[o.rng.IntN(len(names))]
			err = o.admin.ClearPool(ctx, tenant)
		}
	case toSplit:
		err = o.split(ctx, p)
	case toMerge:
		err = o.unite(ctx, p)
	}
	if err == nil && done {
		o.done(kind)
		o.cancelled = o.cancelled && kind != allRebuilt
		switch kind {
		case dedicated, shared:
			o.note("%s: %s", kind, tenant)
		case toSplit, toMerge, allRebuilt:
			o.note("%s: %s", kind, p)
		}
	}
	return err
}

// away returns a tenant of a processor that has a lane of its own, "" if none has.
func (o *operator) away(ctx context.Context, p string) string {
	lanes, err := o.admin.Lanes(ctx, p)
	lanes = slices.DeleteFunc(lanes, func(l fairlead.Lane) bool { return !l.Live || l.Tenant == "" })
	if err != nil || len(lanes) == 0 {
		return ""
	}
	return lanes[o.rng.IntN(len(lanes))].Tenant
}

// bases returns the base lanes of a processor's live build.
func (o *operator) bases(ctx context.Context, p string) ([]fairlead.Lane, error) {
	lanes, err := o.admin.Lanes(ctx, p)
	return slices.DeleteFunc(lanes, func(l fairlead.Lane) bool { return !l.Live || l.Tenant != "" }), err
}

func (o *operator) split(ctx context.Context, p string) error {
	all, err := o.bases(ctx, p)
	if err != nil || len(all) == 0 {
		return errors.Join(err, ctx.Err())
	}
	if len(all) >= partitionMost {
		return o.unite(ctx, p)
	}
	return o.admin.SplitPartition(ctx, p, all[o.rng.IntN(len(all))].Partition)
}

// unite merges two partitions of a processor. That takes that all their tenants are
// at home, so it has them come there first, and waits for the merge for a while: a
// request may also be withdrawn, or be there while everything else goes on.
func (o *operator) unite(ctx context.Context, p string) error {
	ctx, cancel := context.WithTimeout(ctx, uniteAtMost)
	defer cancel()
	err := o.admin.CancelRebuild(ctx, p)
	if err != nil && !errors.Is(err, fairlead.ErrUnknown) {
		return err
	}
	o.cancelled = o.cancelled || err == nil
	pools, err := o.admin.Pools(ctx)
	if err != nil {
		return err
	}
	for t := range pools {
		if err := o.admin.ClearPool(ctx, t); err != nil {
			return err
		}
	}
	before, err := o.bases(ctx, p)
	if err != nil || len(before) == 0 {
		return err
	}
	which, asked := o.rng.Perm(len(before)), false // not each is a half of another
	for {
		lanes, err := o.admin.Lanes(ctx, p)
		if err != nil {
			return err
		}
		if asked && !slices.ContainsFunc(lanes, func(l fairlead.Lane) bool { return l.Want != 0 }) {
			after, err := o.bases(ctx, p)
			if err == nil && len(after) >= len(before) {
				err = fmt.Errorf("it was withdrawn: %w", fairlead.ErrState)
			}
			return err
		}
		for _, l := range lanes {
			if l.Live && l.Tenant != "" && (l.Pinned || l.State == store.Paused) {
				for _, err := range []error{o.admin.Resume(ctx, p, l.Tenant), o.admin.Merge(ctx, p, l.Tenant)} {
					if err != nil && !errors.Is(err, fairlead.ErrUnknown) {
						return err
					}
				}
			}
		}
		if !asked {
			for _, i := range which {
				if err = o.admin.MergePartition(ctx, p, before[i].Partition); !errors.Is(err, fairlead.ErrState) {
					break
				}
			}
			if asked = err == nil; err != nil {
				return err
			}
		}
		if rest(ctx, 200*time.Millisecond); ctx.Err() != nil { // it goes on beside whatever comes next, or is withdrawn
			if o.rng.IntN(2) == 0 {
				_, err = o.admin.CancelPartitions(context.WithoutCancel(ctx), p)
			}
			return cmp.Or(err, ctx.Err()) // not done yet: another one is asked for, while there was none
		}
	}
}
