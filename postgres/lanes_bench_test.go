package postgres

import (
	"fmt"
	"testing"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// BenchmarkLanes is what an operator's look at a processor costs whose tenants have
// lanes of their own, and are all behind.
func BenchmarkLanes(b *testing.B) {
	db := openTemp(b)
	const lanes, each = 5000, 10
	var as []eventlog.StreamAppend
	for i := range lanes {
		as = append(as, someEvents(fmt.Sprint("t", i), "s", each))
		if len(as) == 500 {
			mustAppend(b, db, as...)
			as = nil
		}
	}
	if err := db.Update(b.Context(), func(tx store.Tx) error {
		if err := tx.PutProcessor(store.Processor{Name: "p", Kind: "reactor", Partitions: 1, Live: 1, LastBuild: 1}); err != nil {
			return err
		}
		l := store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}}, State: store.Running, Exclusions: map[string]event.Position{}}
		for i := range lanes {
			t := l
			t.Tenant, t.Exclusions = fmt.Sprint("t", i), nil
			if err := tx.PutLane(t); err != nil {
				return err
			}
			l.Exclusions[t.Tenant] = event.Unbounded
		}
		return tx.PutLane(l)
	}); err != nil {
		b.Fatal(err)
	}
	exec(b, db.pool, db.q("VACUUM ANALYZE {schema}.events"))
	admin := fairlead.Admin{Log: db, Store: db}
	for b.Loop() {
		got, err := admin.Lanes(b.Context(), "p")
		if err != nil || len(got) != lanes+1 {
			b.Fatal(len(got), err)
		}
		for _, l := range got {
			if l.Tenant != "" && l.Behind != each || l.Tenant == "" && l.Behind != 0 {
				b.Fatalf("lane %v is %d behind, want %d, and 0 of the base lane", l.LaneID, l.Behind, each)
			}
		}
	}
}
