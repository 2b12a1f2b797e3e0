package eventlog

import "github.com/fairlead-dev/fairlead/event"

// A Sequencer is a log in which a tenant may move from some partitions to others. What
// it has in the new ones comes after what it had in the old ones, in every reading of
// the log: who has read to a barrier hands out nothing of that tenant from behind it
// before the lanes of the old partitions, of the same build, have come to its After.
//
// No page of such a log goes past a barrier: one may end there, and the next begins
// there. That a barrier stands at a position is known to the process before it can read
// what is behind it.
type Sequencer interface {
	// Barrier returns the barrier that stands at a position; nil: none. It asks nobody.
	Barrier(partition int, at event.Position) *Barrier

	// Moved reports whether a tenant, or any ("") tenant, has ever moved. Positions of its
	// events in one partition then say nothing about those in another.
	Moved(tenant string) bool
}

// A Barrier is where a tenant's events go on that were in other partitions before.
type Barrier struct {
	Tenant string
	Alone  bool                   // the partition has no other tenant's events
	After  map[int]event.Position // by partition: what is to be applied first; an unknown partition (-1) never is
}
