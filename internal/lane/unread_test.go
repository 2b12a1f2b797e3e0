package lane_test

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/letterlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// What nobody decides about any more is in the log no more, and behind all lanes: those
// of rebuilds, of tenants and of sandboxes that are open too.
func TestUnread(t *testing.T) {
	s, ctx := memstore.New(), t.Context()
	at := func(p string, number int64, part int, tenant string, pos event.Position) store.Lane {
		return store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: p, Number: number}, Partition: part, Tenant: tenant}, Position: pos, State: store.Running}
	}
	put := func(rows ...store.Lane) {
		t.Helper()
		if err := s.Update(ctx, func(tx store.Tx) error {
			for _, l := range rows {
				if err := tx.PutLane(l); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Update(ctx, func(tx store.Tx) error {
		for _, p := range []store.Processor{
			{Name: "p", Kind: "projection", Collection: "p", Partitions: 2, Live: 1, LastBuild: 2, Rebuild: 2, Builds: store.Builds{Log: "l", LogPartitions: 2}},
			{Name: "letters", Kind: "reactor", Partitions: 1, Live: 1, LastBuild: 1, Builds: store.Builds{Log: letterlog.Identity, LogPartitions: 1}},
		} {
			if err := tx.PutProcessor(p); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	put(at("p", 1, 0, "", 50), at("p", 1, 1, "", 60), at("letters", 1, 0, "", 1))
	starts, lanes, broken := []event.Position{90, 90}, map[int64][]store.Lane{}, error(nil)
	r := lane.Registrations{
		Lanes: func(_ context.Context, id int64) ([]store.Lane, error) { return lanes[id], broken },
		Start: func(_ context.Context, p int) (event.Position, error) { return starts[p], nil },
	}
	check := func(what string, want ...event.Position) {
		t.Helper()
		got, err := lane.Unread(ctx, s, r)
		if err != nil || !maps.Equal(got, map[int]event.Position{0: want[0], 1: want[1]}) {
			t.Errorf("%s: %v, %v, want %v", what, got, err, want)
		}
	}
	check("lanes", 50, 60)
	starts[0] = 20
	check("the log", 20, 60)
	put(at("p", 2, 1, "", 30))
	check("a rebuild", 20, 30)
	put(at("p", 1, 1, "t", 25))
	check("a tenant", 20, 25)
	r.All = []ledger.Sandbox{{ID: 1, Open: true}, {ID: 2}}
	lanes[1], lanes[2] = []store.Lane{at("p", 1, 0, "", 15), at("p", 1, 1, "", 99), at("letters", 1, 0, "", 2)}, []store.Lane{at("p", 1, 0, "", 3)}
	check("an open sandbox, and not one that is closed", 15, 25)
	lanes[1] = append(lanes[1], at("another", 1, 1, "", 7))
	check("a processor that the baseline does not have", 7, 7)
	broken = errors.New("its file cannot be opened")
	if _, err := lane.Unread(ctx, s, r); !errors.Is(err, broken) {
		t.Errorf("a sandbox of which nothing can be learnt: %v", err)
	}
	r.Start = nil
	if got, err := lane.Unread(ctx, s, r); len(got) > 0 || err != nil {
		t.Errorf("where the log begins is not known: %v, %v", got, err)
	}
}
