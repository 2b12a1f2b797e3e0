package lane

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// TryRecut brings what was asked for a partition nearer to its end, and reports
// whether it is there: call it again and again. The lanes that it is about come
// to rest first: their owners end what they have in hand, as for a pause, and
// let them go. Then they are cut in one transaction, and begin again under new
// epochs. So nobody has in memory what was another lane's meanwhile, and no event
// is in progress whose key changes lanes.
//
// Id is the base lane, of a merge that of the lower partition. Share returns
// which of so many shares an event falls into, and false where that cannot be
// told: such dead letters stay. A merge begins to hold lanes up when they are
// within near of each other.
func TryRecut(ctx context.Context, s store.Store, id store.LaneID, share func(e *event.Event, of int) (int, bool), near event.Position) (done bool, err error) {
	err = s.Update(ctx, func(tx store.Tx) error {
		done = false
		p, err := known(tx, id.Processor)
		if err != nil {
			return err
		}
		r := recut{tx: tx, p: p, share: share, near: near}
		if r.all, err = tx.Lanes(id.Processor); err != nil {
			return err
		}
		if r.alive, err = Alive(tx); err != nil {
			return err
		}
		base := r.lane(id)
		if base == nil || base.Want == 0 || id.Number != p.Live {
			return fmt.Errorf("lane %v: nobody wants it to be split or merged: %w", id, ErrUnknown)
		}
		of := Modulus(p, base)
		switch {
		case p.Rebuild != 0:
			return nil // StartRebuild has let go what stood still
		case base.Want == 2*of:
			done, err = r.split(base)
		case 2*base.Want == of && base.Partition < base.Want:
			done, err = r.merge(base)
		default:
			return fmt.Errorf("lane %v, of %d, wants to be of %d: cancel that: %w", id, of, base.Want, ErrState)
		}
		return err
	})
	return done && err == nil, err
}

// A recut is a split or merge in a transaction.
type recut struct {
	tx    store.Tx
	p     store.Processor
	all   []store.Lane // of the processor
	alive map[string]bool
	share func(e *event.Event, of int) (int, bool)
	near  event.Position
}

func (r *recut) lane(id store.LaneID) *store.Lane {
	for i := range r.all {
		if r.all[i].LaneID == id {
			return &r.all[i]
		}
	}
	return nil
}

// rest reports whether a lane is at rest, and sees to it that it will be.
func (r *recut) rest(l *store.Lane, reason string) (bool, error) {
	if mutant.Is(mutant.RecutRunning) {
		return true, nil
	}
	if l.State != store.Recut && l.State != store.Paused {
		return false, setState(r.tx, *l, store.Recut, reason)
	}
	return l.Owner == "" || !r.alive[l.Owner], nil
}

// begin lets a lane that was cut begin again.
func begin(l *store.Lane, of int) {
	l.Of, l.Want, l.Until = of, 0, 0
	if l.State == store.Recut {
		l.State, l.Reason = store.Running, ""
	}
	if !mutant.Is(mutant.RecutRunning) {
		l.Owner = ""
		l.Epoch++
	}
	l.Revision++
}

// split cuts a partition in two, with the lanes of its tenants.
func (r *recut) split(base *store.Lane) (bool, error) {
	rest := true
	var group []*store.Lane // base comes first
	for i := range r.all {
		l := &r.all[i]
		if l.Build != base.Build || l.Partition != base.Partition {
			continue
		}
		ok, err := r.rest(l, "to be split")
		if err != nil {
			return false, err
		}
		rest = rest && ok
		group = append(group, l)
	}
	if !rest {
		return false, nil
	}
	of := Modulus(r.p, base)
	for _, l := range group {
		other := *l
		begin(l, 2*of)
		begin(&other, 2*of)
		other.Partition += of
		if mutant.Is(mutant.SplitPosition) {
			other.Position++
		}
		// The new rows begin above every epoch that lanes of these names ever
		// had: whoever deleted them has raised the revision of base above it.
		// And above the one that its keys have been worked under.
		other.Epoch, other.Revision, other.Owner = max(base.Revision, l.Epoch), base.Revision, ""
		if mutant.Is(mutant.SplitEpoch) {
			other.Epoch = 0
		}
		if _, err := r.tx.Lane(other.LaneID); !errors.Is(err, store.ErrNotFound) {
			return false, errors.Join(err, fmt.Errorf("lane %v is there already: %w", other.LaneID, ErrState))
		}
		if err := errors.Join(r.tx.PutLane(*l), r.tx.PutLane(other)); err != nil {
			return false, err
		}
	}
	if mutant.Is(mutant.SplitLetters) {
		return true, nil
	}
	return true, r.letters(base.LaneID, func(d *store.DeadLetter) int {
		if i, ok := r.share(&d.Event, 2*of); ok && i == base.Partition+of {
			return i
		}
		return base.Partition
	})
}

// letters moves the dead letters of a partition.
func (r *recut) letters(of store.LaneID, to func(*store.DeadLetter) int) error {
	f := store.LetterFilter{Build: of.Build, Partition: &of.Partition, Limit: 500}
	for {
		found, err := r.tx.Letters(f)
		if err != nil {
			return err
		}
		for _, d := range found {
			f.AfterID = d.ID
			if i := to(&d); i != d.Partition {
				d.Partition = i
				if err := r.tx.PutLetter(d); err != nil {
					return err
				}
			}
		}
		if len(found) < f.Limit {
			return nil
		}
	}
}

// merge puts the two halves of a partition together, once they stand at the same
// position, with nothing done beyond it and no tenant outside.
func (r *recut) merge(low *store.Lane) (bool, error) {
	id := low.LaneID
	id.Partition += low.Want
	high := r.lane(id)
	if high == nil || high.Want != low.Want || Modulus(r.p, high) != Modulus(r.p, low) {
		return false, fmt.Errorf("lane %v is to be merged with %v, which is not: cancel that: %w", low.LaneID, id, ErrState)
	}
	both := []*store.Lane{low, high}
	ready, at := true, max(low.Position, high.Position)
	for _, l := range both {
		if l.State != store.Running && l.State != store.Recut || r.away(l) && !mutant.Is(mutant.MergeOutside) {
			return false, r.letGo(both)
		}
		for _, until := range l.Exclusions {
			if until != event.Unbounded {
				at = max(at, until)
			}
		}
		// Who has a lane now may not be who has handled what is beyond its checkpoint, and
		// so does not go on to there by itself.
		if len(l.Done) > 0 {
			var beyond done.Set
			if err := beyond.UnmarshalBinary(l.Done); err != nil {
				return false, fmt.Errorf("lane %v: what is done beyond its checkpoint: %w", l.LaneID, err)
			}
			ready, at = false, max(at, beyond.Last())
		}
	}
	if mutant.Is(mutant.MergeLower) {
		at = min(low.Position, high.Position)
	}
	if ready = ready && (low.Position == at && high.Position == at || mutant.Is(mutant.MergeHigher) || mutant.Is(mutant.MergeLower)); !ready {
		return false, r.meet(both, at)
	}
	rest := true
	for _, l := range both {
		ok, err := r.rest(l, "to be merged")
		if err != nil {
			return false, err
		}
		rest = rest && ok
	}
	if !rest {
		return false, nil
	}
	of := low.Want
	low.Epoch = max(low.Epoch, high.Epoch)
	begin(low, of)
	low.Position, low.Exclusions = at, nil // those that there are have ended
	if high.AppliedAt.After(low.AppliedAt) {
		low.AppliedAt = high.AppliedAt
	}
	// What begins again under the name of high, or of one of its tenants' lanes,
	// does so above every epoch that these have had.
	if !mutant.Is(mutant.SplitEpoch) {
		low.Revision = 1 + max(low.Revision, high.Revision, high.Epoch)
	}
	if err := errors.Join(r.tx.PutLane(*low), r.tx.DeleteLane(high.LaneID)); err != nil {
		return false, err
	}
	if mutant.Is(mutant.MergeLetters) {
		return true, nil
	}
	return true, r.letters(high.LaneID, func(*store.DeadLetter) int { return low.Partition })
}

// away reports whether a tenant of a base lane is in a lane of its own.
func (r *recut) away(base *store.Lane) bool {
	return slices.ContainsFunc(r.all, func(l store.Lane) bool {
		return l.Tenant != "" && l.Build == base.Build && l.Partition == base.Partition
	})
}

// meet tells two lanes at which position to stand still until they are merged.
// One that has read further goes on to there: then the other is told to follow.
func (r *recut) meet(both []*store.Lane, at event.Position) error {
	far, going := false, true
	for _, l := range both {
		far = far || at-l.Position > r.near
		going = going && l.Until != 0 && l.State == store.Running
	}
	for _, l := range both {
		if going && l.Position < l.Until {
			return nil
		}
	}
	if far || r.p.Paused {
		return r.letGo(both)
	}
	for _, l := range both {
		if l.Until == at && l.State == store.Running {
			continue
		}
		x := *l
		if x.State == store.Recut {
			x.State, x.Reason = store.Running, ""
		}
		x.Until = at
		x.Revision++
		if err := r.tx.PutLane(x); err != nil {
			return err
		}
	}
	return nil
}

func (r *recut) letGo(lanes []*store.Lane) error {
	for _, l := range lanes {
		if l.Until == 0 && l.State != store.Recut {
			continue
		}
		if err := letGo(r.tx, *l); err != nil {
			return err
		}
	}
	return nil
}
