package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

// A writer is the one connection of a DB that writes, with what it knows of the
// log. Whoever has taken it from DB.writer owns it until giving it back.
//
// Invariant: between transactions the connection is in autocommit mode, and what
// the writer knows is committed.
type writer struct {
	conn
	begin, commit, rollback *zs.Stmt // outside the driver's cache, where a user's SQL would find them

	// What is known of the log. Valid if fresh and nobody else has appended
	// since: see sync.
	fresh    bool
	head     event.Position
	indexed  event.Position // fairlead_control.indexed
	removed  event.Position // fairlead_control.removed
	recorded int64          // recorded_at of head
	streams  *cache[streamKey, *streamState]
	tail     map[int64]int64 // stream_no -> version, of all events behind indexed
	events   []tailEvent     // the tail, by position
	foreign  bool            // tail has versions that streams does not
	postings []byte          // a buffer

	commits, walDue int // see shortenWAL

	tenants *cache[string, int64]
	types   *cache[string, int64]
	builds  *cache[store.Build, int64]
}

type streamKey struct {
	tenant int64
	name   string
}

type streamState struct {
	no      int64
	version int64 // unless tail says otherwise
}

func newWriter(db *DB, c *zs.Conn) *writer {
	w := &writer{
		conn:    conn{Conn: c, db: db},
		streams: newCache[streamKey, *streamState](1 << 15),
		tenants: newCache[string, int64](1 << 14),
		types:   newCache[string, int64](1 << 12),
		builds:  newCache[store.Build, int64](1 << 10),
	}
	w.forget()
	return w
}

// forget drops what the writer knows, because it may come from a transaction
// that was rolled back.
func (w *writer) forget() {
	w.fresh = false
	w.streams.clear()
	w.tenants.clear()
	w.types.clear()
	w.builds.clear()
	w.tail = make(map[int64]int64)
	w.events = nil
	w.foreign = false
}

func (w *writer) close() error {
	if w.Conn == nil {
		return nil
	}
	for _, s := range []*zs.Stmt{w.begin, w.commit, w.rollback} {
		if s != nil {
			_ = s.Finalize()
		}
	}
	return w.Close()
}

// take waits for the writer.
func (db *DB) take(ctx context.Context) (*writer, error) {
	if db.opts.ReadOnly {
		return nil, fmt.Errorf("%w: %s was opened for reading", ErrReadOnly, db.path)
	}
	select {
	case w := <-db.writer:
		return db.ready(ctx, w)
	default:
	}
	select {
	case w := <-db.writer:
		return db.ready(ctx, w)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-db.closing.Done():
		return nil, ErrClosed
	}
}

// largeWrites and largeBytes are what a commit has that is large: one that takes
// milliseconds.
const (
	largeWrites = 100
	largeBytes  = 64 << 10
)

// queueUp lets large commits wait for the writer one at a time. Those who wait for
// it are served in the order in which they came, so whoever has little to write,
// an append or a lane at the end of the log, has one large commit before it at
// most, and not those of all lanes that are catching up. The caller calls done
// once it has given back the writer.
func (db *DB) queueUp(ctx context.Context, c *store.Commit) (done func(), err error) {
	size := 0
	for i := range c.Writes {
		size += len(c.Writes[i].Data)
	}
	if len(c.Writes) < largeWrites && size < largeBytes {
		return func() {}, nil
	}
	select {
	case db.large <- struct{}{}:
		return func() { <-db.large }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-db.closing.Done():
		return nil, ErrClosed
	}
}

// ready prepares a writer that was just taken: the first time, and after it had
// to be closed.
func (db *DB) ready(ctx context.Context, w *writer) (*writer, error) {
	err := w.prepare(ctx)
	if err != nil {
		db.writer <- w
		return nil, err
	}
	return w, nil
}

func (w *writer) prepare(ctx context.Context) error {
	if w.rollback != nil {
		return nil
	}
	if w.Conn == nil {
		err := w.db.retryBusy(ctx, func() (err error) {
			w.Conn, err = w.db.openConn(zs.OpenReadWrite)
			return err
		})
		if err != nil {
			return err
		}
		if err := w.db.prepareFile(ctx, w.Conn); err != nil {
			w.discard()
			return err
		}
	}
	for _, p := range []struct {
		s     **zs.Stmt
		query string
	}{{&w.begin, "BEGIN IMMEDIATE"}, {&w.commit, "COMMIT"}, {&w.rollback, "ROLLBACK"}} {
		s, _, err := w.PrepareTransient(p.query)
		if err != nil {
			w.discard()
			return err
		}
		*p.s = s
	}
	if err := w.SetAuthorizer(zs.AuthorizeFunc(w.authorize)); err != nil {
		w.discard()
		return err
	}
	return nil
}

// discard closes a connection that can no longer be trusted. The next to take
// the writer opens another one.
func (w *writer) discard() {
	_ = w.close()
	w.Conn, w.begin, w.commit, w.rollback = nil, nil, nil, nil
	w.inUser = false
	w.forget()
}

// start begins a write transaction. It waits for other processes.
func (w *writer) start(ctx context.Context) error {
	return w.db.retryBusy(ctx, func() error {
		_, err := w.begin.Step()
		return errors.Join(err, w.begin.Reset())
	})
}

// finish commits. Nothing interrupts it, so that its result is certain; on an
// error the transaction is rolled back.
func (w *writer) finish() error {
	w.unwatch()
	_, err := w.commit.Step()
	if err == nil {
		_ = w.commit.Reset()
		w.shortenWAL()
		return nil
	}
	w.abort()
	if zs.ErrCode(err).ToPrimary() == zs.ResultIOErr {
		// The last frame may have reached the file: then a recovery after a
		// crash would find the commit.
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return err
}

// abort is undo for a transaction that may have written.
func (w *writer) abort() {
	w.forget()
	w.undo()
}

// undo rolls back, whatever has happened. Afterwards the connection is in
// autocommit mode, or gone.
func (w *writer) undo() {
	w.unwatch()
	w.inUser = false
	if w.AutocommitEnabled() {
		return // SQLite has rolled back by itself
	}
	_, err := w.rollback.Step()
	_ = w.rollback.Reset()
	if err != nil || !w.AutocommitEnabled() {
		w.discard()
	}
}

// write runs f in a write transaction. Op says what for, in errors. When it returns an error nothing has
// changed, unless it says [ErrOutcomeUnknown].
func (db *DB) write(ctx context.Context, op string, f func(w *writer) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := db.use(); err != nil {
		return err
	}
	defer db.uses.Done()
	w, err := db.take(ctx)
	if err != nil {
		return db.fault(ctx, op, err)
	}
	defer func() { db.writer <- w }()
	if err := w.start(ctx); err != nil {
		return db.fault(ctx, op, err)
	}
	done := false
	defer func() {
		if !done {
			w.abort() // f has panicked
		}
	}()
	w.watch(ctx)
	err = f(w)
	if err == nil {
		err = ctx.Err() // the last moment at which it counts
	}
	done = true
	if err != nil {
		w.abort()
		return db.fault(ctx, op, err)
	}
	return db.fault(ctx, op, w.finish())
}

// number returns the number of a name in an interning table. In a transaction
// of the writer it adds the name where it is new.
func (w *writer) number(known *cache[string, int64], find, add, name string) (int64, error) {
	if n, ok := known.get(name); ok {
		return n, nil
	}
	n, found, err := w.int64(find, name)
	if err == nil && !found {
		err = w.exec(add, name)
		n = w.LastInsertRowID()
	}
	if err == nil {
		known.put(name, n)
	}
	return n, err
}

const (
	findTenant = "SELECT tenant_no FROM fairlead_tenants WHERE name = ?"
	findType   = "SELECT type_no FROM fairlead_types WHERE name = ?"
	findBuild  = "SELECT build_no FROM fairlead_builds WHERE processor = ? AND number = ?"
)

func (w *writer) tenantNo(name string) (int64, error) {
	return w.number(w.tenants, findTenant, "INSERT INTO fairlead_tenants(name) VALUES(?)", name)
}

func (w *writer) typeNo(name string) (int64, error) {
	return w.number(w.types, findType, "INSERT INTO fairlead_types(name) VALUES(?)", name)
}

func (w *writer) buildNo(b store.Build) (int64, error) {
	if n, ok := w.builds.get(b); ok {
		return n, nil
	}
	n, found, err := w.int64(findBuild, b.Processor, b.Number)
	if err == nil && !found {
		err = w.exec("INSERT INTO fairlead_builds(processor, number) VALUES(?, ?)", b.Processor, b.Number)
		n = w.LastInsertRowID()
	}
	if err == nil {
		w.builds.put(b, n)
	}
	return n, err
}
