package lane

import (
	"context"
	"strings"

	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// A Given is a lane that its owner gives up.
type Given struct {
	ID    store.LaneID
	Epoch int64  // under which the owner has it
	To    string // the member that is to work it; "": whoever takes it
	Home  string // its home from now on; "": as it was; [NoHome]: none
}

// NoHome is the home of a lane that belongs to no member in particular. It is no name
// that a member can have.
const NoHome = "\x00"

// Release gives up a lane, if owner still has it under that epoch.
func Release(ctx context.Context, s store.Store, id store.LaneID, owner string, epoch int64) error {
	return HandOver(ctx, s, owner, Given{ID: id, Epoch: epoch})
}

// HandOver gives up lanes in one transaction: those that owner still has under that
// epoch. One that is given to another member, which is alive, is acquired for it:
// the row has its new owner and an epoch that nobody has had. So from here on the
// owner before cannot commit, and the heir may work the lane under that epoch as soon
// as it sees the row, once: see [AcquireAll] for any other time.
func HandOver(ctx context.Context, s store.Store, owner string, given ...Given) error {
	return s.Update(ctx, func(tx store.Tx) error {
		var alive map[string]bool
		ids := make([]store.LaneID, len(given))
		for i, g := range given {
			ids[i] = g.ID
		}
		lanes, err := store.LanesOf(tx, ids)
		if err != nil {
			return err
		}
		for _, g := range given {
			l, found := lanes[g.ID]
			if !found || l.Owner != owner || l.Epoch != g.Epoch {
				continue
			}
			if l.Owner = g.To; g.To != "" {
				if alive == nil {
					if alive, err = Alive(tx); err != nil {
						return err
					}
				}
				if !alive[g.To] {
					l.Owner = ""
				}
			}
			if l.Owner != "" && !mutant.Is(mutant.EpochHanded) {
				l.Epoch++
			}
			if g.Home != "" {
				l.Home = strings.TrimPrefix(g.Home, NoHome)
			}
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
		return nil
	})
}

// Leave removes a member and releases all its lanes. It locks no row of another
// member's: those that it had are found before. One that is handed to it in between
// has an owner that is no member, and so none.
func Leave(ctx context.Context, s store.Store, owner string) error {
	if mutant.Is(mutant.LeaveForgotten) {
		return nil
	}
	var left []store.LaneID
	err := s.View(ctx, func(tx store.Tx) error {
		left = left[:0]
		lanes, err := tx.Lanes("")
		for i := range lanes {
			if lanes[i].Owner == owner {
				left = append(left, lanes[i].LaneID)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	return s.Update(ctx, func(tx store.Tx) error {
		lanes, err := store.LanesOf(tx, left)
		if err != nil {
			return err
		}
		for _, id := range left {
			l, found := lanes[id]
			if !found || l.Owner != owner {
				continue
			}
			l.Owner = ""
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
		return tx.DeleteMember(owner)
	})
}
