package engine

import (
	"context"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
)

// A flight is a batch that is being committed.
type flight struct {
	b     *batch
	ended chan struct{} // closed when it has been, with this error
	err   error
}

// step makes one batch, of a page and perhaps of those that follow, and sends it
// off.
//
// While the commit before is in flight, waiting for its turn in the store or
// being written, the batch could not be committed. So it grows: what comes then
// is no later for it, and a document that changes all the time is written less
// often the busier the store is. Far behind the head it grows even then, as long as
// that saves writes.
func (r *batchRunner) step(ctx context.Context, page eventlog.Page) error {
	l := r.l
	if l.small > 0 { // one commit of such lanes is in flight
		if err := r.join(ctx, nil); err != nil {
			return err
		}
		done, err := r.e.gently.enter(ctx)
		if err != nil {
			return err
		}
		defer done()
	}
	b, sealed, err := r.turn(ctx, nil, &page)
	for err == nil && !sealed {
		var next *eventlog.Page
		if next, err = r.following(ctx, b); err == nil {
			b, sealed, err = r.turn(ctx, b, next)
		}
	}
	if err != nil {
		return r.join(ctx, err)
	}
	if b.events > 0 && l.p.Batch == nil {
		l.cost.learn(b.took, b.events)
	}
	if err := r.join(ctx, nil); err != nil {
		return err
	}
	if b.empty() {
		r.noteApplied(b)
		return r.stopIfDue(ctx)
	}
	r.spend(b.events)
	r.send(ctx, b)
	if l.small > 0 || l.p.Batch != nil || l.stopAt != nil || len(b.commit.Detach) > 0 {
		if err := r.join(ctx, nil); err != nil {
			return err
		}
	}
	return r.stopIfDue(ctx)
}

// turn puts a page, unless it is nil, into b, which is nil in the first turn of a
// batch. It seals b unless it is to grow.
func (r *batchRunner) turn(ctx context.Context, b *batch, page *eventlog.Page) (_ *batch, sealed bool, err error) {
	l, n := r.l, 0
	l.cache.limit = int(r.cacheLimit.Load())
	done, err := r.e.turns.take(ctx, l.p, r.id.Tenant, oldest(page), !l.live)
	if err != nil {
		return b, false, err
	}
	defer func() { done(n) }()
	if page != nil {
		b = r.prepare(ctx, b, page)
		b.behind = (b.to < page.Next || page.Next < page.Head) && full(page)
		n = len(b.items)
	}
	started := time.Now()
	r.busy.Store(started.UnixNano())
	defer r.busy.Store(0)
	if page != nil {
		err = l.fold(ctx, b)
	}
	if err == nil && (page == nil || !r.grows(b)) {
		err, sealed = l.seal(ctx, b), true
	}
	b.took += time.Since(started)
	return b, sealed, err
}

// prepare makes a page the next part of b, or of a new batch. What it leaves of
// the page, or else the page after it, is what comes next.
func (r *batchRunner) prepare(ctx context.Context, b *batch, page *eventlog.Page) *batch {
	l := r.l
	l.measure(*page)
	was := l.tenants
	l.isolate(*page)
	if l.tenants != was {
		r.e.turns.setBase(l.p, l.tenants) // the base lane stands for them all
	}
	if b == nil {
		b = l.prepare(*page, r.limit(nil))
	} else {
		l.extend(b, *page, max(1, r.limit(b))) // grows has seen to it that there is room
	}
	if b.to < page.Next && !l.sharedPage(*page) {
		r.keep(*page, b.to)
	} else if b.to == page.Next && page.Next < page.Head {
		r.readAhead(ctx, page.Next)
	}
	return b
}

// grows reports whether b, all of which is folded, is to have another page: while
// it has room for half of what it may have, and could not be committed or saves writes. To fill the
// rest bit by bit would cost a call to the store for each, and b is better sealed
// by the time at which it can be committed.
func (r *batchRunner) grows(b *batch) bool {
	if r.look.Load() || r.l.stands() || !r.l.extends(b) || r.limit(b) < (r.limit(nil)+1)/2 {
		return false
	}
	return r.saves(b) || r.pending != nil && !r.landed() && r.e.pages.more(r.l.logPart, r.l.at) == nil
}

// landed reports whether the commit that was sent has ended.
func (r *batchRunner) landed() bool {
	select {
	case <-r.pending.ended:
		return true
	default:
		return false
	}
}

// saves reports whether b may grow although it could be committed: the lane catches up, so
// nobody waits for what b has, and a document that another page changes again is written
// once. It has no more than half as many documents as a page may have, because the next part may
// have as many as that. A lane that goes gently has its turn meanwhile, and rests for a multiple of it.
func (r *batchRunner) saves(b *batch) bool {
	return b.behind && r.l.small == 0 && len(b.changed) <= pageEvents/2 && time.Since(b.began) < growAtMost
}

// following returns the page after what is in the batch. It returns nil if there
// is none, a barrier stands before it, or the page takes longer to read than the batch may
// wait. A commit that ends meanwhile is seen to.
func (r *batchRunner) following(ctx context.Context, b *batch) (*eventlog.Page, error) {
	if r.ahead == nil {
		r.readAhead(ctx, r.l.at)
	}
	for {
		var ended <-chan struct{}
		var late <-chan time.Time
		if r.pending != nil {
			ended = r.pending.ended
		} else {
			late = time.After(growAtMost - time.Since(b.began))
		}
		select {
		case f := <-r.ahead:
			r.ahead = nil
			if f.after != r.l.at || f.err != nil || f.page.Next <= r.l.at {
				return nil, nil // whoever reads next sees to it
			}
			if what, _ := r.gate(); what != goOn { // it is known now; what comes before the barrier is committed first
				r.keep(f.page, f.after)
				return nil, nil
			}
			return &f.page, nil
		case <-ended:
			if err := r.join(ctx, nil); err != nil || !r.saves(b) {
				return nil, err
			}
		case <-late:
			return nil, nil
		}
	}
}

// send begins the commit of a sealed batch.
func (r *batchRunner) send(ctx context.Context, b *batch) {
	f := &flight{b: b, ended: make(chan struct{})}
	r.pending = f
	live, gentle := r.l.live, r.l.small > 0
	b.commit.Lazy = r.l.lazy(&b.commit)
	go func() {
		defer close(f.ended)
		// A commit that has begun may end after ctx: it was paid for.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitAtMost)
		defer cancel()
		began, alone := time.Now(), len(r.e.gently.turn) == 0
		if f.err = r.l.commit(ctx, b); f.err == nil {
			r.e.gently.learn(b, alone, live, gentle, time.Since(began))
		}
	}()
}
