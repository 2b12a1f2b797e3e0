package lane_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A barrier is passed when each lane that has the tenant's events of before has come to
// their end, whichever lane that is, and nothing of the tenant is parked there.
func TestPassed(t *testing.T) {
	live := store.Build{Processor: "p", Number: 1}
	at := func(partition int, tenant string) store.LaneID {
		return store.LaneID{Build: live, Partition: partition, Tenant: tenant}
	}
	base := func(partition int, position, until event.Position) store.Lane {
		l := store.Lane{LaneID: at(partition, ""), Of: 3, Position: position, State: store.Running}
		if until != 0 {
			l.Exclusions = map[string]event.Position{"t": until}
		}
		return l
	}
	own := func(partition int, position event.Position) store.Lane {
		return store.Lane{LaneID: at(partition, "t"), Of: 3, Position: position, State: store.Running}
	}
	letter := func(partition int, tenant, key string, state store.LetterState) *store.DeadLetter {
		return &store.DeadLetter{Build: live, Partition: partition, Tenant: tenant, Key: key, State: state, Reason: "handler",
			Event: event.Event{Position: 1, ID: "e", Tenant: tenant, Stream: "s", Type: "T"}}
	}
	for _, x := range []struct {
		name   string
		lanes  []store.Lane
		letter *store.DeadLetter
		says   string // "": passed
	}{
		{"at the end", []store.Lane{base(0, 10, 0), base(1, 20, 0)}, nil, ""},
		{"one behind", []store.Lane{base(0, 10, 0), base(1, 19, 0)}, nil, "partition 1 are applied to 19"},
		{"a lane of its own at the end, its base behind", []store.Lane{base(0, 3, event.Unbounded), own(0, 10), base(1, 20, 0)}, nil, ""},
		{"a lane of its own behind, its base at the end", []store.Lane{base(0, 10, event.Unbounded), own(0, 9), base(1, 20, 0)}, nil, "partition 0 are applied to 9"},
		{"merged ahead of its base", []store.Lane{base(0, 3, 10), base(1, 20, 0)}, nil, ""},
		{"merged, and not far enough", []store.Lane{base(0, 3, 9), base(1, 20, 0)}, nil, "partition 0 are applied to 9"},
		{"a key that waits", []store.Lane{base(0, 10, 0), base(1, 20, 0)}, letter(1, "t", "k", store.Poison), `key "k" is parked in partition 1`},
		{"a key that does not", []store.Lane{base(0, 10, 0), base(1, 20, 0)}, letter(1, "t", "k", store.Skipped), ""},
		{"of nobody's document", []store.Lane{base(0, 10, 0), base(1, 20, 0)}, letter(1, "t", "?stream/s", store.Poison), ""},
		{"a key of another tenant", []store.Lane{base(0, 10, 0), base(1, 20, 0)}, letter(1, "u", "k", store.Poison), ""},
		{"a key that waits elsewhere", []store.Lane{base(0, 10, 0), base(1, 20, 0)}, letter(2, "t", "k", store.Poison), ""},
	} {
		ctx, s := t.Context(), memstore.New()
		if _, err := lane.Setup(ctx, s, store.Processor{Name: "p", Collection: "p", Partitions: 3}, func(int) event.Position { return 0 }); err != nil {
			t.Fatal(err)
		}
		if err := s.Update(ctx, func(tx store.Tx) error {
			for _, l := range x.lanes {
				if err := tx.PutLane(l); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if x.letter != nil {
			row := allLanes(t, s)[at(x.letter.Partition, "")]
			if err := s.Commit(ctx, &store.Commit{Lane: row.LaneID, Fence: store.Fence{Epoch: row.Epoch, Position: row.Position, Revision: row.Revision},
				Position: row.Position, Letters: []store.DeadLetter{*x.letter}}); err != nil {
				t.Fatal(err)
			}
		}
		err := lane.Passed(ctx, s, live, &eventlog.Barrier{Tenant: "t", After: map[int]event.Position{0: 10, 1: 20}})
		if x.says == "" && err != nil || x.says != "" && (!errors.Is(err, lane.ErrBehind) || !strings.Contains(err.Error(), x.says)) {
			t.Errorf("%s: %v, want %q", x.name, err, x.says)
		}
	}
	s := memstore.New()
	if _, err := lane.Setup(t.Context(), s, store.Processor{Name: "p", Collection: "p", Partitions: 2}, func(int) event.Position { return 100 }); err != nil {
		t.Fatal(err)
	}
	for _, unknown := range []int{-1, 2} { // its lane is still to be made
		if err := lane.Passed(t.Context(), s, live, &eventlog.Barrier{Tenant: "t", After: map[int]event.Position{unknown: 1}}); !errors.Is(err, lane.ErrBehind) {
			t.Errorf("partition %d without a lane: %v", unknown, err)
		}
	}
}

// A tenant leaves one base lane, where that is or where an earlier lane has come to.
func TestDetachHere(t *testing.T) {
	ctx, s := t.Context(), memstore.New()
	if _, err := lane.Setup(ctx, s, store.Processor{Name: "p", Collection: "p", Partitions: 2}, func(int) event.Position { return 5 }); err != nil {
		t.Fatal(err)
	}
	base := store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: 1}
	revisions := map[int64]bool{}
	for range 2 { // the second time nothing changes
		if err := lane.DetachHere(ctx, s, base, "t"); err != nil {
			t.Fatal(err)
		}
		lanes := allLanes(t, s)
		own := base
		own.Tenant = "t"
		revisions[lanes[base].Revision] = true
		if len(lanes) != 3 || lanes[own].Position != 5 || lanes[own].Pinned || lanes[base].Exclusions["t"] != event.Unbounded || lanes[own].Epoch < lanes[base].Revision {
			t.Errorf("lanes %+v", lanes)
		}
	}
	if len(revisions) != 1 || revisions[0] {
		t.Errorf("revisions of the base lane: %v, want one, which is not the first", revisions)
	}
}
