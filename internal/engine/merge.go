package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

const (
	mergeEvery  = 100 * time.Millisecond // between tries to merge
	chaseAtMost = 5                      // tries before the base lane is held

	// A stream lane that has always something in progress settles now and then: for
	// settleFirst, then for longer, after it has read for so many times as long.
	settleFirst  = 50 * time.Millisecond
	settleAtMost = 5 * time.Second
	settleEvery  = 5
)

// backlog is the reason in the row of a lane whose tenant left by itself.
const backlog = "backlog"

// comesBack reports whether a lane is a tenant's that is to be given back to its base
// lane when it has caught up.
func comesBack(l *store.Lane) bool { return l.Tenant != "" && !l.Pinned }

// expected reports whether it is to be given back also while its tenant is busy. One that
// left because it hurt the others comes back in a quiet moment: it would only leave again.
func expected(l *store.Lane) bool { return comesBack(l) && l.Reason != backlog }

// mergesNow reports whether a lane that is near the end of the log is to merge although
// it has more to do, because its tenant may never be quiet.
func (r *batchRunner) mergesNow() bool {
	l := r.l
	return expected(&l.row) && len(l.retry) == 0 && l.stopAt == nil && time.Since(r.tried) >= mergeEvery && r.e.near(l.logPart, l.at)
}

// near reports whether a lane is so near the end of the log that its base lane may be
// held until it is there.
func (e *Engine) near(logPart int, at event.Position) bool {
	return e.pages.head(logPart)-at <= pageEvents
}

// merge tries to give the tenant back to its base lane.
func (r *batchRunner) merge(ctx context.Context) error {
	l := r.l
	if err := r.checkpoint(ctx); err != nil {
		return err
	}
	r.tried = time.Now()
	base, err := lane.TryMerge(ctx, r.e.store, l.id, l.row.Epoch)
	switch {
	case err == nil:
		r.e.wake()
		return errMerged
	case errors.Is(err, lane.ErrBehind) && base > l.at:
		if r.status.chase++; r.status.chase > chaseAtMost {
			r.status.chase = 0
			if err := lane.Hold(ctx, r.e.store, l.id); err != nil {
				return err
			}
			r.e.wake()
		}
		return nil
	case errors.Is(err, lane.ErrState):
		return errAgain // pinned or paused meanwhile
	}
	return err
}

// mergeable reports whether nothing keeps a tenant from its base lane.
func (l *streamLane) mergeable() bool {
	return comesBack(&l.row) && !l.halted && len(l.keys)+len(l.drains)+l.undone == 0 &&
		l.at == l.row.Position && len(l.row.Done) == 0
}

// A settling is a time in which a lane reads nothing, so that what it has in progress
// comes to an end and it can merge.
type settling struct {
	from  time.Time // the next begins
	until time.Time // this one ends; zero: there is none
	most  time.Duration
}

// settles reports whether the lane reads nothing now. A tenant that is never quiet has
// always something in progress, and lanes merge at a point behind which there is nothing. Where
// handlers take longer than the lane waited for them it waits longer the next time, but not for
// what is known to take longer than that.
func (r *streamRunner) settles(now time.Time, due func(time.Time)) bool {
	l, s := r.l, &r.settle
	if !expected(&l.row) { // of most lanes
		*s = settling{}
		return false
	}
	near := l.loaded && !l.halted && r.ending == nil && r.rest == nil && len(l.refill)+len(l.drains) == 0 && r.e.near(r.logPart, l.at)
	switch {
	case !near:
		*s = settling{}
		return false
	case s.most == 0:
		s.most = settleFirst
		s.from = now.Add(settleEvery * s.most)
	case now.Before(s.from):
	case s.until.IsZero() || now.Before(s.until):
		if s.until.IsZero() {
			s.until = now.Add(s.most)
		}
		late := func(k *orderedKey) bool { return k.due.After(s.until) }
		if l.stuck == 0 && !slices.ContainsFunc(l.waiting, late) {
			due(s.until)
			return true
		}
		s.from, s.until = s.until, time.Time{}
	default: // in vain
		s.most = min(2*s.most, settleAtMost)
		s.from, s.until = now.Add(settleEvery*s.most), time.Time{}
	}
	due(s.from)
	return false
}

// tryMerge gives the tenant back to its base lane.
func (r *streamRunner) tryMerge(ctx context.Context) {
	r.merge = time.Now().Add(mergeEvery)
	base, err := lane.TryMerge(ctx, r.e.store, r.id, r.l.epoch)
	fence, fenced := errors.AsType[*store.FenceError](err)
	switch {
	case err == nil:
		r.lost = true // there is no row any more
		r.end(errMerged, false)
		r.e.wake()
	case fenced && fence.Lost(), errors.Is(err, store.ErrNotFound):
		r.lose()
	case errors.Is(err, lane.ErrBehind):
		r.settle.from, r.settle.until = r.merge, time.Time{} // reads on
		if base <= r.l.at {
			return
		}
		if r.status.chase++; r.status.chase > chaseAtMost {
			r.status.chase = 0
			if err := lane.Hold(ctx, r.e.store, r.id); err != nil {
				r.failed("the base lane was not held for a merge", err)
				return
			}
			r.e.wake()
		}
	case errors.Is(err, lane.ErrState):
		r.look.Store(true) // pinned or paused meanwhile
	case ctx.Err() == nil:
		r.failed("a tenant was not merged", err)
	}
}
