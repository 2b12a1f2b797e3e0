package engine

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	lookEvery    = 200 * time.Millisecond // at whether other hands have changed rows
	switchEvery  = 20 * time.Millisecond  // while a rebuild is near its switch
	retryFailed  = 30 * time.Second       // before a lane that ended with an error is tried again
	purgeAtOnce  = 2000                   // documents of a retired build deleted in one transaction
	nearlyCaught = 2 * pageEvents         // events, behind which a rebuild holds the live lanes to switch
	holdEvery    = 5 * heldAtMost         // the most often that it does, if the switch does not come
)

// A view is what the supervisor sees of the store.
type view struct {
	procs   []store.Processor
	lanes   []store.Lane
	alive   map[string]bool
	weights map[string]float64
}

// supervise starts and stops lanes as the rows say, until ctx ends.
func (e *Engine) supervise(ctx context.Context, logParts int) {
	var seen int64 = -1
	var full time.Time
	failed := map[store.LaneID]time.Time{}
	held := map[string]time.Time{} // when a processor's lanes were held last
	for ctx.Err() == nil {
		wait := lookEvery
		rev, err := e.store.Revision(ctx)
		if err == nil && (rev != seen || time.Since(full) > e.cfg.Lease/2) {
			var v view
			if v, err = e.look(ctx); err == nil {
				seen, full = rev, time.Now()
				e.assign(ctx, v, logParts, failed)
				if soon := e.rebuilds(ctx, v, held); soon > 0 {
					wait, seen = soon, -1
				}
			}
		}
		if err != nil && ctx.Err() == nil {
			e.logger.Error("the store does not answer", "error", err)
			wait = time.Second
		}
		select {
		case <-e.wakes:
			seen = -1
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func (e *Engine) look(ctx context.Context) (v view, err error) {
	err = e.store.View(ctx, func(tx store.Tx) (err error) {
		if v.procs, err = tx.Processors(); err != nil {
			return err
		}
		if v.lanes, err = tx.Lanes(""); err != nil {
			return err
		}
		if v.weights, err = tx.Weights(); err != nil {
			return err
		}
		v.alive, err = lane.Alive(tx)
		return err
	})
	return v, err
}

// assign starts the lanes that nobody works, and tells running ones of changes.
func (e *Engine) assign(ctx context.Context, v view, logParts int, failed map[store.LaneID]time.Time) {
	e.turns.setWeights(v.weights)
	rows := map[string]store.Processor{}
	for _, p := range v.procs {
		rows[p.Name] = p
	}
	var start []store.Lane
	e.mu.Lock()
	owned := 0
	for _, l := range v.lanes {
		a, ok := e.procs[l.Processor]
		if !ok || a.gone {
			continue
		}
		if o := a.lanes[l.LaneID]; o != nil {
			owned++
			o.runner.reread(l.Revision)
			e.complain(l.LaneID, o)
			continue
		}
		p := rows[l.Processor]
		switch {
		case p.Paused, l.State == store.Paused, l.Number != p.Live && l.Number != p.Rebuild,
			l.Owner != "" && l.Owner != e.id && v.alive[l.Owner],
			time.Since(failed[l.LaneID]) < retryFailed:
			continue
		}
		start = append(start, l)
	}
	e.pages.share(owned + len(start))
	share := e.cfg.Memory / 2 / max(1, owned+len(start))
	for _, a := range e.procs {
		if a.pool != nil {
			a.pool.setWeights(v.weights)
		}
		for _, o := range a.lanes {
			o.runner.budget(share)
		}
	}
	e.mu.Unlock()
	for _, l := range start {
		if err := e.start(ctx, l.LaneID, logParts, share, failed); err != nil && ctx.Err() == nil &&
			!errors.Is(err, lane.ErrOwned) && !errors.Is(err, store.ErrNotFound) {
			e.logger.Error("lane was not acquired", "lane", l.String(), "error", err)
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

// start acquires a lane and works it in a goroutine of its own.
func (e *Engine) start(ctx context.Context, id store.LaneID, logParts, budget int, failed map[store.LaneID]time.Time) error {
	row, err := lane.Acquire(ctx, e.store, id, e.id)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.procs[id.Processor]
	if a == nil || a.gone {
		return lane.Release(ctx, e.store, id, e.id, row.Epoch)
	}
	delete(failed, id)
	a.stats.started(id)
	lctx, cancel := context.WithCancel(ctx)
	o := &owned{runner: e.runner(a.p, row, logParts), cancel: cancel, ended: make(chan struct{})}
	o.runner.budget(budget)
	a.lanes[id] = o
	e.wg.Go(func() {
		defer close(o.ended)
		defer cancel()
		err := o.runner.run(lctx)
		switch {
		case errors.Is(err, errLaneGone), errors.Is(err, errMerged):
		default:
			rctx, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			if rerr := lane.Release(rctx, e.store, id, e.id, row.Epoch); rerr != nil {
				e.logger.Warn("lane was not released; its lease ends by itself", "lane", id.String(), "error", rerr)
			}
			done()
		}
		e.mu.Lock()
		delete(a.lanes, id)
		if err != nil && lctx.Err() == nil && !errors.Is(err, errLaneGone) && !errors.Is(err, errMerged) && !errors.Is(err, errHalted) {
			a.stats.failed(id, err)
			failed[id] = time.Now()
			e.logger.Error("lane ended", "lane", id.String(), "error", err)
		}
		e.mu.Unlock()
		e.wake()
	})
	return nil
}

// runner makes the shell of a lane.
func (e *Engine) runner(p *Processor, row store.Lane, logParts int) runner {
	if p.React != nil {
		return e.streamRunner(p, row, e.logPartition(p, row.Partition, logParts))
	}
	return e.batchRunner(p, row, e.logPartition(p, row.Partition, logParts))
}

func (e *Engine) batchRunner(p *Processor, row store.Lane, logPart int) *batchRunner {
	l := &batchLane{
		p: p, id: row.LaneID, st: e.store, pages: e.pages, logPart: logPart,
		begun: time.Now(), workers: e.workers(p), cache: newDocCache(e.cfg.Memory / 2), logger: e.logger, row: row,
	}
	l.streams, _ = e.log.(eventlog.StreamReader)
	l.density = 1          // until it is known
	l.row.Exclusions = nil // restart reads them
	return &batchRunner{l: l, e: e, id: row.LaneID, kick: make(chan struct{}, 1)}
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

// rebuilds brings builds in the making nearer to their switch, and deletes the
// documents of retired ones. It returns when to look again, 0 for no hurry.
func (e *Engine) rebuilds(ctx context.Context, v view, held map[string]time.Time) (soon time.Duration) {
	purge := false
	for _, p := range v.procs {
		a, _ := e.processor(p.Name)
		purge = purge || len(p.Retired) > 0
		if a == nil || p.Rebuild == 0 || p.Paused {
			continue
		}
		close, isHeld := near(p, v.lanes)
		if !close {
			soon = cmp.Or(soon, lookEvery)
			continue
		}
		soon = switchEvery
		for _, o := range e.lanesOf(a) {
			o.runner.flush()
		}
		err := lane.TrySwitch(ctx, e.store, p.Name, version(a.p))
		switch {
		case err == nil:
			e.logger.Info("rebuilt read model is live", "processor", p.Name, "build", p.Rebuild, "tenant", p.RebuildTenant)
			delete(held, p.Name)
			e.progress.broadcast()
			e.wake()
		case errors.Is(err, lane.ErrBehind):
			if time.Since(held[p.Name]) > holdEvery && !isHeld {
				held[p.Name] = time.Now()
				if err := lane.HoldForSwitch(ctx, e.store, p.Name); err != nil {
					e.logger.Warn("live lanes were not held for a switch", "processor", p.Name, "error", err)
				}
			}
		case !errors.Is(err, lane.ErrUnknown) && ctx.Err() == nil:
			e.logger.Error("switch to a rebuilt read model", "processor", p.Name, "error", err)
		}
	}
	if purge {
		if _, err := lane.Purge(ctx, e.store, purgeAtOnce); err != nil && ctx.Err() == nil {
			e.logger.Warn("documents of a retired build were not deleted", "error", err)
		}
		return switchEvery
	}
	return soon
}

// version returns the version of the code that folds a projection.
func version(p *Processor) string {
	if p.Projection == nil {
		return ""
	}
	return p.Projection.Version()
}

func (e *Engine) lanesOf(a *active) []*owned {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []*owned
	for _, o := range a.lanes {
		all = append(all, o)
	}
	return all
}

// near reports whether a rebuild is close behind the live lanes, so that a
// switch is worth trying, and whether these are held for it already.
func near(p store.Processor, lanes []store.Lane) (close, held bool) {
	type place struct {
		partition int
		tenant    string
	}
	live, made := map[place]event.Position{}, map[place]event.Position{}
	for _, l := range lanes {
		if l.Processor != p.Name {
			continue
		}
		k := place{l.Partition, l.Tenant}
		switch l.Number {
		case p.Live:
			live[k] = l.Position
			held = held || l.State == store.Held
		case p.Rebuild:
			if l.State != store.Running {
				return false, held
			}
			made[k] = l.Position
		}
	}
	for k, at := range made {
		old, ok := live[k]
		if !ok {
			old = live[place{k.partition, ""}]
		}
		if old-at > nearlyCaught {
			return false, held
		}
	}
	return true, held
}
