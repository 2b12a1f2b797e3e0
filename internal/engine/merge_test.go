package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// busy appends an event of one of the tenants every so often until f returns.
func (r *rig) busy(every time.Duration, f func(), tenants ...string) {
	r.t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-time.After(every):
				r.append(tenants[rnd.IntN(len(tenants))], fmt.Sprint("k", rnd.IntN(200)), added{}) // no key is hot
			case <-stop:
				return
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	f()
}

// detach waits until the processor is worked, and takes a tenant out.
func (r *rig) detach(tenant string) {
	r.t.Helper()
	time.Sleep(300 * time.Millisecond)
	if err := lane.Detach(context.Background(), r.st, "r", tenant); err != nil {
		r.t.Fatal(err)
	}
}

// moved detaches a tenant that is never quiet, and returns how long it took until it is
// back, while it is as busy as before.
func (r *rig) moved(tenant string) time.Duration {
	r.t.Helper()
	ctx := context.Background()
	r.detach(tenant)
	time.Sleep(time.Second)
	if err := lane.Unpin(ctx, r.st, "r", tenant); err != nil {
		r.t.Fatal(err)
	}
	began := time.Now()
	r.untilMerged()
	return time.Since(began)
}

// TestBusyTenantMerges: a lane whose tenant is never quiet has always something to do.
// It merges all the same, and nothing of it is lost or done twice.
func TestBusyTenantMerges(t *testing.T) {
	t.Run("batches", func(t *testing.T) {
		for _, tenants := range [][]string{{"a"}, {"a", "b"}, {"b", "b", "b", "b", "a"}} {
			t.Run(strings.Join(tenants, ""), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					got := map[string][]int64{}
					r.add(Processor{Name: "r", Batch: func(ctx context.Context, tx any, events []event.Event) error {
						if !pause(ctx, 30*time.Millisecond) { // in which more events come
							return ctx.Err()
						}
						for i := range events {
							k := events[i].Tenant + "/" + events[i].Stream
							got[k] = append(got[k], events[i].Version)
						}
						return sumInto(tx, events)
					}})
					stop := r.run(r.e)
					defer func() { stop() }()
					var took []time.Duration
					r.busy(5*time.Millisecond, func() {
						for range 5 {
							took = append(took, r.moved("a"))
						}
					}, tenants...)
					r.wait("r", r.fill(rand.New(rand.NewPCG(3, 4)), 1, 1, "a"))
					stop()
					stop = func() {}
					for key, versions := range got {
						for i, v := range versions {
							if v != int64(i+1) {
								t.Fatalf("%s: versions %v", key, versions)
							}
						}
					}
					t.Logf("merged after %v", took)
					if slowest := slices.Max(took); slowest > 5*time.Second {
						t.Errorf("a busy tenant's lane merged after %v", slowest)
					}
				})
			})
		}
	})
	for _, hold := range []time.Duration{20 * time.Millisecond, 300 * time.Millisecond} {
		t.Run(fmt.Sprint("handlers of ", hold), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				w := newWitness(t, sleeps(hold))
				r.add(reactor(w, Processor{Concurrency: 16}))
				stop := r.run(r.e)
				defer func() { stop() }()
				var took []time.Duration
				r.busy(hold/8, func() { // most of its handlers are busy, and never all of them idle
					for range 5 {
						took = append(took, r.moved("a"))
					}
				}, "a", "b", "a")
				r.wait("r", r.fill(rand.New(rand.NewPCG(3, 4)), 1, 1, "a"))
				w.check(r, 5*2) // what was done since the last commit as the tenant was detached; a merge repeats nothing
				t.Logf("merged after %v", took)
				if slowest := slices.Max(took); slowest > 20*time.Second {
					t.Errorf("a busy tenant's lane merged after %v", slowest)
				}
			})
		})
	}
}

// TestWaitingKeyHoldsUpNobody: while a key waits for its retry a tenant's lane cannot merge,
// and the tenant's other events do not wait for that.
func TestWaitingKeyHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		mends := time.Now().Add(70 * time.Second)
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			if d.Stream == "bad" && time.Now().Before(mends) {
				return errors.New("its partner is away")
			}
			return sleeps(60*time.Millisecond)(ctx, d)
		})
		r.add(reactor(w, Processor{Concurrency: 16, Retry: Retry{Attempts: 1000, Min: 30 * time.Second, Max: 30 * time.Second}}))
		defer r.run(r.e)()
		r.detach("a")
		r.append("a", "bad", added{})
		time.Sleep(time.Second)
		if err := lane.Unpin(context.Background(), r.st, "r", "a"); err != nil {
			t.Fatal(err)
		}
		r.busy(15*time.Millisecond, func() {
			time.Sleep(time.Until(mends))
			r.untilMerged()
		}, "a")
		w.mu.Lock()
		defer w.mu.Unlock()
		var slowest time.Duration
		for _, c := range w.calls {
			if c.stream != "bad" {
				slowest = max(slowest, c.age)
			}
		}
		if slowest > 500*time.Millisecond {
			t.Errorf("an event of another key was handled after %v", slowest)
		}
	})
}

// TestFarLaneHoldsUpNobody: a lane that has much to catch up with does not try to merge, for
// the base lane would be held for that.
func TestFarLaneHoldsUpNobody(t *testing.T) {
	ctx := context.Background()
	bubble(t, func(t *testing.T, r *rig) {
		e, err := New(Config{Log: r.log, Store: r.st, Name: "a", Memory: 1 << 20}) // pages are small
		if err != nil {
			t.Fatal(err)
		}
		r.e = e
		r.add(Processor{Name: "r", Batch: func(ctx context.Context, tx any, events []event.Event) error {
			if !pause(ctx, time.Duration(len(events))*200*time.Microsecond) {
				return ctx.Err()
			}
			return sumInto(tx, events)
		}})
		defer r.run(r.e)()
		r.detach("a")
		if err := lane.Pause(ctx, r.st, "r", "a", "test"); err != nil {
			t.Fatal(err)
		}
		for i := range 6 * pageEvents / 50 {
			r.append("a", fmt.Sprint("k", i%200), make([]added, 50)...)
		}
		r.busy(20*time.Millisecond, func() {
			time.Sleep(time.Second)
			if err := lane.Unpin(ctx, r.st, "r", "a"); err != nil {
				t.Fatal(err)
			}
			far := 0
			for lanes := r.lanes("r"); len(lanes) == 2; lanes = r.lanes("r") {
				if base, own := lanes[0], lanes[1]; base.Position-own.Position > 2*pageEvents {
					far++
					if base.State == store.Held {
						t.Fatalf("the base lane at %v is held for the tenant's at %v", base.Position, own.Position)
					}
				}
				time.Sleep(10 * time.Millisecond)
			}
			if far < 10 { // the store lets nobody look while a batch runs
				t.Errorf("it was far behind in %d looks only", far)
			}
		}, "b")
	})
}

// TestBusyBacklogStays: a tenant that left because it hurt the others stays out while it
// is busy, and comes back in a quiet moment, or when an operator says so.
func TestBusyBacklogStays(t *testing.T) {
	ctx := context.Background()
	for name, p := range map[string]Processor{
		"batches": {Batch: func(ctx context.Context, tx any, events []event.Event) error {
			if !pause(ctx, 30*time.Millisecond) {
				return ctx.Err()
			}
			return sumInto(tx, events)
		}},
		"handlers": {Concurrency: 16, React: sleeps(50 * time.Millisecond)},
	} {
		for _, asked := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", asked ", asked), func(t *testing.T) {
				bubble(t, func(t *testing.T, r *rig) {
					p.Name = "r"
					r.add(p)
					defer r.run(r.e)()
					r.detach("a")
					r.busy(5*time.Millisecond, func() {
						time.Sleep(time.Second)
						id := r.lanes("r")[1].LaneID
						err := r.st.Update(ctx, func(tx store.Tx) error {
							l, err := tx.Lane(id)
							l.Pinned, l.Reason = false, backlog
							l.Revision++
							return errors.Join(err, tx.PutLane(l))
						})
						if err != nil {
							t.Fatal(err)
						}
						time.Sleep(10 * time.Second)
						if len(r.lanes("r")) != 2 {
							t.Fatal("the tenant came back while it was busy")
						}
						if asked {
							if err := lane.Unpin(ctx, r.st, "r", "a"); err != nil {
								t.Fatal(err)
							}
							r.untilMerged()
						}
					}, "a", "b", "a")
					r.untilMerged()
				})
			})
		}
	}
}
