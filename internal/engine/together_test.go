package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// TestRebuildWithAPausedTenant: a tenant that stands still in both builds, before
// the same poison event, does not keep the new build from its switch.
func TestRebuildWithAPausedTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := Processor{Name: "docs", Projection: tallies("docs", false), Poison: ParkTenant}
		r.add(p)
		defer r.run(r.e)()
		r.append("bad", "s", added{}, added{Fail: true}, added{})
		r.append("good", "s", added{}, added{})
		time.Sleep(5 * time.Second)
		if err := lane.StartRebuild(t.Context(), r.st, "docs", ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if row := r.row(); row.Live != 2 || row.Rebuild != 0 {
			t.Errorf("the row is %+v, want build 2 live; lanes:", row)
			for _, l := range r.lanes("docs") {
				t.Errorf("%+v", l)
			}
		}
	})
}

// TestRebuildWithAPausedTenantBehind: one that stands still in the new build only
// must not have the live lanes held for a switch that cannot come.
func TestRebuildWithAPausedTenantBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		p := Processor{Name: "docs", Projection: tallies("docs", false)}
		r.add(p)
		defer r.run(r.e)()
		r.append("t", "s", added{}, added{}, added{})
		time.Sleep(time.Second)
		if err := lane.StartRebuild(t.Context(), r.st, "docs", "", lane.How{Review: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		err := r.st.Update(t.Context(), func(tx store.Tx) error {
			lanes, err := tx.Lanes("docs")
			if err != nil {
				return err
			}
			for _, l := range lanes {
				if l.Number != 2 {
					continue
				}
				l.State, l.Reason = store.Paused, "policy"
				l.Revision++
				if err := tx.PutLane(l); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		r.append("t", "s", added{})
		time.Sleep(time.Second)
		if err := lane.Approve(t.Context(), r.st, "docs"); err != nil {
			t.Fatal(err)
		}
		for range 300 {
			time.Sleep(100 * time.Millisecond)
			for _, l := range r.lanes("docs") {
				if l.State == store.Held {
					t.Fatalf("lane %+v is held for a switch that cannot come", l)
				}
			}
		}
	})
}

// TestMergeIsLookedAtAgain: that lanes come near each other, that a time is over,
// or that the process which is to do it does not, changes no row. So a merge that
// waits for one of these is looked at again; one that waits for a tenant is not,
// because then a row changes.
func TestMergeIsLookedAtAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.add(Processor{Name: "p", Partitions: 2, React: func(context.Context, Delivery) error { return nil }})
		for i := range 4 {
			r.append(fmt.Sprint("t", i), "s", make([]added, recutNear)...)
		}
		far := r.lanesOf("p")[1]
		far.Position, _ = r.log.Head(t.Context(), 0)
		put := func(l store.Lane) {
			t.Helper()
			if err := r.st.Update(t.Context(), func(tx store.Tx) error { return tx.PutLane(l) }); err != nil {
				t.Fatal(err)
			}
		}
		put(far)
		if err := lane.RequestMerge(t.Context(), r.st, "p", 0); err != nil {
			t.Fatal(err)
		}
		attempts := map[store.LaneID]*attempt{}
		again := func() time.Duration {
			t.Helper()
			v, _, err := look(t.Context(), r.st, r.e.id, view{}, true, time.Now(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return r.e.recuts(t.Context(), &v, attempts)
		}
		if soon := again(); soon <= 0 || soon > time.Second {
			t.Errorf("lanes far apart are looked at again in %v", soon)
		}
		low := r.lanesOf("p")[0]
		id := low.LaneID
		id.Tenant = "t0"
		put(store.Lane{LaneID: id, Of: 2, State: store.Running})
		if soon := again(); soon != 0 {
			t.Errorf("a merge that waits for a tenant is looked at again in %v", soon)
		}
		if err := r.st.Update(t.Context(), func(tx store.Tx) error { return tx.DeleteLane(id) }); err != nil {
			t.Fatal(err)
		}
		low.Position = far.Position - 10 // and it comes no nearer
		put(low)
		again()
		for range 3 {
			if soon := again(); soon != recutEvery {
				t.Errorf("lanes that stand still are looked at again in %v", soon)
			}
		}
		time.Sleep(heldAtMost)
		again()
		if l := r.lanesOf("p")[1]; l.Until != 0 {
			t.Fatalf("lane %+v is not let go", l)
		}
		if soon := again(); soon <= 0 || soon > holdEvery {
			t.Errorf("after a failed attempt it is looked at again in %v, want %v", soon, holdEvery)
		}
	})
}

// A refusing store takes no change of a processor's row, as where its disk is full.
type refusing struct {
	store.Store
	broken atomic.Bool
	tries  atomic.Int64
}

func (s *refusing) Update(ctx context.Context, f func(store.Tx) error) error {
	return s.Store.Update(ctx, func(tx store.Tx) error { return f(&refusingTx{tx, s}) })
}

type refusingTx struct {
	store.Tx
	s *refusing
}

func (tx *refusingTx) PutProcessor(p store.Processor) error {
	if tx.s.broken.Load() {
		tx.s.tries.Add(1)
		return errors.New("the disk is full")
	}
	return tx.Tx.PutProcessor(p)
}

// TestClaimIsTriedAgain: where the version of a build cannot be noted, or a
// rebuild cannot begin, that is tried again after a while: neither at once and
// for ever, nor only when another row changes.
func TestClaimIsTriedAgain(t *testing.T) {
	for _, auto := range []bool{false, true} {
		t.Run(fmt.Sprintf("auto %v", auto), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				r.add(Processor{Name: "docs", Projection: counting("v1", 1)})
				r.append("t", "s", added{})
				s := &refusing{Store: r.st}
				e, err := New(Config{Log: r.log, Store: s, Name: "b"})
				if err != nil {
					t.Fatal(err)
				}
				if err := e.Add(t.Context(), Processor{Name: "docs", Projection: counting("v2", 1), RebuildChanged: auto}); err != nil {
					t.Fatal(err)
				}
				if !auto {
					if err := lane.StartRebuild(t.Context(), r.st, "docs", ""); err != nil {
						t.Fatal(err)
					}
				}
				s.broken.Store(true)
				defer r.run(e)()
				time.Sleep(10 * time.Second)
				if n := s.tries.Load(); n == 0 || n > 30 {
					t.Errorf("tried %d times in ten seconds", n)
				}
				s.broken.Store(false)
				time.Sleep(5 * time.Second)
				if row := r.row(); row.Version != "v2" {
					t.Errorf("5 s after the store works again the row is %+v, want v2 live", row)
				}
			})
		})
	}
}

// TestCheckpointMovesWhateverOthersDo: a lane whose row is changed by other hands
// again and again still moves its checkpoint over events of no interest.
func TestCheckpointMovesWhateverOthersDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.add(Processor{Name: "docs", Projection: tallies("docs", false), Tenants: []string{"none"}})
		defer r.run(r.e)()
		time.Sleep(time.Second)
		r.append("t", "s", added{}, added{}, added{})
		for range 50 {
			err := r.st.Update(t.Context(), func(tx store.Tx) error {
				lanes, err := tx.Lanes("docs")
				if err != nil {
					return err
				}
				lanes[0].Revision++
				return tx.PutLane(lanes[0])
			})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(60 * time.Millisecond)
		}
		if at := r.lanesOf("docs")[0].Position; at != 3 {
			t.Errorf("after 3 s the checkpoint is at %v, want 3", at)
		}
	})
}
