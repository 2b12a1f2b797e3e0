package engine

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// A switching is what the supervisor remembers of a processor that is being rebuilt.
type switching struct {
	held  time.Time // when its lanes were held last
	tried time.Time // when another process's work was done last
	far   event.Position
	at    time.Time // when it was so far from the live lanes
}

// wait returns when a rebuild that is far from the live lanes is worth another look,
// by how fast it came nearer since the last one; it may be faster from now on.
func (s *switching) wait(far event.Position, now time.Time) time.Duration {
	rate := float64(catchUpMost)
	if took := now.Sub(s.at).Seconds(); !s.at.IsZero() && took > 0 {
		rate = min(rate, max(1, 4*float64(s.far-far)/took))
	}
	s.far, s.at = far, now
	return max(lookEvery, time.Duration(min(farEvery.Seconds(), float64(far-nearlyCaught)/rate)*float64(time.Second)))
}

// rebuilds brings builds in the making nearer to their switch, and deletes the
// documents of retired ones. It returns when to look again, 0 for no hurry.
//
// How far a build is shows in the rows of lanes that move, and nobody is told of
// these. So one process asks, as often as it takes to see the end come. When it has
// the live lanes held, that is a change, and the others look too: what their lanes
// have applied is to be written down. And they see to it now and then themselves.
func (e *Engine) rebuilds(ctx context.Context, v view, switches map[string]*switching) (soon time.Duration) {
	again := func(d time.Duration) {
		if soon == 0 || d < soon {
			soon = d
		}
	}
	purge, vs, here := false, v.versions(""), time.Now()
	for _, p := range v.procs {
		a, _ := e.processor(p.Name)
		purge = purge || len(p.Retired) > 0
		if k := p.Builds.Kept; k.Number != 0 {
			if k.Until.After(v.now) {
				again(k.Until.Sub(v.now) + time.Millisecond)
			} else if err := lane.ForgetOld(ctx, e.store, p.Name); err != nil && ctx.Err() == nil {
				e.logger.Warn("a build that was kept was not forgotten", "processor", p.Name, "build", k.Number, "error", err)
				again(startAgain)
			}
		}
		if a == nil || p.Paused {
			continue
		}
		if e.cfg.Pool == "" { // the base lanes are the shared processes' to work
			if wait := time.Until(a.begin); wait > 0 {
				again(wait)
			} else if !e.begin(ctx, a, &p, vs) {
				a.begin = time.Now().Add(startAgain)
				again(startAgain)
			}
		}
		if p.Rebuild == 0 || p.Builds.Making.Review {
			delete(switches, p.Name)
			continue
		}
		s := switches[p.Name]
		if s == nil {
			s = &switching{tried: here}
			switches[p.Name] = s
		}
		first := foremost(v.members, p.Name, e.id)
		far, isHeld := distance(p, v.lanes)
		if far > nearlyCaught {
			if wait := s.wait(far, here); first {
				again(wait)
			} else {
				again(holdEvery)
			}
			continue
		}
		for _, o := range e.lanesOf(a) {
			o.runner.flush()
		}
		if !first {
			if again(lookEvery); isHeld {
				again(switchEvery)
			}
			if here.Sub(s.tried) < unservedAtMost {
				continue
			}
			s.tried = here
		}
		again(switchEvery)
		err := lane.TrySwitch(ctx, e.store, p.Name)
		switch {
		case err == nil:
			e.logger.Info("rebuilt read model is live", "processor", p.Name, "build", p.Rebuild, "tenant", p.RebuildTenant)
			delete(switches, p.Name)
			e.progress.broadcast()
			e.wake()
		case errors.Is(err, lane.ErrBehind):
			if time.Since(s.held) > holdEvery && !isHeld {
				s.held = time.Now()
				if err := lane.HoldForSwitch(ctx, e.store, p.Name); err != nil {
					e.logger.Warn("live lanes were not held for a switch", "processor", p.Name, "error", err)
				}
			}
		case !errors.Is(err, lane.ErrUnknown) && ctx.Err() == nil:
			e.logger.Error("switch to a rebuilt read model", "processor", p.Name, "error", err)
		}
	}
	if purge && (len(v.members) == 0 || v.members[0].ID == e.id) { // one of all is enough
		n, next := purgeAtOnce, switchEvery
		if e.traffic(time.Now()) {
			n, next = purgeGently, lookEvery
		}
		if _, err := lane.Purge(ctx, e.store, n); err != nil && ctx.Err() == nil {
			e.logger.Warn("documents of a retired build were not deleted", "error", err)
			next = startAgain
		}
		again(next)
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

// distance returns how far a rebuild is behind the live lanes, in positions, at its
// furthest, and whether these are held for a switch already.
func distance(p store.Processor, lanes []store.Lane) (far event.Position, held bool) {
	type place struct {
		partition int
		tenant    string
	}
	live, made, still := map[place]event.Position{}, map[place]event.Position{}, map[place]bool{}
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
				still[k] = true
			}
			made[k] = l.Position
		}
	}
	for k, at := range made {
		old, ok := live[k]
		if !ok {
			old = live[place{k.partition, ""}]
		}
		// One that stands still comes no nearer: it is near where it need not.
		if far = max(far, old-at); still[k] && old > at {
			far = event.Unbounded
		}
	}
	return far, held
}
