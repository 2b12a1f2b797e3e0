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
	standsEvery = time.Second            // where the base lane is stopped
	chaseAtMost = 5                      // tries before the base lane is held

	// A stream lane that has always something in progress settles now and then: for
	// settleFirst, then for longer, after it has read for so many times as long. At most it is less
	// than a base lane is held: who needs longer merges in a quiet moment, and seldom tries.
	settleFirst  = 50 * time.Millisecond
	settleAtMost = heldAtMost * 3 / 4
	settleEvery  = 5
	settleRest   = time.Minute

	stubborn = 3 // failed attempts of a key that is not expected to end soon
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

// A chase is a tenant lane's way to its base lane, which goes on. Only who has tried to merge
// knows how it stands.
type chase struct {
	tries int
	at    event.Position // at the last try
	tried time.Time
	held  time.Time // the base lane, the last time
}

// holds reports whether the base lane is to be held, as the lane would not catch up with it: if
// by what it did since the last try it is there soon. The others wait for that long.
func (c *chase) holds(now time.Time, at, base event.Position) bool {
	did, took := at-c.at, now.Sub(c.tried)
	first := c.tried.IsZero()
	c.at, c.tried = at, now
	switch {
	case first || now.Sub(c.held) < holdEvery:
		return false
	case did <= 0 || float64(base-at)/float64(did)*float64(took) > float64(heldAtMost/2):
		c.tries = 0
		return false
	}
	if c.tries++; c.tries <= chaseAtMost {
		return false
	}
	c.tries, c.held = 0, now
	return true
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
		if r.status.chase.holds(r.tried, l.at, base) {
			if err := lane.Hold(ctx, r.e.store, l.id); err != nil {
				return err
			}
			r.e.wake()
		}
		return nil
	case errors.Is(err, lane.ErrBehind):
		r.tried = r.tried.Add(standsEvery - mergeEvery)
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
		begins := s.until.IsZero()
		if begins {
			s.until = now.Add(s.most)
		}
		late := func(k *orderedKey) bool { return k.due.After(s.until) }
		if l.stuck == 0 && (!begins || !l.stubborn()) && !slices.ContainsFunc(l.waiting, late) {
			due(s.until)
			return true
		}
		s.from, s.until = s.until, time.Time{}
	case s.most == settleAtMost: // in vain
		s.from, s.until = now.Add(settleRest), time.Time{}
	default:
		s.most = min(2*s.most, settleAtMost)
		s.from, s.until = now.Add(settleEvery*s.most), time.Time{}
	}
	due(s.from)
	return false
}

// stubborn reports whether a key fails again and again, whose end is not to be waited for.
func (l *streamLane) stubborn() bool {
	for _, k := range l.keys {
		if k.attempts >= stubborn {
			return true
		}
	}
	return false
}

// tryMerge gives the tenant back to its base lane.
func (r *streamRunner) tryMerge(ctx context.Context) {
	now := time.Now()
	r.merge = now.Add(mergeEvery)
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
		s := &r.settle // reads on, for as long as it would have after a settling in vain
		if !s.until.IsZero() {
			s.from, s.until = now.Add(settleEvery*now.Sub(s.until.Add(-s.most))), time.Time{}
		}
		if base <= r.l.at {
			r.merge = now.Add(standsEvery)
			return
		}
		if r.status.chase.holds(now, r.l.at, base) {
			s.from = r.merge // while it is held
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
