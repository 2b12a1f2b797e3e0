package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	// Between two looks whether what comes before a barrier is applied: positions move
	// without a change that anybody is told of.
	barrierEvery = 50 * time.Millisecond
	barrierMost  = time.Second
	// A lane that waits for longer says so.
	barrierLong = 10 * time.Second
)

// A gate is what a lane does at a barrier of the log.
type gate int8

const (
	goOn    gate = iota
	detach       // the tenant leaves the lane, so that nobody else waits
	standBy      // what comes before is to be applied first
)

// sequencer returns the log if tenants may move in it; nil: they may not.
func (e *Engine) sequencer() eventlog.Sequencer {
	s, _ := e.log.(eventlog.Sequencer)
	return s
}

// atBarrier says what a lane does that has read to a position, and knows its row as
// row: what it hands out goes by that.
func (e *Engine) atBarrier(p *Processor, row *store.Lane, logPart int, at event.Position) (gate, *eventlog.Barrier) {
	s := e.sequencer()
	if s == nil {
		return goOn, nil
	}
	b := s.Barrier(logPart, at)
	switch {
	case b == nil, row.Tenant != "" && row.Tenant != b.Tenant, p.Tenants != nil && !slices.Contains(p.Tenants, b.Tenant):
		return goOn, nil
	case row.Tenant != "", p.crossTenant():
		return standBy, b
	case row.Excluded(b.Tenant, at+1):
		return goOn, nil
	case b.Alone:
		return standBy, b
	}
	return detach, b
}

// A wait is one of a lane before a barrier.
type barrierWait struct {
	at     event.Position // of the barrier
	since  time.Time
	pause  time.Duration
	warned bool
}

// barrier carries out what a lane does at a barrier. It reports whether the lane may
// hand out what is behind it; else it has waited for a moment.
func (e *Engine) barrier(ctx context.Context, what gate, b *eventlog.Barrier, id store.LaneID, at event.Position, w *barrierWait, status *laneStatus) (bool, error) {
	if what == detach {
		err := lane.DetachHere(ctx, e.store, id, b.Tenant)
		e.wake()
		return false, err
	}
	err := lane.Passed(ctx, e.store, id.Build, b)
	if !errors.Is(err, lane.ErrBehind) {
		if w.warned {
			w.warned = false
			status.clear()
		}
		return err == nil, err
	}
	if w.since.IsZero() || w.at != at {
		*w = barrierWait{at: at, since: time.Now(), pause: barrierEvery}
	}
	if long := time.Since(w.since); long > barrierLong && !w.warned {
		w.warned = true
		status.set(err)
		e.logger.Warn("lane waits", "lane", id.String(), "position", int64(at), "for", long.Round(time.Second), "reason", err)
	}
	pause(ctx, w.pause)
	w.pause = min(2*w.pause, barrierMost)
	return false, nil
}
