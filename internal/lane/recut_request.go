package lane

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/fairlead-dev/fairlead/store"
)

// MostPartitions is how many partitions a processor may have.
const MostPartitions = 1024

// mostOf bounds the modulus, where one partition is split again and again.
const mostOf = 1 << 30

// Modulus returns that of a lane's partition: see [store.Lane.Of].
func Modulus(p store.Processor, l *store.Lane) int { return max(1, cmp.Or(l.Of, p.Partitions)) }

// RequestSplit asks for a partition of a processor, or with partition -1 for
// each, to be split in two: a process that has the processor does it, because
// only its code knows which dead letters go where.
func RequestSplit(ctx context.Context, s store.Store, processor string, partition int) error {
	return request(ctx, s, processor, partition, func(tx store.Tx, p store.Processor, all []store.Lane) error {
		n := len(all)
		for i := range all {
			if l := &all[i]; l.Want > Modulus(p, l) {
				n++
			}
		}
		for _, l := range all {
			of := Modulus(p, &l)
			switch {
			case partition >= 0 && l.Partition != partition, l.Want == 2*of:
				continue
			case l.Want != 0:
				return fmt.Errorf("processor %q: partition %d is to be merged: wait for it, or cancel it first: %w", p.Name, l.Partition, ErrState)
			case l.State == store.Paused:
				return fmt.Errorf("processor %q: partition %d is stopped (%s): resume the processor first: %w", p.Name, l.Partition, l.Reason, ErrState)
			case n >= MostPartitions:
				return fmt.Errorf("processor %q has %d partitions, with those that are about to be split: %d are possible: %w", p.Name, n, MostPartitions, ErrState)
			case of > mostOf/2:
				return fmt.Errorf("processor %q: partition %d has one hash in %d: it cannot be split any further: %w", p.Name, l.Partition, of, ErrState)
			}
			n++
			l.Want = 2 * of
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// RequestMerge asks for a partition to be merged with the one that it was split
// from, or that was split from it.
func RequestMerge(ctx context.Context, s store.Store, processor string, partition int) error {
	return request(ctx, s, processor, partition, func(tx store.Tx, p store.Processor, all []store.Lane) error {
		i := slices.IndexFunc(all, func(l store.Lane) bool { return l.Partition == partition })
		if i < 0 {
			return fmt.Errorf("processor %q has no partition %d: name one: %w", p.Name, partition, ErrUnknown)
		}
		of := Modulus(p, &all[i])
		if of%2 != 0 {
			return fmt.Errorf("processor %q: partition %d (of %d) is no half of another, so it cannot be merged: %w", p.Name, partition, of, ErrState)
		}
		other := (partition + of/2) % of
		j := slices.IndexFunc(all, func(l store.Lane) bool { return l.Partition == other && Modulus(p, &l) == of })
		if j < 0 {
			return fmt.Errorf("processor %q: the other half of partition %d (of %d) has been split itself: merge its parts first: %w", p.Name, partition, of, ErrState)
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		pools, err := tx.Pools()
		if err != nil {
			return err
		}
		for _, l := range []store.Lane{all[i], all[j]} {
			switch {
			case l.Want > of:
				return fmt.Errorf("processor %q: partition %d is to be split: wait for it, or cancel it first: %w", p.Name, l.Partition, ErrState)
			case l.State == store.Paused:
				return fmt.Errorf("processor %q: partition %d is stopped (%s): resume the processor first: %w", p.Name, l.Partition, l.Reason, ErrState)
			}
			for _, t := range lanes {
				if t.Build != l.Build || t.Partition != l.Partition || t.Tenant == "" {
					continue
				}
				if t.State == store.Paused {
					return fmt.Errorf("processor %q: partition %d: tenant %q is paused (%s): resume it first: %w", p.Name, l.Partition, t.Tenant, t.Reason, ErrState)
				}
				if pool := pools[t.Tenant]; pool != "" {
					return fmt.Errorf("processor %q: partition %d: tenant %q is given to the pool %q, so it has a lane of its own: clear its pool first: %w", p.Name, l.Partition, t.Tenant, pool, ErrState)
				}
				if t.Pinned {
					return fmt.Errorf("processor %q: partition %d: tenant %q is pinned in a lane of its own: merge it first: %w", p.Name, l.Partition, t.Tenant, ErrState)
				}
			}
			l.Want = of / 2
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// notMerging returns an error if two partitions of the processor are to be merged:
// the lanes of a tenant that is given to a pool now would keep them from it for as
// long as it is there. [RequestMerge] refuses the other way round.
func notMerging(tx store.Tx, p store.Processor, tenant string) error {
	all, err := bases(tx, p)
	for i := range all {
		if l := &all[i]; l.Want != 0 && l.Want < Modulus(p, l) {
			return fmt.Errorf("processor %q: tenant %q cannot be given to a pool while partition %d (of %d) is to be merged, which its lanes would hold up: "+
				"wait for that, or cancel it first: %w", p.Name, tenant, l.Partition, Modulus(p, l), ErrState)
		}
	}
	return err
}

// request runs f on the base lanes of the live build, if its partitions can be
// split and merged now.
func request(ctx context.Context, s store.Store, processor string, partition int, f func(store.Tx, store.Processor, []store.Lane) error) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		if p.Rebuild != 0 {
			return fmt.Errorf("processor %q is being rebuilt: wait for it or cancel it, then ask again: %w", processor, ErrState)
		}
		all, err := bases(tx, p)
		if err != nil {
			return err
		}
		if partition >= 0 && !slices.ContainsFunc(all, func(l store.Lane) bool { return l.Partition == partition }) {
			return fmt.Errorf("processor %q has no partition %d: %w", processor, partition, ErrUnknown)
		}
		return f(tx, p, all)
	})
}

// CancelRecut takes back all requests for partitions of a processor that have
// not been carried out. It returns how many partitions they were for.
func CancelRecut(ctx context.Context, s store.Store, processor string) (n int, err error) {
	err = s.Update(ctx, func(tx store.Tx) error {
		n = 0
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		all, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		for _, l := range all {
			if l.Number != p.Live || l.Want == 0 && l.Until == 0 && l.State != store.Recut {
				continue
			}
			if l.Want != 0 {
				n++
			}
			l.Want = 0
			if err := letGo(tx, l); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// RefuseRecut takes back the request for a partition, with the reason for people.
func RefuseRecut(ctx context.Context, s store.Store, id store.LaneID, reason string) error {
	return letGroupGo(ctx, s, id, func(l *store.Lane) {
		if l.Tenant == "" {
			l.Want, l.Reason = 0, reason
		}
	})
}

// LetGo lets the lanes run again that stand still for the split or merge of a
// partition. What was asked for stays so.
func LetGo(ctx context.Context, s store.Store, id store.LaneID) error {
	return letGroupGo(ctx, s, id, func(*store.Lane) {})
}

func letGroupGo(ctx context.Context, s store.Store, id store.LaneID, also func(*store.Lane)) error {
	return s.Update(ctx, func(tx store.Tx) error {
		all, err := tx.Lanes(id.Processor)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(l store.Lane) bool { return l.LaneID == id })
		if i < 0 {
			return nil
		}
		for _, l := range all {
			if l.Build == id.Build && (l.Partition == id.Partition || all[i].Want > 0 && l.Partition == id.Partition+all[i].Want) {
				if l.State == store.Recut {
					l.State, l.Reason = store.Running, ""
				}
				also(&l)
				if err := letGo(tx, l); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func letGo(tx store.Tx, l store.Lane) error {
	if l.State == store.Recut {
		l.State, l.Reason = store.Running, ""
	}
	l.Until = 0
	l.Revision++
	return tx.PutLane(l)
}
