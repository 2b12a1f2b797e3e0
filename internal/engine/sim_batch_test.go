package engine

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/store"
)

// A simLane is a lane of a projection or a batch projector that a host believes
// to own. Its steps are those of batchRunner, one at a time.
type simLane struct {
	h       *simHost
	l       *batchLane
	pending *batch // being committed
	cur     *batch // run beside that
	fresh   bool   // restarted
	again   bool   // throw all away after the pending commit
	gone    bool
	busy    bool // in a step, and another one happens beside it
}

func (h *simHost) startLane(p *Processor, row store.Lane) {
	s := h.s
	l := &batchLane{
		p: p, id: row.LaneID, st: h.st, pages: h.e.pages, streams: s.log, logPart: h.e.logPartition(p, row.Partition, s.logParts), bucket: p.logBucket(&row),
		workers: func(time.Duration) int { return 1 }, cache: newDocCache([]int{1000, 1 << 20}[s.rng.IntN(2)]), logger: slog.New(slog.DiscardHandler),
	}
	l.row.Epoch = row.Epoch
	h.lanes = append(h.lanes, &simLane{h: h, l: l})
}

// step does the next thing that the lane's shell would do.
func (h *simHost) step(x *simLane) {
	if x.busy {
		return
	}
	x.busy = true
	err := x.next(context.Background())
	x.busy = false
	fence, isFence := errors.AsType[*store.FenceError](err)
	switch {
	case h.dead:
		return
	case isFence && fence.Lost(), errors.Is(err, errMerged), errors.Is(err, errHalted):
		h.s.logf("%s ends %v: %v", h.id, x.l.id, err)
		x.gone = true
		h.lanes = slices.DeleteFunc(h.lanes, func(y *simLane) bool { return y == x })
		if errors.Is(err, errHalted) {
			_ = lane.Release(context.Background(), h.st, x.l.id, h.id, x.l.row.Epoch)
		}
		return
	case err != nil:
		x.fresh, x.pending, x.cur, x.again = false, nil, nil, false
	}
}

func (x *simLane) next(ctx context.Context) error {
	l, s := x.l, x.h.s
	if !x.fresh {
		if err := l.restart(ctx); err != nil {
			return err
		}
		x.fresh = true
		return nil
	}
	if x.pending != nil && (x.cur != nil || x.again || l.p.Batch != nil || s.rng.IntN(2) == 0) {
		b := x.pending
		x.pending = nil
		if err := l.commit(ctx, b); err != nil {
			if u := userError(err); u != nil {
				l.refused(b, u.Err)
				return errAgain
			}
			return err
		}
		l.committed(b)
		if x.cur != nil && !x.cur.empty() {
			x.pending = x.cur
		}
		x.cur = nil
		return nil
	}
	if x.again {
		return errAgain
	}
	if s.rng.IntN(6) == 0 && x.stale() { // the supervisor looks now and then
		x.again = true
		return nil
	}
	if x.cur != nil {
		x.pending, x.cur = x.cur, nil
		return nil
	}
	if ok, _ := l.runnable(); !ok {
		if x.pending != nil {
			x.again = true
			return nil
		}
		if l.row.State == store.Held {
			if s.rng.IntN(10) == 0 {
				if err := lane.Unhold(ctx, x.h.st, l.id); err != nil {
					return err
				}
			}
			return errAgain
		}
		return errHalted
	}
	if len(l.retry) > 0 && s.rng.IntN(2) == 0 {
		if x.pending != nil {
			x.again = true
			return nil
		}
		for _, k := range l.retry {
			if l.outside(k.Tenant) {
				continue
			}
			if err := l.drain(ctx, k); err != nil {
				return err
			}
			if s.rng.IntN(2) == 0 {
				break
			}
		}
		return errAgain
	}
	return x.work(ctx)
}

func (x *simLane) work(ctx context.Context) error {
	l, s := x.l, x.h.s
	if l.stopAt != nil && l.at >= l.stopAt.after {
		if x.pending != nil {
			return nil
		}
		if err := x.checkpoint(ctx); err != nil {
			return err
		}
		if err := lane.Stop(ctx, x.h.st, l.id, l.row.Epoch, l.stopAt.reason); err != nil {
			return err
		}
		l.stopAt = nil
		return errAgain
	}
	if l.stands() {
		if x.pending != nil {
			return nil
		}
		return x.checkpoint(ctx)
	}
	x.h.want()
	page, err := x.h.e.pages.read(ctx, l.request(), l.bucket)
	if err != nil {
		return err
	}
	if page.Next <= l.at || s.rng.IntN(10) == 0 {
		if x.pending != nil {
			return nil
		}
		if err := x.checkpoint(ctx); err != nil {
			return err
		}
		if l.id.Tenant == "" || l.row.Pinned {
			return nil
		}
		switch _, err := lane.TryMerge(ctx, x.h.st, l.id, l.row.Epoch); {
		case err == nil:
			return errMerged
		case errors.Is(err, lane.ErrBehind):
			if s.rng.IntN(3) == 0 {
				return lane.Hold(ctx, x.h.st, l.id)
			}
			return nil
		case errors.Is(err, lane.ErrState):
			return errAgain
		default:
			return err
		}
	}
	if l.id.Tenant == "" && l.row.Want == 0 && s.chance(8) && len(page.Events) > 0 {
		t := page.Events[s.rng.IntN(len(page.Events))].Tenant
		if !l.row.Excluded(t, event.Unbounded-1) {
			l.leave[t] = departure{after: l.at, state: store.Running}
		}
	}
	b := l.prepare(page, 1+s.rng.IntN(8))
	err = l.fold(ctx, b)
	for err == nil && l.extends(b) && s.rng.IntN(2) == 0 {
		if page, err = x.h.e.pages.read(ctx, l.request(), l.bucket); err == nil && page.Next > l.at {
			l.extend(b, page, 1+s.rng.IntN(8))
			err = l.fold(ctx, b)
		}
	}
	if err == nil {
		err = l.seal(ctx, b)
	}
	if err != nil {
		if errors.Is(err, errAgain) && x.pending != nil {
			x.again = true
			return nil
		}
		return err
	}
	switch {
	case x.pending != nil:
		x.cur = b
	case !b.empty():
		x.pending = b
	}
	return nil
}

// stale reports whether another hand has changed the row.
func (x *simLane) stale() (yes bool) {
	_ = x.h.s.mem.View(context.Background(), func(tx store.Tx) error {
		row, err := tx.Lane(x.l.id)
		yes = err != nil || row.Revision != x.l.row.Revision
		return nil
	})
	return yes
}

func (x *simLane) checkpoint(ctx context.Context) error {
	l := x.l
	if l.at == l.sent.Position {
		return nil
	}
	b := &batch{seq: l.seq + 1, from: l.sent.Position, to: l.at}
	l.finish(b)
	l.submit(b)
	if err := l.commit(ctx, b); err != nil {
		return err
	}
	l.committed(b)
	return nil
}

// want says now and then which buckets the host's lanes have, as its supervisor
// would; which may be a moment old, so that one or more are left out, and pages
// are shared then.
func (h *simHost) want() {
	h.turns++
	if h.turns%7 != 0 || len(h.lanes) == 0 {
		return
	}
	var buckets []eventlog.Bucket
	for i, x := range h.lanes {
		switch b := x.l.bucket; {
		case b == nil:
			h.e.pages.want(nil)
			return
		case i != h.turns/7%(len(h.lanes)+1):
			buckets = append(buckets, *b)
		}
	}
	h.e.pages.share(map[int]int{0: 1 + h.turns/7%3})
	h.e.pages.want(buckets)
}
