package engine

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// A streamRunner is the shell around a streamLane: one goroutine that waits,
// reads ahead, commits and lets the lane decide. At most one page is being read
// and one commit is in flight beside it. When run returns, nothing of the lane
// is in progress any more: it waits even for a handler that ignores that its
// context has ended.
type streamRunner struct {
	e       *Engine
	l       *streamLane
	pool    *streamPool
	id      store.LaneID
	logPart int
	first   *laneView          // as it was when it was handed over, see batchLane.first
	cancel  context.CancelFunc // of the handlers' contexts
	async   func(func())       // starts a call of the log or the store beside the shell, whose answer it waits for

	kick     chan struct{}
	look     atomic.Bool // rows were changed by another hand
	retired  atomic.Bool // the lane is to end when its handlers have
	flushs   atomic.Bool // somebody waits for the checkpoint
	limit    atomic.Int64
	revision atomic.Int64
	status   laneStatus

	pages   chan streamPage
	reading bool
	rest    *streamPage    // of a page that did not fit
	most    int            // events of the next page; 0: as many as it may have
	passed  event.Position // one more than the last barrier that is behind the lane
	waits   barrierWait

	ended   chan error
	pending *streamCommit
	unsure  *streamCommit // it is not known whether it took effect

	ending  error // why the lane ends
	lost    bool
	gone    bool // the context has ended
	tries   int  // to commit what is left at the end, that failed
	backOff time.Duration
	again   time.Time     // no I/O before, after an error
	flushed time.Time     // the last commit
	fetched time.Time     // the last page was asked for
	readFor time.Duration // that it took to come
	began   time.Time     // the commit in flight
	spacing time.Duration // from one commit to the next
	merge   time.Time     // the next try to merge
	settle  settling
	isolate time.Time // the next look
	heldAt  time.Time // since when the row is held
	seen    int       // claims that the view in hand knows of

	tasks []*task // for examine
	keys  []string
}

// A streamPage is a page on its way to the lane.
type streamPage struct {
	page   eventlog.Page
	after  event.Position
	tenant string // that came back, whose events are read again
	refill bool
	shared bool // the process keeps it, so the lane need not

	took            time.Duration // to read it
	barrier, passed bool          // it is no page: what became of a barrier at after
	err             error
}

// A streamPlan is what the shell has to do next.
type streamPlan struct {
	commit *streamCommit
	fetch  bool
	drain  *drain
	merge  bool
	stop   string
	unhold bool
	end    bool
	more   <-chan struct{}
	until  time.Time // wait no longer; zero: as long as it takes
}

const (
	// Commits of one lane are no closer than commitEvery, and take no more than a
	// twentieth of the time, because what they take is not the handlers', and a
	// store with one writer is not the appenders'. But they are no further apart
	// than commitAtLeast, and not for that where somebody waits.
	commitEvery   = 2 * time.Millisecond
	commitAtLeast = 20 * time.Millisecond
	isolateEvery  = 20 * time.Millisecond
	feedEvery     = 20 * time.Millisecond // between two reads of a lane that is well fed, at least
	feedAtMost    = 250 * time.Millisecond
	feedPart      = 20      // of the time such a lane reads this part at most
	feedEvents    = 500     // of such a read, or what the workers do in twice the time to the next
	admitAtOnce   = 64      // events taken in under one lock
	leastWindow   = 4 << 10 // bytes; where a process has so many lanes that it comes to this, one event may be more
)

func (e *Engine) streamRunner(p *Processor, row store.Lane, logPart int) *streamRunner {
	a := e.procs[p.Name]
	if a.pool == nil {
		a.pool = newStreamPool(p, e.wg.Go)
	}
	l := newStreamLane(p, row, a.pool.queue)
	r := &streamRunner{
		e: e, l: l, pool: a.pool, id: row.LaneID, logPart: logPart, async: func(f func()) { go f() }, kick: make(chan struct{}, 1),
		pages: make(chan streamPage, 1), ended: make(chan error, 1), backOff: minBackOff,
	}
	l.nudge = r.nudge
	r.limit.Store(leastWindow)
	r.look.Store(true)
	r.revision.Store(row.Revision) // or a newer one, when it has read the row
	return r
}

// run works the lane until ctx ends, or the lane is lost, merged or stopped.
func (r *streamRunner) run(ctx context.Context) error {
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.cancel, r.l.ctx = cancel, hctx
	r.pool.enter(r.l)
	defer r.pool.leave(r.l)
	r.flushed = time.Now()
	for {
		p, again := r.turn(ctx)
		if p.end {
			break
		}
		if !again {
			r.wait(ctx, &p)
		}
	}
	if r.reading {
		<-r.pages
	}
	return r.ending
}

// turn does what there is to do now. Again: there may be more; otherwise the
// plan says what to wait for.
func (r *streamRunner) turn(ctx context.Context) (p streamPlan, again bool) {
	if ctx.Err() != nil && !r.gone {
		r.gone = true
		r.end(ctx.Err(), true)
	}
	if r.retired.Load() && r.ending == nil {
		r.end(errGiven, false)
	}
	if r.look.Load() && r.pending == nil && !r.lost && !time.Now().Before(r.again) {
		r.read(ctx)
		return p, true
	}
	p = r.decide(time.Now())
	return p, !p.end && r.act(ctx, &p)
}

// end lets the lane come to its end. Abandon: the contexts of the handlers have
// ended, so what they return is no verdict.
func (r *streamRunner) end(err error, abandon bool) {
	if r.ending != nil && !r.lost {
		err = r.ending
	}
	r.ending = err
	if abandon {
		r.cancel()
	}
	r.pool.mu.Lock()
	defer r.pool.unlock()
	r.l.abandoned = r.l.abandoned || abandon
	r.l.closing = true
	r.l.halt()
}

// decide looks at the lane under its lock and says what to do next.
func (r *streamRunner) decide(now time.Time) streamPlan {
	r.pool.mu.Lock()
	p := r.plan(now)
	notes, err := r.l.news()
	r.pool.unlock()
	r.tell(notes, err, false)
	return p
}

func (r *streamRunner) plan(now time.Time) (p streamPlan) {
	l, s := r.l, r.pool
	due := func(t time.Time) {
		if p.until.IsZero() || t.Before(p.until) {
			p.until = t
		}
	}
	l.fire(now)
	if len(l.waiting) > 0 {
		due(l.waiting[0].due)
	}
	if next, ok := l.overdue(now); ok {
		due(next)
	}
	l.orphanStuck()
	waits := now.Before(r.again) // after an error
	if waits {
		due(r.again)
	}
	if l.claims != r.seen {
		r.seen = l.claims
		r.look.Store(true)
		r.nudge()
	}
	full := l.held() >= int(r.limit.Load())
	settles := r.settles(now, due)
	if l.loaded && !l.halted && !waits && !settles {
		r.decideRead(&p, full, now, due)
	}
	s.dispatch(nil, now)
	if s.held {
		due(now.Add(heldAtLeast))
	}
	l.wakeOnDone, l.wakeBelow = false, 0
	if full {
		l.wakeBelow = int(r.limit.Load()) / 4 * 3
	}
	switch {
	case !l.loaded:
		p.end = r.ending != nil && !l.shadowed(r.ending)
		return p
	case r.lost:
		p.end = l.runs.n == 0 && r.pending == nil
		return p
	case r.pending != nil || r.unsure != nil || waits || r.look.Load():
		return p
	}
	r.decideCommit(&p, settles, now, due)
	if p.commit != nil {
		r.pending = p.commit
		return p
	}
	if idle := l.runs.n == 0 && !l.dirty && len(l.letters)+len(l.removed) == 0; idle && (l.closing || l.stop != "") {
		if l.shadowed(r.ending) {
			return p
		}
		p.end, p.stop = l.closing, l.stop
		return p
	}
	if l.row.State == store.Held && !l.closing {
		p.unhold = now.Sub(r.heldAt) >= heldAtMost
		due(r.heldAt.Add(heldAtMost))
	}
	if p.drain = l.drainNext(); p.drain != nil && p.drain.failed == nil {
		p.drain.load, p.drain.loading, p.drain.made = false, true, 0
	}
	if (p.more != nil || settles && !r.reading) && l.mergeable() {
		p.merge = !now.Before(r.merge)
		due(r.merge)
	}
	return p
}

// decideRead says whether a page is to be read.
func (r *streamRunner) decideRead(p *streamPlan, full bool, now time.Time, due func(time.Time)) {
	l := r.l
	if !now.Before(r.isolate) {
		l.isolate(full && r.e.pages.head(r.logPart) > l.at, now)
		r.isolate = now.Add(isolateEvery)
	}
	if l.undone > 0 {
		due(r.isolate)
	}
	if r.reading || l.stands() && len(l.refill) == 0 {
		return
	}
	if len(l.refill) == 0 && r.rest == nil {
		if p.more = r.e.pages.more(r.logPart, l.at); p.more != nil {
			return
		}
	}
	wait, events := l.fed(r.readFor, now.Sub(r.e.pages.lastGrown()) < feedAtMost)
	if next := r.fetched.Add(wait); r.rest == nil && now.Before(next) {
		due(next)
		return
	}
	r.most = events
	p.fetch = l.held() < int(r.limit.Load())
}

// fed says for how long a tenant's own lane need not read, because it has so much to do that
// what is new may wait for more to come, and how many events it reads then at most (0: a page).
// A read of a few events costs the database nearly as much as one of many, and one of many takes a
// while; the lane passes a page for their events too, and the other tenants, whose events are
// appended meanwhile, wait for all of that. So it reads for a small part of the time. While nothing is
// appended nobody waits for it, and the sooner it knows which keys are long, the better.
//
// Where no key waits for a worker, what there is to do is one behind the other, or for later, and
// workers may be free for what is new.
func (l *streamLane) fed(took time.Duration, appended bool) (wait time.Duration, events int) {
	if l.id.Tenant == "" || len(l.refill) > 0 {
		return 0, 0
	}
	ready, _ := l.queue.fair.Flow(l.id.Tenant)
	unit := max(1, l.queue.fair.UnitCost(l.id.Tenant)/time.Duration(l.p.Concurrency))
	if ready == 0 || time.Duration(l.undone)*unit < 2*max(feedEvery, took) {
		return 0, 0
	}
	if !appended {
		return feedEvery, 0
	}
	wait = max(feedEvery, min(feedAtMost, took*feedPart))
	return wait, int(min(pageEvents, max(feedEvents, 2*wait/unit)))
}

// decideCommit says whether there is something to commit now, or when.
func (r *streamRunner) decideCommit(p *streamPlan, settles bool, now time.Time, due func(time.Time)) {
	l := r.l
	last := l.closing || l.stop != ""
	flush := last || r.flushs.Load() || settles || comesBack(&l.row) && p.more != nil || l.stands()
	spacing := r.spacing
	if flush {
		spacing = min(spacing, commitEvery)
	}
	if next := r.flushed.Add(spacing); !last && now.Before(next) {
		if flush || l.dirty || len(l.letters)+len(l.removed) > 0 {
			due(next)
		} else {
			l.wakeOnDone = true
		}
		if l.low(nil) > l.row.Position {
			due(r.flushed.Add(flushAfter))
		}
		return
	}
	lazy := !flush && now.Sub(r.flushed) < flushAfter
	if !lazy {
		r.flushs.Store(false)
	}
	if p.commit = l.build(lazy); p.commit != nil {
		return
	}
	l.wakeOnDone = true
	if l.low(nil) > l.row.Position {
		due(r.flushed.Add(flushAfter))
	}
}

// act does what the plan says. It reports whether to decide again at once.
func (r *streamRunner) act(ctx context.Context, p *streamPlan) (again bool) {
	if p.commit != nil {
		r.began = time.Now()
		r.l.complete(p.commit)
		c := p.commit
		r.async(func() {
			// A commit that has begun may end after ctx: it was paid for.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitAtMost)
			defer cancel()
			r.ended <- r.e.store.Commit(ctx, &c.Commit)
		})
	}
	if p.fetch {
		if again = r.rest != nil; again {
			page := *r.rest
			r.rest = nil
			r.take(ctx, page)
		} else {
			r.fetch(ctx)
		}
	}
	switch {
	case p.stop != "":
		r.stopLane(ctx, p.stop)
	case p.unhold:
		r.heldAt = time.Now()
		if err := lane.Unhold(ctx, r.e.store, r.id); err != nil {
			r.failed("a held lane was not let go", err)
		}
		r.look.Store(true)
	case p.drain != nil:
		r.drain(ctx, p.drain)
	case p.merge:
		r.tryMerge(ctx)
	default:
		return again
	}
	return true
}

// wait waits for a reason to decide again.
func (r *streamRunner) wait(ctx context.Context, p *streamPlan) {
	var after <-chan time.Time
	if !p.until.IsZero() {
		t := time.NewTimer(time.Until(p.until))
		defer t.Stop()
		after = t.C
	}
	done := ctx.Done()
	if r.gone {
		done = nil
	}
	select {
	case <-r.kick:
	case <-p.more:
	case <-after:
	case page := <-r.pages:
		r.reading = false
		r.take(ctx, page)
	case err := <-r.ended:
		r.commitEnded(err)
	case <-done:
	}
}

// failed notes an error of the store or the log, and waits before the next try.
func (r *streamRunner) failed(what string, err error) {
	r.status.set(err)
	if r.tries++; r.ending != nil && r.tries > 3 { // what is left will come again
		r.lost = true
		return
	}
	r.e.logger.Error(what+"; lane waits and tries again", "lane", r.id.String(), "in", r.backOff, "error", err)
	r.e.outdated(err)
	r.again = time.Now().Add(r.backOff)
	r.backOff = min(2*r.backOff, maxBackOff)
}

func (r *streamRunner) nudge() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

func (r *streamRunner) reread(rev int64) {
	if r.revision.Load() != rev {
		r.look.Store(true)
		r.nudge()
	}
}

// retire implements runner.
func (r *streamRunner) retire() bool {
	r.retired.Store(true)
	r.nudge()
	return true
}

func (r *streamRunner) flush() {
	r.flushs.Store(true)
	r.nudge()
}

func (r *streamRunner) budget(bytes int) {
	if n := int64(max(bytes, leastWindow)); r.limit.Swap(n) != n {
		r.nudge()
	}
}

func (r *streamRunner) report() *laneStatus { return &r.status }
