// Package lane holds the protocols on lanes: acquire and release, detach and
// merge, pause and resume, rebuild and switch, and the operators' part of dead
// letters. Each is one transaction on the rows of package store, so any process
// may run it at any time; the owners of the lanes notice by their fence. None
// of it looks at a clock but the store's, and no decision about safety hangs on
// that one either: a clock only says when to try a take-over.
package lane

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// Errors to branch on.
var (
	// ErrOwned means that a live member holds the lane.
	ErrOwned = errors.New("owned by another process")
	// ErrUnknown means that there is no such processor, tenant lane, key or rebuild.
	ErrUnknown = errors.New("unknown")
	// ErrBehind means that a lane must catch up before it can do that.
	ErrBehind = errors.New("behind")
	// ErrState means that the lane or processor is in no state to do that.
	ErrState = errors.New("not possible now")
)

// Setup makes the rows of a processor that is new, and checks those of one that
// is not: start gives the position at which a new lane of a partition begins.
// How many partitions it has is for its rows to say, once it has any.
func Setup(ctx context.Context, s store.Store, want store.Processor, start func(partition int) event.Position) (store.Processor, error) {
	var got store.Processor
	check := func(tx store.Tx) error {
		var err error
		got, err = tx.Processor(want.Name)
		if err != nil {
			return err
		}
		return compatible(got, want)
	}
	err := s.View(ctx, check) // the common case costs no write
	if err == nil && (want.Builds.Log != got.Builds.Log || want.Builds.Shares != got.Builds.Shares && want.Builds.Shares != "") {
		err = s.Update(ctx, func(tx store.Tx) error {
			if err := check(tx); err != nil {
				return err
			}
			return identify(tx, &got, &want.Builds)
		})
	}
	if !errors.Is(err, store.ErrNotFound) {
		return got, err
	}
	err = s.Update(ctx, func(tx store.Tx) error {
		err := check(tx)
		switch {
		case err == nil:
			return identify(tx, &got, &want.Builds)
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		all, err := tx.Processors()
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.Collection != "" && p.Collection == want.Collection {
				return fmt.Errorf("processor %q: collection %q belongs to processor %q: %w", want.Name, p.Collection, p.Name, ErrState)
			}
		}
		got = want
		got.Live, got.LastBuild = 1, 1
		if err := tx.PutProcessor(got); err != nil {
			return err
		}
		for i := range got.Partitions {
			l := store.Lane{
				LaneID: store.LaneID{Build: store.Build{Processor: got.Name, Number: 1}, Partition: i}, Of: got.Partitions,
				Position: start(i), State: store.Running,
			}
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
		return dedicateAll(tx, got)
	})
	return got, err
}

func compatible(got, want store.Processor) error {
	switch {
	case got.Kind != want.Kind:
		return fmt.Errorf("processor %q was a %s and is now a %s: give it a new name, or drop the old one: %w", want.Name, got.Kind, want.Kind, ErrState)
	case got.Collection != want.Collection:
		return fmt.Errorf("processor %q has the collection %q in the store and %q in the program: give it a new name: %w",
			want.Name, got.Collection, want.Collection, ErrState)
	case got.CrossTenant != want.CrossTenant:
		return fmt.Errorf("processor %q folded all tenants into shared documents (%v in the store, %v in the program): give it a new name: %w",
			want.Name, got.CrossTenant, want.CrossTenant, ErrState)
	}
	return nil
}

// Drop removes a processor with its lanes, letters and documents.
func Drop(ctx context.Context, s store.Store, processor string) error {
	return s.Update(ctx, func(tx store.Tx) error {
		p, err := known(tx, processor)
		if err != nil {
			return err
		}
		lanes, err := tx.Lanes(processor)
		if err != nil {
			return err
		}
		builds := map[int64]bool{p.Live: true}
		for _, l := range lanes {
			builds[l.Number] = true
			if err := tx.DeleteLane(l.LaneID); err != nil {
				return err
			}
		}
		for _, n := range append(p.Retired, p.Rebuild, p.Builds.Kept.Number) {
			if n != 0 {
				builds[n] = true
			}
		}
		for _, n := range slices.Sorted(maps.Keys(builds)) {
			b := store.Build{Processor: processor, Number: n}
			if _, err := tx.DeleteDocuments(b, "", 0); err != nil {
				return err
			}
			if err := deleteLetters(tx, store.LetterFilter{Build: b}); err != nil {
				return err
			}
		}
		return tx.DeleteProcessor(processor)
	})
}

// forgotten is how long a member that died is listed.
const forgotten = time.Hour

// Keep extends the lease of a member, and so of all its lanes at once, and waits for nobody.
// The store has one of the notes that are known, the likeliest first: it returns which. Else, of
// a member that is new, or whose lease has ended, nothing changes: it must [Join].
func Keep(ctx context.Context, s store.Store, id string, ttl time.Duration, known ...string) (notes string, kept bool, err error) {
	for _, notes := range known {
		if kept, err := s.Extend(ctx, id, notes, ttl); kept || err != nil {
			return notes, kept, err
		}
	}
	return "", false, nil
}

// Join makes a member, or says of one that is there what is new, and lets its lease end
// ttl from now at the earliest. Since when it is there is told by the store's clock too: m.Since is
// not looked at. It forgets members that died long ago.
func Join(ctx context.Context, s store.Store, m store.Member, ttl time.Duration) error {
	return s.Update(ctx, func(tx store.Tx) error {
		members, err := tx.Members()
		if err != nil {
			return err
		}
		m.Since, m.Until = tx.Now(), tx.Now().Add(ttl)
		for _, x := range members {
			if x.ID == m.ID {
				m.Since = x.Since
				if x.Until.After(m.Until) { // extended beside this
					m.Until = x.Until
				}
				continue
			}
			if x.Until.Before(tx.Now().Add(-forgotten)) {
				if err := tx.DeleteMember(x.ID); err != nil {
					return err
				}
			}
		}
		if i := slices.IndexFunc(members, func(x store.Member) bool { return x.ID == m.ID }); i >= 0 && mutant.Is(mutant.BeatForgotten) {
			m.Until = members[i].Until
		}
		return tx.PutMember(m)
	})
}

// Acquire makes owner the owner of a lane that no live member holds, and raises
// its epoch: from here on the owner before cannot commit.
func Acquire(ctx context.Context, s store.Store, id store.LaneID, owner string) (store.Lane, error) {
	lanes, err := AcquireAll(ctx, s, []store.LaneID{id}, owner, func(_ store.LaneID, err error) error { return err })
	if err != nil {
		return store.Lane{}, err
	}
	return lanes[0], nil
}

// AcquireAll is Acquire for many lanes in one transaction. A lane that is gone,
// or that a live member holds, is given to refused with its error; where that
// returns an error nothing is acquired, else the other lanes are.
func AcquireAll(ctx context.Context, s store.Store, ids []store.LaneID, owner string, refused func(store.LaneID, error) error) ([]store.Lane, error) {
	return TakeAll(ctx, s, ids, owner, func(store.LaneID) bool { return false }, refused)
}

// TakeAll is AcquireAll for who was told, by something else than leases, that some
// lanes are its own now: take says which of them it may take from a live member.
// That one is fenced by the epoch like any other that lost a lane.
func TakeAll(ctx context.Context, s store.Store, ids []store.LaneID, owner string, take func(store.LaneID) bool, refused func(store.LaneID, error) error) ([]store.Lane, error) {
	var got []store.Lane
	err := s.Update(ctx, func(tx store.Tx) error {
		got = got[:0]
		members, err := tx.Members()
		if err != nil {
			return err
		}
		alive, hosts := living(tx, members), map[string]string{}
		for _, m := range members {
			hosts[m.ID] = m.Host
		}
		ps, err := tx.Processors()
		if err != nil {
			return err
		}
		rows := map[string]*store.Processor{}
		for i := range ps {
			rows[ps[i].Name] = &ps[i]
		}
		lanes, err := store.LanesOf(tx, ids)
		if err != nil {
			return err
		}
		for _, id := range ids {
			l, found := lanes[id]
			var err error
			switch p := rows[id.Processor]; {
			case !found:
				err = fmt.Errorf("lane %v: %w", id, store.ErrNotFound)
			case p != nil && !worked(p, id.Number) && !mutant.Is(mutant.KeptWorked):
				err = fmt.Errorf("lane %v: its build is kept as it is, or is no more: %w", id, ErrState)
			case l.Owner != "" && l.Owner != owner && alive[l.Owner] && !take(id) && !mutant.Is(mutant.LeaseIgnored):
				err = fmt.Errorf("lane %v: %w: %s", id, ErrOwned, l.Owner)
			default:
				if l.Home == "" && l.Owner != owner {
					l.Home = hosts[l.Owner] // who has died may come back
				}
				l.Owner, l.Epoch = owner, l.Epoch+1
				if mutant.Is(mutant.EpochKept) {
					l.Epoch--
				}
				if err := tx.PutLane(l); err != nil {
					return err
				}
				got = append(got, l)
				continue
			}
			if err := refused(id, err); err != nil {
				return err
			}
		}
		return nil
	})
	return got, err
}

// Alive returns the members whose lease has not ended.
func Alive(tx store.Tx) (map[string]bool, error) {
	members, err := tx.Members()
	if err != nil {
		return nil, err
	}
	return living(tx, members), nil
}

func living(tx store.Tx, members []store.Member) map[string]bool {
	now, alive := tx.Now(), map[string]bool{}
	for _, m := range members {
		if m.Until.After(now) {
			alive[m.ID] = true
		}
	}
	return alive
}

// setState changes a lane's state under a new revision, so that what its owner
// has in flight cannot commit.
func setState(tx store.Tx, l store.Lane, s store.State, reason string) error {
	l.State, l.Reason = s, reason
	if !mutant.Is(mutant.StateUnrevised) {
		l.Revision++
	}
	return tx.PutLane(l)
}

func known(tx store.Tx, processor string) (store.Processor, error) {
	p, err := tx.Processor(processor)
	if errors.Is(err, store.ErrNotFound) {
		return p, fmt.Errorf("processor %q: %w", processor, ErrUnknown)
	}
	return p, err
}

// bases returns the base lanes of a processor's live build.
func bases(tx store.Tx, p store.Processor) ([]store.Lane, error) {
	lanes, err := tx.Lanes(p.Name)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(lanes, func(l store.Lane) bool { return l.Number != p.Live || l.Tenant != "" }), nil
}
