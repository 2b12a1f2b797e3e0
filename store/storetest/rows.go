package storetest

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

func runRows(sub func(string, func(*fixture))) {
	sub("Processors", testProcessors)
	sub("LaneRoundTrip", testLaneRoundTrip)
	sub("LaneUpdatedAtIsTheStores", testLaneUpdatedAt)
	sub("LanesInOrder", testLanesOrder)
	sub("Members", testMembers)
	sub("Weights", testWeights)
	sub("Shards", testShards)
	sub("Pools", testPools)
	sub("LanesOf", testLanesOf)
	sub("RowsAreCopies", testRowCopies)
}

func testProcessors(t *fixture) {
	want := map[string]store.Processor{}
	for i, name := range odd {
		want[name] = store.Processor{Name: name, Kind: "projection", Collection: name, Partitions: i, Live: 1, LastBuild: 1}
	}
	want["whole"] = store.Processor{
		Name: "whole", Kind: "batch", Collection: "c", Partitions: 3, Live: 1 << 40, LastBuild: 1 << 41, Rebuild: 1 << 42,
		RebuildTenant: `O'Neil`, Retired: []int64{5, 2, 9}, CrossTenant: true, Version: "v2 \"x\"", Paused: true,
		Builds: store.Builds{
			Making: store.Making{Version: `v3 'y'\`, Claimed: true, Review: true, Limit: 1 << 50, Keep: time.Hour, Auto: true, Back: true},
			Kept:   store.Kept{Number: 1 << 43, Tenant: "東", Version: "v1", Until: moment(7)},
			Seen:   []string{"v1", "", `"v0"`},
		},
	}
	want["bare"] = store.Processor{Name: "bare"}
	want["bare too"] = store.Processor{Name: "bare too"} // several without a collection
	check := func() {
		t.Helper()
		t.view(func(tx store.Tx) error {
			all, err := tx.Processors()
			if err != nil {
				return err
			}
			var names []string
			for _, p := range all {
				names = append(names, p.Name)
				t.same("processor of Processors", p, want[p.Name])
			}
			if sorted := slices.Sorted(maps.Keys(want)); !slices.Equal(names, sorted) {
				t.Errorf("Processors = %q, want %q, by name", names, sorted)
			}
			for name, w := range want {
				p, err := tx.Processor(name)
				if err != nil {
					return err
				}
				t.same("processor", p, w)
			}
			if p, err := tx.Processor("WHOLE"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Processor of an unknown name = %+v, %v, want ErrNotFound", p, err)
			}
			return nil
		})
	}
	t.update(func(tx store.Tx) error {
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if err := tx.PutProcessor(want[name]); err != nil {
				return err
			}
		}
		return nil
	})
	check()
	w := want["whole"]
	w.Live, w.Rebuild, w.RebuildTenant, w.Retired, w.Paused, w.CrossTenant, w.Version = 7, 0, "", nil, false, false, ""
	want["whole"] = w
	delete(want, "bare")
	delete(want, odd[0])
	t.update(func(tx store.Tx) error {
		return errors.Join(tx.PutProcessor(w), tx.DeleteProcessor("bare"), tx.DeleteProcessor(odd[0]), tx.DeleteProcessor("never there"))
	})
	check()
}

func testLaneRoundTrip(t *fixture) {
	exclusions := map[string]event.Position{"a": 0, "b": 1, "c": event.Unbounded - 1, "d": event.Unbounded}
	for _, name := range odd {
		exclusions[name] = event.Unbounded
	}
	id := func(tenant string) store.LaneID {
		return store.LaneID{Build: store.Build{Processor: `O'Neil "x"`, Number: 1 << 40}, Partition: 7, Tenant: tenant}
	}
	for _, tt := range []struct {
		name string
		lane store.Lane
	}{
		{"bare", store.Lane{LaneID: id("bare"), State: store.Running}},
		{"whole", store.Lane{
			LaneID: id("whole"), Epoch: 1 << 61, Position: event.Unbounded - 1, Done: []byte{0, 1, 0xff, '\''}, Exclusions: exclusions, Revision: 1 << 60,
			State: store.Paused, Reason: "O'Neil said \"stop\"; --", Pinned: true, Owner: "host-1/🛒", AppliedAt: moment(3),
			Of: 1 << 30, Want: 1 << 29, Until: event.Unbounded - 2, Home: "h1 \"🛒",
		}},
		{"empty, not nil", store.Lane{LaneID: id("empty"), State: store.Held, Done: []byte{}, Exclusions: map[string]event.Position{}}},
		{"unbounded", store.Lane{LaneID: id("unbounded"), State: store.Running, Position: event.Unbounded}},
		{"local time", store.Lane{LaneID: id("local"), State: store.Running, AppliedAt: moment(3).In(time.FixedZone("east", 3600))}},
		{"base lane", store.Lane{LaneID: id(""), State: store.Running, Exclusions: map[string]event.Position{"x": 1}}},
		{"to be split", store.Lane{LaneID: id("split"), State: store.Recut, Of: 3, Want: 6}},
	} {
		t.Run(tt.name, func(sub *testing.T) {
			t := t.with(sub)
			replaced := store.Lane{LaneID: tt.lane.LaneID, State: store.Held, Reason: "replaced", Exclusions: map[string]event.Position{"only": 1}}
			changed := replaced // one exclusion as it was, then another position, then gone
			changed.Exclusions = map[string]event.Position{"only": 1, "both": 2}
			moved := replaced
			moved.Exclusions = map[string]event.Position{"only": event.Unbounded, "both": 2}
			for _, l := range []store.Lane{tt.lane, replaced, changed, moved, replaced, tt.lane} {
				t.update(func(tx store.Tx) error { return tx.PutLane(l) })
				got := t.lane(l.LaneID)
				if !l.AppliedAt.IsZero() {
					l.AppliedAt = l.AppliedAt.UTC()
				}
				l.UpdatedAt = got.UpdatedAt
				t.same("lane", got, l)
			}
			t.update(func(tx store.Tx) error { return tx.DeleteLane(tt.lane.LaneID) })
			t.view(func(tx store.Tx) error {
				if l, err := tx.Lane(tt.lane.LaneID); !errors.Is(err, store.ErrNotFound) {
					t.Errorf("Lane after DeleteLane = %s, %v, want ErrNotFound", fields(l), err)
				}
				return nil
			})
			t.update(func(tx store.Tx) error { return tx.DeleteLane(tt.lane.LaneID) }) // no error
		})
	}
}

func testLaneUpdatedAt(t *fixture) {
	t.setup("p")
	t.commit(base("p"), func(*store.Commit) {})
	l := t.lane(base("p"))
	if !about(l.UpdatedAt) || l.UpdatedAt.Location() != time.UTC {
		t.Errorf("UpdatedAt after a commit = %v, want about now in UTC", l.UpdatedAt)
	}
	l.UpdatedAt = moment(0)
	t.update(func(tx store.Tx) error { return tx.PutLane(l) })
	if got := t.lane(base("p")).UpdatedAt; got.Equal(moment(0)) {
		t.Errorf("UpdatedAt = %v, which PutLane set, want it left to the store", got)
	}
}

func testLanesOrder(t *fixture) {
	var ids []store.LaneID
	for _, processor := range []string{"P", "p", "p/1", "q"} {
		for _, number := range []int64{1, 2, 10} {
			for _, partition := range []int{0, 2, 10} {
				for _, tenant := range []string{"", "10", "9", "B", "a", "é"} {
					ids = append(ids, store.LaneID{Build: store.Build{Processor: processor, Number: number}, Partition: partition, Tenant: tenant})
				}
			}
		}
	}
	t.update(func(tx store.Tx) error {
		for i := range ids {
			l := store.Lane{LaneID: ids[i*31%len(ids)], State: store.Running}
			if l.Tenant == "" {
				l.Exclusions = map[string]event.Position{fmt.Sprint(l.LaneID): 1, "both": 2}
			}
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
		return nil
	})
	check := func(tx store.Tx) error {
		for _, processor := range []string{"", "p", "P", "p/1", "nobody"} {
			var want []store.LaneID
			for _, id := range ids {
				if processor == "" || id.Processor == processor {
					want = append(want, id)
				}
			}
			lanes, err := tx.Lanes(processor)
			if err != nil {
				return err
			}
			var got []store.LaneID
			for _, l := range lanes {
				got = append(got, l.LaneID)
				if l.Tenant == "" && (len(l.Exclusions) != 2 || l.Exclusions[fmt.Sprint(l.LaneID)] != 1) {
					t.Errorf("lane %v has exclusions %v, want its own", l.LaneID, l.Exclusions)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("Lanes(%q) = %v, want %v", processor, got, want)
			}
		}
		return nil
	}
	t.view(check)
	t.update(check)
}

func testMembers(t *fixture) {
	members := []store.Member{
		{ID: "B"}, {ID: "a", Until: moment(1), Host: "h1 \"x\"", Since: moment(2)}, {ID: "b", Until: moment(3), Host: "🛒", Since: moment(4)},
		{ID: "c", Notes: `{"quoted \"\u0000\"": "'🛒'"}`},
	}
	check := func(want []store.Member) {
		t.Helper()
		t.view(func(tx store.Tx) error {
			got, err := tx.Members()
			if err == nil && !slices.Equal(got, want) {
				t.Errorf("Members = %+v, want %+v", got, want)
			}
			return err
		})
	}
	t.update(func(tx store.Tx) error {
		return errors.Join(tx.PutMember(members[2]), tx.PutMember(members[0]), tx.PutMember(members[3]), tx.PutMember(members[1]))
	})
	check(members)
	members[1].Until, members[1].Host, members[1].Notes = moment(9), "", "new"
	t.update(func(tx store.Tx) error {
		return errors.Join(tx.PutMember(members[1]), tx.DeleteMember("b"), tx.DeleteMember("c"), tx.DeleteMember("never there"))
	})
	check(members[:2])
}

func testWeights(t *fixture) {
	check := func(want map[string]float64) {
		t.Helper()
		t.view(func(tx store.Tx) error {
			got, err := tx.Weights()
			if err == nil && !maps.Equal(got, want) {
				t.Errorf("Weights = %v, want %v", got, want)
			}
			return err
		})
	}
	check(nil)
	want := map[string]float64{"a": 2, "b": 0.125, "c": 1e9, "A": 0.1}
	for _, name := range odd {
		want[name] = 3.5
	}
	t.update(func(tx store.Tx) error {
		for tenant, w := range want {
			if err := tx.PutWeight(tenant, w); err != nil {
				return err
			}
		}
		return nil
	})
	check(want)
	want["b"] = 7
	delete(want, "a")
	t.update(func(tx store.Tx) error {
		return errors.Join(tx.PutWeight("b", 7), tx.PutWeight("a", 1), tx.PutWeight("never set", 1))
	})
	check(want)
}

func testPools(t *fixture) {
	check := func(want map[string]string) {
		t.Helper()
		t.view(func(tx store.Tx) error {
			got, err := tx.Pools()
			if err == nil && !maps.Equal(got, want) {
				t.Errorf("Pools = %v, want %v", got, want)
			}
			return err
		})
	}
	check(nil)
	want := map[string]string{"a": "gold", "b": "gold", "c": "Gold", "A": "pool 🛒"}
	for _, name := range odd {
		want[name] = "odd"
	}
	t.update(func(tx store.Tx) error {
		for tenant, pool := range want {
			if err := tx.PutPool(tenant, pool); err != nil {
				return err
			}
		}
		return nil
	})
	check(want)
	want["b"] = "silver"
	delete(want, "a")
	t.update(func(tx store.Tx) error {
		err := errors.Join(tx.PutPool("b", "silver"), tx.PutPool("a", ""), tx.PutPool("never given", ""))
		got, gerr := tx.Pools()
		if !maps.Equal(got, want) {
			t.Errorf("Pools in the transaction = %v, want %v", got, want)
		}
		return errors.Join(err, gerr)
	})
	check(want)
}

// testLanesOf: those of some lanes that are there, with what the transaction has written.
func testLanesOf(t *fixture) {
	lane := func(processor string, partition int, tenant string, at event.Position) store.Lane {
		return store.Lane{
			LaneID: store.LaneID{Build: store.Build{Processor: processor, Number: 1}, Partition: partition, Tenant: tenant}, Position: at,
			State: store.Running, Exclusions: map[string]event.Position{"x": at},
		}
	}
	a, b, c, d := lane("p", 0, "", 1), lane("p", 1, "", 2), lane("p", 1, "it's", 3), lane("q", 0, "", 4)
	gone := lane("p", 0, "nobody", 0).LaneID
	check := func(tx store.Tx, ids []store.LaneID, want ...store.Lane) error {
		t.Helper()
		got, err := store.LanesOf(tx, ids)
		if len(got) != len(want) {
			t.Errorf("LanesOf(%v) = %v, want %d lanes", ids, got, len(want))
		}
		for _, w := range want {
			g := got[w.LaneID]
			if w.UpdatedAt = g.UpdatedAt; !reflect.DeepEqual(g, w) {
				t.Errorf("LanesOf: %+v, want %+v", g, w)
			}
		}
		return err
	}
	t.update(func(tx store.Tx) error {
		return errors.Join(tx.PutLane(a), tx.PutLane(b), tx.PutLane(c), tx.PutLane(d))
	})
	t.view(func(tx store.Tx) error {
		return errors.Join(check(tx, nil), check(tx, []store.LaneID{gone}), check(tx, []store.LaneID{c.LaneID, gone, a.LaneID, d.LaneID}, a, c, d))
	})
	t.update(func(tx store.Tx) error {
		b.Owner, b.Epoch = "me", 7
		if err := errors.Join(tx.PutLane(b), tx.DeleteLane(a.LaneID)); err != nil {
			return err
		}
		return check(tx, []store.LaneID{a.LaneID, b.LaneID, c.LaneID}, b, c)
	})
	t.view(func(tx store.Tx) error { return check(tx, []store.LaneID{a.LaneID, b.LaneID}, b) })
}

// testRowCopies: what goes in and what comes out is not the store's own.
func testRowCopies(t *fixture) {
	t.setup("p")
	exclusions, done := map[string]event.Position{"a": 1}, []byte{1, 2}
	retired, data := []int64{1, 2}, []byte(`"original"`)
	metadata := event.Metadata{"k": "original"}
	letter := letterOf(base("p"), "a", "k")
	letter.Event.Data, letter.Event.Metadata = data, metadata
	t.update(func(tx store.Tx) error {
		return errors.Join(
			tx.PutLane(store.Lane{LaneID: base("p"), State: store.Running, Exclusions: exclusions, Done: done}),
			tx.PutProcessor(store.Processor{Name: "r", Retired: retired}),
			tx.PutWeight("a", 2))
	})
	t.commit(base("p"), func(c *store.Commit) { c.Done, c.Letters = done, []store.DeadLetter{letter} })
	before := t.snapshot()
	exclusions["b"], done[0], retired[0], metadata["k"] = 9, 9, 9, "changed"
	copy(data, `"changed!"`)
	t.unchanged(before, "the caller changed what it had passed")
	t.view(func(tx store.Tx) error {
		l, err1 := tx.Lane(base("p"))
		p, err2 := tx.Processor("r")
		ls, err3 := tx.Letters(store.LetterFilter{})
		w, err4 := tx.Weights()
		all, err5 := tx.Lanes("")
		if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
			return err
		}
		l.Exclusions["b"], l.Done[0], p.Retired[0], ls[0].Event.Metadata["k"], w["a"] = 9, 9, 9, "changed", 9
		all[0].Exclusions["c"], all[0].Done[1] = 9, 9
		copy(ls[0].Event.Data, `"changed!"`)
		return nil
	})
	t.unchanged(before, "the caller changed what it had got")
}

func testShards(t *fixture) {
	check := func(want map[string]string, names []string) {
		t.Helper()
		t.view(func(tx store.Tx) error {
			got, err := tx.Shards(append([]string{"nobody"}, odd...))
			if !maps.Equal(got, want) {
				t.Errorf("Shards = %q, want %q", got, want)
			}
			have, err2 := tx.ShardNames()
			if !slices.Equal(have, names) {
				t.Errorf("ShardNames = %q, want %q", have, names)
			}
			none, err3 := tx.Shards(nil)
			if len(none) != 0 {
				t.Errorf("Shards of no tenants = %q", none)
			}
			return errors.Join(err, err2, err3)
		})
	}
	check(map[string]string{}, nil)
	want := map[string]string{}
	t.update(func(tx store.Tx) error {
		for i, name := range odd {
			want[name] = []string{"", "b", "a"}[i%3]
			if err := tx.PutShard(name, want[name]); err != nil {
				return err
			}
		}
		return tx.PutShard("other", `O'Neil`)
	})
	check(want, []string{"", `O'Neil`, "a", "b"})
	want[odd[0]] = "c"
	t.update(func(tx store.Tx) error { return tx.PutShard(odd[0], "c") })
	check(want, []string{"", `O'Neil`, "a", "b", "c"})
}
