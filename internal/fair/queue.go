// Package fair decides whose turn it is: between tenants by start-time fair
// queuing over worker time ([Queue]), between processors by their slack to the
// freshness objective ([Picker]). It has no clock and starts no goroutine.
package fair

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// A Queue holds items of many flows (tenants) and says which to work on next, so
// that flows that wait get worker time in proportion to their weights, whatever
// their rates and the costs of their items. It is start-time fair queuing (Goyal,
// Vin and Cheng, 1996), with these rules:
//
//   - The start tag of a flow is the larger of the virtual time and the flow's
//     last finish tag. The lowest start tag goes first, equal ones by arrival of
//     their items. The virtual time is the start tag of the last item popped. So
//     idleness earns nothing.
//   - Pop charges what the flow's items cost on average of late; Done replaces
//     that by the true cost.
//   - The weight of a flow counts when its item is popped.
//   - No flow has more items in flight than its cap while another flow is active
//     (has items queued or in flight); see [Queue.SetCap] and [Queue.SetHold]. A
//     worker cannot be taken back from a slow item, so a place is kept for the
//     others.
//   - When nothing is queued any more, the virtual time jumps to the last finish
//     tag: where nobody waits, nobody owes.
//   - A flow without items costs nothing: it is forgotten as soon as its finish
//     tag is no longer ahead of the virtual time.
//
// The items of a flow leave in the order in which they came. Push, Pop and Done
// take O(log flows) and allocate nothing in the steady state. The same calls
// always have the same results. Not safe for use by several goroutines at once.
type Queue[T any] struct {
	workers int
	cap     int // 0: by default
	light   int // the cap of flows that are not slow; 0: cap
	hold    time.Duration
	weights map[string]float64
	clock   time.Time // the latest that a caller gave

	// left are the last two different flows that ceased to be active, the latest
	// first: so for any flow it is known when another one last was.
	left [2]struct {
		name string
		at   time.Time
	}

	flows  map[string]*flow // all that are remembered
	peak   int              // most flows since the map was made
	active []*flow          // those with items queued or in flight
	weight float64          // sum over active
	ready  flowHeap         // those that may be popped, by start tag
	idle   flowHeap         // those that are not active, by finish tag
	spare  []*flow          // to be used again

	now    float64 // the virtual time, in nanoseconds of a flow of weight 1
	last   float64 // no finish tag is later
	cost   float64 // average cost of a unit over all flows, ns; 0: none yet
	seq    uint64  // of the last item pushed
	queued int
	nodes  []node[T]
	free   int32 // first unused node + 1; 0: none
}

type node[T any] struct {
	item  T
	units int32
	next  int32 // node + 1
	seq   uint64
}

type flow struct {
	name     string
	finish   float64 // the finish tag: when, in virtual time, what it got is used up
	weight   float64
	cost     float64 // average cost of a unit, ns; 0: none yet
	head     int32   // node + 1
	tail     int32
	queued   int
	inFlight int
	at       int // index in active, or -1

	heap *flowHeap // the one it is in, or nil
	slot int
	tag  float64
	seq  uint64
}

// A Grant is an item to work on now. Whoever popped it calls Done with it.
type Grant[T any] struct {
	Flow  string
	Item  T
	Units int // as pushed; may be corrected before Done

	weight float64
	charge float64 // ns of virtual time
}

// firstCost is the guess for an item of the very first flow.
const firstCost = float64(time.Millisecond)

// slowerThan is how many times the average an item costs, for a flow to be slow.
const slowerThan = 1.5

// Limits of weights. Wider would cost precision of the tags.
const (
	MinWeight = 1.0 / 1024
	MaxWeight = 1024
)

// New returns an empty Queue for that many workers, at least 1. Its user pops no
// more items than it has free workers.
func New[T any](workers int) *Queue[T] {
	return &Queue[T]{workers: max(workers, 1), weights: map[string]float64{}, flows: map[string]*flow{}}
}

// SetCap sets how many items one flow may have in flight while another is
// active. 0, the default, means half of the workers, rounded up, or the flow's
// share of them by weight, rounded up, if that is more.
func (q *Queue[T]) SetCap(n int) {
	q.cap = max(n, 0)
	for _, f := range q.active {
		q.offer(f)
	}
}

// SetLightCap sets the cap of a flow whose items take no longer than the average, or half as
// much longer. A worker that has such an item is free again soon, so fewer need be kept for
// the others. A flow of which nothing has ended yet is not known to be one. 0, the default:
// such a flow has the cap of all.
func (q *Queue[T]) SetLightCap(n int) {
	q.light = max(n, 0)
	for _, f := range q.active {
		q.offer(f)
	}
}

// SetHold sets for how long a flow's cap goes on to hold after no other flow is
// active any more. 0 is the default: a flow that is alone for a moment may take
// all workers. That wastes no worker, but a flow of slow items then often has
// all of them when the next flow comes. With 4 workers, quiet flows that use
// half of them and a noisy one whose items cost ten times as much, a hold of a
// second halves the others' waiting (P99 47 to 25 ms) at the price of 5 % of the
// work done.
func (q *Queue[T]) SetHold(d time.Duration) { q.hold = max(d, 0) }

// SetWeight sets the weight of a flow, from [MinWeight] to [MaxWeight]; flows
// have weight 1 by default. It counts at once, also for items that are queued.
// The weight is kept until it is set to 1 again.
func (q *Queue[T]) SetWeight(name string, weight float64) error {
	if !(weight >= MinWeight && weight <= MaxWeight) {
		return fmt.Errorf("fair: weight %v of flow %q is not from 1/1024 to 1024", weight, name)
	}
	if weight == 1 {
		delete(q.weights, name)
	} else {
		q.weights[name] = weight
	}
	if f := q.flows[name]; f != nil {
		if f.at >= 0 {
			q.weight += weight - f.weight
		}
		f.weight = weight
		q.offer(f)
	}
	return nil
}

// Push queues an item. Units says how many events it stands for, at least 1;
// costs are averaged by unit.
func (q *Queue[T]) Push(name string, units int, item T) {
	f := q.flows[name]
	if f == nil {
		f = q.remember(name)
	}
	q.seq++
	n := q.newNode()
	q.nodes[n-1] = node[T]{item: item, units: int32(min(max(units, 1), math.MaxInt32)), seq: q.seq}
	if f.queued == 0 {
		f.head = n
	} else {
		q.nodes[f.tail-1].next = n
	}
	f.tail = n
	f.queued++
	q.queued++
	if f.at < 0 {
		q.activate(f)
	}
	q.offer(f)
}

// Pop returns the next item, or false where no item may start now: there is
// none, or the flows that have some are at their caps. Then a Push or a Done
// comes before the next item. It is called only for a free worker, and looks at
// the time only for [Queue.SetHold].
func (q *Queue[T]) Pop(now time.Time) (g Grant[T], ok bool) {
	q.tick(now)
	if len(q.active) == 1 {
		q.offer(q.active[0]) // its hold may have ended
	}
	for len(q.ready.flows) > 0 {
		f := q.ready.flows[0]
		if f.inFlight >= q.capOf(f) {
			q.ready.remove(f) // another flow became active meanwhile; Done brings f back
			continue
		}
		n := f.head
		head := &q.nodes[n-1]
		g = Grant[T]{Flow: f.name, Item: head.item, Units: int(head.units), weight: f.weight}
		g.charge = q.unitCost(f) * float64(g.Units) / g.weight
		f.head = head.next
		q.dropNode(n)
		f.queued--
		f.inFlight++
		q.now = max(q.now, f.tag)
		f.finish = f.tag + g.charge
		q.last = max(q.last, f.finish)
		if f.queued > 0 && f.inFlight < q.capOf(f) {
			// It went on waiting, so unlike in offer it keeps what a too high
			// estimate took from it.
			f.tag, f.seq = f.finish, q.nodes[f.head-1].seq
			q.ready.fix(f)
		} else {
			q.ready.remove(f)
		}
		q.forgetIdle()
		q.rebase()
		return g, true
	}
	if q.queued == 0 {
		q.now = max(q.now, q.last)
		q.forgetIdle()
	}
	return g, false
}

// Done says that the work on g has ended, and what worker time it took. It
// panics if g did not come from Pop or was done already and nothing of its flow
// is in flight.
func (q *Queue[T]) Done(g Grant[T], cost time.Duration, now time.Time) {
	q.tick(now)
	f := q.flows[g.Flow]
	if f == nil || f.inFlight == 0 {
		panic(fmt.Sprintf("fair: Done of flow %q, which has nothing in flight", g.Flow))
	}
	actual := float64(max(cost, 0))
	unit := actual / float64(max(g.Units, 1))
	f.cost = average(f.cost, unit, 8)
	q.cost = average(q.cost, unit, 64)

	f.inFlight--
	f.finish += actual/g.weight - g.charge
	q.last = max(q.last, f.finish)
	if f.heap == &q.ready {
		f.tag = f.finish
		q.ready.fix(f)
	}
	q.offer(f)
	if f.queued == 0 && f.inFlight == 0 {
		q.deactivate(f)
	}
}

// Remove drops the queued items of a flow and returns them in order. What is in
// flight stays so until Done.
func (q *Queue[T]) Remove(name string) []T {
	f := q.flows[name]
	if f == nil || f.queued == 0 {
		return nil
	}
	items := make([]T, 0, f.queued)
	for f.queued > 0 {
		n := f.head
		items = append(items, q.nodes[n-1].item)
		f.head = q.nodes[n-1].next
		q.dropNode(n)
		f.queued--
	}
	if f.heap != nil {
		f.heap.remove(f)
	}
	if f.inFlight == 0 {
		q.deactivate(f)
	}
	return items
}

// Len returns the number of items queued.
func (q *Queue[T]) Len() int { return q.queued }

// Active returns how many flows have items queued or in flight.
func (q *Queue[T]) Active() int { return len(q.active) }

// Flows returns how many flows are remembered: the active ones, and those whose
// finish tag is still ahead of the virtual time.
func (q *Queue[T]) Flows() int { return len(q.flows) }

// Flow returns how many items of a flow are queued and in flight.
func (q *Queue[T]) Flow(name string) (queued, inFlight int) {
	if f := q.flows[name]; f != nil {
		return f.queued, f.inFlight
	}
	return 0, 0
}

// UnitCost returns what a unit of a flow is expected to cost: its own average of
// late, that of all flows where it has none. Divide a quantum of time by it to
// know how many events to hand over at once.
func (q *Queue[T]) UnitCost(name string) time.Duration {
	f := q.flows[name]
	if f == nil {
		f = &flow{}
	}
	return time.Duration(q.unitCost(f))
}

func (q *Queue[T]) unitCost(f *flow) float64 {
	switch {
	case f.cost > 0:
		return f.cost
	case q.cost > 0:
		return q.cost
	}
	return firstCost
}

// average moves an exponential average. The first value replaces "none yet",
// and none is 0, which stands for that.
func average(old, value, n float64) float64 {
	if old == 0 {
		return max(value, 1)
	}
	return max(old+(value-old)/n, 1)
}

func (q *Queue[T]) tick(now time.Time) {
	if now.After(q.clock) {
		q.clock = now
	}
}

// alone reports whether f need not leave a worker to others.
func (q *Queue[T]) alone(f *flow) bool {
	if len(q.active) > 1 {
		return false
	}
	other := q.left[0]
	if other.name == f.name {
		other = q.left[1]
	}
	return q.hold == 0 || other.at.IsZero() || q.clock.Sub(other.at) >= q.hold
}

func (q *Queue[T]) capOf(f *flow) int {
	switch {
	case q.alone(f):
		return q.workers
	case q.light > 0 && f.cost > 0 && f.cost <= slowerThan*q.cost:
		return min(q.light, q.workers)
	case q.cap > 0:
		return min(q.cap, q.workers)
	}
	half := (q.workers + 1) / 2
	if len(q.active) == 1 {
		return half // held: the weights of the others are not known
	}
	share := math.Ceil(float64(q.workers)*f.weight/q.weight - 1e-6)
	return min(max(half, int(share)), q.workers)
}

// offer puts f among the ready flows if it may be popped and is not there.
func (q *Queue[T]) offer(f *flow) {
	if f.queued == 0 || f.heap == &q.ready || f.inFlight >= q.capOf(f) {
		return
	}
	f.finish = max(f.finish, q.now) // it was idle or held at its cap: neither earns credit
	f.tag, f.seq = f.finish, q.nodes[f.head-1].seq
	q.ready.add(f)
}

func (q *Queue[T]) activate(f *flow) {
	if f.heap != nil {
		f.heap.remove(f)
	}
	f.at = len(q.active)
	q.active = append(q.active, f)
	q.weight += f.weight
}

// deactivate takes f, which has no items, out of the active flows.
func (q *Queue[T]) deactivate(f *flow) {
	last := len(q.active) - 1
	q.active[f.at] = q.active[last]
	q.active[f.at].at = f.at
	q.active[last] = nil
	q.active = q.active[:last]
	f.at = -1
	f.tag = f.finish
	q.idle.add(f)
	if q.left[0].name != f.name {
		q.left[1] = q.left[0]
	}
	q.left[0].name, q.left[0].at = f.name, q.clock

	switch last {
	case 0: // the end of a busy period: all start equal in the next
		q.now, q.last, q.weight = 0, 0, 0
		for len(q.idle.flows) > 0 {
			q.forget(q.idle.flows[0])
		}
		if cap(q.nodes) > 1024 {
			q.nodes, q.free = nil, 0
		}
	case 1: // no rounding errors pile up, and the one left may have all workers
		q.weight = q.active[0].weight
		q.offer(q.active[0])
	default:
		q.weight -= f.weight
	}
	q.forgetIdle()
}

func (q *Queue[T]) remember(name string) *flow {
	var f *flow
	if n := len(q.spare); n > 0 {
		f, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		f = new(flow)
	}
	weight, ok := q.weights[name]
	if !ok {
		weight = 1
	}
	*f = flow{name: name, weight: weight, finish: q.now, at: -1}
	q.flows[name] = f
	q.peak = max(q.peak, len(q.flows))
	return f
}

// forgetIdle forgets the flows that are not active and owe nothing any more.
func (q *Queue[T]) forgetIdle() {
	for len(q.idle.flows) > 0 && q.idle.flows[0].tag <= q.now {
		q.forget(q.idle.flows[0])
	}
}

func (q *Queue[T]) forget(f *flow) {
	q.idle.remove(f)
	delete(q.flows, f.name)
	f.name = ""
	if len(q.spare) < 256 {
		q.spare = append(q.spare, f)
	}
	if q.peak > 1024 && len(q.flows) < q.peak/8 {
		// A Go map does not shrink. The work is paid for by those who left.
		flows := make(map[string]*flow, 2*len(q.flows))
		maps.Copy(flows, q.flows)
		q.flows, q.peak = flows, len(flows)
		q.idle.flows, q.ready.flows = slices.Clone(q.idle.flows), slices.Clone(q.ready.flows)
		q.active = slices.Clone(q.active)
	}
}

// rebase keeps the virtual time where a float64 still tells nanoseconds apart.
func (q *Queue[T]) rebase() {
	if q.now < 1<<50 {
		return
	}
	for _, f := range q.flows {
		f.finish -= q.now
		f.tag -= q.now
	}
	q.last -= q.now
	q.now = 0
}

func (q *Queue[T]) newNode() int32 {
	if n := q.free; n != 0 {
		q.free = q.nodes[n-1].next
		return n
	}
	q.nodes = append(q.nodes, node[T]{})
	return int32(len(q.nodes))
}

// dropNode gives a node back, and the item that it held.
func (q *Queue[T]) dropNode(n int32) {
	q.nodes[n-1] = node[T]{next: q.free}
	q.free = n
	q.queued--
}
