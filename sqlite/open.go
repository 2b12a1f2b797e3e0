package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// Options tunes a DB. The zero Options is ready to use.
type Options struct {
	// LockWait is how long a write waits for another process that is writing,
	// before it gives up with a [*LockedError]; default 5s. Writers of this DB
	// wait for one another as long as their contexts allow.
	LockWait time.Duration

	// Full makes every commit wait until it is on the disk (synchronous=FULL);
	// see the package comment for what a power cut may undo without it. It costs
	// an fsync per commit.
	Full bool

	// ReadOnly opens an existing file for reading only: every write fails with
	// [ErrReadOnly].
	ReadOnly bool

	// CacheBytes is about how much memory the page cache of the writer may use;
	// default 32 MiB. Each of the readers uses at most an eighth of it.
	CacheBytes int

	// Readers is the most reads at once; more wait. Default 8.
	Readers int
}

func (o Options) withDefaults() Options {
	o.LockWait = cmp.Or(o.LockWait, 5*time.Second)
	o.CacheBytes = cmp.Or(o.CacheBytes, 32<<20)
	o.Readers = cmp.Or(o.Readers, 8)
	return o
}

// check returns all faults of o.
func (o Options) check() error {
	var errs []error
	for _, f := range []struct {
		name string
		bad  bool
	}{{"LockWait", o.LockWait < 0}, {"CacheBytes", o.CacheBytes < 0}, {"Readers", o.Readers < 0}} {
		if f.bad {
			errs = append(errs, fmt.Errorf("sqlite: option %s is negative", f.name))
		}
	}
	return errors.Join(errs...)
}

// checkpointPages is after how many pages (of 4 KiB) a commit moves the WAL into
// the file. Larger saves little, and makes the commit that does it slower.
const checkpointPages = 4000

var (
	_ eventlog.Log           = (*DB)(nil)
	_ eventlog.Appender      = (*DB)(nil)
	_ eventlog.StreamReader  = (*DB)(nil)
	_ eventlog.Counter       = (*DB)(nil)
	_ eventlog.TenantCounter = (*DB)(nil)
	_ store.Store            = (*DB)(nil)
)

// A DB is a log and a store in one file. All methods may be called from many
// goroutines at once.
type DB struct {
	path       string // absolute
	opts       Options
	migrations []migration
	found      int   // the version of the schema before it was brought up to date
	immutable  bool  // opened from a medium that cannot be written
	walBytes   int64 // how long the WAL should be; see shortenWAL

	// closing ends when Close begins. Whoever holds a connection counts in uses,
	// so that Close waits for it.
	closing context.Context
	close   context.CancelFunc
	mu      sync.Mutex // guards closed, and uses.Add against uses.Wait
	closed  bool
	uses    sync.WaitGroup

	writer  chan *writer  // holds the one writer, while nobody writes
	large   chan struct{} // full while a large commit waits for it, or has it; see queueUp
	readers pool
	gate    gate
	queue   appendQueue
	waiting waiters
	// pollConn belongs to the goroutine that polls; see waiters.
	pollConn *conn

	// What the readers know by number. Committed numbers never change.
	tenantNames *cache[int64, string]
	typeNames   *cache[int64, string]
	streamNames *cache[int64, *eventlog.StreamRef]
	tenantNos   *cache[string, int64]
	typeNos     *cache[string, int64]
	buildNos    *cache[store.Build, int64]
	// docNos are the rows of documents. Unlike the numbers above they may be out
	// of date: see update.
	docNos *cache[docKey, int64]

	tail tailCache

	guard atomic.Pointer[string] // the registration that commits need to be open, of a sandbox; see Ledger

	seen atomic.Int64 // the highest position that is known to be committed
}

// Open opens the file, or makes it: the directory must exist. At most one
// Options may be given. The caller closes the DB.
func Open(path string, opts ...Options) (*DB, error) {
	return open(path, migrations, opts...)
}

func open(path string, migrations []migration, opts ...Options) (*DB, error) {
	if len(opts) > 1 {
		return nil, errors.New("sqlite: open: more than one Options")
	}
	var o Options
	if len(opts) == 1 {
		o = opts[0]
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if path == "" || path == ":memory:" {
		return nil, fmt.Errorf("sqlite: open %q: a file name is needed, because connections share the file", path)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: open: %w", err)
	}
	db := &DB{
		path:        abs,
		opts:        o.withDefaults(),
		migrations:  migrations,
		walBytes:    checkpointPages * 4096,
		writer:      make(chan *writer, 1),
		large:       make(chan struct{}, 1),
		tenantNames: newCache[int64, string](1 << 14),
		typeNames:   newCache[int64, string](1 << 12),
		streamNames: newCache[int64, *eventlog.StreamRef](1 << 15),
		tenantNos:   newCache[string, int64](1 << 14),
		typeNos:     newCache[string, int64](1 << 12),
		buildNos:    newCache[store.Build, int64](1 << 10),
		docNos:      newCache[docKey, int64](1 << 14),
	}
	db.closing, db.close = context.WithCancel(context.Background())
	db.readers.init(db)
	ctx := db.closing
	// Another process that has just opened the file, or is recovering it after a
	// crash, locks even those who only look at its schema.
	var w *writer
	err = db.retryBusy(ctx, func() (err error) {
		w, err = db.openWriter(ctx)
		return err
	})
	if err != nil {
		return nil, db.fault(ctx, "open", err)
	}
	db.writer <- w
	return db, nil
}

// openWriter opens the first connection: it identifies the file and migrates it.
// In a read-only DB there is no writer, and the result is nil.
func (db *DB) openWriter(ctx context.Context) (*writer, error) {
	if db.opts.ReadOnly {
		return nil, db.openReadOnly(ctx)
	}
	if fi, err := os.Stat(db.path); err == nil && fi.IsDir() {
		return nil, fmt.Errorf("%w: %s is a directory", ErrCannotOpen, db.path)
	}
	c, err := db.openConn(zs.OpenReadWrite | zs.OpenCreate)
	if err != nil {
		return nil, err
	}
	w := newWriter(db, c)
	if err := db.prepareFile(ctx, c); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// prepareFile makes the file what this program needs.
func (db *DB) prepareFile(ctx context.Context, c *zs.Conn) error {
	// Schema first, WAL second: so the main file always says whose it is.
	if err := db.migrate(ctx, c); err != nil {
		return err
	}
	for _, q := range []string{
		"PRAGMA journal_mode = WAL",
		fmt.Sprintf("PRAGMA wal_autocheckpoint = %d", checkpointPages),
		fmt.Sprintf("PRAGMA journal_size_limit = %d", db.walBytes*5/4),
		fmt.Sprintf("PRAGMA cache_size = -%d", db.opts.CacheBytes/1024),
	} {
		mode := ""
		err := db.retryBusy(ctx, func() error {
			return sqlitex.ExecuteTransient(c, q, &sqlitex.ExecOptions{
				ResultFunc: func(s *zs.Stmt) error { mode = s.ColumnText(0); return nil },
			})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
		if q == "PRAGMA journal_mode = WAL" && mode != "wal" {
			return fmt.Errorf("sqlite: open %s: the file system cannot do WAL (journal mode %q)", db.path, mode)
		}
	}
	// Tell now, and not at the first write, that the file cannot be written. Who
	// finds it locked knows that it can.
	err := sqlitex.ExecuteTransient(c, "BEGIN IMMEDIATE", nil)
	if err == nil {
		err = sqlitex.ExecuteTransient(c, "ROLLBACK", nil)
	}
	if busy(err) {
		return nil
	}
	return err
}

// openReadOnly checks that the file can be read as it is.
func (db *DB) openReadOnly(ctx context.Context) error {
	c, err := db.openConn(zs.OpenReadOnly)
	version := 0
	if err == nil {
		err = db.retryBusy(ctx, func() (err error) {
			version, err = db.identify(c)
			db.found = version
			return err
		})
		_ = c.Close()
	}
	// A file in WAL mode needs its -wal and -shm files even for reading. Where
	// they are not there and cannot be made, nobody is writing either.
	switch code := zs.ErrCode(err).ToPrimary(); {
	case db.immutable || err == nil || (code != zs.ResultCantOpen && code != zs.ResultReadOnly):
	case fileSize(db.path) >= 0 && fileSize(db.path+"-wal") <= 0:
		db.immutable = true
		return db.openReadOnly(ctx)
	}
	if err == nil && version < len(db.migrations) {
		err = fmt.Errorf("sqlite: open %s: its schema has version %d, this program needs %d: open it once for writing",
			db.path, version, len(db.migrations))
	}
	return err
}

// fileSize returns a file's size, -1 where there is none.
func fileSize(path string) int64 {
	fi, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return fi.Size()
}

// openConn opens a connection and sets what all connections need. Nothing here
// reads or opens the file but SQLite: closing any other descriptor of it would
// drop the locks that this process holds.
func (db *DB) openConn(flags zs.OpenFlags) (*zs.Conn, error) {
	uri := url.URL{Scheme: "file", OmitHost: true, Path: db.path}
	if db.immutable {
		uri.RawQuery = "immutable=1"
	}
	c, err := zs.OpenConn(uri.String(), flags|zs.OpenURI)
	if err != nil {
		return nil, err
	}
	c.SetBusyTimeout(0) // waiting is done in retryBusy, where a context can end it
	level := "NORMAL"
	if db.opts.Full {
		level = "FULL"
	}
	for _, q := range []string{"PRAGMA synchronous = " + level, "PRAGMA temp_store = MEMORY"} {
		if err := sqlitex.ExecuteTransient(c, q, nil); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Close waits for the calls in progress, stops what runs in the background and
// closes the file. Calls that come later fail with [ErrClosed].
func (db *DB) Close() error {
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		return nil
	}
	db.closed = true
	db.mu.Unlock()
	db.close()
	db.uses.Wait()

	db.readers.close()
	if db.pollConn != nil {
		_ = db.pollConn.Close()
	}
	w := <-db.writer
	if w == nil {
		return nil
	}
	if err := w.close(); err != nil {
		return fmt.Errorf("sqlite: close %s: %w", db.path, err)
	}
	return nil
}

// use registers a call, so that Close waits for it.
func (db *DB) use() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return ErrClosed
	}
	db.uses.Add(1)
	return nil
}

// raise notes that the log has reached p, and wakes up who waits for it.
func (db *DB) raise(p event.Position) {
	for {
		old := db.seen.Load()
		if old >= int64(p) {
			return
		}
		if db.seen.CompareAndSwap(old, int64(p)) {
			db.waiting.wake()
			return
		}
	}
}
