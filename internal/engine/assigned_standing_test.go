package engine

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestOneWorksWhatEverybodyHas: partitions of which no record comes any more are every
// process's, and one of them works each lane. Nobody takes it from that one, and when
// it ends another one does.
func TestOneWorksWhatEverybodyHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newSharedRig(t)
		names, stop := map[*Engine]string{}, map[*Engine]func(){}
		var all []*Engine
		for i, name := range []string{"a", "b", "c"} {
			e := r.member(name, Processor{Name: "p", Projection: tallies("p", false)})
			names[e], all = name, append(all, e)
			r.logs[e].stands = []int{2, 3}
			stop[e] = r.run(e)
			if i < 2 {
				r.logs[e].give(i, 2, 3)
			} else {
				r.logs[e].give(2, 3)
			}
		}
		check := func(when string, epochs int64, alive ...*Engine) map[int]*Engine {
			t.Helper()
			time.Sleep(time.Minute)
			works := map[int]*Engine{}
			for _, l := range r.lanes("p") {
				for _, e := range alive {
					if l.Owner == e.ID() {
						works[l.Partition] = e
					}
				}
				if l.Partition >= 2 && (works[l.Partition] == nil || l.Epoch > epochs) {
					t.Errorf("%s: lane %v has owner %q under epoch %d, want a live one, %d at most", when, l.LaneID, l.Owner, l.Epoch, epochs)
				}
			}
			for p := 2; p < 4; p++ { // and no other one does
				for _, e := range alive {
					e.mu.Lock()
					for id := range e.procs["p"].lanes {
						if id.Partition == p && works[p] != e {
							t.Errorf("%s: lane %v is worked by %s too", when, id, names[e])
						}
					}
					e.mu.Unlock()
				}
			}
			return works
		}
		// The first to come begins; as each of the others comes another one may be the one whose it is.
		works := check("all live", 3, all...)
		epochs := r.lanes("p")
		check("later", 3, all...)
		for id, l := range r.lanes("p") {
			if l.Epoch != epochs[id].Epoch {
				t.Errorf("lane %v has moved although nobody came or went", l.LaneID)
			}
		}
		gone := works[2]
		stop[gone]()
		var left []*Engine
		for _, e := range all {
			if e != gone {
				left = append(left, e)
			}
		}
		check("one has ended", 4, left...)
		for _, e := range left {
			stop[e]()
		}
	})
}
