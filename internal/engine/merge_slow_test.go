package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// ages notes how old events are as they are handled, by tenant.
type ages struct {
	mu   sync.Mutex
	all  map[string][]time.Duration
	seen int // of all tenants
}

func (a *ages) note(e *event.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = map[string][]time.Duration{}
	}
	a.all[e.Tenant] = append(a.all[e.Tenant], time.Since(e.RecordedAt))
	a.seen++
}

// of returns the ages of a tenant's events since then, and forgets them.
func (a *ages) of(tenant string) []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.all[tenant]
	delete(a.all, tenant)
	return d
}

func (a *ages) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen
}

// TestSlowCatchUpHoldsUpNobody: a lane that is some thousand events behind, each of which takes
// long, has its base lane held only when it is about to be there.
func TestSlowCatchUpHoldsUpNobody(t *testing.T) {
	ctx := context.Background()
	bubble(t, func(t *testing.T, r *rig) {
		p := projection.New("r", projection.On("added", func(_ *tally, e projection.Event[added]) error {
			if e.Tenant == "a" {
				time.Sleep(10 * time.Millisecond)
			}
			return nil
		}))
		r.add(Processor{Name: "r", Projection: p, NoIsolation: true})
		defer r.run(r.e)()
		r.detach("a")
		if err := lane.Pause(ctx, r.st, "r", "a", "test"); err != nil {
			t.Fatal(err)
		}
		for i := range 80 {
			r.append("a", fmt.Sprint("k", i), make([]added, 50)...)
		}
		r.busy(20*time.Millisecond, func() {
			time.Sleep(time.Second)
			if err := lane.Unpin(ctx, r.st, "r", "a"); err != nil {
				t.Fatal(err)
			}
			if err := lane.Resume(ctx, r.st, "r", "a"); err != nil {
				t.Fatal(err)
			}
			began, held, looks := time.Now(), 0, 0
			for lanes := r.lanes("r"); len(lanes) == 2; lanes = r.lanes("r") {
				if looks++; lanes[0].State == store.Held {
					held++
				}
				time.Sleep(10 * time.Millisecond)
				if time.Since(began) > 3*time.Minute {
					t.Fatal("it has not merged in three minutes")
				}
			}
			t.Logf("merged after %v; the base lane was held in %d of %d looks", time.Since(began), held, looks)
			if held > looks/10 {
				t.Errorf("the base lane was held in %d of %d looks", held, looks)
			}
		}, "b")
	})
}

// TestSlowHandlersHoldUpNobody: a busy tenant whose handlers need longer than a base lane is held
// comes back in a quiet moment only, and neither its own events nor those of others wait for it.
func TestSlowHandlersHoldUpNobody(t *testing.T) {
	ctx := context.Background()
	for _, hold := range []time.Duration{time.Second, 2500 * time.Millisecond} {
		t.Run(hold.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				var seen ages
				r.add(Processor{Name: "r", Concurrency: 64, React: func(ctx context.Context, d Delivery) error {
					seen.note(d.Event)
					if d.Tenant == "a" {
						return sleeps(hold)(ctx, d)
					}
					return sleeps(5*time.Millisecond)(ctx, d)
				}})
				defer r.run(r.e)()
				r.detach("a")
				r.busy(200*time.Millisecond, func() {
					time.Sleep(30 * time.Second)
					usual, _ := slices.Max(seen.of("a")), seen.of("b")
					if err := lane.Unpin(ctx, r.st, "r", "a"); err != nil {
						t.Fatal(err)
					}
					began, held, looks := time.Now(), 0, 0
					for ; time.Since(began) < 3*time.Minute && len(r.lanes("r")) == 2; time.Sleep(50 * time.Millisecond) {
						if looks++; r.lanes("r")[0].State == store.Held {
							held++
						}
					}
					merged := len(r.lanes("r")) == 1
					ages := seen.of("a")
					a, b, late := slices.Max(ages), slices.Max(seen.of("b")), 0
					for _, age := range ages {
						if age > usual {
							late++
						}
					}
					if !merged && late > len(ages)/20 {
						t.Errorf("%d of %d events of a were later than before", late, len(ages))
					}
					t.Logf("merged: %v, after %v; held in %d of %d looks; oldest of a %v (%v before), of b %v", merged, time.Since(began), held, looks, a, usual, b)
					if merged != (hold < settleAtMost) {
						t.Errorf("merged: %v", merged)
					}
					if limit := usual + settleAtMost + 500*time.Millisecond; a > limit || held > looks/10 || b > heldAtMost+500*time.Millisecond {
						t.Errorf("a's oldest event was %v old, want at most %v; b's %v", a, limit, b)
					}
				}, "a", "b")
				r.untilMerged()
			})
		})
	}
}

// TestStubbornKeyHoldsUpNobody: a key whose handler fails again and again, and soon, keeps a
// tenant from merging, and its other events are handled as ever.
func TestStubbornKeyHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var seen ages
		r.add(Processor{Name: "r", Concurrency: 32, Retry: Retry{Attempts: 100_000, Min: time.Second, Max: time.Second}, React: func(ctx context.Context, d Delivery) error {
			if d.Stream == "bad" {
				return errors.Join(sleeps(1500*time.Millisecond)(ctx, d), errors.New("its partner is away"))
			}
			seen.note(d.Event)
			return sleeps(10*time.Millisecond)(ctx, d)
		}})
		defer r.run(r.e)()
		r.detach("a")
		r.append("a", "bad", added{})
		time.Sleep(10 * time.Second)
		if err := lane.Unpin(context.Background(), r.st, "r", "a"); err != nil {
			t.Fatal(err)
		}
		r.busy(50*time.Millisecond, func() { time.Sleep(3 * time.Minute) }, "a")
		if age := slices.Max(seen.of("a")); age > 500*time.Millisecond {
			t.Errorf("an event of another key was handled after %v", age)
		}
	})
}

// TestNoMergeIntoStoppedLane: a tenant does not come back to a base lane that its policy has
// stopped, where nothing of it would be handled, and does as that runs again.
func TestNoMergeIntoStoppedLane(t *testing.T) {
	ctx := context.Background()
	for name, p := range map[string]Processor{
		"batches":  {Batch: func(_ context.Context, tx any, events []event.Event) error { return sumInto(tx, events) }},
		"handlers": {},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				var seen ages
				p.Name = "r"
				if b := p.Batch; b != nil {
					p.Batch = func(ctx context.Context, tx any, events []event.Event) error {
						for i := range events {
							seen.note(&events[i])
						}
						return b(ctx, tx, events)
					}
				} else {
					p.React = func(_ context.Context, d Delivery) error { seen.note(d.Event); return nil }
				}
				r.add(p)
				defer r.run(r.e)()
				r.detach("a")
				time.Sleep(time.Second)
				base := r.lanes("r")[0]
				if err := lane.Stop(ctx, r.st, base.LaneID, base.Epoch, "poison of b"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if err := lane.Unpin(ctx, r.st, "r", "a"); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					r.append("a", "k", added{})
					time.Sleep(5 * time.Second)
				}
				if n, handled := len(r.lanes("r")), seen.count(); n != 2 || handled != 2 {
					t.Errorf("%d lanes, want 2; %d of 2 events are handled", n, handled)
				}
				if err := lane.PauseProcessor(ctx, r.st, "r", false); err != nil {
					t.Fatal(err)
				}
				r.untilMerged()
			})
		})
	}
}
