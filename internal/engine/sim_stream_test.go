package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// A simStream is a reactor's lane that a host believes to own. It runs the real
// shell, streamRunner, one turn at a time. What the shell starts beside itself,
// a page to be read or a commit, waits in calls until its turn comes; what the
// pool gives to workers waits in the host's jobs. Where the shell would wait,
// nothing happens until there is a reason, so a wake-up that is lost shows.
type simStream struct {
	h      *simHost
	r      *streamRunner
	epoch  int64
	ctx    context.Context // ends with an orderly stop
	cancel context.CancelFunc
	calls  []func()
	ok     []int // events, by their index in the truth, that it was told were handled
	plan   streamPlan
	waits  bool
	busy   bool // in a turn, and something else happens beside it
}

func (h *simHost) startStream(p *Processor, row store.Lane) {
	s := h.s
	r := h.e.streamRunner(p, row, h.e.logPartition(p, row.Partition, s.logParts))
	r.pool.give = h.begin
	r.limit.Store([]int64{1200, 4000, 256 << 10}[s.rng.IntN(3)])
	x := &simStream{h: h, r: r, epoch: row.Epoch}
	r.async = func(f func()) { x.calls = append(x.calls, f) }
	x.ctx, x.cancel = context.WithCancel(context.Background())
	r.l.ctx, r.cancel = context.WithCancel(x.ctx)
	h.streams = append(h.streams, x)
	r.pool.enter(r.l)
	r.flushed = time.Now()
}

// step does one of the things that can happen to the lane now; false: there is
// none.
func (x *simStream) step() bool {
	s := x.h.s
	if x.busy || x.h.dead {
		return false
	}
	var can []func()
	for i, call := range x.calls {
		can = append(can, func() { x.calls = slices.Delete(x.calls, i, i+1); call() })
	}
	if !x.waits {
		can = append(can, x.turn, x.turn)
	} else {
		can = x.reasons(can)
	}
	if len(can) == 0 {
		return false
	}
	x.busy = true
	can[s.rng.IntN(len(can))]()
	x.busy = false
	return true
}

// reasons are those for which the shell's wait returns.
func (x *simStream) reasons(can []func()) []func() {
	r := x.r
	wake := func(f func()) { can = append(can, func() { x.waits = false; f() }) }
	select {
	case <-x.plan.more:
		wake(func() {})
	default:
	}
	if len(r.kick) > 0 {
		wake(func() { <-r.kick })
	}
	if !x.plan.until.IsZero() && !time.Now().Before(x.plan.until) || x.ctx.Err() != nil && !r.gone {
		wake(func() {})
	}
	if len(r.pages) > 0 {
		wake(func() { r.reading = false; r.take(x.ctx, <-r.pages) })
	}
	if len(r.ended) > 0 {
		wake(func() { r.commitEnded(<-r.ended) })
	}
	return can
}

func (x *simStream) turn() {
	s := x.h.s
	switch {
	case s.chance(60):
		s.logf("%s stops %v", x.h.id, x.r.id)
		x.cancel()
	case s.chance(40):
		x.depart()
	}
	p, again := x.r.turn(x.ctx)
	if x.h.dead {
		return
	}
	if p.end {
		x.end()
		return
	}
	x.plan, x.waits = p, !again
}

// depart lets a tenant leave that has events in the window, as isolate would.
func (x *simStream) depart() {
	l := x.r.l
	x.r.pool.mu.Lock()
	defer x.r.pool.unlock()
	here := slices.Sorted(maps.Keys(l.tenants))
	if l.id.Tenant != "" || l.row.Want != 0 || l.halted || len(here) == 0 {
		return
	}
	t := here[x.h.s.rng.IntN(len(here))]
	if l.leave[t] != nil {
		return
	}
	x.h.s.logf("%s: tenant %s leaves %v", x.h.id, t, l.id)
	l.depart(t, leaving{state: store.Running, since: time.Now()})
}

// end is the end of the shell's run, and of who started it.
func (x *simStream) end() {
	h, r := x.h, x.r
	for _, j := range h.jobs {
		if j.key.lane == r.l {
			h.s.fail("lane %v has ended, and event %s at %v is in progress", r.id, j.task.ID, j.task.Position)
		}
	}
	x.calls = nil // a page that is being read
	r.pool.leave(r.l)
	x.cancel()
	h.streams = slices.DeleteFunc(h.streams, func(y *simStream) bool { return y == x })
	h.s.logf("%s ends %v: %v", h.id, r.id, r.ending)
	switch {
	case errors.Is(r.ending, errLaneGone), errors.Is(r.ending, errMerged):
		return
	case !errors.Is(r.ending, errHalted) && !errors.Is(r.ending, context.Canceled) && !errors.Is(r.ending, errGiven):
		h.s.fail("lane %v ended: %v", r.id, r.ending)
	case !r.lost:
		h.s.reactors[r.id.Processor].checkStop(x)
	}
	to, home := "", ""
	if h.handTo != nil {
		to, home = h.handTo(r.id)
	}
	_ = lane.HandOver(context.Background(), h.st, h.id, lane.Given{ID: r.id, Epoch: x.epoch, To: to, Home: home})
}

// begin takes an event that the pool gives to a worker: its handler is in
// progress until endJob.
func (h *simHost) begin(j streamJob) {
	if h.dead {
		return
	}
	l := j.key.lane
	h.s.logf("%s: %v begins %v of %s/%s, letter %d, attempt %d", h.id, l.id, j.task.Position, j.task.Tenant, j.key.id.ID, j.task.letter, j.attempt)
	h.s.reactors[l.id.Processor].begins(h, &j)
	h.jobs = append(h.jobs, j)
}

// endJob ends a handler that is in progress.
func (h *simHost) endJob(i int) {
	s, j := h.s, h.jobs[i]
	h.jobs = slices.Delete(h.jobs, i, i+1)
	r := s.reactors[j.key.lane.id.Processor]
	v := r.call(h, &j)
	if v.pause > 0 {
		v.pause = time.Duration(s.rng.IntN(300)) * time.Millisecond // the seed's, not the process's
	}
	s.logf("%s: %v ends %v of %s/%s: %v, final %v", h.id, j.key.lane.id, j.task.Position, j.task.Tenant, j.key.id.ID, v.err, v.final)
	x := h.stream(j.key.lane)
	if v.err == nil && j.task.letter == 0 {
		x.ok = append(x.ok, s.index[j.task.ID])
	}
	var w *streamWorker
	if s.rng.IntN(2) == 0 {
		w = &streamWorker{wake: make(chan streamJob, 1), slot: -1} // goes on with the next one
	}
	pool := j.key.lane.pool(h)
	next, ok := pool.end(w, j, v)
	pool.idle = nil
	if ok {
		h.begin(next)
	}
}

// stream returns the shell of a lane that has a handler in progress.
func (h *simHost) stream(l *streamLane) *simStream {
	return h.streams[slices.IndexFunc(h.streams, func(x *simStream) bool { return x.r.l == l })]
}

// pool returns the pool of the lane's processor in a host.
func (l *streamLane) pool(h *simHost) *streamPool { return h.e.procs[l.p.Name].pool }
