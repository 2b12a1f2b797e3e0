package engine

import (
	"context"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// A view is what the supervisor sees of the store.
type view struct {
	procs   []store.Processor
	lanes   []store.Lane
	members []store.Member // whose lease has not ended, by id
	weights map[string]float64
	pools   map[string]string // of tenants that are given to one
	now     time.Time         // the store's

	notes  map[string]memberNotes // see told
	held   map[int]string         // see holders
	parked map[parkedOf][]store.ParkedKey

	until time.Time // by this process's clock: when the first lease of another member ends; zero: there is none
}

// A watch says when a member is to look at the rows, and what it saw there last.
type watch struct {
	seen, latest int64                    // the revision of the last look, at least, and the one that is known
	full, again  time.Time                // when that was, and when the next one is due whatever the revision; zero: no hurry
	must         bool                     // look at all rows
	worked       func(store.LaneID) int64 // see self.worked
	v            view
}

func newWatch() watch { return watch{seen: lost, latest: lost, must: true} }

// due reports whether it is time to look; changes by others at most so often.
func (w *watch) due(now time.Time, often time.Duration) bool {
	w.must = w.must || w.latest != w.seen && now.Sub(w.full) >= often || !w.again.IsZero() && !now.Before(w.again) || now.Sub(w.full) >= lookAtLeast
	return w.must || !w.v.until.IsZero() && !now.Before(w.v.until)
}

// look reads the rows. Where they need not be read, because only a lease may have
// ended, it reads the members first, and the rest if these are not the same as in
// the view before: else there is nothing to decide.
func (w *watch) look(ctx context.Context, s store.Store, id string, here time.Time) (same bool, err error) {
	at, before := w.latest, w.v
	v, same, err := look(ctx, s, id, before, w.must, here, w.worked)
	if err != nil {
		return false, err
	}
	if w.v = v; !same {
		w.must, w.seen, w.full = false, at, here
	}
	return same, nil
}

// earlier returns the earlier of two times, of which zero is none.
func earlier(x, y time.Time) time.Time {
	if x.IsZero() || !y.IsZero() && y.Before(x) {
		return y
	}
	return x
}

// A changed is what the store says of its revision.
type changed struct {
	revision int64
	err      error
}

// listen tells of changes of the store's rows until ctx ends.
func (e *Engine) listen(ctx context.Context, news chan<- changed) {
	known := int64(lost)
	for ctx.Err() == nil {
		revision, err := e.store.Changed(ctx, known)
		select {
		case news <- changed{revision, err}:
		case <-ctx.Done():
			return
		}
		if err == nil {
			known = revision
		} else if !pause(ctx, time.Second) {
			return
		}
	}
}

// look reads the rows as member id sees them at a time of its clock; see
// [watch.look].
func look(ctx context.Context, s store.Store, id string, before view, must bool, here time.Time, worked func(store.LaneID) int64) (v view, same bool, err error) {
	err = s.View(ctx, func(tx store.Tx) (err error) {
		v = before
		v.until, v.notes, v.held, v.parked = time.Time{}, nil, nil, nil
		if v.members, err = tx.Members(); err != nil {
			return err
		}
		v.now = tx.Now()
		v.members = slices.DeleteFunc(v.members, func(m store.Member) bool { return !m.Until.After(v.now) })
		for i := range v.members {
			if v.members[i].ID != id {
				v.until = earlier(v.until, here.Add(v.members[i].Until.Sub(v.now)+time.Millisecond))
			}
		}
		same = !must && slices.EqualFunc(v.members, before.members, func(x, y store.Member) bool { return x.ID == y.ID })
		if same {
			return nil
		}
		if v.procs, err = tx.Processors(); err != nil {
			return err
		}
		if v.lanes, err = tx.Lanes(""); err != nil {
			return err
		}
		if v.weights, err = tx.Weights(); err != nil {
			return err
		}
		if v.pools, err = tx.Pools(); err != nil || worked == nil {
			return err
		}
		return v.readParked(tx, id, worked)
	})
	return v, same, err
}
