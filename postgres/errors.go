package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5/pgconn"
)

// Errors to branch on. Each comes wrapped, with what was being done, the server
// and PostgreSQL's own words. Unless [ErrOutcomeUnknown] is among them, nothing
// has changed.
var (
	// ErrUnreachable means that there is no connection to the server, or it was
	// cut. Try again: the next call makes a new one.
	ErrUnreachable = errors.New("postgres: server cannot be reached: is it running, and are host, port and network right?")
	// ErrConnections means that the server has no connection left for this role.
	ErrConnections = errors.New("postgres: server has no connection left: lower Options.MaxConns, raise its max_connections, or put a pooler between")
	// ErrRefused means that the server does not accept the user or the password.
	ErrRefused = errors.New("postgres: server refuses the user or the password: check both in the URL, and pg_hba.conf")
	// ErrNoDatabase means that the database is not there.
	ErrNoDatabase = errors.New("postgres: no such database: make it (createdb), or correct the URL")
	// ErrRights means that the role may not do it.
	ErrRights = errors.New("postgres: the role lacks a right: GRANT it, or use the role that owns the schema")
	// ErrTooOld means that the server is older than [MinVersion].
	ErrTooOld = errors.New("postgres: server is too old")
	// ErrStandby means that the server is a standby, whose locks are its own: it
	// cannot tell which events may still appear, and cannot be written.
	ErrStandby = errors.New("postgres: server is a standby: connect to the primary (target_session_attrs=primary finds it among several hosts)")
	// ErrEncoding means that the database cannot hold every Unicode name.
	ErrEncoding = errors.New("postgres: database must have the encoding UTF8: make one with CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0")
	// ErrOldSchema means that the schema needs a migration that was not allowed, or is
	// not there; see [*SchemaError].
	ErrOldSchema = errors.New("postgres: schema is older than this program")
	// ErrSequence means that the sequence of positions is not as Fairlead needs
	// it. Reading on could lose events.
	ErrSequence = errors.New("postgres: sequence of positions is not fit")
	// ErrFull means that the server's disk is full.
	ErrFull = errors.New("postgres: no space left on the server: free some and try again")
	// ErrReadOnly means that the session or the server is read-only.
	ErrReadOnly = errors.New("postgres: server is read-only for this role")
	// ErrTimeout means that a statement took longer than [Options].Timeout, or
	// than the server allows.
	ErrTimeout = errors.New("postgres: statement took too long")
	// ErrPooler means that a prepared statement was lost on the way: a pooler in
	// transaction mode is between. Set [Options].Pooler.
	ErrPooler = errors.New("postgres: a connection pooler in transaction mode is between: set Options.Pooler, or connect to the server itself")
	// ErrRetry means that the transaction lost a race with another one
	// (serialisation failure or deadlock): run it again from its beginning.
	ErrRetry = errors.New("postgres: transaction lost a race: run it again")
	// ErrOutcomeUnknown means that the connection was cut while a commit was on
	// its way: it may or may not have happened. Appends with event ids and commits
	// of a lane can simply be tried again.
	ErrOutcomeUnknown = errors.New("postgres: outcome of the commit is unknown")
	// ErrClosed means that the DB was closed.
	ErrClosed = errors.New("postgres: database is closed")
)

// Codes of PostgreSQL, from its manual, appendix A.
var kinds = map[string]error{
	"28000": ErrRefused,     // invalid_authorization_specification
	"28P01": ErrRefused,     // invalid_password
	"3D000": ErrNoDatabase,  // invalid_catalog_name
	"42501": ErrRights,      // insufficient_privilege
	"25006": ErrReadOnly,    // read_only_sql_transaction
	"53100": ErrFull,        // disk_full
	"57014": ErrTimeout,     // query_canceled
	"55P03": ErrTimeout,     // lock_not_available
	"40001": ErrRetry,       // a serialisation failure
	"40P01": ErrRetry,       // deadlock_detected
	"26000": ErrPooler,      // invalid_sql_statement_name
	"42P05": ErrPooler,      // duplicate_prepared_statement
	"08P01": ErrPooler,      // protocol_violation: PgBouncer's word for the same
	"53300": ErrConnections, // too_many_connections
	"57P01": ErrUnreachable, // admin_shutdown
	"57P02": ErrUnreachable, // crash_shutdown
	"57P03": ErrUnreachable, // cannot_connect_now
	"57P05": ErrUnreachable, // idle_session_timeout
	"25P03": ErrUnreachable, // idle_in_transaction_session_timeout
}

// fault wraps an error of the driver for the caller: with the operation, the
// server, and a sentinel. Errors that are no driver's come back as they are.
func (db *DB) fault(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	switch err.(type) { //nolint:errorlint // the outermost error alone: what these wrap is not to be judged
	case *store.UserError, *store.FenceError:
		return err
	}
	if db.closing.Err() != nil && ctx.Err() == nil {
		return ErrClosed
	}
	server, isServer := errors.AsType[*pgconn.PgError](err)
	switch {
	case isServer:
		if kind, ok := kinds[server.Code]; ok {
			if server.Code == "57014" && ctx.Err() != nil {
				return db.ended(ctx, op)
			}
			return fmt.Errorf("%w (%s at %s: %w)", kind, op, db.where, err)
		}
		if _, ok := errors.AsType[*pgconn.ConnectError](err); ok { // the server lets nobody in
			return fmt.Errorf("%w (%s at %s: %w)", ErrUnreachable, op, db.where, err)
		}
		if newer := db.newerSchema(ctx, server.Code); newer != nil {
			return fmt.Errorf("postgres: %s at %s: %w: %w", op, db.where, newer, err)
		}
		return fmt.Errorf("postgres: %s at %s: %w", op, db.where, err)
	case ctx.Err() != nil:
		return db.ended(ctx, op)
	case isNetwork(err):
		return fmt.Errorf("%w (%s at %s: %w)", ErrUnreachable, op, db.where, err)
	}
	return err
}

// newerSchema returns an error if a statement did not fit the schema because a newer
// program has migrated it since this one opened it. Nobody asks otherwise: as long
// as its statements fit, a program goes on beside the newer one.
func (db *DB) newerSchema(ctx context.Context, code string) error {
	if !strings.HasPrefix(code, "42") && code != "0A000" || db.mapped != nil { // syntax error or access rule violation; feature_not_supported: a kept plan of a table that was changed
		return nil
	}
	// Whoever failed may have a connection, and there may be no other.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	version, err := db.schemaVersion(ctx, db.pool)
	if need := len(db.migrations); err == nil && version > need {
		return fmt.Errorf("schema %q was brought to version %d while this program ran, which knows %d: replace it by the newer one: %w",
			db.opts.Schema, version, need, store.ErrNewerSchema)
	}
	return nil
}

// ended is the error of a call whose context has ended: the caller's, or the
// limit that the DB sets.
func (db *DB) ended(ctx context.Context, op string) error {
	if errors.Is(context.Cause(ctx), ErrTimeout) {
		return fmt.Errorf("%w (%s at %s, limit %v)", ErrTimeout, op, db.where, db.opts.Timeout)
	}
	return fmt.Errorf("postgres: %s: %w", op, ctx.Err())
}

// isNetwork reports whether err is one of the connection, not of the server.
func isNetwork(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if pgconn.SafeToRetry(err) {
		return true
	}
	if n, ok := errors.AsType[interface {
		error
		Timeout() bool
		Temporary() bool
	}](err); ok {
		return !errors.Is(err, context.DeadlineExceeded) || n.Temporary()
	}
	s := err.Error()
	return strings.Contains(s, "unexpected EOF") || strings.Contains(s, "conn closed") || strings.Contains(s, "closed pool")
}

// A SchemaError says of which version a schema is that needs a migration.
type SchemaError struct {
	Schema   string
	Database string // host, port and name
	Version  int    // 0: nothing of Fairlead is there
	Need     int
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("%v: schema %q of %s has version %d, this program needs %d: open it once without NoMigrate, "+
		"with a role that may create the schema's tables", ErrOldSchema, e.Schema, e.Database, e.Version, e.Need)
}

func (e *SchemaError) Unwrap() error { return ErrOldSchema }
