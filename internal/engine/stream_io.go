package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/mutant"
	"github.com/fairlead-dev/fairlead/store"
)

// A StuckError is in a lane's status while a handler has not returned, long
// after its time was up.
type StuckError struct {
	Lane     store.LaneID
	Tenant   string
	Stream   string
	Position event.Position
	ID       string
	Since    time.Time
}

func (e *StuckError) Error() string {
	return fmt.Sprintf("lane %v: the handler of event %s (tenant %q, stream %q, position %v) has not returned since %v: its key and one worker wait for it",
		e.Lane, e.ID, e.Tenant, e.Stream, e.Position, e.Since.Format(time.RFC3339))
}

// overdue marks the handlers that ignore their time limit, and says when to look
// again.
func (l *streamLane) overdue(now time.Time) (next time.Time, ok bool) {
	if l.p.Timeout == 0 {
		return next, false
	}
	limit := l.p.Timeout + stuckGrace
	for t := l.runs.first; t != nil; t = t.later {
		if t.stuck {
			continue
		}
		if now.Sub(t.started) < limit {
			return t.started.Add(limit), true
		}
		t.stuck = true
		l.stuck++
		l.warn("handler is stuck", "lane", l.name, "tenant", t.Tenant, "stream", t.Stream, "position", int64(t.Position), "event", t.ID, "since", t.started)
	}
	return next, false
}

// tell writes what the lane has to say, to the log and into its status.
func (r *streamRunner) tell(notes []note, err error, clear bool) {
	for _, n := range notes {
		if n.warn {
			r.e.logger.Warn(n.text, n.args...)
		} else {
			r.e.logger.Info(n.text, n.args...)
		}
	}
	switch {
	case err != nil:
		r.status.set(err)
	case clear:
		r.status.clear()
	}
}

// news takes what is to be told out of the lane.
func (l *streamLane) news() (notes []note, err error) {
	notes, l.notes = l.notes, nil
	switch {
	case l.stuck > 0:
		for t := l.runs.first; t != nil; t = t.later {
			if t.stuck {
				return notes, &StuckError{l.id, t.Tenant, t.Stream, t.Position, t.ID, t.started}
			}
		}
	case len(l.waiting) > 0:
		return notes, l.trouble
	}
	l.trouble = nil
	return notes, nil
}

// read reads the row, and lets the lane adopt it.
func (r *streamRunner) read(ctx context.Context) {
	r.look.Store(false)
	l := r.l
	r.pool.mu.Lock()
	claims := l.claims
	r.pool.unlock()
	if r.ending != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), commitAtMost)
		defer cancel()
	}
	var v laneView
	applied := false
	var err error
	if r.first != nil {
		v, r.first = *r.first, nil
	} else {
		err = r.e.store.View(ctx, func(tx store.Tx) (err error) {
			if v.row, err = tx.Lane(r.id); err != nil {
				return err
			}
			p, err := tx.Processor(r.id.Processor)
			if err != nil {
				return err
			}
			v.paused = p.Paused
			if applied, err = r.applied(tx, &v.row); err != nil {
				return err
			}
			v.parked, err = tx.Parked(r.id.Build, r.id.Tenant)
			return err
		})
	}
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && v.row.Epoch != l.epoch:
		r.lose()
		return
	case err != nil:
		r.look.Store(true)
		if ctx.Err() == nil || r.ending != nil {
			r.failed("the lane's row cannot be read", err)
		}
		return
	}
	r.settleUnsure(applied)
	r.pool.mu.Lock()
	if l.claims != claims { // what was read may be older than the claim
		r.look.Store(true)
		r.pool.unlock()
		return
	}
	held, first := l.row.State == store.Held, !l.loaded
	err = l.adopt(v)
	r.revision.Store(v.row.Revision)
	r.status.position.Store(int64(v.row.Position))
	r.pool.unlock()
	if first && err == nil {
		r.e.tellBegin(r.id, l.epoch)
	}
	switch {
	case err != nil:
		r.status.set(err)
		r.end(err, false)
	case r.ending != nil:
	case v.paused || v.row.State == store.Paused || v.row.State == store.Recut:
		r.end(errHalted, false)
	case v.row.State == store.Held && (first || !held):
		r.heldAt = time.Now()
	}
}

// applied reports whether the commit took effect of which no answer came.
func (r *streamRunner) applied(tx store.Tx, row *store.Lane) (bool, error) {
	c := r.unsure
	if c != nil && mutant.Is(mutant.UnsureApplied) {
		return true, nil
	}
	if c == nil || row.Epoch != c.Fence.Epoch || row.Position != c.Position || !bytes.Equal(row.Done, c.Done) {
		return false, nil
	}
	if c.Position != c.Fence.Position || !bytes.Equal(r.l.row.Done, c.Done) {
		return true, nil
	}
	if len(c.Remove) == 0 {
		return false, nil
	}
	found, err := tx.Letters(store.LetterFilter{AfterID: c.Remove[0] - 1, Limit: 1})
	return err == nil && (len(found) == 0 || found[0].ID != c.Remove[0]), err
}

func (r *streamRunner) settleUnsure(applied bool) {
	c := r.unsure
	if c == nil {
		return
	}
	r.unsure = nil
	if applied {
		r.took(c)
		return
	}
	r.pool.mu.Lock()
	defer r.pool.unlock()
	r.l.refused(c)
}

// lose ends a lane that has another owner, or is gone.
func (r *streamRunner) lose() {
	r.lost = true
	r.end(errLaneGone, true)
	r.ending = errLaneGone
}

// commitEnded takes the answer of the store to the commit in flight.
func (r *streamRunner) commitEnded(err error) {
	c := r.pending
	r.pending = nil
	if err == nil {
		r.took(c)
		return
	}
	fence, fenced := errors.AsType[*store.FenceError](err)
	switch {
	case fenced && fence.Lost():
		r.lose()
		return
	case fenced && r.unsure == nil:
		r.look.Store(true)
		r.pool.mu.Lock()
		r.l.refused(c)
		r.pool.unlock()
		return
	case errors.Is(err, store.ErrNotFound): // a letter is gone, by another hand
		r.pool.mu.Lock()
		r.l.refused(c)
		for _, x := range r.l.removed {
			if d := r.l.drains[x.key]; d != nil {
				d.removing--
			}
		}
		r.l.removed = nil
		r.pool.unlock()
	default:
		r.unsure = c
	}
	r.look.Store(true)
	r.failed("commit failed", fmt.Errorf("lane %v: commit at %v: %w", r.id, c.Position, err))
}

// took notes that a commit has taken effect.
func (r *streamRunner) took(c *streamCommit) {
	now := time.Now()
	r.l.tidy(c)
	moved := c.Position > c.Fence.Position
	r.pool.mu.Lock()
	r.l.committed(c)
	r.revision.Store(r.l.row.Revision)
	notes, err := r.l.news()
	counted := r.l.counts
	r.l.counts = counts{}
	worked := r.l.worked
	r.l.worked = 0
	r.pool.unlock()
	r.flushed, r.backOff, r.tries = now, minBackOff, 0
	r.spacing = min(max(20*now.Sub(r.began), commitEvery), commitAtLeast)
	r.tell(notes, err, true)
	r.status.position.Store(int64(c.Position))
	r.status.worked.Add(int64(worked / float64(r.l.p.Concurrency) * 1e9)) // all workers busy: one processor
	r.e.freshAt(r.l.p, c.fresh, c.applied, &counted, now)
	r.l.reuse(c)
	if moved {
		r.e.progress.broadcast()
	}
	if len(c.Detach) > 0 {
		r.e.wake()
	}
}

// freshAt records how long events took from the log to their commit.
func (e *Engine) freshAt(p *Processor, recorded []time.Time, applied int64, counted *counts, now time.Time) {
	a, err := e.processor(p.Name)
	if err != nil {
		return
	}
	a.stats.mu.Lock()
	defer a.stats.mu.Unlock()
	a.stats.events += applied
	a.stats.counts.add(counted)
	for _, at := range recorded {
		a.stats.window.Record(now, now.Sub(at))
	}
}

// fetch reads the next page in a goroutine of its own.
func (r *streamRunner) fetch(ctx context.Context) {
	l := r.l
	r.pool.mu.Lock()
	req := eventlog.ReadRequest{Partition: r.logPart, After: l.at}
	tenant, again, refill := l.refillNext()
	r.pool.unlock()
	switch {
	case refill:
		req.After, req.Until, req.Filter.Tenants = again.From, again.To, []string{tenant}
	case r.id.Tenant != "":
		req.Filter.Tenants, req.MaxEvents = []string{r.id.Tenant}, r.most
	case l.p.Tenants != nil:
		req.Filter.Tenants = l.p.Tenants
	}
	req.Filter.Classes = l.p.logClasses()
	if req.Filter.Tenants != nil && l.p.Types != nil {
		req.Filter.Types = storedTypes(l.p.Types)
	}
	if !refill {
		req.Until = l.row.Until
	}
	p := streamPage{after: req.After, tenant: tenant, refill: refill, shared: req.Filter.All() && req.Until == 0 && !refill}
	r.reading, r.fetched = true, time.Now()
	bucket := l.p.logBucket(&l.row)
	r.async(func() {
		began := time.Now()
		p.page, p.err = r.e.pages.read(ctx, req, bucket)
		p.took = time.Since(began)
		r.pages <- p
	})
}

// stopsAtBarrier reports whether a page is not to be taken yet, because a barrier
// stands where it begins. Then that is seen to, and the page is read again.
func (r *streamRunner) stopsAtBarrier(ctx context.Context, p *streamPage) bool {
	if r.passed == p.after+1 {
		return false
	}
	r.pool.mu.Lock()
	what, b := r.e.atBarrier(r.l.p, &r.l.row, r.logPart, p.after)
	mine := p.after == r.l.at || p.refill && b != nil && b.Tenant == p.tenant
	r.pool.unlock()
	if what == goOn || !mine {
		return false
	}
	r.reading = true
	next := streamPage{after: p.after, barrier: true}
	r.async(func() {
		next.passed, next.err = r.e.barrier(ctx, what, b, r.id, next.after, &r.waits, &r.status)
		if what == detach {
			r.look.Store(true)
		}
		r.pages <- next
	})
	return true
}

// take gives a page to the lane, as much of it as its window has room for.
func (r *streamRunner) take(ctx context.Context, p streamPage) {
	l, s := r.l, r.pool
	r.readFor = p.took
	if p.err != nil {
		switch {
		case ctx.Err() != nil:
		case errors.Is(p.err, eventlog.ErrTruncated), errors.Is(p.err, eventlog.ErrGone):
			r.status.set(p.err)
			r.end(fmt.Errorf("lane %v: %w", r.id, p.err), false)
		default:
			r.failed("the log cannot be read", fmt.Errorf("lane %v: read after %v: %w", r.id, p.after, p.err))
		}
		return
	}
	if p.passed {
		r.passed = p.after + 1
	}
	if r.ending != nil || p.barrier || r.stopsAtBarrier(ctx, &p) {
		return
	}
	defer func() { clear(r.tasks); r.tasks, r.keys = r.tasks[:0], r.keys[:0] }()
	if p.refill {
		r.tasks, r.keys, _ = l.examine(p.page.Events, r.tasks[:0], r.keys[:0])
		s.mu.Lock()
		defer s.unlock()
		l.readmit(p.tenant, r.tasks, r.keys, p.page.Next)
		s.dispatch(nil, time.Now())
		return
	}
	l.cutAt(&p)
	events := p.page.Events
	s.mu.Lock()
	room := int(r.limit.Load()) - l.held()
	s.unlock()
	for more := true; more; {
		n := fitting(events, room)
		next := p.page.Next
		if more = n < len(events); more {
			next = events[n-1].Position
		}
		var passed int64
		r.tasks, r.keys, passed = l.examine(events[:n], r.tasks[:0], r.keys[:0])
		events = events[n:]
		s.mu.Lock()
		if len(l.refill) > 0 || l.halted || p.after != l.at {
			s.unlock() // older events come first, or there is another hand: read again later
			return
		}
		l.admit(r.tasks, r.keys)
		l.counts.passed += passed
		l.advance(next)
		s.dispatch(nil, time.Now())
		room = int(r.limit.Load()) - l.held()
		s.unlock()
		if room <= 0 && more {
			if !p.shared {
				p.page.Events, p.after = events, next
				r.rest = &p
			}
			return
		}
		p.after = next
	}
}

// fitting returns how many of the first events to take in at once: what there is
// room for, and at least one.
func fitting(events []event.Event, room int) (n int) {
	for n = range min(admitAtOnce, len(events)) {
		if room -= events[n].Size() + taskOverhead; room <= 0 {
			break
		}
	}
	return min(n+1, len(events))
}

// drain loads the dead letters of a key, or records that one failed again.
func (r *streamRunner) drain(ctx context.Context, d *drain) {
	l, s := r.l, r.pool
	if d.failed != nil {
		r.e.logger.Warn("dead letter failed again", "lane", r.id.String(), "tenant", d.id.Tenant, "key", d.id.ID,
			"position", int64(d.failed.Event.Position), "error", d.failed.Error)
		if err := lane.RetryFailed(ctx, r.e.store, *d.failed); err != nil {
			r.failed("a failed dead letter was not recorded", err)
			return
		}
		s.mu.Lock()
		defer s.unlock()
		if l.drains[d.id] == d {
			delete(l.drains, d.id)
		}
		return
	}
	var letters []store.DeadLetter
	err := r.e.store.View(ctx, func(tx store.Tx) error {
		f := l.letterFilter(d.id)
		f.Limit = drainLimit
		for {
			found, err := tx.Letters(f)
			if err != nil || len(found) == 0 {
				return err
			}
			for _, x := range found {
				f.AfterID = x.ID
				if x.State != store.Skipped {
					letters = append(letters, x)
				}
			}
			if len(letters) > 0 || len(found) < drainLimit {
				return nil
			}
		}
	})
	for i := range letters {
		if x := &letters[i].Event; err == nil && x.Withheld > 0 {
			err = r.readAgain(ctx, x)
		}
	}
	s.mu.Lock()
	defer s.unlock()
	if err != nil {
		d.loading, d.load = false, true
		if ctx.Err() == nil {
			r.failed("dead letters cannot be loaded", l.errDrain(d.id, err))
		}
		return
	}
	l.drainLoaded(d, letters)
	s.dispatch(nil, time.Now())
}

// readAgain gets the payload of an event that was too large as it was parked.
func (r *streamRunner) readAgain(ctx context.Context, e *event.Event) error {
	page, err := r.e.pages.read(ctx, eventlog.ReadRequest{Partition: r.logPart, After: e.Position - 1, Until: e.Position}, nil)
	if err != nil {
		return err
	}
	foundAgain(e, page.Events)
	return nil
}

// stopLane stops the lane where its poison policy stops it.
func (r *streamRunner) stopLane(ctx context.Context, reason string) {
	err := lane.Stop(ctx, r.e.store, r.id, r.l.epoch, reason)
	fence, fenced := errors.AsType[*store.FenceError](err)
	switch {
	case err == nil:
		r.end(errHalted, false)
	case fenced && fence.Lost(), errors.Is(err, store.ErrNotFound):
		r.lose()
	case ctx.Err() == nil:
		r.failed("the lane was not stopped", err)
	}
}

// stuck says nothing: the lane itself reports each handler whose time is up.
func (r *streamRunner) stuck(time.Time) error { return nil }
