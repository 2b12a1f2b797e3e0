package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/projection"
)

// A streamPool runs the handler of one reactor for all of its lanes in this
// process: one queue, and as many workers as there is work for, up to the
// processor's concurrency. Its lock guards the queue and the lanes.
//
// A worker that has ended an event takes the next one itself, so under load
// nothing is handed from goroutine to goroutine. Idle workers are used again,
// the last one first, and end after a while. They belong to spawn's owner, who
// waits for them; a lane waits for its events, not for the workers.
//
// Workers do not queue for the lock: a thousand of them would, and get it one by
// one, each after a switch of goroutines. Who finds it taken, for longer than
// another worker needs it, leaves what it has ended in the inbox, and waits for
// its next event as if it were idle. Whoever has the lock looks there as it gives
// the lock up.
type streamPool struct {
	p     *Processor
	spawn func(func())
	give  func(streamJob)              // to a worker: hand, but in a simulation
	inbox atomic.Pointer[streamWorker] // the last one first

	mu      sync.Mutex // given up by unlock
	queue   *keyQueue
	weights map[string]float64
	busy    int
	idle    []*streamWorker // the last one was busy last
	cost    float64         // of an event of late, in seconds, moving average; 0: none yet
	held    bool            // events wait for a worker that is free
}

// A streamWorker is a goroutine that runs events.
type streamWorker struct {
	wake chan streamJob // holds one; closed: end
	slot int            // in idle, or -1
	idle time.Time      // since when

	// While it is in the inbox: what it has ended, and the one that came before.
	job     streamJob
	verdict verdict
	before  *streamWorker
}

// A streamJob is an event to run, under the grant of the fair queue.
type streamJob struct {
	turn
	task    *task
	ctx     context.Context
	attempt int
	began   time.Time // the grant
	ended   time.Time // set in the inbox
}

const (
	spanTime    = time.Millisecond      // in which a worker may go on with a key, past the queue
	spanMost    = 256                   // events of such a span
	workerIdle  = time.Second           // then a worker ends
	cheapEvent  = 20 * time.Microsecond // what takes less needs no more workers than CPUs
	heldAtLeast = time.Millisecond      // an event in progress for longer was not cheap
	stuckGrace  = time.Second           // for a handler to notice that its time is up
	lockTries   = 1000                  // about two microseconds
)

func newStreamPool(p *Processor, spawn func(func())) *streamPool {
	s := &streamPool{p: p, spawn: spawn, queue: newKeyQueue(p.Concurrency), weights: map[string]float64{}}
	s.give = s.hand
	return s
}

// setWeights sets the weights of all tenants; who is not named has 1.
func (s *streamPool) setWeights(weights map[string]float64) {
	s.mu.Lock()
	defer s.unlock()
	for t := range s.weights {
		if _, ok := weights[t]; !ok {
			_ = s.queue.fair.SetWeight(t, 1)
			delete(s.weights, t)
		}
	}
	for t, w := range weights {
		if s.weights[t] != w {
			_ = s.queue.fair.SetWeight(t, w) // was checked as it was set
			s.weights[t] = w
		}
	}
}

// enter makes a lane known to the others. A tenant lane takes its tenant from
// the base lane, which may not know yet that it has left.
func (s *streamPool) enter(l *streamLane) {
	s.mu.Lock()
	defer s.unlock()
	s.queue.lanes[l.id] = l
	if base := s.queue.lanes[l.id.Base()]; l.id.Tenant != "" && base != nil {
		base.claim(l.id.Tenant)
	}
}

// leave is called when nothing of a lane is queued or in progress any more.
func (s *streamPool) leave(l *streamLane) {
	s.mu.Lock()
	defer s.unlock()
	delete(s.queue.lanes, l.id)
	for _, t := range l.tenants {
		s.queue.leave(t.flow)
	}
	clear(l.tenants)
	for _, k := range l.keys {
		k.state = keyDropped
	}
	if len(s.queue.lanes) > 0 {
		return
	}
	for _, w := range s.idle {
		w.slot = -1
		close(w.wake)
	}
	s.idle = nil
}

// dispatch gives events to free workers: the first to self, if there is one.
func (s *streamPool) dispatch(self *streamWorker, now time.Time) (j streamJob, ok bool) {
	most := s.p.Concurrency
	if s.cost > 0 && s.cost < cheapEvent.Seconds() {
		most = s.cheap(now)
	}
	for s.busy < most {
		t, more := s.queue.pop(now)
		if !more {
			break
		}
		next := s.begin(t, now)
		s.busy++
		if self != nil && !ok {
			j, ok = next, true
			continue
		}
		s.give(next)
	}
	s.held = s.busy < s.p.Concurrency && s.busy >= most && s.queue.fair.Len() > 0
	return j, ok
}

// cheap returns how many workers to use when events take next to no time: as
// many as there are CPUs, besides those whose event does take its time after
// all. More would only wait for one another.
func (s *streamPool) cheap(now time.Time) int {
	n := runtime.GOMAXPROCS(0)
	for _, l := range s.queue.lanes {
		for t := l.runs.first; t != nil && now.Sub(t.started) >= heldAtLeast; t = t.later {
			n++
		}
	}
	return min(n, s.p.Concurrency)
}

func (s *streamPool) begin(t turn, now time.Time) streamJob {
	l := t.key.lane
	x := l.begin(t.key, now)
	return streamJob{turn: t, task: x, ctx: l.ctx, attempt: x.attempts + t.key.attempts + 1, began: now}
}

// hand gives an event to an idle worker, or to a new one.
func (s *streamPool) hand(j streamJob) {
	if n := len(s.idle); n > 0 {
		w := s.idle[n-1]
		s.idle[n-1] = nil
		s.idle = s.idle[:n-1]
		w.slot = -1
		w.wake <- j
		return
	}
	s.spawn(func() { s.work(j) })
}

// work runs events until there are none for a while.
func (s *streamPool) work(j streamJob) {
	w := &streamWorker{wake: make(chan streamJob, 1), slot: -1}
	timer := time.NewTimer(workerIdle)
	defer timer.Stop()
	clean := false
	defer func() {
		if !clean { // the handler ended its goroutine: the event failed
			s.end(nil, j, verdict{err: errGoexit, final: true})
		}
	}()
	for {
		v := s.call(&j)
		next, ok := s.end(w, j, v)
		j = streamJob{}
		if !ok {
			if next, ok = s.rest(w, timer); !ok {
				clean = true
				return
			}
		}
		j = next
	}
}

var errGoexit = &projection.HandlerError{Reason: "panic", Err: errors.New("the handler ended its goroutine")}

// rest waits for an event; false: the worker is to end. The timer is not set
// anew each time, but looked at when it fires.
func (s *streamPool) rest(w *streamWorker, timer *time.Timer) (j streamJob, ok bool) {
	for {
		select {
		case j, ok = <-w.wake:
			return j, ok
		case now := <-timer.C:
			left := workerIdle
			s.mu.Lock()
			if w.slot >= 0 {
				if left -= now.Sub(w.idle); left <= 0 {
					s.unlay(w)
				}
			}
			s.unlock()
			if left <= 0 {
				return j, false
			}
			timer.Reset(left)
		}
	}
}

// call runs the handler, and says what became of it.
func (s *streamPool) call(j *streamJob) (v verdict) {
	t := j.task
	if t.fault != nil {
		return verdict{err: t.fault, final: true}
	}
	v.err = s.handle(j)
	switch {
	case v.err == nil:
	case j.ctx.Err() != nil: // that may be why
		v.abandoned = true
	default:
		failed := j.key.attempts + 1
		if v.final = s.gaveUp(v.err, failed); !v.final {
			v.pause = s.p.Retry.pause(failed)
		}
	}
	return v
}

// gaveUp asks the user whether to try again; a panic there is final.
func (s *streamPool) gaveUp(err error, attempts int) (final bool) {
	defer func() {
		if recover() != nil {
			final = true
		}
	}()
	return s.p.Retry.gaveUp(err, attempts)
}

func (s *streamPool) handle(j *streamJob) (err error) {
	ctx, t := j.ctx, j.task
	if s.p.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.p.Timeout)
		defer cancel()
	}
	defer func() {
		if v := recover(); v != nil {
			err = &projection.HandlerError{Reason: "panic", Err: fmt.Errorf("%v", v), Stack: debug.Stack()}
		}
	}()
	return s.p.React(ctx, Delivery{
		Event: &t.Event, IdempotencyKey: s.p.Name + "/" + t.ID, Epoch: j.key.lane.epoch,
		Lane: j.key.lane.name, Attempt: j.attempt,
	})
}

// end takes the verdict on an event and returns the next one for the worker w,
// who is to rest if there is none. It ends the worker if w is nil.
func (s *streamPool) end(w *streamWorker, j streamJob, v verdict) (next streamJob, ok bool) {
	now := time.Now()
	if w == nil {
		s.mu.Lock()
		defer s.unlock()
		s.take(&j, v, now, false)
		s.dispatch(nil, now)
		return next, false
	}
	if now.Sub(j.task.started) < cheapEvent {
		s.mu.Lock() // there are few such workers, see cheap
	} else if !s.try() {
		w.job, w.verdict = j, v
		w.job.ended = now
		for {
			w.before = s.inbox.Load()
			if s.inbox.CompareAndSwap(w.before, w) {
				break
			}
		}
		s.empty()
		return next, false
	}
	if ok = s.take(&j, v, now, true); ok {
		next = j
	} else if next, ok = s.dispatch(w, now); !ok {
		s.lay(w, now)
	}
	s.unlock()
	return next, ok
}

// try takes the lock if it is free or about to be.
func (s *streamPool) try() bool {
	for range lockTries {
		if s.mu.TryLock() {
			return true
		}
	}
	return false
}

// take takes the verdict on an event. If it reports that the worker may go on
// with the key, j is the next event of it; else one worker more is free.
func (s *streamPool) take(j *streamJob, v verdict, now time.Time, alive bool) (again bool) {
	k, l := j.key, j.key.lane
	took := max(now.Sub(j.task.started).Seconds(), 1e-9)
	if s.cost == 0 {
		s.cost = took
	}
	s.cost += (took - s.cost) / 32
	l.worked += took
	again = l.finish(k, v, now)
	if again && alive && j.grant.Units < spanMost && now.Sub(j.began) < spanTime {
		j.grant.Units++
		j.task = l.begin(k, now)
		j.attempt = j.task.attempts + 1
		l.signal()
		return true
	}
	s.busy--
	s.queue.fair.Done(j.grant, now.Sub(j.began), now)
	l.goOn(k)
	l.signal()
	return false
}

// lay puts a worker that has nothing to do among the idle ones.
func (s *streamPool) lay(w *streamWorker, now time.Time) {
	if len(s.queue.lanes) == 0 {
		close(w.wake)
		return
	}
	w.slot, w.idle = len(s.idle), now
	s.idle = append(s.idle, w)
}

// unlay takes a worker out of the idle ones.
func (s *streamPool) unlay(w *streamWorker) {
	last := len(s.idle) - 1
	s.idle[w.slot] = s.idle[last]
	s.idle[w.slot].slot = w.slot
	s.idle[last] = nil
	s.idle = s.idle[:last]
	w.slot = -1
}

// unlock gives up the lock, and sees to what was left in the inbox meanwhile.
func (s *streamPool) unlock() {
	s.mu.Unlock()
	s.empty()
}

// empty takes what is in the inbox, unless somebody has the lock, who will. Who
// calls it has an event to go on with, or other duties: if more comes all the
// time, a goroutine sees to that.
func (s *streamPool) empty() {
	for range 2 {
		if !s.emptyOnce() {
			return
		}
	}
	if s.inbox.Load() != nil {
		s.spawn(func() {
			for s.emptyOnce() {
			}
		})
	}
}

// emptyOnce reports whether there was something, and the lock was free.
func (s *streamPool) emptyOnce() bool {
	if s.inbox.Load() == nil || !s.mu.TryLock() {
		return false
	}
	var first *streamWorker
	for w := s.inbox.Swap(nil); w != nil; { // the first to come is the last in the list
		w.before, first, w = first, w, w.before
	}
	for w := first; w != nil; {
		j, v, next := w.job, w.verdict, w.before
		w.job, w.verdict, w.before = streamJob{}, verdict{}, nil
		if s.take(&j, v, j.ended, true) {
			w.wake <- j
		} else {
			s.lay(w, j.ended)
		}
		w = next
	}
	s.dispatch(nil, time.Now())
	s.mu.Unlock()
	return true
}

// signal wakes the shell if it waits for what may have come about.
func (l *streamLane) signal() {
	if l.wakeOnDone || l.held() < l.wakeBelow || l.runs.n == 0 || len(l.notes) > 0 || l.stop != "" {
		l.nudge()
	}
}
