package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/assign"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	lost = -1 // no revision: a lane that is told of it reads its row in any case

	lookEvery    = 50 * time.Millisecond // the most often that rows are looked at because another hand has changed them
	movingEvery  = 5 * time.Millisecond  // the same, while a lane is about to be given to this process
	lookAtLeast  = time.Minute           // in case that all else fails
	startAgain   = time.Second           // where the store could not do it
	switchEvery  = 20 * time.Millisecond // while a rebuild is near its switch
	retryFailed  = 30 * time.Second      // before a lane that ended with an error is tried again
	purgeAtOnce  = 2000                  // documents of a retired build deleted in one transaction
	nearlyCaught = 2 * gentleEvents      // events, behind which a rebuild holds the live lanes to switch
	holdEvery    = 5 * heldAtMost        // the most often that it does, if the switch does not come
	catchUpMost  = 200_000               // events a second that a rebuild comes nearer by: hardly ever more
	farEvery     = 500 * time.Millisecond
)

// supervise starts and stops lanes as the rows say, until ctx ends. It looks at
// the rows when another hand has changed them; when a lease ends, for whoever has
// it may have extended it, and nothing says so; and when a lane of its own says
// that there is something to do. A process that is idle does not look at all.
//
// The lanes work until work ends: when ctx has ended, the others are given what this
// process has, while it goes on.
func (e *Engine) supervise(ctx, work context.Context, logParts int) {
	w := newWatch()
	w.worked = e.workedUnder
	var fl fleet
	switches := map[string]*switching{}
	recuts := map[store.LaneID]*attempt{}
	news := make(chan changed)
	e.wg.Go(func() { e.listen(ctx, news) })
	wait := time.Duration(0)
	for {
		var err error
		select {
		case <-e.wakes:
			w.must = true
		case c := <-news:
			if err = c.err; err == nil {
				w.latest = c.revision
			}
		case <-time.After(wait):
			if fl.moving { // it is worth a question
				w.latest, err = e.store.Revision(ctx)
			}
		case <-ctx.Done():
			e.handAll(work, w.v)
			return
		}
		asked := time.Now()
		often := lookEvery
		if fl.moving {
			often = movingEvery
		}
		if err == nil && w.due(time.Now(), often) {
			var same bool
			if same, err = w.look(ctx, e.store, e.id, time.Now()); err == nil && !same {
				w.again = e.assign(ctx, work, w.v, logParts, &fl)
				if soon := e.rebuilds(ctx, w.v, switches); soon > 0 {
					w.again = earlier(w.again, time.Now().Add(soon))
				}
				if soon := e.recuts(ctx, &w.v, recuts); soon > 0 {
					w.again = earlier(w.again, time.Now().Add(soon))
				}
			}
		}
		e.complainOfAll()
		next := earlier(earlier(time.Now().Add(e.calmAfter()), w.again), w.v.until)
		if w.latest != w.seen {
			next = earlier(next, w.full.Add(often))
		}
		wait = time.Until(next)
		if fl.moving {
			wait = min(wait, switchEvery)
		}
		if err != nil && ctx.Err() == nil {
			e.logger.Error("the store does not answer", "error", err)
			e.unanswered(asked)
			e.outdated(err)
			wait = time.Second
		}
	}
}

// assign starts the lanes that nobody works and that are this process's to work,
// gives away those that are another's, and tells running ones of changes. It
// returns when to look again although no row has changed; zero: no hurry.
func (e *Engine) assign(ctx, work context.Context, v view, logParts int, f *fleet) (due time.Time) {
	e.turns.setWeights(v.weights)
	now := time.Now()
	e.mu.Lock()
	e.forgetWorked(&v)
	e.others = slices.ContainsFunc(v.staying(), func(m store.Member) bool { return m.ID != e.id && v.told()[m.ID].Pool == "" })
	if e.leaving && e.assigned != nil && !e.others { // all end: nobody will want what is kept
		e.dropKept(now)
		e.endStrays(now)
	}
	d := f.decide(&v, now, e.self())
	share := e.apply(&d, &v, now)
	for _, l := range d.take {
		if e.assigned != nil && e.assigned.has(l.LaneID) {
			e.assigned.took[l.LaneID] = e.assigned.parts[e.assigned.of(l.LaneID)].at
		}
		e.work(work, e.procs[l.Processor], l, v.first(&l), logParts, share, d.costs[l.String()])
	}
	if len(d.take) > 0 && len(d.costs) > 0 {
		e.news() // who had the lanes before will not tell what they cost any more
	}
	e.mu.Unlock()
	if err := e.giveBack(ctx, d.back); err != nil && ctx.Err() == nil {
		d.again(time.Now().Add(startAgain))
		e.logger.Error("lanes were not given back", "lanes", len(d.back), "first", d.back[0].String(), "error", err)
	}
	for ids := range slices.Chunk(d.start, acquireAtOnce) {
		if err := e.start(ctx, work, ids, &d, logParts, share); err != nil && ctx.Err() == nil {
			d.again(time.Now().Add(startAgain))
			e.unanswered(now)
			e.logger.Error("lanes were not acquired", "lanes", len(ids), "first", ids[0].String(), "error", err)
		}
	}
	return d.due
}

// self returns what the decision must know of this process. The caller has the lock.
func (e *Engine) self() *self {
	me := &self{
		id: e.id, pool: e.cfg.Pool, calm: e.calmAfter(), steady: placeSteady, retry: retryFailed, procs: map[string]procSelf{}, failed: e.failed, worked: e.worked,
		assigned: e.assigned,
	}
	for name, a := range e.procs {
		me.procs[name] = procSelf{gone: a.gone, version: version(a.p)}
		for _, o := range a.lanes {
			if !o.leaving.IsZero() {
				me.leaving++
			}
		}
	}
	me.lane = func(id store.LaneID) *heldLane {
		if a := e.procs[id.Processor]; a != nil && a.lanes[id] != nil {
			return &a.lanes[id].heldLane
		}
		return nil
	}
	return me
}

// apply carries out what needs no store. It returns each lane's share of the
// memory. The caller has the lock.
func (e *Engine) apply(d *decision, v *view, now time.Time) (share int) {
	for _, l := range d.held {
		o := e.procs[l.Processor].lanes[l.LaneID]
		if l.Epoch != o.epoch {
			o.runner.reread(lost)
		} else {
			o.runner.reread(l.Revision)
		}
	}
	for _, h := range d.leave {
		o := e.procs[h.id.Processor].lanes[h.id]
		if o.leaving, o.to, o.home = now, h.to, h.home; !o.runner.retire() {
			o.cancel()
		}
	}
	for _, id := range d.rest {
		e.procs[id.Processor].lanes[id].leaving = now
	}
	for _, id := range d.late {
		e.procs[id.Processor].lanes[id].cancel()
	}
	for _, id := range d.other {
		e.procs[id.Processor].stats.started(id) // its error here is history
	}
	for _, a := range e.procs {
		a.unowned = map[store.LaneID]error{}
	}
	for id, reason := range d.unowned {
		e.procs[id.Processor].unowned[id] = reason
	}
	readers := map[int]int{}
	reader := func(id store.LaneID) {
		part := 0
		if e.procs[id.Processor].p.follows {
			part = id.Partition
		}
		readers[part]++
	}
	for i := range d.held {
		reader(d.held[i].LaneID)
	}
	for i := range d.take {
		reader(d.take[i].LaneID)
	}
	for _, id := range d.start {
		reader(id)
	}
	e.pages.share(readers)
	lanes := max(1, len(d.held)+len(d.start)+len(d.take))
	e.pages.want(e.buckets(d, v))
	share = e.cfg.Memory / 2 / lanes
	e.gently.others.Store(int64(builders(v, e.id)))
	for _, a := range e.procs {
		if a.pool != nil {
			a.pool.setWeights(v.weights)
		}
		for _, o := range a.lanes {
			o.runner.budget(share)
		}
	}
	return share
}

// builders returns how many live members but one work lanes of builds in the making.
func builders(v *view, but string) int {
	rebuild, members := map[string]int64{}, map[string]bool{}
	for i := range v.procs {
		if p := &v.procs[i]; p.Rebuild != 0 {
			rebuild[p.Name] = p.Rebuild
		}
	}
	if len(rebuild) == 0 {
		return 0
	}
	for i := range v.lanes {
		if l := &v.lanes[i]; l.Owner != but && l.Number == rebuild[l.Processor] {
			members[l.Owner] = true
		}
	}
	n := 0
	for i := range v.members {
		if members[v.members[i].ID] {
			n++
		}
	}
	return n
}

// buckets returns those of the log that hold all events of the lanes that this
// process works, and of those that it is about to start; nil where only the whole
// log does. The caller holds mu.
func (e *Engine) buckets(d *decision, v *view) []eventlog.Bucket {
	all, start := map[eventlog.Bucket]bool{}, map[store.LaneID]bool{}
	for _, id := range d.start {
		start[id] = true
	}
	for i := range d.take {
		start[d.take[i].LaneID] = true
	}
	for i := range v.lanes {
		l := &v.lanes[i]
		a := e.procs[l.Processor]
		if a == nil || a.lanes[l.LaneID] == nil && !start[l.LaneID] {
			continue
		}
		b := a.p.logBucket(l)
		if b == nil {
			return nil
		}
		all[*b] = true
	}
	return slices.Collect(maps.Keys(all))
}

// calmAfter is for how long members must stay the same before lanes are moved.
func (e *Engine) calmAfter() time.Duration { return e.cfg.Lease / 2 }

// complainOfAll reports lanes whose handlers do not return.
func (e *Engine) complainOfAll() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.procs {
		for id, o := range a.lanes {
			e.complain(id, o)
		}
	}
}

// complain reports a lane whose handlers do not return, once.
func (e *Engine) complain(id store.LaneID, o *owned) {
	err := o.runner.stuck(time.Now())
	if err != nil && !o.stuck {
		e.logger.Error("handler does not return", "lane", id.String(), "error", err)
		o.runner.report().set(err)
	}
	o.stuck = err != nil
}

// start acquires lanes and works each in a goroutine of its own. Lanes that
// another process has taken meanwhile are left alone, unless they may be taken.
func (e *Engine) start(ctx, work context.Context, ids []store.LaneID, d *decision, logParts, budget int) error {
	acquired, err := lane.TakeAll(ctx, e.store, ids, e.id, func(id store.LaneID) bool { return d.force[id] }, func(store.LaneID, error) error { return nil })
	if err != nil {
		return err
	}
	var back []store.Lane
	e.mu.Lock()
	for _, row := range acquired {
		a := e.procs[row.Processor]
		if a == nil || a.gone || e.assigned != nil && !e.assigned.has(row.LaneID) && !d.lent[row.LaneID] {
			back = append(back, row)
			continue
		}
		lent := e.assigned != nil && !e.assigned.has(row.LaneID)
		if e.assigned != nil && !lent {
			e.assigned.took[row.LaneID] = e.assigned.parts[e.assigned.of(row.LaneID)].at
		}
		e.work(work, a, row, nil, logParts, budget, d.costs[row.String()])
		a.lanes[row.LaneID].lent, a.lanes[row.LaneID].stray = lent, d.stray[row.LaneID]
	}
	if len(d.costs) > 0 {
		e.news() // who had the lanes before will not tell what they cost any more
	}
	e.mu.Unlock()
	return e.giveBack(ctx, back)
}

// giveBack releases lanes of this process that are not worked here.
func (e *Engine) giveBack(ctx context.Context, rows []store.Lane) error {
	var errs []error
	for some := range slices.Chunk(rows, handOverAtOnce) {
		given := make([]lane.Given, len(some))
		for i, l := range some {
			given[i] = lane.Given{ID: l.LaneID, Epoch: l.Epoch}
		}
		errs = append(errs, lane.HandOver(ctx, e.store, e.id, given...))
	}
	return errors.Join(errs...)
}

// work works a lane that was acquired, in a goroutine of its own. Class is what
// it has cost, 0 if that is not known; first is what it begins with, if that is known.
func (e *Engine) work(ctx context.Context, a *active, row store.Lane, first *laneView, logParts, budget int, class int64) {
	id := row.LaneID
	delete(e.failed, id)
	e.worked[id] = row.Epoch
	a.stats.started(id)
	lctx, cancel := context.WithCancel(ctx)
	now := time.Now()
	o := &owned{heldLane: heldLane{epoch: row.Epoch, since: now}, runner: e.runner(a.p, row, first, logParts), cancel: cancel, ended: make(chan struct{}), asked: now, class: class, rate: assign.Cost(class)}
	o.runner.budget(budget)
	a.lanes[id] = o
	e.wg.Go(func() {
		defer close(o.ended)
		defer cancel()
		err := o.runner.run(lctx)
		e.tellEnd(id, o)
		if errors.Is(err, eventlog.ErrGone) {
			err = e.stopGone(ctx, id, row.Epoch, err)
		}
		switch {
		case errors.Is(err, errLaneGone), errors.Is(err, errMerged):
		default:
			e.mu.Lock()
			given := lane.Given{ID: id, Epoch: row.Epoch, To: o.to, Home: o.home}
			e.mu.Unlock()
			if rerr := e.given.give(context.WithoutCancel(ctx), e, given); rerr != nil {
				e.logger.Warn("lane was not released; its lease ends by itself", "lane", id.String(), "error", rerr)
			}
		}
		e.mu.Lock()
		delete(a.lanes, id)
		if err != nil && lctx.Err() == nil && !errors.Is(err, errLaneGone) && !errors.Is(err, errMerged) && !errors.Is(err, errHalted) && !errors.Is(err, errGiven) {
			a.stats.failed(id, err)
			e.failed[id] = time.Now()
			e.news()
			e.logger.Error("lane ended", "lane", id.String(), "error", err)
		}
		e.checkReleased()
		e.mu.Unlock()
		e.wake()
	})
}

// runner makes the shell of a lane.
func (e *Engine) runner(p *Processor, row store.Lane, first *laneView, logParts int) runner {
	if p.React != nil {
		r := e.streamRunner(p, row, e.logPartition(p, row.Partition, logParts))
		r.first = first
		return r
	}
	r := e.batchRunner(p, row, e.logPartition(p, row.Partition, logParts))
	r.l.first = first
	return r
}

func (e *Engine) batchRunner(p *Processor, row store.Lane, logPart int) *batchRunner {
	l := &batchLane{
		p: p, id: row.LaneID, st: e.store, pages: e.pages, logPart: logPart, bucket: p.logBucket(&row),
		begun: time.Now(), workers: e.workers(p), cache: newDocCache(e.cfg.Memory / 2), logger: e.logger, row: row,
	}
	l.streams, _ = e.log.(eventlog.StreamReader)
	l.moves = e.sequencer()
	l.density = 1          // until it is known
	l.row.Exclusions = nil // restart reads them
	r := &batchRunner{l: l, e: e, id: row.LaneID, kick: make(chan struct{}, 1), passed: -1}
	r.revision.Store(row.Revision) // or a newer one, when it has read the row
	return r
}

// workers says how many goroutines fold a batch of a processor: one for what is
// done in no time, because handing work over costs more.
func (e *Engine) workers(p *Processor) func(time.Duration) int {
	most := p.Concurrency
	if most == 0 {
		most = e.cfg.Slots
	}
	return func(estimated time.Duration) int {
		if estimated < 2*time.Millisecond {
			return 1
		}
		return most
	}
}
