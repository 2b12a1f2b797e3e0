package engine

import (
	"maps"

	"github.com/fairlead-dev/fairlead/store"
)

// A process that is told to end does not just let its lanes go, for then each would
// be free until somebody has seen it, and all who see it would look, at every one of
// them. It says that it is leaving, while its lanes go on; then nothing is placed on
// it any more. It decides by itself who is to have which of its lanes, and hands them
// over a few at a time (Engine.handAll): so a lane stands still only from its last
// batch here to its first one there, and no process has to wait for another's start
// or end.

// heirs says who is to have the lanes of member id, which is leaving. A lane that is
// with it only because another one was away goes home: to where it is placed with all
// the members there were. The rest is placed as if the member was gone already. So in
// a rolling restart a lane moves away from its home once, and back. Lanes that nobody
// takes are not in it.
func (v *view) heirs(id string) map[store.LaneID]string {
	told := maps.Clone(v.told())
	here := told[id]
	here.Leaving = false
	told[id] = here
	before := *v
	before.notes = told
	home, _ := place(&before)
	here.Leaving = true
	told[id] = here
	heirs, _ := place(&before)
	for lane, to := range home {
		if _, ok := heirs[lane]; ok && to != id {
			heirs[lane] = to
		}
	}
	return heirs
}

// handOverOrder puts the lanes that a leaving process works into the order in which
// it hands them over. A reactor's tenant lanes come after all others, because events
// of the tenant may still be in progress in its base lane.
func handOverOrder(lanes []store.LaneID, reactor func(processor string) bool) (first, then []store.LaneID) {
	for _, id := range lanes {
		if id.Tenant != "" && reactor(id.Processor) {
			then = append(then, id)
		} else {
			first = append(first, id)
		}
	}
	return first, then
}
