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

// Errors of [Admin] to branch on.
var (
	// ErrUnknown: there is no such processor, lane, dead letter or rebuild.
	ErrUnknown = lane.ErrUnknown
	// ErrState: not possible in the state that the processor or lane is in.
	ErrState = lane.ErrState
)

// An Admin operates on lanes: from the process that runs them, or from any
// other. Each method is one transaction on the store; the owners of the lanes
// notice by their fence, and within a fraction of a second by looking.
type Admin struct {
	Log   eventlog.Log
	Store store.Store
}

// A Lane is a lane as operators see it.
type Lane struct {
	store.Lane
	Live  bool // of the build that readers see, not of one in the making
	Kept  bool // of the build before the last switch, which nobody works: see [Admin.GoBack]
	Alive bool // its owner's lease has not ended
	// Behind is how many events it has still to look at, those of its own partition
	// and tenant, among the next [BehindLimit]; Lag is the age of the oldest of them.
	Behind int64
	Lag    time.Duration
	// AtMost says that Behind and Lag count events of other lanes too: the log cannot
	// count, or only the processor's PartitionBy could tell them apart, or no program
	// that notes what does has run yet.
	AtMost bool
	Parked int // ordering keys in the dead letters

	// Pool is the worker pool that the lane's tenant is given to. Unserved says
	// why nobody works the lane, and what to do, if that is because no process of the
	// pool lives, or none with the version of the code that makes the lane's build.
	Pool     string
	Unserved string
}

// BehindLimit is to where [Lane.Behind] counts: a lane that has all the log partition's
// events, or a tenant's, to so many of them, one that shares them by hash to its part
// of so many.
const BehindLimit = 1_000_000

// Processors returns the rows of all processors, by name.
func (a Admin) Processors(ctx context.Context) (ps []store.Processor, err error) {
	err = a.Store.View(ctx, func(tx store.Tx) (err error) { ps, err = tx.Processors(); return err })
	return ps, err
}

// Holders returns the transactions that hold back the head of the log, the oldest
// first: what a lane has to wait for whatever its lag. None where the log has
// none; see [eventlog.HolderLister].
func (a Admin) Holders(ctx context.Context) ([]eventlog.Holder, error) {
	if l, ok := a.Log.(eventlog.HolderLister); ok {
		return l.Holders(ctx)
	}
	return nil, nil
}

// Lanes returns the lanes of a processor, of all with processor "".
func (a Admin) Lanes(ctx context.Context, processor string) ([]Lane, error) {
	var lanes []Lane
	procs := map[string]store.Processor{}
	err := a.Store.View(ctx, func(tx store.Tx) error {
		lanes = nil
		ps, err := tx.Processors()
		if err != nil {
			return err
		}
		for _, p := range ps {
			procs[p.Name] = p
		}
		if _, ok := procs[processor]; processor != "" && !ok {
			return fmt.Errorf("processor %q: %w", processor, ErrUnknown)
		}
		alive, err := lane.Alive(tx)
		if err != nil {
			return err
		}
		rows, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		live, err := liveMembers(tx)
		if err != nil {
			return err
		}
		given, err := tx.Pools()
		if err != nil {
			return err
		}
		for _, l := range rows {
			p := procs[l.Processor]
			l.Of = lane.Modulus(p, &l) // also where the row does not say so
			x := Lane{Lane: l, Live: p.Live == l.Number, Kept: p.Builds.Kept.Number == l.Number, Alive: alive[l.Owner]}
			if l.Tenant != "" {
				x.Pool = given[l.Tenant]
			}
			if !x.Alive {
				x.Unserved = unserved(&p, &x, live)
			}
			lanes = append(lanes, x)
		}
		return countParked(tx, lanes)
	})
	if err != nil {
		return nil, err
	}
	parts, err := a.Log.Partitions(ctx)
	if err != nil {
		return nil, err
	}
	var ofLog, ofLetters []*Lane // by whose positions they have
	for i := range lanes {
		if procs[lanes[i].Processor].Builds.Log == letterlog.Identity {
			ofLetters = append(ofLetters, &lanes[i])
		} else {
			ofLog = append(ofLog, &lanes[i])
		}
	}
	if err := a.countBehind(ctx, procs, ofLog, parts); err != nil {
		return nil, err
	}
	return lanes, a.countLettersBehind(ctx, ofLetters)
}

// countParked counts each parked key with the lane that would drain it.
func countParked(tx store.Tx, lanes []Lane) error {
	byID := map[store.LaneID]*Lane{}
	for i := range lanes {
		byID[lanes[i].LaneID] = &lanes[i]
	}
	for i := range lanes {
		if lanes[i].Tenant != "" {
			continue
		}
		keys, err := tx.Parked(lanes[i].Build, "")
		if err != nil {
			return err
		}
		for _, k := range keys {
			id := lanes[i].LaneID
			if k.Partition != id.Partition {
				continue
			}
			if id.Tenant = k.Tenant; byID[id] == nil {
				id.Tenant = ""
			}
			byID[id].Parked++
		}
	}
	return nil
}

// Detach gives a tenant a lane of its own in a processor until [Admin.Merge].
func (a Admin) Detach(ctx context.Context, processor, tenant string) error {
	return lane.Detach(ctx, a.Store, processor, tenant)
}

// Merge lets a tenant go back to its base lane as soon as it has caught up.
func (a Admin) Merge(ctx context.Context, processor, tenant string) error {
	return lane.Unpin(ctx, a.Store, processor, tenant)
}

// Pause stops a tenant in a processor; tenant "" stops the whole processor.
func (a Admin) Pause(ctx context.Context, processor, tenant, reason string) error {
	if tenant == "" {
		return lane.PauseProcessor(ctx, a.Store, processor, true)
	}
	return lane.Pause(ctx, a.Store, processor, tenant, reason)
}

// Resume undoes [Admin.Pause], and a stop by a poison policy.
func (a Admin) Resume(ctx context.Context, processor, tenant string) error {
	if tenant == "" {
		return lane.PauseProcessor(ctx, a.Store, processor, false)
	}
	return lane.Resume(ctx, a.Store, processor, tenant)
}

// SplitPartition asks for a partition of a processor, or with partition -1 for
// each of them, to be split in two, so that more processes can share its work. A
// process that has the processor does it within a fraction of a second, and
// nobody else's lanes stop for it.
func (a Admin) SplitPartition(ctx context.Context, processor string, partition int) error {
	if err := a.hashed(ctx, processor); err != nil {
		return err
	}
	return lane.RequestSplit(ctx, a.Store, processor, partition)
}

// MergePartition asks for a partition to be merged with the one that it was split
// from, or that was split from it. That is done when both are near each other, and
// no tenant of them has a lane of its own: those that are out because of their
// backlog come back first.
func (a Admin) MergePartition(ctx context.Context, processor string, partition int) error {
	if err := a.hashed(ctx, processor); err != nil {
		return err
	}
	return lane.RequestMerge(ctx, a.Store, processor, partition)
}

// CancelPartitions takes back what was asked for the partitions of a processor
// and is not done. It returns for how many that was.
func (a Admin) CancelPartitions(ctx context.Context, processor string) (int, error) {
	return lane.CancelRecut(ctx, a.Store, processor)
}

// hashed returns an error where partitions are the log's own.
func (a Admin) hashed(ctx context.Context, processor string) error {
	parts, err := a.Log.Partitions(ctx)
	if err == nil && parts > 1 {
		err = fmt.Errorf("processor %q follows the %d partitions of its log, so it has no others: %w", processor, parts, ErrState)
	}
	return err
}

// SetWeight sets a tenant's share of worker time against others, whose weight
// is 1; from 0.01 to 100. It counts at once.
func (a Admin) SetWeight(ctx context.Context, tenant string, weight float64) error {
	if err := event.CheckTenant(tenant); err != nil {
		return err
	}
	if !(weight >= 0.01 && weight <= 100) {
		return fmt.Errorf("weight %v of tenant %q: must be from 0.01 to 100", weight, tenant)
	}
	return a.Store.Update(ctx, func(tx store.Tx) error { return tx.PutWeight(tenant, weight) })
}

// Weights returns the weights that were set.
func (a Admin) Weights(ctx context.Context) (w map[string]float64, err error) {
	err = a.Store.View(ctx, func(tx store.Tx) (err error) { w, err = tx.Weights(); return err })
	return w, err
}

// Drop deletes a processor with all its documents, lanes and dead letters. No
// process should have it.
func (a Admin) Drop(ctx context.Context, processor string) error {
	return lane.Drop(ctx, a.Store, processor)
}

// A LetterFilter selects dead letters; zero fields select all.
type LetterFilter = store.LetterFilter

// DeadLetters returns dead letters by ascending id.
func (a Admin) DeadLetters(ctx context.Context, f LetterFilter) (letters []store.DeadLetter, err error) {
	err = a.Store.View(ctx, func(tx store.Tx) (err error) { letters, err = tx.Letters(f); return err })
	return letters, err
}

// Retry asks for the dead letters of an ordering key to be applied, in order;
// key "" stands for all keys of the tenant, tenant "" for all tenants. It
// returns how many letters that are. The owner of the lane does it; a letter
// that fails again parks its key again.
func (a Admin) Retry(ctx context.Context, processor, tenant, key string) (int, error) {
	return lane.RetryKey(ctx, a.Store, processor, tenant, key)
}

// Skip gives up one dead letter, which stays recorded, and retries those that
// waited behind it.
func (a Admin) Skip(ctx context.Context, id int64) error { return lane.SkipLetter(ctx, a.Store, id) }
