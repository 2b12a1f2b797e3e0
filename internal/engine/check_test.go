package engine

import (
	"cmp"
	"context"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

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

// removed returns the dead letters that a commit is about to remove.
func (s *sim) removed(c *store.Commit) (letters []store.DeadLetter) {
	_ = s.mem.View(context.Background(), func(tx store.Tx) error {
		for _, id := range c.Remove {
			found, err := tx.Letters(store.LetterFilter{AfterID: id - 1, Limit: 1})
			if err != nil {
				return err
			}
			letters = append(letters, found...)
		}
		return nil
	})
	return letters
}

// checkCommit checks, by the row as it was before, that a lane which has
// committed was at work, and that the dead letters that it made and removed were
// its own.
func (s *sim) checkCommit(c *store.Commit, before *store.Lane, removed []store.DeadLetter) {
	// A reactor's lane still writes down what had been begun before.
	if before.State != store.Running && s.reactors[c.Lane.Processor] == nil {
		s.fail("lane %v is %s, and has committed up to %v", c.Lane, before.State, c.Position)
	}
	w := simRow{at: before.Position, until: before.Exclusions}
	if err := w.done.UnmarshalBinary(before.Done); err != nil {
		s.fail("lane %v: %v", c.Lane, err)
	}
	for _, d := range c.Letters {
		if e := &d.Event; before.Excluded(e.Tenant, e.Position) || w.has(e.Tenant, e.Position) {
			s.fail("lane %v: a dead letter was made of event %s at %v, which was done or another lane's", c.Lane, e.ID, e.Position)
		}
	}
	for _, d := range removed {
		r := s.reactors[c.Lane.Processor]
		if r != nil {
			r.removed[d.ID] = c.Lane
		}
		switch {
		case r != nil && r.handled[s.index[d.Event.ID]] == 0:
			s.fail("lane %v: dead letter %d was removed, and nobody has handled it", c.Lane, d.ID)
		case r == nil && before.Exclusions[d.Tenant] == event.Unbounded:
			s.fail("lane %v: dead letter %d was drained, and its tenant %q has left", c.Lane, d.ID, d.Tenant)
		}
	}
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

// leaf returns the partition that an event belongs to: that of the one base lane
// of the live build that has it.
func (s *sim) leaf(p *Processor, live int64, lanes []store.Lane, e *simEvent) int {
	if p.follows {
		return e.part
	}
	found := -1
	for i := range lanes {
		l := &lanes[i]
		if l.Number != live || l.Tenant != "" || !p.bucket(&e.Event, l.Partition, cmp.Or(l.Of, p.Partitions)) {
			continue
		}
		if found >= 0 {
			s.fail("%s: event %s is in the partitions %d and %d", p.Name, e.ID, found, l.Partition)
		}
		found = l.Partition
	}
	if found < 0 {
		s.fail("%s: event %s is in no partition", p.Name, e.ID)
	}
	return found
}

// check compares every document that is being served with the fold of what its
// lanes say has taken effect, less what is in the dead letters.
func (s *sim) check() {
	if s.bad != nil {
		return
	}
	ctx := context.Background()
	for _, p := range s.procs {
		s.checkStops(p.Name)
		s.checkGiven(p.Name)
		s.checkKept(p.Name)
		if r := s.reactors[p.Name]; r != nil {
			r.checkRows()
			continue
		}
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
		want, ledger := map[store.Key]*simDoc{}, s.rowsOfRemoved(p.Name)
		type share struct {
			partition int
			tenant    string
		}
		reach := map[share]event.Position{}
		for i := range s.truth {
			e := &s.truth[i]
			if e.Type != "added" || e.gone {
				continue
			}
			part := s.leaf(p, row.Live, lanes, e)
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
			if p.Batch != nil || p.Projection.ByStream() {
				docs = []string{e.Stream}
			}
			for _, id := range docs {
				switch {
				case out[missed{e.ID, id}]:
				case p.Batch != nil:
					ledger[e.Tenant+"/"+id] += fmt.Sprintf("%d ", e.Position)
				default:
					s.apply(p, want, store.Key{Tenant: e.Tenant, ID: id}, e)
				}
			}
		}
		if p.Batch != nil {
			s.compareLedger(p, ledger)
		} else {
			s.compare(p, want)
		}
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

// compareLedger compares what a batch projector wrote down with what it should
// have been handed: each event once, in order.
func (s *sim) compareLedger(p *Processor, want map[string]string) {
	rows, err := s.mem.Rows(context.Background(), p.Name)
	if err != nil {
		panic(err)
	}
	for k, row := range rows {
		if string(row) != want[k] {
			s.fail("%s: %s was handed the events at %s, want those at %s", p.Name, k, row, want[k])
		}
	}
	for k, w := range want {
		if _, ok := rows[k]; !ok {
			s.fail("%s: %s was handed no event, want those at %s", p.Name, k, w)
		}
	}
}

// checkEnd checks that what is left in the dead letters was given up by
// somebody, and that nothing is left of builds that are no more.
func (s *sim) checkEnd() {
	_ = s.mem.View(context.Background(), func(tx store.Tx) error {
		live := map[store.Build]bool{}
		ps, err := tx.Processors()
		for _, p := range ps {
			live[store.Build{Processor: p.Name, Number: p.Live}] = true
			live[store.Build{Processor: p.Name, Number: p.Builds.Kept.Number}] = true
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
		if r := s.reactors[p.Name]; r != nil {
			r.checkEnd()
		}
	}
}
