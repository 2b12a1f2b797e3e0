package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

// A Tx is the open transaction of a commit, for the user's own tables in the
// same file: what it writes is committed with the lane's checkpoint, or not at
// all. It is valid until the function that got it returns, and not for use by
// several goroutines.
//
// The user's tables may have any name that does not begin with fairlead_. The
// tables of Fairlead can be read, not written. COMMIT and ROLLBACK are refused
// with [ErrTransaction]; savepoints are fine.
type Tx struct {
	w     *writer
	ended bool
	err   error // why the transaction cannot commit
}

// A Row is the current row of a query, valid until the function that got it
// returns. Columns count from 0.
type Row struct{ s *zs.Stmt }

// Len returns the number of columns.
func (r *Row) Len() int { return r.s.ColumnCount() }

// IsNull reports whether a column is NULL; the other methods then return zero.
func (r *Row) IsNull(i int) bool { return r.s.ColumnIsNull(i) }

// Int64 returns an integer column.
func (r *Row) Int64(i int) int64 { return r.s.ColumnInt64(i) }

// Float64 returns a floating point column.
func (r *Row) Float64(i int) float64 { return r.s.ColumnFloat(i) }

// Text returns a text column.
func (r *Row) Text(i int) string { return r.s.ColumnText(i) }

// Bytes returns a copy of a text or blob column.
func (r *Row) Bytes(i int) []byte { return columnBytes(r.s, i) }

// Exec runs one statement and returns how many rows an INSERT, UPDATE or DELETE
// changed. An argument is nil, bool, int, int64, float64, string, []byte or
// [time.Time] (stored as nanoseconds since 1970), one for each parameter in order.
// Statements are kept prepared: put values in parameters, not in the text.
func (tx *Tx) Exec(query string, args ...any) (changed int, err error) {
	if err := tx.open(); err != nil {
		return 0, err
	}
	if err := tx.check(query, tx.w.exec(query, args...)); err != nil {
		return 0, err
	}
	return tx.w.Changes(), nil
}

// Query runs one statement and calls f for each row. An error of f ends it and
// comes back.
func (tx *Tx) Query(query string, f func(*Row) error, args ...any) error {
	if err := tx.open(); err != nil {
		return err
	}
	row := new(Row)
	var own error
	err := tx.w.rows(query, func(s *zs.Stmt) error {
		row.s = s
		own = f(row)
		return own
	}, args...)
	row.s = nil
	if own != nil {
		return own
	}
	return tx.check(query, err)
}

// Conn returns the connection, for what Exec and Query cannot do. Do not close
// it, keep it, or set its interrupt, authorizer or busy handler; reset every
// statement before the function returns.
func (tx *Tx) Conn() *zs.Conn { return tx.w.Conn }

// open checks that the transaction can go on.
func (tx *Tx) open() error {
	if tx.ended {
		return errTxEnded
	}
	tx.lost()
	return tx.err
}

// lost notes whether a statement has ended the transaction: some conflicts do
// (INSERT OR ROLLBACK, RAISE(ROLLBACK), a full disk). What ran before it is
// undone then, and nothing may run after it.
func (tx *Tx) lost() bool {
	if tx.err == nil && tx.w.AutocommitEnabled() {
		tx.err = fmt.Errorf("%w: a statement has rolled back the transaction", ErrTransaction)
	}
	return tx.err != nil
}

func (tx *Tx) check(query string, err error) error {
	if err == nil {
		tx.lost()
		return tx.err
	}
	if zs.ErrCode(err).ToPrimary() == zs.ResultAuth {
		err = fmt.Errorf("%w: %s: COMMIT and ROLLBACK, and writes to the tables of Fairlead, are not yours to do: %w", ErrTransaction, query, err)
	}
	tx.lost()
	return err
}

// userSQL runs the user's function in the transaction. Whatever the function
// does, the transaction is afterwards as it was, or cannot be committed.
func (w *writer) userSQL(ctx context.Context, f func(ctx context.Context, tx any) error) error {
	tx := &Tx{w: w}
	w.inUser = true
	defer func() { tx.ended, w.inUser = true, false }()
	err := f(ctx, tx)
	w.inUser = false
	if err == nil && tx.lost() {
		err = tx.err
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && zs.ErrCode(err).ToPrimary() == zs.ResultInterrupt {
		err = errors.Join(err, ctx.Err())
	}
	return &store.UserError{Err: err}
}
