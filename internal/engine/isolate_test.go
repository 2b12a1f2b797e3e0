package engine

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/slo"
)

// TestPinnedTenantsDoNotEndIsolation: an operator has given sixteen tenants
// lanes of their own. A seventeenth with a backlog must still leave by itself.
func TestPinnedTenantsDoNotEndIsolation(t *testing.T) {
	for _, pinned := range []int{15, 16} {
		t.Run(fmt.Sprint(pinned), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t)
				p := projection.New("slow", projection.On("added", func(s *tally, e projection.Event[added]) error {
					time.Sleep(time.Millisecond)
					s.N++
					return nil
				}))
				r.add(Processor{Projection: p, Name: "slow", Freshness: slo.Objective{P99: 200 * time.Millisecond, Max: 2 * time.Second}, Concurrency: 4})
				for i := range pinned {
					if err := lane.Detach(t.Context(), r.st, "slow", fmt.Sprint("dedicated-", i)); err != nil {
						t.Fatal(err)
					}
				}
				stop := r.run(r.e)
				for i := range 20_000 {
					r.append("noisy", fmt.Sprintf("s%d", i%50), added{})
					if i%100 == 0 {
						r.append(fmt.Sprintf("quiet%d", i/100), "s", added{})
					}
				}
				time.Sleep(2 * time.Second)
				late := 0
				for i := range 200 {
					if d, err := r.st.Get(t.Context(), "slow", fmt.Sprintf("quiet%d", i), "s"); err != nil || len(d.Data) == 0 {
						late++
					}
				}
				if _, out := r.laneOf("slow", "noisy"); !out || late > 0 {
					t.Errorf("%d tenants pinned: noisy tenant in a lane of its own: %v; %d of 200 quiet tenants have no document two seconds after the flood", pinned, out, late)
				}
				stop()
			})
		})
	}
}
