package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

// Errors to branch on. Each comes wrapped, with what was being done, the file
// and SQLite's own words. Unless [ErrOutcomeUnknown] is among them, nothing has
// changed.
var (
	// ErrLocked is what a [*LockedError] wraps.
	ErrLocked = errors.New("sqlite: file is locked by another writer")
	// ErrFull means that the disk is full, or the file at its largest size.
	ErrFull = errors.New("sqlite: no space left: free some and try again")
	// ErrReadOnly means that the file, its directory or this [DB] is read-only.
	ErrReadOnly = errors.New("sqlite: file is read-only")
	// ErrCannotOpen means that the file cannot be opened: no such directory, a
	// directory in its place, or no permission.
	ErrCannotOpen = errors.New("sqlite: cannot open the file")
	// ErrNotFairlead means that the file is no SQLite database, or one that
	// belongs to another program. It was not changed.
	ErrNotFairlead = errors.New("sqlite: not a Fairlead database")
	// ErrCorrupt means that the file is damaged: restore it from a copy, or
	// recover what can be read with the shell's .recover command.
	ErrCorrupt = errors.New("sqlite: file is damaged")
	// ErrIO means that the operating system could not read or write the file.
	ErrIO = errors.New("sqlite: input/output error")
	// ErrOutcomeUnknown means that a commit was sent to a file system that then
	// failed: it may or may not be there after a restart. Appends with event ids
	// and commits of a lane can simply be tried again.
	ErrOutcomeUnknown = errors.New("sqlite: outcome of the commit is unknown")
	// ErrClosed means that the DB was closed.
	ErrClosed = errors.New("sqlite: database is closed")
	// ErrTransaction means that a user's SQL tried to end the transaction it was
	// given, or to write to a table of Fairlead.
	ErrTransaction = errors.New("sqlite: not allowed inside a commit")
)

// A LockedError says that another process, or another DB of this one, held the
// file's write lock for the whole wait limit. Nothing has changed: try again, or
// look for the program with a long transaction.
type LockedError struct {
	Path   string
	Waited time.Duration
}

func (e *LockedError) Error() string {
	return fmt.Sprintf("sqlite: %s is locked by another writer, waited %v: try again, or end the program "+
		"that has a transaction open (lsof %s-wal shows which have the file open)", e.Path, e.Waited.Round(time.Millisecond), e.Path)
}

func (e *LockedError) Unwrap() error { return ErrLocked }

// fault wraps an error of the driver for the caller: with the operation, the
// file, and a sentinel. Other errors come back as they are.
func (db *DB) fault(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	switch own := err.(type) { //nolint:errorlint // the outermost error alone: what these wrap is not to be judged
	case *passed:
		return own.err
	case *store.UserError, *store.FenceError, *LockedError:
		return err
	}
	code := zs.ErrCode(err)
	if code == zs.ResultError && !isDriver(err) {
		return err
	}
	var kind error
	switch code.ToPrimary() {
	case zs.ResultInterrupt:
		if ctx.Err() != nil {
			return fmt.Errorf("sqlite: %s: %w", op, ctx.Err())
		}
		kind = ErrClosed
	case zs.ResultBusy, zs.ResultLocked:
		kind = ErrLocked
	case zs.ResultFull:
		kind = ErrFull
	case zs.ResultReadOnly, zs.ResultPerm:
		kind = ErrReadOnly
	case zs.ResultCantOpen:
		kind = ErrCannotOpen
	case zs.ResultNotADB:
		kind = ErrNotFairlead
	case zs.ResultCorrupt:
		kind = ErrCorrupt
	case zs.ResultIOErr:
		kind = ErrIO
	case zs.ResultAuth:
		kind = ErrTransaction
	default:
		return fmt.Errorf("sqlite: %s %s: %w", op, db.path, err)
	}
	return fmt.Errorf("%w (%s %s: %w)", kind, op, db.path, err)
}

// isDriver reports whether err carries a result code of SQLite.
func isDriver(err error) bool {
	_, ok := zs.ErrorOffset(err)
	return ok || zs.ErrCode(err) != zs.ResultError
}

// busy reports whether err says that somebody else has the lock for now.
func busy(err error) bool {
	return err != nil && zs.ErrCode(err).ToPrimary() == zs.ResultBusy
}

// errEnough ends a query early.
var errEnough = errors.New("sqlite: enough rows")

func ignoreEnough(err error) error {
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}
