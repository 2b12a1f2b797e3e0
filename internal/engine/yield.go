package engine

import (
	"cmp"
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
)

// How a rebuild makes way for live lanes.
//
// Its batches get a slot of the process when no live lane waits for one, or by
// the floor that every processor has. While there is live traffic, which is when
// the log grows, whoever works its lanes, or live lanes of this process have had
// turns, a lane of a build that is far behind also goes gently, because it shares
// the database and its disk with them: batches of little work, small pages, as few
// documents that their commit takes half as long again as a live one, and of all
// such lanes of the process one batch at a time, from its turn to the end of its
// commit; then they rest for a multiple of what that took. So the busier the database
// is the more it is spared. The multiple is what live commits leave: it is raised where
// some of them are slow (see pace), so that hardly any is, and falls slowly where none
// is, to a quarter of one connection's time. Where several processes work lanes of
// builds, they share that. Without traffic nothing of this applies.
const (
	trafficLasts = time.Second          // after the last sign of it
	gentleWork   = quantum / 10         // the most estimated work of one batch
	gentleEvents = 500                  // of a page
	gentleDocs   = 100                  // documents of a commit, to begin with
	gentleLeast  = 50                   // at least
	gentleMost   = 1000                 // at most
	gentleCommit = 2 * time.Millisecond // that a commit may take, if live ones take less
	gainWithin   = 10 * time.Second     // a lane that goes gently is to come nearer to the end
	purgeGently  = 200                  // documents of a retired build deleted in one transaction
	restAtMost   = time.Second          // so it makes progress however slow the database is
	restToBegin  = 7                    // times what a batch took, until it is known what live commits leave
	restLeast    = 3
	restMost     = 63
	slowOver     = 1.5   // times the time that 99 in 100 live commits take alone: a slow one
	slowShare    = 0.005 // of the live commits may be slow
	restRaised   = 0.4   // for a slow one; its logarithm
	paceOver     = 10    // a lane with a limit has batches of a tenth of a second
)

// background is the objective of a rebuild's batches: every live one is more
// urgent.
var background = slo.Objective{P99: 1000 * time.Hour, Max: 1000 * time.Hour}

// gently is the turn of the lanes that go gently.
type gently struct {
	turn chan struct{} // holds one element while a lane has it
	next time.Time     // when the next one may begin; guarded by turn

	others atomic.Int64 // processes that work lanes of builds, too
	mu     sync.Mutex
	rest   float64       // times what a batch took; 0: not known yet
	usual  time.Duration // that 99 in 100 live commits take alone, about; 0: not known yet
	ended  time.Time     // of the last batch that went gently

	docs   atomic.Int64 // the most documents of a commit; 0: not known yet
	commit atomic.Int64 // what a commit of a live lane takes: a moving average, nanoseconds
}

// most returns how many documents a commit may have.
func (g *gently) most() int { return int(cmp.Or(g.docs.Load(), gentleDocs)) }

// learn notes what a commit took. Several lanes may do so at once, and lose what
// one of them has seen.
// Of live commits only those count that no rebuild of this process was in the way
// of (alone, as they began): else the one would make the other longer and longer.
func (g *gently) learn(b *batch, alone, live, gentle bool, took time.Duration) {
	alone = alone && len(g.turn) == 0
	if live && len(b.commit.Writes) > 0 {
		g.pace(took, alone)
	}
	switch {
	case live && len(b.commit.Writes) > 0 && alone:
		was := g.commit.Load()
		g.commit.Store(was + (int64(took)-was)/16)
	case gentle:
		// The fixed part of a commit may be most of it, so this goes by small steps
		// up, and by large ones down.
		most, target := g.most(), max(gentleCommit, time.Duration(g.commit.Load())*3/2)
		if took > target {
			g.docs.Store(int64(max(gentleLeast, most*3/4)))
		} else if len(b.commit.Writes) >= most {
			g.docs.Store(int64(min(gentleMost, most+most/16+1)))
		}
	}
}

// pace learns from what a live commit took what rebuilds leave to live ones. How long 99
// in 100 take that no rebuild is in the way of is estimated by small steps, up for the
// one and down for the 99. In the same way the rest rises by what is slow and falls by
// what is not, and comes to stand where slowShare of them are slow: few enough that
// 99 in 100 are not. First their batches get smaller.
func (g *gently) pace(took time.Duration, alone bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.usual == 0 {
		if alone {
			g.usual = 2 * took
		}
		return
	}
	slow := float64(took) > slowOver*float64(g.usual)
	if alone {
		step := -0.05 * 0.01
		if took > g.usual {
			step = 0.05 * 0.99
		}
		g.usual = time.Duration(float64(g.usual) * math.Exp(step))
	}
	if time.Since(g.ended) > trafficLasts {
		return
	}
	rest := cmp.Or(g.rest, restToBegin)
	if slow {
		if most := g.most(); most > gentleLeast {
			g.docs.Store(int64(max(gentleLeast, most*3/4)))
		}
		rest *= math.Exp(restRaised)
	} else {
		rest *= math.Exp(-restRaised * slowShare)
	}
	g.rest = min(max(rest, restLeast), restMost)
}

// resting returns how long to rest after a batch.
func (g *gently) resting(took time.Duration) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ended = time.Now()
	all := time.Duration(1 + g.others.Load())
	rest := time.Duration(float64(took)*(1+cmp.Or(g.rest, restToBegin)))*all - took
	return min(rest, restAtMost*all)
}

// lazy reports whether a commit need not be safe from a crash when it returns: one of
// a build that nobody reads yet, which does nothing but go on. If it is undone, the
// lane's row is where it was before, so that the lane begins there again. So the disk
// writes it along with a live commit, which has not to wait for one of its own.
func (l *batchLane) lazy(c *store.Commit) bool {
	return !l.live && c.Position > c.Fence.Position && c.SQL == nil && len(c.Letters)+len(c.Remove)+len(c.Detach)+len(c.Forget) == 0
}

// enter waits for the turn. The caller ends it with done.
func (g *gently) enter(ctx context.Context) (done func(), err error) {
	select {
	case g.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if wait := time.Until(g.next); wait > 0 && !pause(ctx, wait) {
		<-g.turn
		return nil, ctx.Err()
	}
	began := time.Now()
	return func() {
		now := time.Now()
		g.next = now.Add(g.resting(now.Sub(began)))
		<-g.turn
	}, nil
}

// traffic reports whether there is live traffic.
func (e *Engine) traffic(now time.Time) bool {
	return now.Sub(e.pages.lastGrown()) < trafficLasts || now.Sub(e.turns.lastLive()) < trafficLasts
}

// gentle reports whether the lane is one of a build far behind, beside live
// traffic. Near the end it is not: it has as much to do as a live one, and a
// switch must not wait for it. Nor is it where that would be for ever: for a while
// after a while in which it has come no nearer to the end.
func (r *batchRunner) gentle() bool {
	l, now := r.l, time.Now()
	behind := l.pages.head(l.logPart) - l.at
	if l.live || behind <= gentleEvents || !r.e.traffic(now) {
		r.gained = gained{}
		return false
	}
	if g := &r.gained; now.Sub(g.since) > gainWithin {
		g.hurries = !g.since.IsZero() && !g.hurries && behind >= g.behind
		g.since, g.behind = now, behind
	}
	return !r.gained.hurries
}

// gained is what a lane that goes gently has come nearer to the end.
type gained struct {
	since   time.Time
	behind  event.Position
	hurries bool // it does not go gently now
}

// paced waits until a lane with a limit may go on. It reports whether it has
// waited: the caller then looks again whether there is something else to do.
func (r *batchRunner) paced(ctx context.Context) (bool, error) {
	wait := time.Until(r.next)
	if wait <= 0 {
		return false, nil
	}
	if err := r.join(ctx, nil); err != nil {
		return true, err
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.kick:
	case <-ctx.Done():
	}
	return true, nil
}

// spend notes that a lane with a limit has applied events.
func (r *batchRunner) spend(events int) {
	if r.l.limit <= 0 {
		return
	}
	now := time.Now()
	if r.next.Before(now) {
		r.next = now
	}
	r.next = r.next.Add(time.Duration(float64(events) / r.l.limit * float64(time.Second)))
}

// lastGrown returns when a partition of the log was seen to grow.
func (p *pages) lastGrown() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.grew
}

// share returns a lane's share of the limit of its build, which the lanes of the
// build share evenly: events a second, 0 for none.
func share(tx store.Tx, p *store.Processor, build int64) (float64, error) {
	limit := p.Builds.Making.Limit
	if build != p.Rebuild || limit == 0 {
		return 0, nil
	}
	lanes, err := tx.Lanes(p.Name)
	n := 0
	for i := range lanes {
		if lanes[i].Number == build {
			n++
		}
	}
	return float64(limit) / float64(max(n, 1)), err
}
