package lane_test

import (
	"errors"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// TestHandOver: a lane is acquired for an heir that lives, under an epoch that nobody
// has had, so that the owner before cannot commit; it is free where the heir is dead;
// and it is left alone where it is not the owner's under that epoch.
func TestHandOver(t *testing.T) {
	ctx, s := t.Context(), memstore.New()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := lane.Setup(ctx, s, store.Processor{Name: "p", Collection: "p", Partitions: 4}, func(int) event.Position { return 0 })
	must(err)
	must(lane.Join(ctx, s, store.Member{ID: "a"}, time.Hour))
	must(lane.Join(ctx, s, store.Member{ID: "b"}, time.Hour))
	must(lane.Join(ctx, s, store.Member{ID: "dead"}, -time.Second))
	id := func(i int) store.LaneID {
		return store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: i}
	}
	for i := range 4 {
		_, err := lane.Acquire(ctx, s, id(i), "a")
		must(err)
	}
	gone := lane.Given{ID: id(9), Epoch: 1, To: "b"}
	must(lane.HandOver(ctx, s, "a", lane.Given{ID: id(0), Epoch: 1, To: "b"}, gone, lane.Given{ID: id(1), Epoch: 1, To: "dead"},
		lane.Given{ID: id(2), Epoch: 1}, lane.Given{ID: id(3), Epoch: 2, To: "b"}))
	must(lane.HandOver(ctx, s, "b", lane.Given{ID: id(3), Epoch: 1, To: "b"}))
	must(s.View(ctx, func(tx store.Tx) error {
		for i, want := range []store.Lane{{Owner: "b", Epoch: 2}, {Epoch: 1}, {Epoch: 1}, {Owner: "a", Epoch: 1}} {
			l, err := tx.Lane(id(i))
			if err != nil {
				return err
			}
			if l.Owner != want.Owner || l.Epoch != want.Epoch {
				t.Errorf("lane %d: owner %q under epoch %d, want %q under %d", i, l.Owner, l.Epoch, want.Owner, want.Epoch)
			}
		}
		return nil
	}))
	commit := func(epoch int64) error {
		return s.Commit(ctx, &store.Commit{Lane: id(0), Fence: store.Fence{Epoch: epoch}, Position: 1})
	}
	if f, ok := errors.AsType[*store.FenceError](commit(1)); !ok || !f.Lost() {
		t.Errorf("the owner before commits: %v", f)
	}
	must(commit(2))
}
