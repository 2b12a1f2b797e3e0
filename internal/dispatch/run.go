package dispatch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// HandOver is about what it costs to give work to another goroutine and to wait
// for it. See [Workers].
const HandOver = 20 * time.Microsecond

// Workers returns how many workers are worth their cost: at most limit, at most
// one a group, and each with at least [HandOver] of the estimated work. It
// returns at least 1.
func Workers(limit, groups int, work time.Duration) int {
	return max(1, int(min(int64(limit), int64(groups), int64(work/HandOver))))
}

// Run calls fn(worker, group) once for each group, starting them in the order
// given, with up to so many workers at once. Worker 0 is the calling goroutine;
// with one worker, or one group, there is no other. Each worker takes the next
// group when it is free.
//
// When ctx ends, no more groups are started. Run returns after all that were
// started have returned: n says how many, and they are order[:n].
//
// What fn panics with is its own affair: a panic on worker 0 comes out of Run,
// after the other workers have returned; on another worker it ends the process.
// So fn recovers what it must survive.
func Run(ctx context.Context, workers int, order []int32, fn func(worker, group int)) (n int) {
	workers = min(workers, len(order))
	if workers <= 1 {
		for i, group := range order {
			if ctx.Err() != nil {
				return i
			}
			fn(0, int(group))
		}
		return len(order)
	}

	r := runner{ctx: ctx, order: order, fn: fn, workers: workers}
	var others sync.WaitGroup
	// Deferred, so that a panic of fn waits too; and then nothing new is begun.
	defer others.Wait()
	defer r.stopped.Store(true)
	for worker := 1; worker < workers; worker++ {
		others.Go(func() { r.work(worker) })
	}
	r.work(0)
	others.Wait()
	return min(int(r.next.Load()), len(order))
}

type runner struct {
	ctx     context.Context
	order   []int32
	fn      func(worker, group int)
	workers int
	stopped atomic.Bool // worker 0 has left, by a panic or at the end

	_    [64]byte // every worker writes next: keep it off the line of the rest
	next atomic.Int64
}

// maxStep is the most groups that a worker takes at once.
const maxStep = 16

// work runs groups until there are none. What was claimed is always run, so the
// groups that were run are a prefix of the order.
func (r *runner) work(worker int) {
	for !r.stopped.Load() && r.ctx.Err() == nil {
		step := r.step(int(r.next.Load()))
		end := int(r.next.Add(int64(step)))
		start := end - step
		if start >= len(r.order) {
			return
		}
		for _, group := range r.order[start:min(end, len(r.order))] {
			r.fn(worker, int(group))
		}
	}
}

// step returns how many groups to take at once at a place in the order. Several
// only where that cannot matter to when the last worker ends: past the large
// groups at the front, and while every worker still has 64 such steps to go.
func (r *runner) step(at int) int {
	if at < 4*r.workers {
		return 1
	}
	return max(1, min(maxStep, (len(r.order)-at)/(64*r.workers)))
}
