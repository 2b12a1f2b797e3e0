package lane_test

import (
	"errors"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// TestCommandsThatChangeNothing leave the rows alone, so that no owner begins again
// at its checkpoint for them.
func TestCommandsThatChangeNothing(t *testing.T) {
	ctx, s := t.Context(), memstore.New()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := lane.Setup(ctx, s, store.Processor{Name: "p", Collection: "p", Partitions: 2}, func(int) event.Position { return 0 })
	must(err)
	must(lane.Detach(ctx, s, "p", "a"))
	must(lane.Pause(ctx, s, "p", "a", "why"))
	revision := func() int64 {
		n, err := s.Revision(ctx)
		must(err)
		return n
	}
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"resume", func() error { return lane.Resume(ctx, s, "p", "a") }},
		{"unpin", func() error { return lane.Unpin(ctx, s, "p", "a") }},
	} {
		before := revision()
		must(c.do())
		once := revision()
		must(c.do())
		if twice := revision(); once == before || twice != once {
			t.Errorf("%s: revision %d, %d after it and %d after it was repeated", c.name, before, once, twice)
		}
	}
}

// A lane that asks to merge while its base lane goes on asks often. Where it is behind it
// locks nothing: in an Update it would wait for base's commit, and all others for it.
func TestMergeTooEarlyLocksNothing(t *testing.T) {
	ctx, s := t.Context(), &countingStore{Store: memstore.New()}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := lane.Setup(ctx, s, store.Processor{Name: "p", Collection: "p", Partitions: 1}, func(int) event.Position { return 0 })
	must(err)
	must(lane.Detach(ctx, s, "p", "a"))
	must(lane.Unpin(ctx, s, "p", "a"))
	var id store.LaneID
	for l := range allLanes(t, s) {
		if l.Tenant == "a" {
			id = l
		}
	}
	to := func(id store.LaneID, at event.Position) (epoch int64) {
		t.Helper()
		must(s.Update(ctx, func(tx store.Tx) error {
			l, err := tx.Lane(id)
			if err != nil {
				return err
			}
			l.Position, epoch = at, l.Epoch
			return tx.PutLane(l)
		}))
		return epoch
	}
	to(id.Base(), 7)
	epoch := to(id, 6)
	s.rows = 0
	if base, err := lane.TryMerge(ctx, s, id, epoch); base != 7 || !errors.Is(err, lane.ErrBehind) || s.rows != 0 {
		t.Errorf("behind its base at %v: %v, %d rows locked or written", base, err, s.rows)
	}
	if _, err := lane.TryMerge(ctx, s, id, epoch+1); !errors.Is(err, store.ErrFenced) || s.rows != 0 {
		t.Errorf("by one that does not own it: %v, %d rows locked or written", err, s.rows)
	}
	to(id, 7)
	if _, err := lane.TryMerge(ctx, s, id, epoch); err != nil || len(allLanes(t, s)) != 1 {
		t.Errorf("beside its base: %v, lanes %v", err, allLanes(t, s))
	}
}
