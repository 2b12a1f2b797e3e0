package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
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
type streamPool struct {
	p     *Processor
	spawn func(func())
	give  func(streamJob) // to a worker: hand, but in a simulation

	mu      sync.Mutex
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
}

// A streamJob is an event to run, under the grant of the fair queue.
type streamJob struct {
	turn
	task    *task
	ctx     context.Context
	attempt int
	began   time.Time // the grant
}

const (
	spanTime    = time.Millisecond      // in which a worker may go on with a key, past the queue
	spanMost    = 256                   // events of such a span
	workerIdle  = time.Second           // then a worker ends
	cheapEvent  = 20 * time.Microsecond // what takes less needs no more workers than CPUs
	heldAtLeast = time.Millisecond      // an event in progress for longer was not cheap
	stuckGrace  = time.Second           // for a handler to notice that its time is up
)

func newStreamPool(p *Processor, spawn func(func())) *streamPool {
	s := &streamPool{p: p, spawn: spawn, queue: newKeyQueue(p.Concurrency), weights: map[string]float64{}}
	s.give = s.hand
	return s
}

// setWeights sets the weights of all tenants; who is not named has 1.
func (s *streamPool) setWeights(weights map[string]float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	defer s.mu.Unlock()
	s.queue.lanes[l.id] = l
	if base := s.queue.lanes[l.id.Base()]; l.id.Tenant != "" && base != nil {
		base.claim(l.id.Tenant)
	}
}

// leave is called when nothing of a lane is queued or in progress any more.
func (s *streamPool) leave(l *streamLane) {
	s.mu.Lock()
	defer s.mu.Unlock()
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
	timer := time.NewTimer(time.Hour)
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
			timer.Reset(workerIdle)
			if next, ok = s.rest(w, timer); !ok {
				clean = true
				return
			}
		}
		j = next
	}
}

var errGoexit = &projection.HandlerError{Reason: "panic", Err: errors.New("the handler ended its goroutine")}

// rest waits for an event; false: the worker is to end.
func (s *streamPool) rest(w *streamWorker, timer *time.Timer) (j streamJob, ok bool) {
	select {
	case j, ok = <-w.wake:
		return j, ok
	case <-timer.C:
	}
	s.mu.Lock()
	if w.slot >= 0 {
		last := len(s.idle) - 1
		s.idle[w.slot] = s.idle[last]
		s.idle[w.slot].slot = w.slot
		s.idle[last] = nil
		s.idle = s.idle[:last]
		s.mu.Unlock()
		return j, false
	}
	s.mu.Unlock()
	j, ok = <-w.wake // it was given one just now
	return j, ok
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
// who is idle if there is none. It ends the worker if w is nil.
func (s *streamPool) end(w *streamWorker, j streamJob, v verdict) (next streamJob, ok bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	k, l := j.key, j.key.lane
	took := max(now.Sub(j.task.started).Seconds(), 1e-9)
	if s.cost == 0 {
		s.cost = took
	}
	s.cost += (took - s.cost) / 32
	again := l.finish(k, v, now)
	if again && w != nil && j.grant.Units < spanMost && now.Sub(j.began) < spanTime {
		j.grant.Units++
		j.task = l.begin(k, now)
		j.attempt = j.task.attempts + 1
		l.signal()
		return j, true
	}
	s.busy--
	s.queue.fair.Done(j.grant, now.Sub(j.began), now)
	l.goOn(k)
	l.signal()
	if next, ok = s.dispatch(w, now); !ok && w != nil {
		if len(s.queue.lanes) == 0 {
			close(w.wake)
			return next, false
		}
		w.slot = len(s.idle)
		s.idle = append(s.idle, w)
	}
	return next, ok
}

// signal wakes the shell if it waits for what may have come about.
func (l *streamLane) signal() {
	if l.wakeOnDone || l.held() < l.wakeBelow || l.runs.n == 0 || len(l.notes) > 0 || l.stop != "" {
		l.nudge()
	}
}
