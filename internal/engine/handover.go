package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// handAll gives the lanes of this process, which is to end, to the others, a few at a
// time while the rest goes on. See [view.heirs]. V is what it has seen last: where
// nobody else is there, or the store does not answer, nothing is done, and the lanes
// end with ctx.
func (e *Engine) handAll(ctx context.Context, v view) {
	if !slices.ContainsFunc(v.staying(), func(m store.Member) bool { return m.ID != e.id }) {
		return
	}
	if e.sharer() != nil {
		return // the log says who is next, when this process has left its group
	}
	e.mu.Lock()
	e.leaving = true
	worked := 0
	for _, a := range e.procs {
		worked += len(a.lanes)
	}
	e.mu.Unlock()
	if worked == 0 {
		return
	}
	tctx, told := context.WithTimeout(ctx, tellAtMost)
	defer told()
	if err := e.join(tctx); err != nil {
		e.logger.Warn("the others were not told that this process is leaving: its lanes are just given up", "error", err)
		return
	}
	v, _, err := look(tctx, e.store, e.id, view{}, true, time.Now(), nil)
	if err != nil {
		e.logger.Warn("the rows cannot be read: the lanes of this process are just given up", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, leaveAtMost)
	defer cancel()
	heirs := v.heirs(e.id)
	homes := v.homes(e.id, heirs)
	e.mu.Lock()
	var all []store.LaneID
	for _, a := range e.procs {
		for id := range a.lanes {
			all = append(all, id)
		}
	}
	groups := handOverOrder(all, heirs, func(p string) bool { return e.procs[p].p.React != nil })
	e.mu.Unlock()
	for _, ids := range groups {
		for _, ended := range e.endLanes(ids, heirs, homes) {
			select {
			case <-ended:
			case <-ctx.Done():
				return
			}
		}
	}
}

// endLanes ends lanes of this process for their heirs.
func (e *Engine) endLanes(ids []store.LaneID, heirs, homes map[store.LaneID]string) (ended []<-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		a := e.procs[id.Processor]
		if a == nil || a.lanes[id] == nil {
			continue
		}
		o := a.lanes[id]
		if o.leaving.IsZero() {
			o.leaving = time.Now()
		}
		o.to, o.home = heirs[id], homes[id]
		o.cancel()
		ended = append(ended, o.ended)
	}
	return ended
}

// workedUnder returns the last epoch under which this process has worked a lane.
func (e *Engine) workedUnder(id store.LaneID) int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.worked[id]
}

// forgetWorked forgets under which epochs lanes were worked that are gone. The caller
// holds mu.
func (e *Engine) forgetWorked(v *view) {
	if len(e.worked) <= 2*len(v.lanes)+16 {
		return
	}
	there := make(map[store.LaneID]bool, len(v.lanes))
	for i := range v.lanes {
		there[v.lanes[i].LaneID] = true
	}
	for id := range e.worked {
		if a := e.procs[id.Processor]; !there[id] && (a == nil || a.lanes[id] == nil) {
			delete(e.worked, id)
		}
	}
}

// A giving is lanes on their way to their heirs. Those that end at about the same time
// go in one transaction: all such transactions of all processes are one after the
// other, and each makes others look at the rows.
type giving struct {
	mu      sync.Mutex
	waiting []*given
	busy    bool // a goroutine gives
}

type given struct {
	lane.Given
	ended chan struct{} // closed when it was given, with this error
	err   error
}

// give gives up a lane of e's. The caller is one of e's goroutines.
func (g *giving) give(ctx context.Context, e *Engine, x lane.Given) error {
	mine := &given{Given: x, ended: make(chan struct{})}
	g.mu.Lock()
	g.waiting = append(g.waiting, mine)
	if !g.busy {
		g.busy = true
		e.wg.Go(func() { g.run(ctx, e) })
	}
	g.mu.Unlock()
	<-mine.ended
	return mine.err
}

// run gives until no lane waits.
func (g *giving) run(ctx context.Context, e *Engine) {
	pause(ctx, gatherFor)
	for {
		g.mu.Lock()
		some := g.waiting[:min(len(g.waiting), handOverAtOnce)]
		g.waiting = slices.Clone(g.waiting[len(some):])
		g.busy = len(some) > 0
		g.mu.Unlock()
		if len(some) == 0 {
			return
		}
		all := make([]lane.Given, len(some))
		for i, x := range some {
			all[i] = x.Given
		}
		err := e.handOver(ctx, all)
		for _, x := range some {
			x.err = err
			close(x.ended)
		}
	}
}

func (e *Engine) handOver(ctx context.Context, all []lane.Given) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return lane.HandOver(ctx, e.store, e.id, all...)
}

// tellBegin says that a lane has begun to take events: it has read its row.
func (e *Engine) tellBegin(id store.LaneID, epoch int64) {
	e.logger.Debug("lane begins", "lane", id.String(), "epoch", epoch)
}

// tellEnd says that a lane takes no more events, and since when it does not.
func (e *Engine) tellEnd(id store.LaneID, o *owned) {
	e.mu.Lock()
	since, to := o.leaving, o.to
	e.mu.Unlock()
	if since.IsZero() {
		since = time.Now()
	}
	e.logger.Debug("lane ends", "lane", id.String(), "epoch", o.epoch, "since", since, "to", to)
}
