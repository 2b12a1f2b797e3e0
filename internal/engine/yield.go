package engine

import (
	"cmp"
	"context"
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
// commit; then they rest for as long as that took. So the busier the database is
// the more it is spared, a rebuild has about a half of one connection's time, and
// a live commit that must wait for one of its waits for little more than its own
// time. Without traffic nothing of this applies.
const (
	trafficLasts = time.Second            // after the last sign of it
	gentleWork   = quantum / 10           // the most estimated work of one batch
	gentleEvents = 500                    // of a page
	gentleDocs   = 100                    // documents of a commit, to begin with
	gentleLeast  = 50                     // at least
	gentleMost   = 1000                   // at most
	gentleCommit = 2 * time.Millisecond   // that a commit may take, if live ones take less
	gainWithin   = 10 * time.Second       // a lane that goes gently is to come nearer to the end
	purgeGently  = 200                    // documents of a retired build deleted in one transaction
	restAtMost   = 500 * time.Millisecond // so it makes progress however slow the database is
	paceOver     = 10                     // a lane with a limit has batches of a tenth of a second
)

// background is the objective of a rebuild's batches: every live one is more
// urgent.
var background = slo.Objective{P99: 1000 * time.Hour, Max: 1000 * time.Hour}

// gently is the turn of the lanes that go gently.
type gently struct {
	turn chan struct{} // holds one element while a lane has it
	next time.Time     // when the next one may begin; guarded by turn

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
	switch {
	case live && len(b.commit.Writes) > 0 && alone && len(g.turn) == 0:
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
		g.next = now.Add(min(now.Sub(began), restAtMost))
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
