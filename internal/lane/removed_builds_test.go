package lane_test

import (
	"fmt"
	"maps"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// Builds that begin after a tenant was removed leave out what counts no more, whatever
// of the log a process has in memory; in shares of one log partition, too.
func TestBuildsToComeLeaveRemovedTenantsOut(t *testing.T) {
	for _, logPartitions := range []int{1, 2} {
		for _, cross := range []bool{false, true} {
			ctx, s := t.Context(), memstore.New()
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			_, err := lane.Setup(ctx, s, store.Processor{Name: "p", Collection: "p", Partitions: 2, CrossTenant: cross, Builds: store.Builds{LogPartitions: logPartitions}}, func(int) event.Position { return 0 })
			must(err)
			for _, upTo := range []map[int]event.Position{{0: 30, 1: 20}, {0: 10, 1: 40}} { // the second time not lower
				_, err := lane.RemoveTenant(ctx, s, "p", "t", upTo)
				must(err)
			}
			want := map[int]event.Position{0: 30, 1: 40}
			if logPartitions == 1 {
				want[1] = 30
			}
			must(lane.StartRebuild(ctx, s, "p", ""))
			got := map[int]event.Position{}
			for id, l := range allLanes(t, s) {
				if id.Number == 2 {
					got[id.Partition] = l.Exclusions["t"]
					if l.Position != 0 || len(l.Exclusions) != 1 {
						t.Errorf("%d log partitions: lane %+v", logPartitions, l)
					}
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("%d log partitions, across tenants %v: the next build leaves the tenant out to %v, want %v", logPartitions, cross, got, want)
			}
			must(lane.CancelRebuild(ctx, s, "p"))
			if cross {
				continue
			}
			must(lane.StartRebuild(ctx, s, "p", "t"))
			clear(got)
			for id, l := range allLanes(t, s) {
				if id.Number == 3 {
					got[id.Partition] = l.Position
				}
			}
			if !maps.Equal(got, want) {
				t.Errorf("%d log partitions: a rebuild of the next tenant of that name begins at %v, want %v", logPartitions, got, want)
			}
			must(lane.CancelRebuild(ctx, s, "p"))
			for i := range 250 {
				_, err := lane.RemoveTenant(ctx, s, "p", fmt.Sprint("x", i), map[int]event.Position{0: 1})
				must(err)
			}
			must(s.View(ctx, func(tx store.Tx) error {
				p, err := tx.Processor("p")
				if n := len(p.Builds.Removed); n != 200 || p.Builds.Removed[n-1].Tenant != "x249" {
					t.Errorf("%d removed tenants are noted, the last one is %q", n, p.Builds.Removed[n-1].Tenant)
				}
				return err
			}))
		}
	}
}
