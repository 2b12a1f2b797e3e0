package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
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
	case s.chance(60):
		return errCrash
	case s.chance(40):
		return errInjected
	}
	err := call()
	switch {
	case err != nil:
		return err
	case s.chance(60):
		return errCrash
	case s.chance(40):
		return errInjected
	}
	return nil
}

func (f *simStore) View(ctx context.Context, fn func(store.Tx) error) error {
	return f.around(func() error { return f.Store.View(ctx, fn) })
}

func (f *simStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	return f.around(func() error { return f.Store.Update(ctx, fn) })
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
	state := row().State
	err := f.Store.Commit(ctx, &x)
	if err == nil && state != store.Running {
		s.fail("lane %v is %s, and has committed up to %v", c.Lane, state, c.Position)
	}
	return err
}

// committed checks invariant 2: one writer an epoch, and checkpoints that only
// move forward under it.
func (s *sim) committed(h *simHost, c *store.Commit) {
	k := fenced{c.Lane, c.Fence.Epoch}
	if by, ok := s.commits[k]; ok && by != h.id {
		s.fail("lane %v: %s and %s both committed under epoch %d", c.Lane, by, h.id, c.Fence.Epoch)
	}
	s.commits[k] = h.id
	_ = s.mem.View(context.Background(), func(tx store.Tx) error {
		if row, err := tx.Lane(c.Lane); err != nil || row.Epoch != c.Fence.Epoch {
			s.fail("lane %v: %s committed under epoch %d, the row has %d: %v", c.Lane, h.id, c.Fence.Epoch, row.Epoch, err)
		}
		return nil
	})
	if at := s.at[k]; c.Position < at {
		s.fail("lane %v: checkpoint went back from %v to %v", c.Lane, at, c.Position)
	}
	s.at[k] = c.Position
}

func (s *sim) letters(p string) (all []store.DeadLetter) {
	_ = s.mem.View(context.Background(), func(tx store.Tx) error {
		row, err := tx.Processor(p)
		if err != nil {
			return err
		}
		all, err = tx.Letters(store.LetterFilter{Build: store.Build{Processor: p, Number: row.Live}})
		return err
	})
	return all
}

// covered returns how far the live build is with a tenant in a partition.
func covered(lanes []store.Lane, live int64, partition int, tenant string) (at event.Position) {
	for _, l := range lanes {
		if l.Number != live || l.Partition != partition {
			continue
		}
		if l.Tenant == tenant {
			return l.Position
		}
		if l.Tenant == "" {
			at = l.Position
			if until, ok := l.Exclusions[tenant]; ok && until != event.Unbounded {
				at = max(at, until)
			}
		}
	}
	return at
}

// check compares every document that is being served with the fold of what its
// lanes say has taken effect, less what is in the dead letters.
func (s *sim) check() {
	if s.bad != nil {
		return
	}
	ctx := context.Background()
	for _, p := range s.procs {
		var lanes []store.Lane
		var row store.Processor
		_ = s.mem.View(ctx, func(tx store.Tx) (err error) {
			if row, err = tx.Processor(p.Name); err == nil {
				lanes, err = tx.Lanes(p.Name)
			}
			return err
		})
		type missed struct {
			id, key string
		}
		out := map[missed]bool{}
		for _, d := range s.letters(p.Name) {
			if m := (missed{d.Event.ID, d.Key}); out[m] {
				s.fail("%s: event %s is twice in the dead letters of key %q", p.Name, d.Event.ID, d.Key)
			} else {
				out[m] = true
			}
		}
		want := map[store.Key]*simDoc{}
		type share struct {
			partition int
			tenant    string
		}
		reach := map[share]event.Position{}
		for i := range s.truth {
			e := &s.truth[i]
			if e.Type != "added" {
				continue
			}
			part := 0
			for part < p.Partitions-1 && !p.bucket(&e.Event, part) {
				part++
			}
			at, ok := reach[share{part, e.Tenant}]
			if !ok {
				at = covered(lanes, row.Live, part, e.Tenant)
				reach[share{part, e.Tenant}] = at
				before := fmt.Sprintf("%s/%d %s", p.Name, part, e.Tenant)
				if at < s.served[before] {
					s.fail("%s: readers went back from %v to %v", before, s.served[before], at)
				}
				s.served[before] = at
			}
			if e.Position > at {
				continue
			}
			docs := e.docs
			if p.Projection.ByStream() {
				docs = []string{e.Stream}
			}
			for _, id := range docs {
				if !out[missed{e.ID, id}] {
					s.apply(p, want, store.Key{Tenant: e.Tenant, ID: id}, e)
				}
			}
		}
		s.compare(p, want)
	}
}

// apply is the fold, written once more without the package under test.
func (s *sim) apply(p *Processor, docs map[store.Key]*simDoc, k store.Key, e *simEvent) {
	if docs[k] == nil {
		docs[k] = &simDoc{}
	}
	t := docs[k]
	t.N++
	t.Sum = t.Sum*31 + uint64(e.payload.N)
	t.position = e.Position
	if p.Projection.ByStream() {
		t.version = e.Version
	}
	if e.payload.N%23 == 0 {
		delete(docs, k)
	}
}

// A simDoc is a document as it should be.
type simDoc struct {
	tally
	version  int64
	position event.Position
}

func (s *sim) compare(p *Processor, want map[store.Key]*simDoc) {
	ctx := context.Background()
	seen := 0
	for _, t := range tenants {
		docs, err := s.mem.List(ctx, p.Name, t, "", 1000)
		if err != nil {
			panic(err)
		}
		for _, d := range docs {
			seen++
			got, err := p.Projection.Decode(d.Data)
			if err != nil {
				panic(err)
			}
			x := simDoc{*got.(*tally), d.Version, d.Position}
			w := want[d.Key]
			if w == nil {
				s.fail("%s: document %v should not exist: %+v", p.Name, d.Key, x)
			} else if *w != x {
				s.fail("%s: document %v is %+v, the fold of the log is %+v", p.Name, d.Key, x, *w)
			}
		}
	}
	if seen != len(want) {
		s.fail("%s: %d documents, the fold of the log has %d", p.Name, seen, len(want))
	}
}

// rested reports whether every lane has come to the end of the log, with no
// tenant outside, no rebuild under way and no key parked.
func (s *sim) rested() bool { return s.describe() == "" }

func (s *sim) describe() (why string) {
	head, _ := s.log.Head(context.Background(), 0)
	_ = s.mem.View(context.Background(), func(tx store.Tx) error {
		lanes, _ := tx.Lanes("")
		for _, l := range lanes {
			if l.Tenant != "" || l.Position < head || l.State != store.Running {
				why = fmt.Sprintf("lane %+v, head %v", l, head)
			}
		}
		ps, _ := tx.Processors()
		for _, p := range ps {
			if keys, _ := tx.Parked(store.Build{Processor: p.Name, Number: p.Live}, ""); len(keys) > 0 || p.Rebuild != 0 {
				why = fmt.Sprintf("processor %+v, parked %+v", p, keys)
			}
		}
		return nil
	})
	return why
}

// checkEnd checks that what is left in the dead letters was given up by
// somebody, and that nothing is left of builds that are no more.
func (s *sim) checkEnd() {
	_ = s.mem.View(context.Background(), func(tx store.Tx) error {
		live := map[store.Build]bool{}
		ps, err := tx.Processors()
		for _, p := range ps {
			live[store.Build{Processor: p.Name, Number: p.Live}] = true
		}
		all, _ := tx.Letters(store.LetterFilter{})
		for _, d := range all {
			if !live[d.Build] {
				s.fail("dead letter %d is of %+v, which is no more", d.ID, d.Build)
			}
		}
		lanes, _ := tx.Lanes("")
		for _, l := range lanes {
			if !live[l.Build] {
				s.fail("lane %v is of a build that is no more", l.LaneID)
			}
		}
		return err
	})
	for _, p := range s.procs {
		for _, d := range s.letters(p.Name) {
			if d.State != store.Skipped {
				s.fail("%s: dead letter %d is still %s", p.Name, d.ID, d.State)
			}
		}
	}
}
