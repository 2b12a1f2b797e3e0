package engine

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/race"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A restartFleet is members that decide what to do about real rows, and whose lanes
// cost anything at any time.
type restartFleet struct {
	t       *testing.T
	rng     *rand.Rand
	st      *memstore.Store
	members map[string]*restartMember // by name
	n       int
	moves   map[store.LaneID]int
}

type restartMember struct {
	id, name string
	fl       fleet
	lanes    map[store.LaneID]*heldLane
	worked   map[store.LaneID]int64
}

const restartCalm, restartSteady = time.Second, 15 * time.Second

// notes makes notes in which each lane costs anything from 1 to 128.
func (f *restartFleet) notes(m *restartMember, leaving bool) string {
	n := memberNotes{Processors: []string{"p"}, Leaving: leaving, Costs: map[string]int64{}}
	for _, id := range slices.SortedFunc(maps.Keys(m.lanes), compareLanes) {
		n.Costs[id.String()] = 1 << f.rng.IntN(8)
	}
	return n.String()
}

func (f *restartFleet) join(m *restartMember, leaving bool) {
	if err := lane.Join(f.t.Context(), f.st, store.Member{ID: m.id, Host: m.name, Notes: f.notes(m, leaving)}, time.Hour); err != nil {
		f.t.Fatal(err)
	}
}

func (f *restartFleet) start(name string) {
	f.n++
	m := &restartMember{id: fmt.Sprintf("%s.%d", name, f.n), name: name, lanes: map[store.LaneID]*heldLane{}, worked: map[store.LaneID]int64{}}
	f.members[name] = m
	f.join(m, false)
}

func (f *restartFleet) look(m *restartMember) view {
	v, _, err := look(f.t.Context(), f.st, m.id, view{}, true, time.Now(), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	return v
}

// give hands a lane over, whose new owner works it when it has looked.
func (f *restartFleet) give(m *restartMember, id store.LaneID, to, home string) {
	err := lane.HandOver(f.t.Context(), f.st, m.id, lane.Given{ID: id, Epoch: m.lanes[id].epoch, To: to, Home: home})
	if err != nil {
		f.t.Fatal(err)
	}
	delete(m.lanes, id)
	f.moves[id]++
}

// decide lets a member look, and do what it decides.
func (f *restartFleet) decide(m *restartMember) {
	now, v := time.Now(), f.look(m)
	d := m.fl.decide(&v, now, &self{
		id: m.id, calm: restartCalm, steady: restartSteady, procs: map[string]procSelf{"p": {}}, worked: m.worked,
		lane: func(id store.LaneID) *heldLane { return m.lanes[id] },
	})
	begin := func(l store.Lane) {
		m.lanes[l.LaneID], m.worked[l.LaneID] = &heldLane{epoch: l.Epoch, since: now}, l.Epoch
	}
	for _, l := range d.take {
		begin(l)
	}
	got, err := lane.AcquireAll(f.t.Context(), f.st, d.start, m.id, func(store.LaneID, error) error { return nil })
	if err != nil {
		f.t.Fatal(err)
	}
	for _, l := range got {
		begin(l)
		m.lanes[l.LaneID].stray = d.stray[l.LaneID]
	}
	for _, h := range d.leave {
		f.give(m, h.id, h.to, h.home)
	}
}

// pass lets time pass, in which members look now and then and tell what lanes cost.
func (f *restartFleet) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(time.Duration(1+f.rng.IntN(50)) * time.Millisecond)
		names := slices.Sorted(maps.Keys(f.members))
		m := f.members[names[f.rng.IntN(len(names))]]
		if f.rng.IntN(3) == 0 {
			f.join(m, false)
		} else {
			f.decide(m)
		}
	}
}

// leave is Engine.handAll: the lanes go one after the other, while the others go on.
func (f *restartFleet) leave(name string) {
	m := f.members[name]
	f.join(m, true)
	delete(f.members, name)
	f.pass(20 * time.Millisecond)
	v := f.look(m)
	heirs := v.heirs(m.id)
	homes := v.homes(m.id, heirs)
	for i := range v.lanes {
		if l := &v.lanes[i]; l.Owner == m.id {
			if m.lanes[l.LaneID] == nil { // it was handed over a moment ago
				m.lanes[l.LaneID] = &heldLane{epoch: l.Epoch}
			}
			f.give(m, l.LaneID, heirs[l.LaneID], homes[l.LaneID])
			if f.rng.IntN(4) == 0 {
				f.pass(time.Millisecond)
			}
		}
	}
	if err := lane.Leave(context.Background(), f.st, m.id); err != nil {
		f.t.Fatal(err)
	}
}

// TestRollingRestartMovesTwice: whatever lanes seem to cost, and however long it takes
// from one restart to the next, a rolling restart moves each lane away from its home
// and back. It does not matter that some lanes are not where they are placed when it
// begins.
func TestRollingRestartMovesTwice(t *testing.T) {
	seeds := uint64(20)
	if testing.Short() || race.Enabled {
		seeds = 4
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			f := &restartFleet{
				t: t, rng: rand.New(rand.NewPCG(seed, 1)), st: memstore.New(), members: map[string]*restartMember{}, moves: map[store.LaneID]int{},
			}
			err := f.st.Update(t.Context(), func(tx store.Tx) error {
				for i := range 54 {
					l := store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: i}, State: store.Running}
					if err := tx.PutLane(l); err != nil {
						return err
					}
				}
				return tx.PutProcessor(store.Processor{Name: "p", Kind: KindProjection, Partitions: 54, Live: 1})
			})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 6 {
				f.start(fmt.Sprint("w", i))
			}
			f.pass(20 * time.Second)
			at := map[store.LaneID]string{}
			for name, m := range f.members {
				for id := range m.lanes {
					at[id] = name
				}
			}
			clear(f.moves)
			longest := time.Duration(1+f.rng.IntN(4000)) * time.Millisecond
			for i := range 6 {
				name := fmt.Sprint("w", i)
				f.leave(name)
				f.pass(time.Duration(f.rng.Int64N(int64(longest))))
				f.start(name)
				f.pass(time.Duration(f.rng.Int64N(int64(longest))))
			}
			f.pass(8 * time.Second)
			often := map[int]int{}
			for _, n := range f.moves {
				often[n]++
			}
			if len(f.moves) != 54 || often[2] != 54 {
				t.Errorf("seed %d, up to %v from one restart to the next: lanes by how often they moved: %v, want 54 twice", seed, longest, often)
			}
			for name, m := range f.members {
				for id := range m.lanes {
					if at[id] != name {
						t.Errorf("seed %d: lane %v was with %q before, and is with %q", seed, id, at[id], name)
					}
				}
			}
		})
	}
}
