package fair

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// FuzzQueue drives a Queue at random beside a plain model of what must hold.
func FuzzQueue(f *testing.F) {
	f.Add(uint64(1), 4, 0)
	f.Add(uint64(2), 1, 0)
	f.Add(uint64(3), 16, 3)
	f.Fuzz(func(t *testing.T, seed uint64, workers, cap int) {
		workers = 1 + (workers&0xff)%16
		cap = (cap & 0xff) % 8
		rng := rand.New(rand.NewPCG(seed, 0))
		q := New[int](workers)
		q.SetCap(cap)
		waiting := map[string][]int{}
		inFlight := map[string]int{}
		var grants []Grant[int]
		weights := false
		check := func() {
			queued, active := 0, map[string]bool{}
			for f, items := range waiting {
				queued += len(items)
				if len(items) > 0 {
					active[f] = true
				}
				if gotQ, gotF := q.Flow(f); gotQ != len(items) || gotF != inFlight[f] {
					t.Fatalf("flow %s: %d queued, %d in flight, want %d, %d", f, gotQ, gotF, len(items), inFlight[f])
				}
			}
			for f, n := range inFlight {
				if n > 0 {
					active[f] = true
				}
			}
			if q.Len() != queued || q.Active() != len(active) {
				t.Fatalf("%d items in %d active flows, want %d in %d", q.Len(), q.Active(), queued, len(active))
			}
			sum := 0.0
			for _, f := range q.active {
				sum += f.weight
			}
			if d := sum - q.weight; d > 1e-6 || d < -1e-6 {
				t.Fatalf("sum of weights %v, want %v", q.weight, sum)
			}
		}
		for i := range 400 {
			name := fmt.Sprint("f", rng.IntN(6))
			switch op := rng.IntN(10); {
			case op < 4:
				q.Push(name, 1+rng.IntN(3), i)
				waiting[name] = append(waiting[name], i)
			case op < 7 && len(grants) < workers:
				active := q.Active()
				g, ok := q.Pop(epoch)
				if !ok {
					for f, items := range waiting {
						if len(items) > 0 && (inFlight[f] == 0 || active == 1) {
							t.Fatalf("nothing popped, but %s has %d items and %d in flight", f, len(items), inFlight[f])
						}
					}
					break
				}
				if waiting[g.Flow][0] != g.Item {
					t.Fatalf("flow %s: popped %d, want %d", g.Flow, g.Item, waiting[g.Flow][0])
				}
				waiting[g.Flow] = waiting[g.Flow][1:]
				inFlight[g.Flow]++
				limit := cap
				if cap == 0 {
					limit = (workers + 1) / 2
				}
				if active > 1 && !weights && inFlight[g.Flow] > limit {
					t.Fatalf("flow %s has %d in flight beside others, cap %d", g.Flow, inFlight[g.Flow], limit)
				}
				grants = append(grants, g)
			case op < 9 && len(grants) > 0:
				i := rng.IntN(len(grants))
				q.Done(grants[i], time.Duration(rng.IntN(50))*ms, epoch)
				inFlight[grants[i].Flow]--
				grants = slices.Delete(grants, i, i+1)
			case op == 9 && rng.IntN(4) == 0:
				if got := q.Remove(name); !slices.Equal(got, waiting[name]) {
					t.Fatalf("removed %v, want %v", got, waiting[name])
				}
				waiting[name] = nil
			case op == 9 && seed%2 == 0:
				weights = true
				if err := q.SetWeight(name, []float64{0.5, 1, 2, 7}[rng.IntN(4)]); err != nil {
					t.Fatal(err)
				}
			}
			check()
		}
		// It always comes to rest.
		for range 100_000 {
			g, ok := q.Pop(epoch)
			if ok {
				grants = append(grants, g)
			}
			if len(grants) == 0 {
				break
			}
			if !ok || len(grants) == workers {
				q.Done(grants[0], ms, epoch)
				grants = grants[1:]
			}
		}
		if q.Len() != 0 || q.Active() != 0 || q.Flows() != 0 || len(q.ready.flows) != 0 {
			t.Fatalf("at rest %d items, %d active, %d flows, %d ready", q.Len(), q.Active(), q.Flows(), len(q.ready.flows))
		}
	})
}
