package engine

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// TestMovesForWhatLasts: a lane that is placed on another member for a moment, as
// the costs that the others tell change one after the other, stays where it is.
func TestMovesForWhatLasts(t *testing.T) {
	const calm = 5 * time.Second
	began := time.Now()
	me := &self{id: "a", calm: calm, procs: map[string]procSelf{"p": {}}, lane: func(store.LaneID) *heldLane {
		return &heldLane{epoch: 1, since: began.Add(-time.Hour)}
	}}
	seen := func(busy map[string]int64) *view {
		v := &view{procs: []store.Processor{{Name: "p", Kind: KindProjection, Live: 1}}}
		for _, id := range []string{"a", "b"} {
			n := memberNotes{Processors: []string{"p"}}
			if id == "a" {
				n.Costs = busy
			}
			v.members = append(v.members, store.Member{ID: id, Host: id, Notes: n.String()})
		}
		return v
	}
	lanes := func(v *view, owners map[store.LaneID]string) *view {
		for i := range 8 {
			l := store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: i}, State: store.Running, Epoch: 1}
			l.Owner = owners[l.LaneID]
			v.lanes = append(v.lanes, l)
		}
		return v
	}
	evenly, _ := place(lanes(seen(nil), nil))
	mine := store.LaneID{}
	busy := map[string]int64{} // two of a's lanes are so busy that one of them is to go
	for i := range 8 {
		id := store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: i}
		if evenly[id] == "a" && len(busy) < 2 {
			busy[id.String()] = 100
		}
	}
	changed, _ := place(lanes(seen(busy), nil))
	for id, to := range changed {
		if evenly[id] == "a" && to == "b" {
			mine = id
		}
	}
	if mine.Processor == "" {
		t.Fatal("the costs make no lane of a's another member's")
	}
	me.lane = func(id store.LaneID) *heldLane {
		if evenly[id] != "a" {
			return nil
		}
		return &heldLane{epoch: 1, since: began.Add(-time.Hour)}
	}
	var f fleet
	leaves := func(at time.Duration, costs map[string]int64) bool {
		d := f.decide(lanes(seen(costs), evenly), began.Add(at), me)
		for _, h := range d.leave {
			if h.id == mine {
				return true
			}
		}
		return false
	}
	for _, step := range []struct {
		at    time.Duration
		costs map[string]int64
		want  bool
	}{
		{0, nil, false}, {calm, nil, false}, // the members are the same for long enough
		{calm + time.Second, busy, false}, {2 * calm, busy, false}, {2*calm + time.Second/2, nil, false}, // for a moment
		{3 * calm, busy, false}, {4*calm - time.Millisecond, busy, false}, {4 * calm, busy, true}, // it lasts
	} {
		if got := leaves(step.at, step.costs); got != step.want {
			t.Errorf("%v: lane %v leaves: %v, want %v", fmt.Sprint(step.at), mine, got, step.want)
		}
	}
}

// TestMovesForCostsLast: a lane whose place is another one because of what lanes cost
// moves when that has lasted for longer than members must be the same; one whose
// place is another one because somebody came, as soon as these are.
func TestMovesForCostsLast(t *testing.T) {
	const calm, steady = time.Second, 15 * time.Second
	began := time.Now()
	owners := map[store.LaneID]string{}
	seen := func(busy int, ids ...string) *view {
		v := &view{procs: []store.Processor{{Name: "p", Kind: KindProjection, Live: 1}}}
		n := memberNotes{Processors: []string{"p"}, Costs: map[string]int64{}}
		for i := range 16 {
			l := store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: i}, State: store.Running, Epoch: 1}
			l.Owner = owners[l.LaneID]
			if v.lanes = append(v.lanes, l); l.Owner == "a" && len(n.Costs) < busy {
				n.Costs[l.String()] = 100
			}
		}
		for _, id := range ids {
			v.members = append(v.members, store.Member{ID: id, Host: id, Notes: n.String()})
			n.Costs = nil
		}
		return v
	}
	me := &self{id: "a", calm: calm, steady: steady, procs: map[string]procSelf{"p": {}}, lane: func(id store.LaneID) *heldLane {
		if owners[id] != "a" {
			return nil
		}
		return &heldLane{epoch: 1, since: began.Add(-time.Hour)}
	}}
	share := func(v *view) {
		targets, _ := place(v)
		maps.Copy(owners, targets)
	}
	var f fleet
	leaves := func(at time.Duration, v *view) bool { return len(f.decide(v, began.Add(at), me).leave) > 0 }
	share(seen(0, "a", "b"))
	for _, step := range []struct {
		what string
		at   time.Duration
		busy int
		ids  []string
		want bool
	}{
		{"at rest", 0, 0, []string{"a", "b"}, false},
		{"at rest", 2 * calm, 0, []string{"a", "b"}, false},
		{"costs", 3 * calm, 4, []string{"a", "b"}, false},
		{"costs", 4 * calm, 4, []string{"a", "b"}, false},
		{"costs", 3*calm + steady - time.Millisecond, 4, []string{"a", "b"}, false},
		{"costs", 3*calm + steady, 4, []string{"a", "b"}, true},
		{"at rest", 30 * calm, 0, []string{"a", "b"}, false},
		{"one comes", 31 * calm, 0, []string{"a", "b", "c"}, false},
		{"one comes", 32 * calm, 0, []string{"a", "b", "c"}, true},
	} {
		if got := leaves(step.at, seen(step.busy, step.ids...)); got != step.want {
			t.Errorf("%v, %s: lanes leave: %v, want %v", step.at, step.what, got, step.want)
		}
	}
}

// TestCalmAfterADeparture: where one has gone, which may be back in a moment, lanes
// that have an owner stay for twice as long as after one has come.
func TestCalmAfterADeparture(t *testing.T) {
	const calm = time.Second
	began := time.Now()
	members := func(ids ...string) (ms []store.Member) {
		for _, id := range ids {
			ms = append(ms, store.Member{ID: id})
		}
		return ms
	}
	var f fleet
	for _, step := range []struct {
		at   time.Duration
		ids  []string
		from time.Duration
	}{
		{0, []string{"a", "b"}, calm},
		{2 * calm, []string{"a", "b"}, calm},
		{3 * calm, []string{"a"}, 5 * calm},
		{4 * calm, []string{"a"}, 5 * calm},
		{4 * calm, []string{"a", "b2"}, 5 * calm},
		{9 * calm, []string{"a", "b2", "c"}, 10 * calm},
		{10 * calm, []string{"a", "d"}, 12 * calm},
	} {
		if got := f.see(members(step.ids...), began.Add(step.at), calm); !got.Equal(began.Add(step.from)) {
			t.Errorf("%v: %v are the same for long enough %v after the beginning, want %v", step.at, step.ids, got.Sub(began), step.from)
		}
	}
}
