package engine

import (
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fair"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// A keyQueue holds the ordering keys of all lanes of a reactor in this process
// that have an event to run: whose turn it is between tenants is said by
// start-time fair queuing over worker time, and inside a tenant by age, the
// oldest event first. That is list scheduling in the order of the log, so a hot
// key, whose events have to follow one another, is never kept waiting behind
// younger events of other keys. A longer queue than all workers together could
// make up for goes before the oldest event, but no two times in a row: so a
// tenant's work does not end with one worker at one key, and its oldest event
// still has every other turn. It has no clock and no goroutine.
type keyQueue struct {
	fair     *fair.Queue[*flow]
	workers  int
	flows    map[string]*flow
	arrivals uint64
	lanes    map[store.LaneID]*streamLane

	// orphans are keys with an event in progress whose tenant has left the lane
	// that started it. Until it ends no other lane starts one of that key.
	orphans map[orphanKey]int
	blocked map[orphanKey][]*orderedKey
}

type orphanKey struct {
	partition int
	key       store.Key
}

// A flow is a tenant's ready keys: a heap by the arrival of their first events,
// and one by the length of their queues. For each of them there is an item in the
// fair queue, which stands for whichever key has the tenant's turn by then.
type flow struct {
	name  string
	ready []*orderedKey
	long  []*orderedKey
	owed  bool // the last turn was not the oldest key's
	users int  // lanes that have events of the tenant
}

// A turn is a key whose first event may run.
type turn struct {
	key   *orderedKey
	grant fair.Grant[*flow]
}

func newKeyQueue(workers int) *keyQueue {
	q := &keyQueue{
		fair: fair.New[*flow](workers), workers: workers, flows: map[string]*flow{}, lanes: map[store.LaneID]*streamLane{},
		orphans: map[orphanKey]int{}, blocked: map[orphanKey][]*orderedKey{},
	}
	// With few workers half of them are kept for the others. Of many one gets
	// free all the time, so a small reserve does; so it does of few, where the tenant's
	// events take no longer than the average.
	q.fair.SetCap(max((workers+1)/2, workers-max(2, workers/16)))
	q.fair.SetLightCap(max((workers+1)/2, workers-max(1, workers/16)))
	return q
}

func (q *keyQueue) flow(tenant string) *flow {
	f := q.flows[tenant]
	if f == nil {
		f = &flow{name: tenant}
		q.flows[tenant] = f
	}
	f.users++
	return f
}

// leave says that one lane less has events of a tenant.
func (q *keyQueue) leave(f *flow) {
	if f.users--; f.users == 0 {
		delete(q.flows, f.name)
	}
}

func (q *keyQueue) push(k *orderedKey) {
	f := k.tenant.flow
	heapPush(&f.ready, k, older)
	heapPush(&f.long, k, longer)
	q.fair.Push(f.name, 1, f)
}

// pop returns the key whose turn it is.
func (q *keyQueue) pop(now time.Time) (t turn, ok bool) {
	if q.fair.Len() == 0 {
		return t, false
	}
	g, ok := q.fair.Pop(now)
	if !ok {
		return t, false
	}
	return turn{g.Item.take(q.workers), g}, true
}

// take removes the key that has its tenant's turn.
func (f *flow) take(workers int) *orderedKey {
	k := f.ready[0]
	if f.owed {
		f.owed = false
	} else if x := f.long[0]; x != k && x.length*workers > x.tenant.undone {
		k, f.owed = x, true
	}
	heapRemove(&f.ready, k.slots[older.slot], older)
	return heapRemove(&f.long, k.slots[longer.slot], longer)
}

// grown says that the queue of a ready key has become longer.
func (f *flow) grown(k *orderedKey) { heapUp(f.long, k.slots[longer.slot], longer) }

// withdraw takes ready keys back, those of one lane and, unless it is nil, of one
// tenant.
func (q *keyQueue) withdraw(l *streamLane, only *laneTenant) (keys []*orderedKey) {
	if only != nil {
		return q.withdrawFrom(only.flow, l, nil)
	}
	for _, t := range slices.Sorted(maps.Keys(l.tenants)) {
		keys = q.withdrawFrom(l.tenants[t].flow, l, keys)
	}
	return keys
}

func (q *keyQueue) withdrawFrom(f *flow, l *streamLane, keys []*orderedKey) []*orderedKey {
	n := 0
	for _, k := range f.ready {
		if k.lane == l {
			keys = append(keys, k)
			continue
		}
		f.ready[n] = k
		n++
	}
	if n == len(f.ready) {
		return keys
	}
	clear(f.ready[n:])
	f.ready = f.ready[:n]
	clear(f.long)
	f.long = append(f.long[:0], f.ready...)
	heapInit(f.ready, older)
	heapInit(f.long, longer)
	q.fair.Remove(f.name)
	for range f.ready {
		q.fair.Push(f.name, 1, f)
	}
	return keys
}

// block keeps k until what is in progress of the same key in another lane has
// ended; false if there is nothing.
func (q *keyQueue) block(k *orderedKey) bool {
	if len(q.orphans) == 0 || mutant.Is(mutant.OrphanIgnored) {
		return false
	}
	o := orphanKey{k.lane.id.Partition, k.id}
	if q.orphans[o] == 0 {
		return false
	}
	k.state = keyBlocked
	q.blocked[o] = append(q.blocked[o], k)
	return true
}

func (q *keyQueue) orphaned(partition int, key store.Key) { q.orphans[orphanKey{partition, key}]++ }

// orphansOf reports whether something of a tenant in a partition is in progress
// whose lane the tenant has left.
func (q *keyQueue) orphansOf(partition int, tenant string) bool {
	for o := range q.orphans {
		if o.partition == partition && o.key.Tenant == tenant {
			return true
		}
	}
	return false
}

// orphanEnded lets those go on that waited for t; done says that it was handled
// after all, so it need not be handled again.
func (q *keyQueue) orphanEnded(partition int, key store.Key, t *task, done bool) {
	o := orphanKey{partition, key}
	if q.orphans[o]--; q.orphans[o] > 0 {
		return
	}
	delete(q.orphans, o)
	for _, l := range q.lanes {
		if l.closing && l.id.Partition == partition && l.id.Tenant == key.Tenant {
			l.nudge() // it may have waited for that
		}
	}
	blocked := q.blocked[o]
	delete(q.blocked, o)
	for _, k := range blocked {
		if k.state != keyBlocked || k.id != key {
			continue
		}
		k.state = keyIdle
		if (done || mutant.Is(mutant.OrphanAssumed)) && k.head.Position == t.Position && k.head.letter == t.letter {
			k.lane.succeed(k, k.lane.dequeue(k))
		}
		k.lane.goOn(k)
		k.lane.nudge()
	}
}

// A keyOrder is the order of a heap of keys, and which of their slots it uses.
type keyOrder struct {
	slot int
	less func(a, b *orderedKey) bool
}

// A ready key is in the heaps by older and longer, one in back-off in that by
// sooner.
var (
	older  = keyOrder{0, func(a, b *orderedKey) bool { return a.head.arrival < b.head.arrival }}
	sooner = keyOrder{0, func(a, b *orderedKey) bool {
		return a.due.Before(b.due) || a.due.Equal(b.due) && a.head.arrival < b.head.arrival
	}}
	longer = keyOrder{1, func(a, b *orderedKey) bool {
		return a.length > b.length || a.length == b.length && a.head.arrival < b.head.arrival
	}}
)

// The heaps are written out, and not container/heap, because a key must know its
// slot and there is no call through an interface.

func heapPush(h *[]*orderedKey, k *orderedKey, o keyOrder) {
	*h = append(*h, k)
	k.slots[o.slot] = len(*h) - 1
	heapUp(*h, len(*h)-1, o)
}

func heapRemove(h *[]*orderedKey, i int, o keyOrder) *orderedKey {
	s := *h
	k, n := s[i], len(s)-1
	s[i] = s[n]
	s[i].slots[o.slot] = i
	s[n] = nil
	*h = s[:n]
	if i < n && !heapDown(*h, i, o) {
		heapUp(*h, i, o)
	}
	return k
}

func heapInit(h []*orderedKey, o keyOrder) {
	for i, k := range h {
		k.slots[o.slot] = i
	}
	for i := len(h)/2 - 1; i >= 0; i-- {
		heapDown(h, i, o)
	}
}

func heapUp(h []*orderedKey, i int, o keyOrder) {
	for i > 0 {
		parent := (i - 1) / 2
		if !o.less(h[i], h[parent]) {
			return
		}
		h[i], h[parent] = h[parent], h[i]
		h[i].slots[o.slot], h[parent].slots[o.slot] = i, parent
		i = parent
	}
}

func heapDown(h []*orderedKey, i int, o keyOrder) (moved bool) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return moved
		}
		if c+1 < len(h) && o.less(h[c+1], h[c]) {
			c++
		}
		if !o.less(h[c], h[i]) {
			return moved
		}
		h[i], h[c] = h[c], h[i]
		h[i].slots[o.slot], h[c].slots[o.slot] = i, c
		i, moved = c, true
	}
}

// taskRuns is the list of the events in progress, in the order of their starts.
type taskRuns struct {
	first, last *task
	n           int
}

func (r *taskRuns) add(t *task) {
	t.running, t.earlier, t.later = true, r.last, nil
	if r.last == nil {
		r.first = t
	} else {
		r.last.later = t
	}
	r.last = t
	r.n++
}

func (r *taskRuns) remove(t *task) {
	if t.earlier == nil {
		r.first = t.later
	} else {
		t.earlier.later = t.later
	}
	if t.later == nil {
		r.last = t.earlier
	} else {
		t.later.earlier = t.earlier
	}
	t.running, t.earlier, t.later = false, nil, nil
	r.n--
}
