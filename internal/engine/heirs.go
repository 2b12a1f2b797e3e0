package engine

import (
	"maps"
	"slices"

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
// with it only because another one was away goes home, if that one is back; one that
// is placed on another one anyway goes there. The rest is placed as if the member was
// gone already. Lanes that nobody takes are not in it.
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

// homes says where the lanes of member id, which is leaving, are at home from then on:
// where they were, if they go there, and otherwise with it. So in a rolling restart a
// lane moves away from its home once, when that is restarted, and then back: as that
// one is there when the next is told to leave, whoever has the lane gives it to it.
// What lanes cost does not matter for that (see [fleet.settled]).
func (v *view) homes(id string, heirs map[store.LaneID]string) map[store.LaneID]string {
	names, homes := namesOf(v.staying()), map[store.LaneID]string{}
	name := id
	for i := range v.members {
		if m := &v.members[i]; m.ID == id && m.Host != "" {
			name = m.Host
		}
	}
	for i := range v.lanes {
		l := &v.lanes[i]
		if l.Owner != id {
			continue
		}
		if homes[l.LaneID] = name; l.Home != "" && l.Home == names[heirs[l.LaneID]] {
			homes[l.LaneID] = l.Home
		}
	}
	return homes
}

// handOverOrder puts the lanes that a leaving process works into the groups in which
// it hands them over, one after the other: one lane for each heir or a few, so that a
// lane waits for few others there. A reactor's tenant lanes come after all others,
// because events of the tenant may still be in progress in its base lane.
func handOverOrder(lanes []store.LaneID, heirs map[store.LaneID]string, reactor func(processor string) bool) (groups [][]store.LaneID) {
	var parts [2]map[string][]store.LaneID // by heir
	for _, id := range lanes {
		part := &parts[0]
		if id.Tenant != "" && reactor(id.Processor) {
			part = &parts[1]
		}
		if *part == nil {
			*part = map[string][]store.LaneID{}
		}
		(*part)[heirs[id]] = append((*part)[heirs[id]], id)
	}
	for _, part := range parts {
		var all []store.LaneID
		names := slices.Sorted(maps.Keys(part))
		for i, more := 0, true; more; i++ {
			more = false
			for _, name := range names {
				if of := part[name]; i < len(of) {
					all, more = append(all, of[i]), true
				}
			}
		}
		groups = slices.AppendSeq(groups, slices.Chunk(all, min(max(len(names), leaveAtLeast), handOverAtOnce)))
	}
	return groups
}
