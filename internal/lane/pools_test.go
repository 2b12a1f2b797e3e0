package lane_test

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A countingStore counts what is read and written of lanes: rows, and exclusions in
// them.
type countingStore struct {
	*memstore.Store
	rows int
}

func (s *countingStore) Update(ctx context.Context, f func(store.Tx) error) error {
	return s.Store.Update(ctx, func(tx store.Tx) error { return f(&countingTx{tx, s}) })
}

type countingTx struct {
	store.Tx
	s *countingStore
}

func (tx *countingTx) Lane(id store.LaneID) (store.Lane, error) {
	l, err := tx.Tx.Lane(id)
	tx.s.rows += 1 + len(l.Exclusions)
	return l, err
}

func (tx *countingTx) Lanes(processor string) ([]store.Lane, error) {
	ls, err := tx.Tx.Lanes(processor)
	for _, l := range ls {
		tx.s.rows += 1 + len(l.Exclusions)
	}
	return ls, err
}

func (tx *countingTx) PutLane(l store.Lane) error {
	tx.s.rows += 1 + len(l.Exclusions)
	return tx.Tx.PutLane(l)
}

func allLanes(t *testing.T, s store.Store) map[store.LaneID]store.Lane {
	t.Helper()
	out := map[store.LaneID]store.Lane{}
	if err := s.View(t.Context(), func(tx store.Tx) error {
		ls, err := tx.Lanes("")
		for _, l := range ls {
			out[l.LaneID] = l
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPoolsOfThousands: to give 5,000 tenants to a pool, and to add a processor or
// begin a rebuild where they are, takes steps as there are lanes, and not as there
// are pairs of them.
func TestPoolsOfThousands(t *testing.T) {
	const tenants, parts = 5000, 3
	s := &countingStore{Store: memstore.New()}
	setup := func(name string) {
		if _, err := lane.Setup(t.Context(), s, store.Processor{Name: name, Kind: "projection", Collection: name, Partitions: parts},
			func(int) event.Position { return 10 }); err != nil {
			t.Fatal(err)
		}
	}
	setup("first")
	names := make([]string, tenants)
	for i := range names {
		names[i] = fmt.Sprint("t", i)
	}
	steps := func(what string, f func()) {
		t.Helper()
		s.rows = 0
		f()
		if most := 10 * tenants * parts; s.rows > most {
			t.Errorf("%s: %d lanes and exclusions were read and written, want at most %d", what, s.rows, most)
		}
	}
	steps("give to a pool", func() {
		if shared, err := lane.SetPools(t.Context(), s, names, "gold"); err != nil || len(shared) != 0 {
			t.Fatalf("SetPools = %q, %v", shared, err)
		}
	})
	steps("one more", func() {
		if _, err := lane.SetPool(t.Context(), s, "one more", "gold"); err != nil {
			t.Fatal(err)
		}
	})
	steps("a new processor", func() { setup("second") })
	steps("a rebuild", func() {
		if err := lane.StartRebuild(t.Context(), s, "first", "", lane.How{}); err != nil {
			t.Fatal(err)
		}
	})
	lanes := allLanes(t, s)
	if want := 3 * parts * (1 + tenants + 1); len(lanes) != want {
		t.Errorf("%d lanes, want %d", len(lanes), want)
	}
	for id, l := range lanes {
		if id.Tenant != "" && !l.Pinned || id.Tenant == "" && len(l.Exclusions) != tenants+1 {
			t.Fatalf("lane %v: pinned %t, %d exclusions", id, l.Pinned, len(l.Exclusions))
		}
	}
}

// TestPoolsAtOnce: many tenants at once come out as one after another, whatever lanes
// they had: detached, paused, on their way back, or alone in a rebuild.
func TestPoolsAtOnce(t *testing.T) {
	names := []string{"a", "back", "b", "detached", "paused", "a", "rebuilt"}
	after := func(give func(s store.Store) error) map[store.LaneID]store.Lane {
		s := memstore.New()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range []string{"p", "q"} {
			_, err := lane.Setup(t.Context(), s, store.Processor{Name: p, Kind: "projection", Collection: p, Partitions: 2}, func(i int) event.Position { return event.Position(10 + i) })
			must(err)
		}
		must(lane.Detach(t.Context(), s, "p", "detached"))
		must(lane.Pause(t.Context(), s, "q", "paused", "by hand"))
		err := lane.StartRebuild(t.Context(), s, "p", "rebuilt", lane.How{})
		must(err)
		must(s.Update(t.Context(), func(tx store.Tx) error {
			l, err := tx.Lane(store.LaneID{Build: store.Build{Processor: "q", Number: 1}, Partition: 1})
			if err != nil {
				return err
			}
			l.Exclusions, l.Revision = map[string]event.Position{"back": 77}, 5
			return tx.PutLane(l)
		}))
		must(give(s))
		return allLanes(t, s)
	}
	want := after(func(s store.Store) error {
		for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
			if _, err := lane.SetPool(t.Context(), s, n, "gold"); err != nil {
				return err
			}
		}
		return nil
	})
	got := after(func(s store.Store) error {
		_, err := lane.SetPools(t.Context(), s, names, "gold")
		return err
	})
	if !slices.Equal(keys(got), keys(want)) {
		t.Fatalf("lanes %q, want %q", keys(got), keys(want))
	}
	for id, l := range want {
		g := got[id]
		if g.UpdatedAt = l.UpdatedAt; !reflect.DeepEqual(g, l) {
			t.Errorf("lane %v at once: %+v, want as one after another: %+v", id, g, l)
		}
	}
	if l := want[store.LaneID{Build: store.Build{Processor: "q", Number: 1}, Partition: 1, Tenant: "back"}]; l.Position != 77 || !l.Pinned {
		t.Errorf("lane of a tenant whose events the base lane still skips: %+v, want it to begin at 77", l)
	}
	s := memstore.New()
	if _, err := lane.SetPools(t.Context(), s, []string{"good", "bad\n"}, "gold"); err == nil {
		t.Error("a tenant with a new line in its name was given to a pool")
	}
	if err := s.View(t.Context(), func(tx store.Tx) error {
		pools, err := tx.Pools()
		if len(pools) != 0 {
			t.Errorf("pools %v after an error, want none", pools)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func keys(m map[store.LaneID]store.Lane) []string {
	var out []string
	for id := range maps.Keys(m) {
		out = append(out, id.String())
	}
	slices.Sort(out)
	return out
}
