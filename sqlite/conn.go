package sqlite

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	zs "zombiezen.com/go/sqlite"
)

// A conn is a connection with its prepared statements. One goroutine uses it at
// a time.
type conn struct {
	*zs.Conn
	db     *DB
	inUser bool // SQL of the user is compiled: see authorize
}

// watch lets the end of ctx interrupt what runs on c, until unwatch.
func (c *conn) watch(ctx context.Context) {
	if done := ctx.Done(); done != nil {
		c.SetInterrupt(done)
	}
}

// unwatch ends watch. It also resets statements that were left half read, and
// with them the read transaction that they hold open.
func (c *conn) unwatch() { c.SetInterrupt(nil) }

// exec runs a statement without rows.
func (c *conn) exec(query string, args ...any) error {
	s, err := c.Prepare(query)
	if err != nil {
		return err
	}
	if err := bind(s, args); err != nil {
		return err
	}
	for {
		more, err := s.Step()
		if err != nil || !more {
			return errors.Join(err, s.Reset())
		}
	}
}

// rows runs a query and calls f for each row.
func (c *conn) rows(query string, f func(s *zs.Stmt) error, args ...any) error {
	s, err := c.Prepare(query)
	if err != nil {
		return err
	}
	if err := bind(s, args); err != nil {
		return err
	}
	for {
		more, err := s.Step()
		if err != nil {
			return err
		}
		if !more {
			return s.Reset()
		}
		if err := f(s); err != nil {
			_ = s.Reset()
			return err
		}
	}
}

// step runs a statement without rows whose parameters are bound.
func step(s *zs.Stmt) error {
	if _, err := s.Step(); err != nil {
		return err
	}
	return s.Reset()
}

// int64 runs a query with one row at most and returns its first column.
func (c *conn) int64(query string, args ...any) (n int64, found bool, err error) {
	err = c.rows(query, func(s *zs.Stmt) error {
		n, found = s.ColumnInt64(0), true
		return nil
	}, args...)
	return n, found, err
}

// bind binds args to the parameters of s, in order.
func bind(s *zs.Stmt, args []any) error {
	if n := s.BindParamCount(); n != len(args) {
		return fmt.Errorf("sqlite: %d arguments for %d parameters", len(args), n)
	}
	for i, a := range args {
		switch a := a.(type) {
		case nil:
			s.BindNull(i + 1)
		case int:
			s.BindInt64(i+1, int64(a))
		case int64:
			s.BindInt64(i+1, a)
		case bool:
			s.BindBool(i+1, a)
		case float64:
			s.BindFloat(i+1, a)
		case string:
			s.BindText(i+1, a)
		case []byte:
			bindBlob(s, i+1, a)
		case text:
			bindText(s, i+1, a)
		case time.Time:
			bindTime(s, i+1, a)
		default:
			return fmt.Errorf("sqlite: argument %d has type %T: want nil, bool, int, int64, float64, string, []byte or time.Time", i+1, a)
		}
	}
	return nil
}

// retryBusy calls f until it does not find the file locked, or the wait limit
// or ctx ends.
func (db *DB) retryBusy(ctx context.Context, f func() error) error {
	err := f()
	if !busy(err) {
		return err
	}
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	// Short at first, because a commit takes a fraction of a millisecond; with
	// chance in it, so that writers do not meet again and again.
	for pause := 50 * time.Microsecond; ; pause = min(pause*3/2, 10*time.Millisecond) {
		waited := time.Since(start)
		if waited >= db.opts.LockWait {
			return &LockedError{Path: db.path, Waited: waited}
		}
		timer.Reset(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-db.closing.Done():
			return ErrClosed
		}
		if err = f(); !busy(err) {
			return err
		}
	}
}

// A pool holds the connections for reading. It grows as they are needed.
type pool struct {
	db    *DB
	idle  chan *conn    // free connections
	slots chan struct{} // one for each that may still be opened
}

func (p *pool) init(db *DB) {
	p.db = db
	p.idle = make(chan *conn, db.opts.Readers)
	p.slots = make(chan struct{}, db.opts.Readers)
	for range db.opts.Readers {
		p.slots <- struct{}{}
	}
}

// take returns a free connection, or opens one, or waits for one.
func (p *pool) take(ctx context.Context) (*conn, error) {
	select {
	case c := <-p.idle:
		return c, nil
	default:
	}
	select {
	case c := <-p.idle:
		return c, nil
	case <-p.slots:
		var c *conn
		err := p.db.retryBusy(ctx, func() (err error) {
			c, err = p.open()
			return err
		})
		if err != nil {
			p.slots <- struct{}{}
		}
		return c, err
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.db.closing.Done():
		return nil, ErrClosed
	}
}

func (p *pool) open() (*conn, error) {
	flags := zs.OpenReadWrite // a WAL reader writes to the -shm file
	if p.db.opts.ReadOnly {
		flags = zs.OpenReadOnly
	}
	zc, err := p.db.openConn(flags)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: zc, db: p.db}
	if err := c.SetAuthorizer(zs.AuthorizeFunc(c.authorize)); err != nil {
		_ = c.Close()
		return nil, err
	}
	for _, q := range []string{
		fmt.Sprintf("PRAGMA cache_size = -%d", max(p.db.opts.CacheBytes/8, 64<<10)/1024),
		"PRAGMA query_only = ON",
	} {
		if err := c.exec(q); err != nil {
			_ = c.Close()
			return nil, err
		}
	}
	return c, nil
}

func (p *pool) put(c *conn) { p.idle <- c }

// close closes the connections; all are back.
func (p *pool) close() {
	for {
		select {
		case c := <-p.idle:
			_ = c.Close()
		default:
			return
		}
	}
}

// read runs f on a connection for reading. F may run again when the file was
// locked, so it begins with fresh results.
func (db *DB) read(ctx context.Context, op string, f func(c *conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := db.use(); err != nil {
		return err
	}
	defer db.uses.Done()
	c, err := db.readers.take(ctx)
	if err != nil {
		return db.fault(ctx, op, err)
	}
	defer db.readers.put(c)
	if err := db.gate.enter(ctx); err != nil {
		return err
	}
	defer db.gate.leave()
	c.watch(ctx)
	defer c.unwatch()
	err = db.retryBusy(ctx, func() error { return f(c) })
	return db.fault(ctx, op, err)
}
