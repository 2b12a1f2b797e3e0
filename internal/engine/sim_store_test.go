package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store"
)

// storeBug is a bug of a store, planted by simStore.
type storeBug string

const (
	fenceDropped     storeBug = "compare-and-set dropped"
	epochIgnored     storeBug = "epoch ignored"
	revisionIgnored  storeBug = "exclusions' revision ignored"
	checkpointFirst  storeBug = "checkpoint before the documents, in a transaction of its own"
	lettersAfter     storeBug = "dead letters outside the transaction"
	checkpointAfter  storeBug = "documents before the checkpoint, in a transaction of their own"
	fenceAfterWrites storeBug = "failed fence does not roll back the documents"
)

// simStore is a host's way to the store: calls fail before or after their
// effect, or the host crashes there.
type simStore struct {
	store.Store
	h *simHost
}

// around runs a call with faults before and after it.
func (f *simStore) around(call func() error) error {
	s := f.h.s
	switch {
	case f.h.dead:
		return errCrash
	case s.chance(120):
		s.crash(f.h)
		return errCrash
	case s.chance(40):
		return errInjected
	}
	if s.fleet != nil {
		if s.fleet.late(); f.h.dead { // the call is on its way for long
			return errCrash
		}
	}
	err := call()
	s.beside(f.h)
	switch {
	case f.h.dead:
		return errCrash
	case err != nil:
		return err
	case s.chance(120):
		s.crash(f.h)
		return errCrash
	case s.chance(40):
		return errInjected
	}
	return nil
}

// A simLog is a host's way to the log.
type simLog struct {
	*memlog.Log
	h *simHost
}

func (l *simLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if l.h.s.chance(50) {
		return eventlog.Page{}, errInjected
	}
	page, err := l.Log.Read(ctx, req)
	page.Events = l.h.s.withoutRemoved(page.Events)
	return page, err
}

func (f *simStore) View(ctx context.Context, fn func(store.Tx) error) error {
	return f.around(func() error { return f.Store.View(ctx, fn) })
}

func (f *simStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	return f.around(func() error {
		if f.h.s.fleet != nil {
			return f.h.s.fleet.update(ctx, f, fn)
		}
		return f.Store.Update(ctx, fn)
	})
}

func (f *simStore) Extend(ctx context.Context, id, notes string, ttl time.Duration) (ok bool, err error) {
	err = f.around(func() (err error) { ok, err = f.Store.Extend(ctx, id, notes, ttl); return err })
	return ok, err
}

func (f *simStore) Load(ctx context.Context, b store.Build, keys []store.Key) (docs []store.Document, err error) {
	err = f.around(func() (err error) { docs, err = f.Store.Load(ctx, b, keys); return err })
	return docs, err
}

func (f *simStore) Commit(ctx context.Context, c *store.Commit) error {
	return f.around(func() error {
		if err := f.commit(ctx, c); err != nil {
			return err
		}
		f.h.s.committed(f.h, c)
		if r := f.h.s.reactors[c.Lane.Processor]; r != nil {
			r.checkRows()
		}
		f.h.s.logf("%s: commit of %v to %v under %+v: %d writes, letters %v, remove %v, detach %v, forget %v", f.h.id, c.Lane, c.Position, c.Fence,
			len(c.Writes), brief(c.Letters), c.Remove, brief(c.Detach), c.Forget)
		return nil
	})
}

// brief says of rows what a trace needs.
func brief[T any](rows []T) (out []string) {
	for _, r := range rows {
		switch r := any(r).(type) {
		case store.DeadLetter:
			out = append(out, fmt.Sprintf("%s %s@%v", r.State, r.Key, r.Event.Position))
		case store.Lane:
			out = append(out, fmt.Sprintf("%s@%v", r.Tenant, r.Position))
		}
	}
	return out
}

// commit commits c, with the planted bug.
func (f *simStore) commit(ctx context.Context, c *store.Commit) error {
	s := f.h.s
	row := func() (l store.Lane) {
		_ = s.mem.View(ctx, func(tx store.Tx) (err error) { l, err = tx.Lane(c.Lane); return err })
		return l
	}
	two := func(first, second store.Commit) error {
		if err := f.Store.Commit(ctx, &first); err != nil {
			return err
		}
		if s.chance(10) {
			s.crash(f.h)
			return errCrash
		}
		l := row()
		second.Fence = store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}
		return f.Store.Commit(ctx, &second)
	}
	x := *c
	switch s.planted {
	case fenceDropped:
		l := row()
		x.Fence = store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}
	case epochIgnored:
		x.Fence.Epoch = row().Epoch
	case revisionIgnored:
		x.Fence.Revision = row().Revision
	case checkpointFirst:
		x.Writes, x.Letters = nil, nil
		return two(x, store.Commit{Lane: c.Lane, Position: c.Position, Writes: c.Writes, Letters: c.Letters})
	case lettersAfter:
		x.Letters = nil
		return two(x, store.Commit{Lane: c.Lane, Position: c.Position, Letters: c.Letters})
	case checkpointAfter:
		w := store.Commit{Lane: c.Lane, Fence: c.Fence, Position: c.Fence.Position, Letters: c.Letters}
		x.Letters = nil
		return two(w, x)
	case fenceAfterWrites:
		err := f.Store.Commit(ctx, &x)
		if errors.Is(err, store.ErrFenced) {
			l := row()
			w := store.Commit{Lane: c.Lane, Position: l.Position, Writes: c.Writes,
				Fence: store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}}
			_ = f.Store.Commit(ctx, &w)
		}
		return err
	}
	before, letters := row(), s.removed(c)
	err := f.Store.Commit(ctx, &x)
	if err == nil {
		s.checkCommit(c, &before, letters)
	}
	return err
}
