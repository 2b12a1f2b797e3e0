package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// A batchRunner is the shell around a batchLane: it waits, reads ahead, keeps
// one commit in flight beside the batch being run, and starts again after
// errors. All its goroutines have ended when run returns.
type batchRunner struct {
	l      *batchLane
	e      *Engine
	id     store.LaneID
	kick   chan struct{}
	look   atomic.Bool // rows were changed by another hand: restart
	flushs atomic.Bool // somebody waits for the checkpoint
	status laneStatus

	revision   atomic.Int64 // of the row that the lane works by
	busy       atomic.Int64 // when the batch in hand began to run, Unix nanoseconds; 0: none
	cacheLimit atomic.Int64 // bytes

	held    time.Time // since when the lane waits for who holds it
	flushed time.Time // when the checkpoint was last moved over events of no interest
	tried   time.Time // when it was last tried to give the tenant back to its base lane
	gained  gained
	next    time.Time      // when a lane with a limit may go on
	drained bool           // the last turn was one of dead letters
	passed  event.Position // the last barrier that is behind the lane; -1: none
	waits   barrierWait
	pending *flight      // nil: nothing is being committed
	ahead   chan fetched // the next page, being read
}

type fetched struct {
	page  eventlog.Page
	after event.Position
	err   error
}

var (
	errLaneGone = errors.New("engine: the lane has another owner or is gone")
	errMerged   = errors.New("engine: the tenant is back in its base lane")
	errHalted   = errors.New("engine: the lane is paused")
	errGiven    = errors.New("engine: the lane is given to another process")
)

const (
	flushAfter   = time.Second           // the most that a checkpoint lags behind events of no interest
	quantum      = 50 * time.Millisecond // the most estimated work of one batch
	growAtMost   = 2 * quantum           // that a batch grows although it could be committed
	firstEvents  = 256                   // of the first batch
	heldAtMost   = 2 * time.Second       // then a lane stops waiting for who holds it
	maxBackOff   = 5 * time.Second       // between tries of a store or log that fails
	minBackOff   = 20 * time.Millisecond // the first of them
	commitAtMost = 30 * time.Second
	stuckAfter   = 30 * time.Second // a batch is meant to take 50 ms
)

// run works the lane until ctx ends, or the lane is lost, merged or stopped.
func (r *batchRunner) run(ctx context.Context) error {
	backOff := minBackOff
	r.flushed = time.Now() // not with each restart: these may come more often than checkpoints
	for ctx.Err() == nil {
		err := r.l.restart(ctx)
		if err == nil {
			r.revision.Store(r.l.row.Revision)
			if r.l.seq == 0 {
				r.e.tellBegin(r.id, r.l.row.Epoch)
			}
			progress := r.l.done
			err = r.work(ctx)
			r.settle(ctx)
			if r.l.done > progress {
				backOff = minBackOff
			}
		}
		r.drop()
		switch fence, fenced := errors.AsType[*store.FenceError](err); {
		case errors.Is(err, errMerged), errors.Is(err, errHalted):
			return err
		case fenced && fence.Lost():
			return errLaneGone
		case fenced, errors.Is(err, errAgain):
			continue // another hand changed the row, or a batch is known better now
		case err == nil, ctx.Err() != nil:
			continue
		case errors.Is(err, eventlog.ErrTruncated), errors.Is(err, eventlog.ErrGone):
			r.status.set(err)
			return err
		}
		r.status.set(err)
		r.e.logger.Error("lane waits and tries again", "lane", r.l.id.String(), "in", backOff, "error", err)
		r.e.outdated(err)
		if !r.sleep(ctx, backOff) {
			break
		}
		backOff = min(2*backOff, maxBackOff)
	}
	return ctx.Err()
}

// work runs batches until something demands a restart.
func (r *batchRunner) work(ctx context.Context) error {
	l := r.l
	for ctx.Err() == nil {
		if r.look.Swap(false) {
			return r.join(ctx, errAgain)
		}
		if ok, _ := l.runnable(); !ok {
			return r.halted(ctx)
		}
		r.held = time.Time{}
		if err := r.stopIfDue(ctx); err != nil { // it may be due before any event is read
			return err
		}
		if len(l.retry) > 0 && !r.drained {
			return r.drain(ctx)
		}
		if waited, err := r.paced(ctx); waited {
			if err != nil {
				return err
			}
			continue
		}
		if l.small = 0; r.gentle() {
			l.small = gentleEvents
		}
		page, err := r.fetch(ctx)
		if err != nil {
			return r.join(ctx, err)
		}
		r.drained = false
		if what, b := r.gate(); what != goOn {
			if err := r.behindBarrier(ctx, what, b); err != nil {
				return err
			}
			continue
		}
		if page.Next <= l.at {
			if len(l.retry) > 0 {
				continue
			}
			if err := r.idle(ctx); err != nil {
				return err
			}
			continue
		}
		if err := r.step(ctx, page); err != nil {
			return err
		}
		if l.at > l.sent.Position && (r.flushs.Load() || time.Since(r.flushed) > flushAfter) {
			if err := r.checkpoint(ctx); err != nil {
				return err
			}
			r.flushed = time.Now()
		}
		if r.mergesNow() {
			if err := r.merge(ctx); err != nil {
				return err
			}
		}
	}
	return r.join(ctx, ctx.Err())
}

// gate says what is to be done before the lane reads on. It is asked when a page has
// been read: by then it is known whether a barrier stands where that begins.
func (r *batchRunner) gate() (gate, *eventlog.Barrier) {
	if r.passed == r.l.at {
		return goOn, nil
	}
	return r.e.atBarrier(r.l.p, &r.l.row, r.l.logPart, r.l.at)
}

// behindBarrier sees to it that the lane may read on behind a barrier. What is before
// it is committed first, for others may wait for that.
func (r *batchRunner) behindBarrier(ctx context.Context, what gate, b *eventlog.Barrier) error {
	l := r.l
	if err := r.checkpoint(ctx); err != nil {
		return err
	}
	r.flushed = time.Now()
	switch passed, err := r.e.barrier(ctx, what, b, l.id, l.at, &r.waits, &r.status); {
	case err != nil:
		return err
	case what == detach:
		return errAgain // the row has another revision now
	case passed:
		r.passed = l.at
		// Of an earlier stay of the tenant: since then other lanes have written them.
		l.cache.dropTenant(l.spaceOf(b.Tenant))
	}
	return nil
}

// drain applies dead letters for a quantum. Then it is the turn of a batch, so
// that a long queue does not hold up the others, and of what is left after it.
func (r *batchRunner) drain(ctx context.Context) error {
	l := r.l
	if err := r.join(ctx, nil); err != nil {
		return err
	}
	r.drained = true
	started := time.Now()
	for _, k := range l.retry {
		if l.outside(k.Tenant) {
			continue // its tenant has left since
		}
		if err := l.drain(ctx, k); err != nil {
			return err
		}
		if time.Since(started) > quantum || ctx.Err() != nil {
			break
		}
	}
	return errAgain
}

// join waits for the commit in flight, if there is one. It returns its error,
// or else err.
func (r *batchRunner) join(ctx context.Context, err error) error {
	if r.pending == nil {
		return err
	}
	<-r.pending.ended
	b, cerr := r.pending.b, r.pending.err
	r.pending = nil
	if cerr == nil {
		r.l.committed(b)
		r.revision.Store(r.l.row.Revision)
		r.noteApplied(b)
		r.e.progress.broadcast()
		if len(b.commit.Detach) > 0 {
			r.e.wake()
		}
		return err
	}
	if herr := userError(cerr); herr != nil {
		if wait := r.l.refused(b, herr.Err); wait > 0 {
			r.status.set(cerr)
			r.sleep(ctx, wait)
		}
		return errAgain
	}
	return cerr
}

// settle waits for what is still going on, whatever comes of it.
func (r *batchRunner) settle(ctx context.Context) { _ = r.join(ctx, nil) }

// drop throws away what was read ahead.
func (r *batchRunner) drop() {
	if r.ahead != nil {
		<-r.ahead
		r.ahead = nil
	}
}

// fetch returns the next page, which may have been read ahead.
func (r *batchRunner) fetch(ctx context.Context) (eventlog.Page, error) {
	l := r.l
	if r.ahead != nil {
		f := <-r.ahead
		r.ahead = nil
		if f.after == l.at && f.err == nil {
			return f.page, nil
		}
	}
	if l.stopAt != nil && l.at >= l.stopAt.after {
		return eventlog.Page{Next: l.at}, nil
	}
	if l.stands() || r.e.pages.more(l.logPart, l.at) != nil {
		return eventlog.Page{Next: l.at, Head: l.at}, nil // nothing new: do not ask the log
	}
	page, err := r.e.pages.read(ctx, l.request(), l.bucket)
	if err != nil {
		return page, fmt.Errorf("lane %v: read after %v: %w", l.id, l.at, err)
	}
	return page, nil
}

// keep saves the rest of a page that only this lane can use.
func (r *batchRunner) keep(page eventlog.Page, after event.Position) {
	r.drop()
	r.ahead = make(chan fetched, 1)
	r.ahead <- fetched{page: page, after: after}
}

func (r *batchRunner) readAhead(ctx context.Context, after event.Position) {
	r.drop()
	req := r.l.request()
	req.After = after
	ahead := make(chan fetched, 1)
	r.ahead = ahead
	go func() {
		page, err := r.e.pages.read(ctx, req, r.l.bucket)
		ahead <- fetched{page, after, err}
	}()
}

// idle waits for new events or a reason to look again.
func (r *batchRunner) idle(ctx context.Context) error {
	l := r.l
	if l.stands() {
		return r.stand(ctx)
	}
	var wait <-chan time.Time
	switch {
	case r.pending != nil:
	case l.at > l.sent.Position && r.flushs.Load():
		r.flushed = time.Now()
		return r.checkpoint(ctx)
	case comesBack(&l.row):
		if time.Since(r.tried) >= mergeEvery {
			if err := r.merge(ctx); err != nil {
				return err
			}
		}
		wait = time.After(time.Until(r.tried.Add(mergeEvery)))
	case l.at > l.sent.Position:
		wait = time.After(flushAfter - time.Since(r.flushed))
	}
	more := r.e.pages.more(l.logPart, l.at)
	if more == nil {
		return nil
	}
	var ended <-chan struct{}
	if r.pending != nil {
		ended = r.pending.ended
	}
	select {
	case <-more:
	case <-r.kick:
	case <-ended:
		return r.join(ctx, nil)
	case <-wait:
		if l.at > l.sent.Position && r.pending == nil {
			r.flushed = time.Now()
			return r.checkpoint(ctx)
		}
	case <-ctx.Done():
	}
	return nil
}

// checkpoint moves the stored position over events of no interest.
func (r *batchRunner) checkpoint(ctx context.Context) error {
	l := r.l
	r.flushs.Store(false)
	if err := r.join(ctx, nil); err != nil || l.at == l.sent.Position {
		return err
	}
	b := &batch{seq: l.seq + 1, from: l.sent.Position, to: l.at}
	l.finish(b)
	l.submit(b)
	if err := l.commit(ctx, b); err != nil {
		return err
	}
	l.committed(b)
	r.e.progress.broadcast()
	return nil
}

// halted waits while the lane is paused or held.
func (r *batchRunner) halted(ctx context.Context) error {
	if err := r.join(ctx, nil); err != nil {
		return err
	}
	if r.l.row.State != store.Held {
		return errHalted
	}
	// Whoever waits for the lane kicks it, which must not make the hold longer.
	if r.held.IsZero() {
		r.held = time.Now()
	}
	select {
	case <-r.kick:
	case <-time.After(heldAtMost - time.Since(r.held)):
		r.held = time.Time{}
		if err := lane.Unhold(ctx, r.e.store, r.l.id); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	case <-ctx.Done():
	}
	return errAgain
}

// stopIfDue stops the lane when it has come to where its policy stops it.
func (r *batchRunner) stopIfDue(ctx context.Context) error {
	l := r.l
	if l.stopAt == nil || l.at < l.stopAt.after {
		return nil
	}
	if err := r.checkpoint(ctx); err != nil {
		return err
	}
	reason := l.stopAt.reason
	if err := lane.Stop(ctx, r.e.store, l.id, l.row.Epoch, reason); err != nil {
		return err
	}
	l.stopAt = nil
	return errAgain
}

// sharedPage reports whether a page is in the process's cache, so that its rest
// need not be kept by the lane.
func (l *batchLane) sharedPage(eventlog.Page) bool {
	req := l.request()
	return req.Filter.All() && req.Until == 0 && !l.pages.solo(l.logPart)
}

func (r *batchRunner) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *batchRunner) nudge() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// noteApplied records how fresh the events of a batch are, now that they count.
func (r *batchRunner) noteApplied(b *batch) {
	now := time.Now()
	r.status.position.Store(int64(b.to))
	r.status.worked.Add(int64(b.took))
	r.e.note(r.l.p, b, r.l.live, now)
	r.status.clear()
}

// oldest returns when the first event of a page was recorded.
func oldest(page *eventlog.Page) time.Time {
	if page == nil || len(page.Events) == 0 {
		return time.Time{}
	}
	return recorded(&page.Events[0])
}

func userError(err error) *store.UserError {
	u, _ := errors.AsType[*store.UserError](err)
	return u
}

func (r *batchRunner) reread(rev int64) {
	if r.revision.Load() != rev {
		r.look.Store(true)
		r.nudge()
	}
}

// stuck returns an error if handlers have kept a batch for too long. They
// cannot be stopped from outside, so all that can be done is to say it.
func (r *batchRunner) stuck(now time.Time) error {
	since := r.busy.Load()
	if since == 0 || now.Sub(time.Unix(0, since)) < stuckAfter {
		return nil
	}
	return fmt.Errorf("lane %v: a handler has not returned for %v, in the batch after position %d: "+
		"the lane waits for it; see the goroutine dump of the process", r.id, now.Sub(time.Unix(0, since)).Round(time.Second), r.status.position.Load())
}

// retire implements runner: a lane whose context has ended ends between two
// batches, and still waits for its commit.
func (r *batchRunner) retire() bool { return false }

func (r *batchRunner) flush() {
	r.flushs.Store(true)
	r.nudge()
}

func (r *batchRunner) budget(bytes int)    { r.cacheLimit.Store(int64(bytes)) }
func (r *batchRunner) report() *laneStatus { return &r.status }
