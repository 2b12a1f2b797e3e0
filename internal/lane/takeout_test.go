package lane_test

import (
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/done"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A tenant that leaves a base lane behind the end of an earlier stay outside takes along
// what is done behind that, and nothing else: a lane with more would not merge before an
// event comes.
func TestLeavesWithWhatIsDoneBehind(t *testing.T) {
	for _, x := range []struct {
		until, at event.Position
		left      []event.Position
	}{{7, 8, []event.Position{10}}, {9, 10, nil}, {12, 12, nil}, {2, 3, []event.Position{6, 7, 8, 10}}} {
		ctx, s := t.Context(), memstore.New()
		if _, err := lane.Setup(ctx, s, store.Processor{Name: "p", Partitions: 1}, func(int) event.Position { return 3 }); err != nil {
			t.Fatal(err)
		}
		base := store.LaneID{Build: store.Build{Processor: "p", Number: 1}}
		var beyond, want done.Set
		beyond.AddRange(5, 8)
		beyond.Add(10)
		for _, p := range x.left {
			want.Add(p)
		}
		if err := s.Update(ctx, func(tx store.Tx) error {
			l, err := tx.Lane(base)
			l.Done, _ = beyond.MarshalBinary()
			l.Exclusions = map[string]event.Position{"t": x.until}
			if err != nil {
				return err
			}
			return tx.PutLane(l)
		}); err != nil {
			t.Fatal(err)
		}
		if err := lane.DetachHere(ctx, s, base, "t"); err != nil {
			t.Fatal(err)
		}
		own := base
		own.Tenant = "t"
		l := allLanes(t, s)[own]
		if bytes, _ := want.MarshalBinary(); l.Position != x.at || string(l.Done) != string(bytes) {
			t.Errorf("until %v: it begins at %v with %x, want %v with %x", x.until, l.Position, l.Done, x.at, bytes)
		}
	}
}
