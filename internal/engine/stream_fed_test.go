package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
)

// A tenant's lane whose events all wait for one key leaves its workers without work: it
// reads what comes for other keys at once, as it did before.
func TestStreamLaneWithOneLongKeyReadsAtOnce(t *testing.T) {
	for _, down := range []bool{false, true} {
		bubble(t, func(t *testing.T, r *rig) {
			w := newWitness(t, func(ctx context.Context, d Delivery) error {
				if d.Stream == "hot" && down {
					return errors.New("down")
				}
				return sleeps(4*time.Millisecond)(ctx, d)
			})
			r.add(reactor(w, Processor{Concurrency: 4, Retry: Retry{Attempts: 1000, Min: time.Second}}))
			if err := lane.Detach(t.Context(), r.st, "r", "t"); err != nil {
				t.Fatal(err)
			}
			stop := r.run(r.e)
			r.append("t", "warm", added{})
			time.Sleep(time.Second)
			for range 400 {
				r.append("t", "hot", added{})
			}
			time.Sleep(100 * time.Millisecond)
			began := map[string]time.Time{}
			for i := range 100 {
				time.Sleep(7 * time.Millisecond)
				key := fmt.Sprint("k", i)
				began[key] = time.Now()
				r.append("t", key, added{})
			}
			time.Sleep(500 * time.Millisecond)
			stop()
			w.mu.Lock()
			defer w.mu.Unlock()
			var all, worst time.Duration
			n := 0
			for _, c := range w.calls {
				if at, ok := began[c.stream]; ok {
					n++
					late := c.begin.Sub(at)
					all += late
					worst = max(worst, late)
				}
			}
			if n == 0 {
				t.Fatal("no event was handled")
			}
			t.Logf("hot key down %v: %d events of other keys began after %v in the mean, %v at worst", down, n, all/time.Duration(n), worst)
			if worst > 5*time.Millisecond {
				t.Errorf("hot key down %v: with idle workers an event waited %v to be read", down, worst)
			}
		})
	}
}
