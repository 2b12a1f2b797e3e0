package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	errViewWrites = errors.New("postgres: a view cannot write")
	errTxEnded    = errors.New("postgres: transaction has ended")
)

const (
	// Who waits in Changed hears of it as the transaction commits. Transactions
	// that notify commit one after the other; those that raise the revision do so
	// anyway, for they change its one row.
	raiseRevision = "UPDATE {schema}.store_control SET revision = revision + 1" +
		" RETURNING pg_notify('" + rowsChannel + "', revision || ' ' || {schema_text})::text"

	// limitIdle ends a transaction whose client is gone without a word, so that
	// it does not keep its locks until TCP gives up.
	limitIdle = "SELECT set_config('idle_in_transaction_session_timeout', '60s', true)"

	// All Updates of a schema run one after the other. The lock is the
	// transaction's, not the session's, so it works behind poolers.
	lockUpdates = "SELECT pg_advisory_xact_lock(hashtextextended('fairlead update of ' || {schema_text}, 0))"
	limitWait   = "SELECT set_config('lock_timeout', '250ms', true)"
	storeTime   = "SELECT clock_timestamp()"
)

// Revision implements [store.Store].
func (db *DB) Revision(ctx context.Context) (n int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	err = db.pool.QueryRow(ctx, db.q("SELECT revision FROM {schema}.store_control")).Scan(&n)
	return n, db.fault(ctx, "read revision", err)
}

// Update implements [store.Store].
//
// It is serialisable without SERIALIZABLE. That level would fail every Update
// that reads a lane while a commit of the lane is under way, which on a busy lane
// is always. Instead all Updates run one at a time, under one lock, in READ
// COMMITTED; and beside commits they are in two-phase locking: what a commit
// changes belongs to its lane, whose row it locks first and which an Update locks
// as it reads it. What belongs to a lane is read after the lane.
//
// One that must wait for a lane gives way to the others meanwhile: a commit whose
// SQL is slow would else keep all members from their heartbeats.
func (db *DB) Update(ctx context.Context, f func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := db.settleAll(ctx); err != nil {
		return err
	}
	most := db.opts.Timeout
	if most < 0 {
		most = 30 * time.Second
	}
	for try, started := 0, time.Now(); ; try++ {
		again, err := db.update(ctx, f)
		if !again || time.Since(started) > most || !pause(ctx, min(try, 4)) {
			return err
		}
	}
}

// update runs f once, and tells whether it is to run again.
func (db *DB) update(ctx context.Context, f func(store.Tx) error) (again bool, err error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return false, db.fault(ctx, "update", err)
	}
	defer conn.Release()
	defer rollback(ctx, conn)
	tx := &storeTx{ctx: ctx, db: db, conn: conn, update: true}
	defer tx.end()
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
	b.Queue(limitIdle)
	b.Queue(db.q(lockUpdates))
	b.Queue(limitWait)
	if err := tx.begin(b); err != nil {
		return raceLost(err), db.fault(ctx, "update", err)
	}
	if err := f(tx); err != nil {
		return raceLost(tx.err) || waitedTooLong(tx.err), err
	}
	if tx.err != nil {
		return raceLost(tx.err) || waitedTooLong(tx.err), tx.err
	}
	if tx.wrote {
		tx.writes.Queue(db.q(raiseRevision))
	}
	if err := tx.commit(&tx.writes); err != nil {
		return raceLost(err) || waitedTooLong(err), db.fault(ctx, "update", err)
	}
	return false, nil
}

// View implements [store.Store].
func (db *DB) View(ctx context.Context, f func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	failed, err := db.settleAll(ctx)
	if err != nil {
		return err
	}
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return db.fault(ctx, "view", err)
	}
	defer conn.Release()
	defer rollback(ctx, conn)
	tx := &storeTx{ctx: ctx, db: db, conn: conn, unsettled: failed}
	defer tx.end()
	b := &pgx.Batch{}
	b.Queue("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	b.Queue(limitIdle)
	if err := tx.begin(b); err != nil {
		return db.fault(ctx, "view", err)
	}
	if err := f(tx); err != nil {
		return err
	}
	if tx.err != nil {
		return tx.err
	}
	if err := tx.commit(&pgx.Batch{}); err != nil {
		return db.fault(ctx, "view", err)
	}
	return nil
}

// rollback ends the transaction of a connection, if it is in one. A context that
// has ended is no reason not to: the pool would have to connect anew.
func rollback(ctx context.Context, conn *pgxpool.Conn) {
	c := conn.Conn()
	if c.IsClosed() || c.PgConn().TxStatus() == 'I' || c.PgConn().IsBusy() {
		return // the pool closes what it cannot use again
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_, _ = c.Exec(ctx, "ROLLBACK")
}

// A storeTx is the [store.Tx] of Update and of View.
type storeTx struct {
	ctx       context.Context
	db        *DB
	conn      *pgxpool.Conn
	update    bool
	now       time.Time
	wrote     bool
	writes    pgx.Batch // which go out before the next statement, or with the commit
	ended     bool
	err       error                  // the first of the database: the transaction cannot commit
	unsettled map[store.LaneID]error // lanes that cannot be told about
}

var _ store.Tx = (*storeTx)(nil)

func (tx *storeTx) end() { tx.ended, tx.writes = true, pgx.Batch{} }

// begin begins with the statements of b, and sets the time after them: waiting
// for the lock is no part of a lease.
func (tx *storeTx) begin(b *pgx.Batch) error {
	b.Queue(storeTime).QueryRow(func(row pgx.Row) error { return row.Scan(&tx.now) })
	ctx, cancel := tx.db.limit(tx.ctx)
	defer cancel()
	err := tx.conn.SendBatch(ctx, b).Close()
	tx.now = tx.now.UTC()
	return err
}

// commit commits after the statements of b, in one round trip.
func (tx *storeTx) commit(b *pgx.Batch) error {
	committed := false
	b.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		committed = tag.String() == "COMMIT"
		return nil
	})
	ctx, cancel := tx.db.limit(tx.ctx)
	defer cancel()
	err := tx.conn.SendBatch(ctx, b).Close()
	if err == nil && !committed {
		err = pgx.ErrTxCommitRollback
	}
	if err != nil && ctx.Err() != nil && tx.ctx.Err() == nil {
		return tx.db.ended(ctx, "commit")
	}
	return err
}

// Now implements [store.Tx].
func (tx *storeTx) Now() time.Time { return tx.now }

// rows runs a query and calls f for each row.
func (tx *storeTx) rows(query string, f func(pgx.CollectableRow) error, args ...any) error {
	if tx.ended {
		return errTxEnded
	}
	if err := tx.flush(); err != nil {
		return err
	}
	ctx, cancel := tx.db.limit(tx.ctx)
	defer cancel()
	rows, err := tx.conn.Query(ctx, tx.db.q(query), args...)
	if err != nil {
		return tx.note(ctx, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return tx.note(ctx, rows.Err())
}

// row is rows of a query with one row at most; it reports whether there was one.
func (tx *storeTx) row(query string, f func(pgx.CollectableRow) error, args ...any) (found bool, err error) {
	err = tx.rows(query, func(row pgx.CollectableRow) error {
		found = true
		return f(row)
	}, args...)
	return found, err
}

// exec runs a writing statement and returns how many rows it changed.
func (tx *storeTx) exec(query string, args ...any) (int64, error) {
	ctx, cancel := tx.db.limit(tx.ctx)
	defer cancel()
	return tx.execFor(ctx, query, args...)
}

// execFor is exec with a limit of its own.
func (tx *storeTx) execFor(ctx context.Context, query string, args ...any) (int64, error) {
	if err := tx.writable(); err != nil {
		return 0, err
	}
	if err := tx.flush(); err != nil {
		return 0, err
	}
	tag, err := tx.conn.Exec(ctx, tx.db.q(query), args...)
	return tag.RowsAffected(), tx.note(ctx, err)
}

// writesAtOnce is how many go out together: no statement may take longer than Options.Timeout.
const writesAtOnce = 256

// later writes before the next statement, together with other writes, or with the commit: not
// a round trip for each, for while an Update lasts all others wait. What fails then fails the
// transaction.
func (tx *storeTx) later(query string, args ...any) error {
	if err := tx.writable(); err != nil {
		return err
	}
	tx.writes.Queue(tx.db.q(query), args...)
	if tx.writes.Len() >= writesAtOnce {
		return tx.flush()
	}
	return nil
}

// flush does what is to be done later.
func (tx *storeTx) flush() error {
	if tx.writes.Len() == 0 {
		return nil
	}
	ctx, cancel := tx.db.limit(tx.ctx)
	defer cancel()
	err := tx.conn.SendBatch(ctx, &tx.writes).Close()
	tx.writes = pgx.Batch{}
	return tx.note(ctx, err)
}

func (tx *storeTx) writable() error {
	switch {
	case tx.ended:
		return errTxEnded
	case !tx.update:
		return errViewWrites
	}
	tx.wrote = true
	return nil
}

func (tx *storeTx) note(ctx context.Context, err error) error {
	err = tx.db.fault(ctx, "transaction", err)
	if err != nil && tx.err == nil {
		tx.err = err
	}
	return err
}
