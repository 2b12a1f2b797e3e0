package memstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
)

// Commit implements [store.Store]. The function of c.SQL gets a [*Tx].
func (s *Store) Commit(ctx context.Context, c *store.Commit) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()

	l, ok := s.lanes[c.Lane]
	found := store.Fence{Epoch: l.Epoch, Position: l.Position, Revision: l.Revision}
	if !ok || found != c.Fence {
		return &store.FenceError{Lane: c.Lane, Expected: c.Fence, Found: found}
	}
	if c.Position < c.Fence.Position {
		return fmt.Errorf("memstore: commit of lane %v: position %v is before %v", c.Lane, c.Position, c.Fence.Position)
	}
	u := &undoLog{state: &s.state}
	defer u.rollback() // what is still there: after keep nothing, and SQL may panic
	now := s.time()
	if err := u.commit(c, l, now); err != nil {
		return fmt.Errorf("memstore: commit of lane %v: %w", c.Lane, err)
	}
	if c.SQL != nil {
		t := &Tx{u: u, now: now}
		err := c.SQL(ctx, t)
		t.u = nil
		if err != nil {
			return fmt.Errorf("memstore: commit of lane %v: %w", c.Lane, &store.UserError{Err: err})
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	u.keep()
	if len(c.Detach) > 0 {
		s.raise()
	}
	return nil
}

// commit makes the changes of c, whose fence l has passed.
func (u *undoLog) commit(c *store.Commit, l store.Lane, now time.Time) error {
	if err := u.commitDocuments(c, now); err != nil {
		return err
	}
	for _, id := range c.Remove {
		d, ok := u.letters[id]
		mine := d.Build == c.Lane.Build && d.Partition == c.Lane.Partition && (c.Lane.Tenant == "" || d.Tenant == c.Lane.Tenant)
		if !ok || !mine {
			return fmt.Errorf("dead letter %d: %w", id, store.ErrNotFound)
		}
		remove(u, u.letters, id)
	}
	for i := range c.Letters {
		d := cloneLetter(c.Letters[i])
		if d.ID = u.nextLetter(); d.At.IsZero() {
			d.At = time.Now().UTC()
		}
		set(u, u.letters, d.ID, d)
	}
	if len(c.Detach) > 0 || len(c.Forget) > 0 {
		l.Exclusions = maps.Clone(l.Exclusions)
		if l.Exclusions == nil {
			l.Exclusions = make(map[string]event.Position)
		}
		for _, tenant := range c.Forget {
			delete(l.Exclusions, tenant)
		}
		for _, d := range c.Detach {
			if _, ok := u.lanes[d.LaneID]; ok {
				return fmt.Errorf("detach tenant %q: lane %v exists", d.Tenant, d.LaneID)
			}
			l.Exclusions[d.Tenant] = event.Unbounded
			u.putLane(d)
		}
		l.Revision++
	}
	l.Position = c.Position
	l.Done = cloneDone(c.Done)
	if !c.AppliedAt.IsZero() {
		l.AppliedAt = utc(c.AppliedAt)
	}
	l.UpdatedAt = now
	set(u, u.lanes, c.Lane, l)
	return nil
}

func (u *undoLog) commitDocuments(c *store.Commit, now time.Time) error {
	seen := make(map[store.Key]bool, len(c.Writes))
	for i := range c.Writes {
		w := &c.Writes[i]
		if seen[w.Key] {
			return fmt.Errorf("document %q of tenant %q is written twice", w.ID, w.Tenant)
		}
		seen[w.Key] = true
		if w.Delete {
			u.deleteDocument(c.Lane.Build, w.Key)
			continue
		}
		d := cloneDocument(w.Document)
		d.Updated = now
		u.putDocument(c.Lane.Build, d)
	}
	return nil
}

// putLane inserts or replaces a lane; the store's own field stays as it was.
func (u *undoLog) putLane(l store.Lane) {
	l = cloneLane(l)
	l.AppliedAt = utc(l.AppliedAt)
	l.UpdatedAt = u.lanes[l.LaneID].UpdatedAt
	set(u, u.lanes, l.LaneID, l)
}

// A Tx is what a function of [store.Commit.SQL] gets: tables of rows by key,
// which are committed and rolled back together with the batch. It ends when the
// function returns.
type Tx struct {
	u   *undoLog
	now time.Time
}

// Now returns the store's time, the same through the transaction.
func (t *Tx) Now() time.Time { return t.now }

// Table returns the table of that name, which comes into being with its first row.
func (t *Tx) Table(name string) *Table { return &Table{tx: t, name: name} }

// A Table is one of the user's tables inside a transaction.
type Table struct {
	tx   *Tx
	name string
}

// Get returns the row of a key and whether there is one.
func (t *Table) Get(key string) ([]byte, bool) {
	v, ok := t.open().tables[t.name][key]
	return bytes.Clone(v), ok
}

// Put inserts or replaces the row of a key.
func (t *Table) Put(key string, row []byte) {
	u := t.open()
	set(u, u.table(t.name), key, bytes.Clone(row))
}

// Delete deletes the row of a key, if there is one.
func (t *Table) Delete(key string) {
	u := t.open()
	remove(u, u.tables[t.name], key)
}

// Keys returns the keys of all rows in byte order.
func (t *Table) Keys() []string {
	return slices.Sorted(maps.Keys(t.open().tables[t.name]))
}

func (t *Table) open() *undoLog {
	if t.tx.u == nil {
		panic(errors.New("memstore: table " + t.name + " is used after its transaction"))
	}
	return t.tx.u
}
