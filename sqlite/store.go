package sqlite

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

// fence is the first statement of a commit: it moves the lane on if the lane is
// what the commit expects, and otherwise finds no row.
const fence = `UPDATE fairlead_lanes
	SET position = ?1, done = ?2, applied_at = coalesce(?3, applied_at), updated_at = ?4, revision = revision + ?5
	WHERE processor = ?6 AND number = ?7 AND partition = ?8 AND tenant = ?9 AND epoch = ?10 AND position = ?11 AND revision = ?12`

// Commit implements [store.Store]. Commit.SQL is given a [*Tx]. A panic of it
// rolls back and goes on.
func (db *DB) Commit(ctx context.Context, c *store.Commit) error {
	if c.Position < c.Fence.Position {
		return fmt.Errorf("sqlite: commit lane %v: position %v is before %v, where the lane is", c.Lane, c.Position, c.Fence.Position)
	}
	done, err := db.queueUp(ctx, c)
	if err != nil {
		return fmt.Errorf("commit lane %v: %w", c.Lane, db.fault(ctx, "commit", err))
	}
	defer done()
	err = db.write(ctx, "commit", func(w *writer) error {
		now := time.Now()
		if err := w.fence(c, now); err != nil {
			return err
		}
		if err := w.guarded(); err != nil {
			return err
		}
		build, err := w.buildNo(c.Lane.Build)
		if err != nil {
			return err
		}
		if err := w.writeDocuments(build, c.Writes, now); err != nil {
			return err
		}
		for i := range c.Letters {
			if err := w.insertLetter(&c.Letters[i]); err != nil {
				return err
			}
		}
		if err := w.removeLetters(c); err != nil {
			return err
		}
		if err := w.detach(c); err != nil {
			return err
		}
		if c.SQL == nil {
			return nil
		}
		return w.userSQL(ctx, c.SQL)
	})
	switch err.(type) { //nolint:errorlint // those that userSQL and fence return are not wrapped
	case nil, *store.FenceError, *store.UserError:
		return err
	}
	return fmt.Errorf("commit lane %v: %w", c.Lane, err)
}

func (w *writer) fence(c *store.Commit, now time.Time) error {
	s, err := w.Prepare(fence)
	if err != nil {
		return err
	}
	s.BindInt64(1, int64(c.Position))
	bindBlob(s, 2, c.Done)
	bindTime(s, 3, c.AppliedAt)
	bindTime(s, 4, now)
	raise := int64(0)
	if len(c.Detach) > 0 || len(c.Forget) > 0 {
		raise = 1
	}
	s.BindInt64(5, raise)
	s.BindText(6, c.Lane.Processor)
	s.BindInt64(7, c.Lane.Number)
	s.BindInt64(8, int64(c.Lane.Partition))
	s.BindText(9, c.Lane.Tenant)
	s.BindInt64(10, c.Fence.Epoch)
	s.BindInt64(11, int64(c.Fence.Position))
	s.BindInt64(12, c.Fence.Revision)
	if _, err := s.Step(); err != nil {
		return err
	}
	if err := s.Reset(); err != nil {
		return err
	}
	if w.Changes() == 1 {
		return nil
	}
	refused := &store.FenceError{Lane: c.Lane, Expected: c.Fence}
	err = w.rows("SELECT epoch, position, revision FROM fairlead_lanes WHERE processor = ? AND number = ? AND partition = ? AND tenant = ?",
		func(s *zs.Stmt) error {
			refused.Found = store.Fence{Epoch: s.ColumnInt64(0), Position: event.Position(s.ColumnInt64(1)), Revision: s.ColumnInt64(2)}
			return nil
		}, c.Lane.Processor, c.Lane.Number, c.Lane.Partition, c.Lane.Tenant)
	if err != nil {
		return err
	}
	return refused
}

const (
	putDocument = `INSERT INTO fairlead_documents(build_no, tenant_no, id, version, position, updated_at, doc)
		VALUES(?, ?, ?, ?, ?, ?, ?) ON CONFLICT(build_no, tenant_no, id) DO UPDATE
		SET version = excluded.version, position = excluded.position, updated_at = excluded.updated_at, doc = excluded.doc`
	updateDocument = `UPDATE fairlead_documents SET version = ?4, position = ?5, updated_at = ?6, doc = ?7
		WHERE doc_no = ?8 AND build_no = ?1 AND tenant_no = ?2 AND id = ?3`
	deleteDocument = "DELETE FROM fairlead_documents WHERE build_no = ? AND tenant_no = ? AND id = ?"
)

// A docKey names a document by numbers.
type docKey struct {
	build, tenant int64
	id            string
}

func (w *writer) writeDocuments(build int64, writes []store.Write, now time.Time) error {
	if len(writes) == 0 {
		return nil
	}
	put, err := w.Prepare(putDocument)
	if err != nil {
		return err
	}
	update, err := w.Prepare(updateDocument)
	if err != nil {
		return err
	}
	var tenant string
	k := docKey{build: build, tenant: -1}
	for i := range writes {
		d := &writes[i]
		if k.tenant < 0 || d.Tenant != tenant {
			if k.tenant, err = w.tenantNo(d.Tenant); err != nil {
				return err
			}
			tenant = d.Tenant
		}
		k.id = d.ID
		switch {
		case d.Delete:
			err = w.exec(deleteDocument, build, k.tenant, d.ID)
		default:
			err = w.putDocument(put, update, k, d, now)
		}
		if err != nil {
			return fmt.Errorf("write document %q of tenant %q: %w", d.ID, d.Tenant, err)
		}
	}
	return nil
}

// putDocument writes a document. One that changes all the time is found by the
// number of its row, in half the time that it takes by its name. The name is
// compared all the same, because rows may have been deleted or moved since, by
// another process too.
func (w *writer) putDocument(put, update *zs.Stmt, k docKey, d *store.Write, now time.Time) error {
	write := func(s *zs.Stmt) error {
		s.BindInt64(1, k.build)
		s.BindInt64(2, k.tenant)
		s.BindText(3, d.ID)
		s.BindInt64(4, d.Version)
		s.BindInt64(5, int64(d.Position))
		s.BindInt64(6, now.UnixNano())
		bindText(s, 7, d.Data)
		return step(s)
	}
	if no, known := w.db.docNos.get(k); known {
		update.BindInt64(8, no)
		if err := write(update); err != nil || w.Changes() == 1 {
			return err
		}
	}
	last := w.LastInsertRowID()
	if err := write(put); err != nil {
		return err
	}
	if no := w.LastInsertRowID(); no != last { // it is new
		k.id = strings.Clone(k.id)
		w.db.docNos.put(k, no)
	}
	return nil
}

// removeLetters removes the letters that c names; each must be there, and the
// lane's.
func (w *writer) removeLetters(c *store.Commit) error {
	for _, id := range c.Remove {
		err := w.exec(`DELETE FROM fairlead_dead_letters
			WHERE id = ?1 AND processor = ?2 AND number = ?3 AND partition = ?4 AND (?5 = '' OR tenant = ?5)`,
			id, c.Lane.Processor, c.Lane.Number, c.Lane.Partition, c.Lane.Tenant)
		if err != nil {
			return err
		}
		if w.Changes() != 1 {
			return fmt.Errorf("sqlite: remove dead letter %d: %w", id, store.ErrNotFound)
		}
	}
	return nil
}

// detach changes the exclusions of a base lane, and inserts the lanes of those
// who leave it.
func (w *writer) detach(c *store.Commit) error {
	if len(c.Detach) == 0 && len(c.Forget) == 0 {
		return nil
	}
	no, found, err := w.int64("SELECT lane_no FROM fairlead_lanes WHERE processor = ? AND number = ? AND partition = ? AND tenant = ?",
		c.Lane.Processor, c.Lane.Number, c.Lane.Partition, c.Lane.Tenant)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("sqlite: detach: %w", store.ErrNotFound)
	}
	for _, tenant := range c.Forget {
		if err := w.exec("DELETE FROM fairlead_exclusions WHERE lane_no = ? AND tenant = ?", no, tenant); err != nil {
			return err
		}
	}
	for i := range c.Detach {
		l := &c.Detach[i]
		if err := w.exec("INSERT OR REPLACE INTO fairlead_exclusions(lane_no, tenant, until) VALUES(?, ?, ?)",
			no, l.Tenant, int64(event.Unbounded)); err != nil {
			return err
		}
		if err := w.insertLane(l); err != nil {
			return fmt.Errorf("detach lane %v: %w", l.LaneID, err)
		}
	}
	return w.raiseRevision() // other members may want to serve the new lanes
}

func (w *writer) raiseRevision() error {
	return w.exec("UPDATE fairlead_control SET revision = revision + 1")
}

// Revision implements [store.Store].
func (db *DB) Revision(ctx context.Context) (int64, error) {
	var n int64
	err := db.read(ctx, "read revision", func(c *conn) (err error) {
		n, _, err = c.int64("SELECT revision FROM fairlead_control")
		return err
	})
	return n, err
}

// changedEvery is how often a DB looks for changes of rows while somebody waits
// for one. A look reads one page, which is in memory.
const changedEvery = 50 * time.Millisecond

// Changed implements [store.Store]. It looks every 50 ms.
func (db *DB) Changed(ctx context.Context, known int64) (int64, error) {
	var tick *time.Ticker
	for {
		n, err := db.Revision(ctx)
		if err != nil || n != known {
			return n, err
		}
		if tick == nil {
			tick = time.NewTicker(changedEvery)
			defer tick.Stop()
		}
		select {
		case <-tick.C:
		case <-db.closing.Done():
			return 0, ErrClosed
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Extend implements [store.Store]. SQLite has one writer at a time, so it waits
// for one that is writing.
func (db *DB) Extend(ctx context.Context, id, notes string, ttl time.Duration) (ok bool, err error) {
	err = db.write(ctx, "extend a lease", func(w *writer) error {
		now := time.Now().UTC().Round(0)
		if err := w.exec("UPDATE fairlead_members SET until = ? WHERE id = ? AND notes = ? AND until > ?", now.Add(ttl), id, notes, now); err != nil {
			return err
		}
		ok = w.Changes() == 1
		return nil
	})
	return ok && err == nil, err
}

// Update implements [store.Store]. F must not call Append, Commit or Update of
// the same file: they would wait for it.
func (db *DB) Update(ctx context.Context, f func(store.Tx) error) error {
	return db.write(ctx, "update", func(w *writer) error {
		tx := &storeTx{ctx: ctx, c: &w.conn, w: w, now: time.Now().UTC().Round(0)}
		defer tx.end()
		if err := f(tx); err != nil {
			return &passed{err}
		}
		if tx.err != nil {
			return tx.err
		}
		if !tx.wrote {
			return nil
		}
		return w.raiseRevision()
	})
}

// View implements [store.Store].
func (db *DB) View(ctx context.Context, f func(store.Tx) error) error {
	return db.read(ctx, "view", func(c *conn) error {
		// The open statement holds the snapshot.
		_, s, err := c.snapshot()
		if err != nil {
			return err
		}
		tx := &storeTx{ctx: ctx, c: c, now: time.Now().UTC().Round(0)}
		defer tx.end()
		if err := f(tx); err != nil {
			return &passed{err}
		}
		return s.Reset()
	})
}

// A passed error is the caller's own, which comes back as it is.
type passed struct{ err error }

func (e *passed) Error() string { return e.err.Error() }

// Load implements [store.Store].
func (db *DB) Load(ctx context.Context, b store.Build, keys []store.Key) ([]store.Document, error) {
	var out []store.Document
	err := db.read(ctx, "load documents", func(c *conn) error {
		out = nil
		_, snapshot, err := c.snapshot()
		if err != nil {
			return err
		}
		build, found, err := c.buildNo(b)
		if err != nil || !found {
			return err
		}
		s, err := c.Prepare("SELECT version, position, updated_at, doc, doc_no FROM fairlead_documents WHERE build_no = ? AND tenant_no = ? AND id = ?")
		if err != nil {
			return err
		}
		s.BindInt64(1, build)
		var tenant string
		no, known := int64(0), false
		for i, k := range keys {
			if i == 0 || k.Tenant != tenant {
				tenant = k.Tenant
				if no, known, err = c.tenantNo(tenant); err != nil {
					return err
				}
			}
			if !known {
				continue
			}
			s.BindInt64(2, no)
			s.BindText(3, k.ID)
			more, err := s.Step()
			if err != nil {
				return err
			}
			if more {
				if out == nil {
					out = make([]store.Document, 0, len(keys)-i)
				}
				d, err := document(s, 0, k)
				if err != nil {
					return err
				}
				out = append(out, d)
				db.docNos.put(docKey{build, no, strings.Clone(k.ID)}, s.ColumnInt64(4))
			}
			if err := s.Reset(); err != nil {
				return err
			}
		}
		return snapshot.Reset()
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// document reads version, position, updated_at and doc, from column i.
func document(s *zs.Stmt, i int, k store.Key) (store.Document, error) {
	d := store.Document{Key: k, Version: s.ColumnInt64(i), Position: event.Position(s.ColumnInt64(i + 1)), Data: columnBytes(s, i+3)}
	var err error
	d.Updated, err = columnTime(s, i+2)
	return d, err
}

func (c *conn) buildNo(b store.Build) (int64, bool, error) {
	if n, ok := c.db.buildNos.get(b); ok {
		return n, true, nil
	}
	n, found, err := c.int64(findBuild, b.Processor, b.Number)
	if err == nil && found {
		c.db.buildNos.put(b, n)
	}
	return n, found, err
}

// live finds the build of a collection that is served.
const live = `SELECT b.build_no FROM fairlead_processors p JOIN fairlead_builds b ON b.processor = p.name AND b.number = p.live
	WHERE p.collection = ? ORDER BY p.name LIMIT 1`

// Get implements [store.Reader].
func (db *DB) Get(ctx context.Context, collection, tenant, id string) (store.Document, error) {
	var d store.Document
	found := false
	err := db.read(ctx, "get document", func(c *conn) error {
		found = false
		no, ok, err := c.tenantNo(tenant)
		if err != nil || !ok {
			return err
		}
		return c.rows("SELECT version, position, updated_at, doc FROM fairlead_documents WHERE build_no = ("+live+") AND tenant_no = ? AND id = ?",
			func(s *zs.Stmt) (err error) {
				d, err = document(s, 0, store.Key{Tenant: tenant, ID: id})
				found = true
				return err
			}, collection, no, id)
	})
	if err == nil && !found {
		err = fmt.Errorf("sqlite: document %q of tenant %q in collection %q: %w", id, tenant, collection, store.ErrNotFound)
	}
	if err != nil {
		return store.Document{}, err
	}
	return d, nil
}

// List implements [store.Reader].
func (db *DB) List(ctx context.Context, collection, tenant, after string, limit int) ([]store.Document, error) {
	var out []store.Document
	err := db.read(ctx, "list documents", func(c *conn) error {
		out = nil
		no, ok, err := c.tenantNo(tenant)
		if err != nil || !ok || limit <= 0 {
			return err
		}
		return c.rows("SELECT id, version, position, updated_at, doc FROM fairlead_documents WHERE build_no = ("+live+
			") AND tenant_no = ? AND id > ? ORDER BY id LIMIT ?",
			func(s *zs.Stmt) error {
				d, err := document(s, 1, store.Key{Tenant: tenant, ID: s.ColumnText(0)})
				out = append(out, d)
				return err
			}, collection, no, after, limit)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Tenants implements [store.Reader].
func (db *DB) Tenants(ctx context.Context, collection, after string, limit int) ([]string, error) {
	var out []string
	err := db.read(ctx, "list tenants", func(c *conn) error {
		out = nil
		if limit <= 0 {
			return nil
		}
		return c.rows(`WITH live(build_no) AS MATERIALIZED (`+live+`)
			SELECT t.name FROM live, fairlead_tenants t WHERE t.name > ?
			   AND EXISTS (SELECT 1 FROM fairlead_documents d WHERE d.build_no = live.build_no AND d.tenant_no = t.tenant_no)
			 ORDER BY t.name LIMIT ?`,
			func(s *zs.Stmt) error {
				out = append(out, s.ColumnText(0))
				return nil
			}, collection, after, limit)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
