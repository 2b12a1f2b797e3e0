package engine

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/fair"
)

// turns hands out the process's worker slots to batches: the processor with the
// least slack to its freshness objective first, and inside a processor by fair
// shares of worker time between its lanes, so between tenants.
type turns struct {
	mu      sync.Mutex
	slots   int
	free    int
	procs   map[string]*procTurns
	pick    *fair.Picker[string]
	weights map[string]float64 // that were set
	live    time.Time          // of the last turn of a live lane
}

type procTurns struct {
	rebuild bool // they are of builds in the making
	queue   *fair.Queue[*waiter]
	waiting waiters
}

type waiter struct {
	p      *Processor
	oldest time.Time
	grant  fair.Grant[*waiter]
	since  time.Time
	ready  chan struct{}
	slot   int // in waiting; -1: not in it
}

// waiters is a heap: whose event is the oldest is at its top.
type waiters []*waiter

func (h waiters) Len() int           { return len(h) }
func (h waiters) Less(i, j int) bool { return h[i].oldest.Before(h[j].oldest) }
func (h waiters) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].slot, h[j].slot = i, j
}

func (h *waiters) Push(x any) {
	w := x.(*waiter)
	w.slot = len(*h)
	*h = append(*h, w)
}

func (h *waiters) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	w.slot = -1
	return w
}

func newTurns(slots int) *turns {
	return &turns{slots: slots, free: slots, procs: map[string]*procTurns{}, pick: fair.NewPicker[string](0)}
}

// take waits for a slot for a batch of a lane, whose oldest event was recorded
// at oldest. The caller ends its turn with done, and says how many events the
// batch had. Lanes of a rebuild wait for all live ones, but for the floor that
// every processor has.
func (t *turns) take(ctx context.Context, p *Processor, tenant string, oldest time.Time, rebuild bool) (done func(events int), err error) {
	w := &waiter{p: p, oldest: oldest, ready: make(chan struct{})}
	t.mu.Lock()
	q, name := t.of(p), p.Name
	if rebuild {
		name = rebuildOf(name)
		q = t.named(name)
		q.rebuild = true
	}
	q.queue.Push(tenant, 1, w)
	heap.Push(&q.waiting, w)
	t.dispatch()
	t.mu.Unlock()
	select {
	case <-w.ready:
	case <-ctx.Done():
		t.mu.Lock()
		defer t.mu.Unlock()
		if w.slot >= 0 { // still queued: whoever pops it hands it on
			heap.Remove(&q.waiting, w.slot)
			t.mark(name, q)
		} else {
			t.end(w, q)
		}
		return nil, ctx.Err()
	}
	return func(int) {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.end(w, q)
	}, nil
}

func (t *turns) of(p *Processor) *procTurns { return t.named(p.Name) }

// rebuildOf is under which name the lanes of a processor's rebuild take turns.
func rebuildOf(processor string) string { return processor + "\x00rebuild" }

// lastLive returns when a live lane had a turn last.
func (t *turns) lastLive() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

func (t *turns) named(name string) *procTurns {
	q := t.procs[name]
	if q == nil {
		q = &procTurns{queue: fair.New[*waiter](t.slots)}
		for tenant, weight := range t.weights {
			_ = q.queue.SetWeight(tenant, weight)
		}
		t.procs[name] = q
	}
	return q
}

// forget drops a processor that was removed: none of its lanes has a turn or
// waits for one.
func (t *turns) forget(processor string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range []string{processor, rebuildOf(processor)} {
		if q := t.procs[name]; q != nil && len(q.waiting) == 0 {
			t.pick.Idle(name)
			delete(t.procs, name)
		}
	}
}

// dispatch gives free slots to those whose turn it is.
func (t *turns) dispatch() {
	now := time.Now()
	for name, q := range t.procs {
		t.mark(name, q)
	}
	for t.free > 0 {
		name, ok := t.pick.Pick(now)
		if !ok {
			return
		}
		q := t.procs[name]
		g, ok := q.queue.Pop(now)
		if !ok {
			t.pick.Idle(name) // all its lanes are at their caps
			continue
		}
		w := g.Item
		if w.slot < 0 { // gave up
			q.queue.Done(g, 0, now)
			t.mark(name, q)
			continue
		}
		heap.Remove(&q.waiting, w.slot)
		w.grant, w.since = g, now
		if !q.rebuild {
			t.live = now
		}
		t.free--
		close(w.ready)
		t.mark(name, q)
	}
}

// mark tells the picker whether a processor waits, and for how old an event.
func (t *turns) mark(name string, q *procTurns) {
	if len(q.waiting) == 0 {
		t.pick.Idle(name)
		return
	}
	first := q.waiting[0]
	if q.rebuild {
		t.pick.Ready(name, time.Now(), background)
		return
	}
	t.pick.Ready(name, first.oldest, first.p.Freshness)
}

func (t *turns) end(w *waiter, q *procTurns) {
	t.free++
	now := time.Now()
	q.queue.Done(w.grant, now.Sub(w.since), now)
	t.dispatch()
}

// setWeights sets the tenants' weights; who is not named has 1.
func (t *turns) setWeights(w map[string]float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, q := range t.procs {
		for tenant := range t.weights {
			if _, still := w[tenant]; !still {
				_ = q.queue.SetWeight(tenant, 1)
			}
		}
		for tenant, weight := range w {
			_ = q.queue.SetWeight(tenant, weight) // was checked as it was set
		}
	}
	t.weights = w
}

// setBase says how many tenants a processor's base lane stands for.
func (t *turns) setBase(p *Processor, tenants int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.of(p).queue.SetWeight("", min(float64(max(tenants, 1)), fair.MaxWeight))
}
