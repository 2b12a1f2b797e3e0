package engine

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// An askedStore counts what is asked of a store.
type askedStore struct {
	store.Store
	extends, updates, views, revisions atomic.Int64
}

func (s *askedStore) Extend(ctx context.Context, id, notes string, ttl time.Duration) (bool, error) {
	s.extends.Add(1)
	return s.Store.Extend(ctx, id, notes, ttl)
}

func (s *askedStore) Update(ctx context.Context, f func(store.Tx) error) error {
	s.updates.Add(1)
	return s.Store.Update(ctx, f)
}

func (s *askedStore) View(ctx context.Context, f func(store.Tx) error) error {
	s.views.Add(1)
	return s.Store.View(ctx, f)
}

func (s *askedStore) Revision(ctx context.Context) (int64, error) {
	s.revisions.Add(1)
	return s.Store.Revision(ctx)
}

// TestIdleAsksNothing: a process that has nothing to do extends its lease, and
// looks at a row of each other member when the lease of one would have ended.
func TestIdleAsksNothing(t *testing.T) {
	for _, members := range []int{1, 3} {
		synctest.Test(t, func(t *testing.T) {
			r := newFleetRig(t)
			var stores []*askedStore
			for i := range members {
				s := &askedStore{Store: r.mem}
				e, err := New(Config{Log: r.log, Store: s, Name: string(rune('a' + i)), Lease: fleetLease})
				if err != nil {
					t.Fatal(err)
				}
				if err := e.Add(t.Context(), counter(10)); err != nil {
					t.Fatal(err)
				}
				defer r.run(e)()
				stores = append(stores, s)
			}
			r.append("acme", "s", added{N: 1})
			time.Sleep(3 * fleetLease)
			before := make([][4]int64, members)
			counts := func(s *askedStore) [4]int64 {
				return [4]int64{s.extends.Load(), s.updates.Load(), s.views.Load(), s.revisions.Load()}
			}
			for i, s := range stores {
				before[i] = counts(s)
			}
			time.Sleep(time.Hour)
			for i, s := range stores {
				n := counts(s)
				for k := range n {
					n[k] -= before[i][k]
				}
				// An hour has 360 leases, each extended three times in its length.
				looks := int64(70)
				if members > 1 {
					looks = 360 * 2
				}
				if n[0] < 1000 || n[0] > 1100 || n[1] > 5 || n[2] > looks || n[3] > 0 {
					t.Errorf("%d members: in an idle hour %d leases extended, %d updates, %d looks and %d questions for the revision, want 1,080, 3, at most %d and 0",
						members, n[0], n[1], n[2], n[3], looks)
				}
			}
		})
	}
}

// TestIdleDeathIsNoticed: nobody says that a member has died, and no row changes.
// Its lanes are taken over as soon as its lease has ended.
func TestIdleDeathIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		stop, _ := r.start("a", counter(8))
		defer stop()
		_, kill := r.start("b", counter(8))
		time.Sleep(10 * time.Minute)
		if n := r.counts(); n["a"] == 0 || n["b"] == 0 {
			t.Fatalf("%v, want the lanes shared out", n)
		}
		kill()
		var ends time.Time
		_ = r.mem.View(t.Context(), func(tx store.Tx) error {
			members, err := tx.Members()
			for _, m := range members {
				if m.Host == "b" {
					ends = m.Until
				}
			}
			return err
		})
		if ends.IsZero() {
			t.Fatal("who was killed has no lease left")
		}
		time.Sleep(time.Until(ends) + 100*time.Millisecond)
		if n := r.counts(); n["a"] != 8 {
			t.Errorf("%v, 100 ms after the lease of one has ended; want all lanes with the other", n)
		}
	})
}

// TestIdleTriesAgain: lanes that could not be acquired, because the store failed,
// are acquired when it does not fail any more, although no row changes.
func TestIdleTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		var broken atomic.Bool
		broken.Store(true)
		s := &noAcquire{askedStore: askedStore{Store: r.mem}, broken: &broken}
		e, err := New(Config{Log: r.log, Store: s, Name: "a", Lease: fleetLease})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Add(t.Context(), counter(1)); err != nil {
			t.Fatal(err)
		}
		stop := r.run(e)
		defer stop()
		time.Sleep(time.Minute)
		broken.Store(false)
		time.Sleep(2 * startAgain)
		if n := r.counts(); n["a"] != 1 {
			t.Errorf("%v, want the lane worked again after the store has", n)
		}
	})
}

// A noAcquire is a store where no lane can be acquired.
type noAcquire struct {
	askedStore
	broken *atomic.Bool
}

func (s *noAcquire) Update(ctx context.Context, f func(store.Tx) error) error {
	return s.Store.Update(ctx, func(tx store.Tx) error { return f(&noLanes{tx, s.broken}) })
}

type noLanes struct {
	store.Tx
	broken *atomic.Bool
}

func (tx *noLanes) PutLane(l store.Lane) error {
	if tx.broken.Load() && l.Owner != "" {
		return errors.New("the disk is full")
	}
	return tx.Tx.PutLane(l)
}
