package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// MinVersion is the oldest major version of PostgreSQL that Fairlead works with.
const MinVersion = 13

// Options tunes a DB. The zero Options is ready to use.
type Options struct {
	// Schema is where Fairlead's tables are; default "fairlead". One database
	// may hold several.
	Schema string

	// MaxConns is the most connections at once; more calls wait. Default 16, or
	// pool_max_conns of the URL. While somebody waits for appends there is one more,
	// which listens for them.
	MaxConns int

	// Timeout is the longest that one statement may take before it is given up
	// with [ErrTimeout]; default 30s, negative: no limit.
	Timeout time.Duration

	// NoMigrate opens a schema only if it is what this program needs, and
	// changes nothing. For roles without the right to create tables.
	NoMigrate bool

	// TenantPartitions is into how many tables the events of a new schema are
	// partitioned, by hash of the tenant; default 0: one table, which is the faster
	// one. A schema that is there keeps what it has; see [DB.PartitionByTenant].
	TenantPartitions int

	// Pooler says that a connection pooler in transaction mode, such as
	// PgBouncer, is between: no prepared statement outlives a transaction.
	Pooler bool
}

func (o Options) withDefaults() Options {
	o.Schema = cmp.Or(o.Schema, "fairlead")
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	return o
}

// check returns all faults of o.
func (o Options) check() error {
	var errs []error
	if o.MaxConns < 0 || o.MaxConns == 1 {
		errs = append(errs, fmt.Errorf("postgres: option MaxConns is %d, want at least 2", o.MaxConns))
	}
	if o.TenantPartitions != 0 {
		errs = append(errs, checkTenantPartitions(o.TenantPartitions))
	}
	return errors.Join(append(errs, checkSchema(o.Schema))...)
}

var (
	_ eventlog.Log           = (*DB)(nil)
	_ eventlog.Appender      = (*DB)(nil)
	_ eventlog.StreamReader  = (*DB)(nil)
	_ eventlog.Counter       = (*DB)(nil)
	_ eventlog.TenantCounter = (*DB)(nil)
)

// A DB is a log and a store in one schema of a database. All methods may be
// called from many goroutines at once.
type DB struct {
	pool       *pgxpool.Pool
	opts       Options
	where      string // host, port and database, for errors: never the password
	migrations []migration
	found      int          // the version of the schema before it was brought up to date
	partitions atomic.Int64 // of the events table; 0: it is one table
	names      *strings.Replacer
	texts      sync.Map    // statements with the schema's name in them
	sql        *statements // that read the log
	mapped     *mapped     // a log that another program writes; nil: our own
	head       safeHead
	sizes      eventSize
	warmed     sync.Once // see warm
	watch      watch
	rows       rowWatch

	// closing ends when Close begins. Whoever runs in the background counts in
	// uses, so that Close waits for it.
	closing context.Context
	close   context.CancelFunc
	mu      sync.Mutex // guards closed, and uses.Add against uses.Wait
	closed  bool
	uses    sync.WaitGroup

	tables    tables                // where documents are
	unsettled unsettled             // commits of which no answer came
	guard     atomic.Pointer[guard] // of a sandbox; nil: this is none
}

// A querier is a pool, a connection or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Open connects to a database by its URL, or by keywords and values
// ("host=... dbname=..."), as libpq has them, checks that it is fit, and brings
// the schema up to date. At most one Options may be given. The caller closes the
// DB. Ctx is that of opening alone.
func Open(ctx context.Context, url string, opts ...Options) (*DB, error) {
	return open(ctx, url, migrations, opts...)
}

func open(ctx context.Context, url string, migrations []migration, opts ...Options) (*DB, error) {
	db, err := prepare(ctx, url, opts...)
	if err != nil {
		return nil, err
	}
	db.migrations = migrations
	err = db.checkServer(ctx)
	if err == nil {
		err = db.migrate(ctx)
	}
	if err == nil {
		err = db.checkLayout(ctx)
	}
	if err == nil {
		err = db.checkSequence(ctx)
	}
	if err == nil {
		err = db.checkWriter(ctx)
	}
	if err != nil {
		err = db.fault(ctx, "open", err)
		_ = db.Close()
		return nil, err
	}
	return db, nil
}

// prepare returns a DB that has not connected yet.
func prepare(ctx context.Context, url string, opts ...Options) (*DB, error) {
	if len(opts) > 1 {
		return nil, errors.New("postgres: open: more than one Options")
	}
	var o Options
	if len(opts) == 1 {
		o = opts[0]
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	config, err := poolConfig(url, o)
	if err != nil {
		return nil, err
	}
	o = o.withDefaults()
	c := config.ConnConfig
	db := &DB{
		opts:  o,
		where: fmt.Sprintf("%s:%d/%s", c.Host, c.Port, c.Database),
		names: names(o.Schema),
		sql:   &ownStatements,
	}
	db.head.init()
	db.watch.init()
	db.rows.init()
	db.closing, db.close = context.WithCancel(context.Background())
	// The pool connects when it is first used.
	if db.pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return nil, fmt.Errorf("postgres: open: %w", err)
	}
	return db, nil
}

// pingAfter is for how long a connection lies idle before it is tried when it is
// next used. Those that a server's end has cut are given up as the listener's is.
const pingAfter = 10 * time.Second

// poolConfig is the configuration of url with what o says.
func poolConfig(url string, o Options) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("postgres: open: %w", err) // pgx leaves the password out
	}
	if o.MaxConns > 0 {
		config.MaxConns = int32(min(o.MaxConns, 1<<16))
	} else if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = 16
	}
	// A connection that was used a moment ago is not asked first whether it is
	// there: on an idle process every statement would have another one before it.
	config.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool { return p.IdleDuration > pingAfter }
	c := config.ConnConfig
	// Results are read in the binary format, which these modes of the URL have not.
	simple := c.DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol || c.DefaultQueryExecMode == pgx.QueryExecModeExec
	if o.Pooler || simple {
		c.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		c.StatementCacheCapacity = 0
	}
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 10*time.Second)
	if _, ok := c.RuntimeParams["application_name"]; !ok && !o.Pooler {
		c.RuntimeParams["application_name"] = "fairlead"
	}
	// Statements here are short. Where statistics are still missing, PostgreSQL may
	// take one for a long one, and spend half a second on compiling it.
	if _, ok := c.RuntimeParams["jit"]; !ok && !o.Pooler {
		c.RuntimeParams["jit"] = "off"
	}
	// A stricter level by default would make appends lose races that they need
	// not; transactions that need one say so.
	if _, ok := c.RuntimeParams["default_transaction_isolation"]; !ok && !o.Pooler {
		c.RuntimeParams["default_transaction_isolation"] = "read committed"
	}
	config.AfterConnect = teachArrays
	// Times come and go in UTC by themselves; nothing here depends on a setting
	// of the session.
	return config, nil
}

// checkServer says what keeps Fairlead from working here.
func (db *DB) checkServer(ctx context.Context) error {
	var version int
	var number, encoding string
	var standby bool
	err := db.pool.QueryRow(ctx, `SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
		current_setting('server_encoding'), pg_is_in_recovery()`).Scan(&version, &number, &encoding, &standby)
	if err != nil {
		return err
	}
	return fit(db.where, version, number, encoding, standby)
}

// fit says what is wrong with a server.
func fit(where string, version int, number, encoding string, standby bool) error {
	switch {
	case version < MinVersion*10000:
		return fmt.Errorf("%w: %s is PostgreSQL %s, version %d is the oldest that works", ErrTooOld, where, number, MinVersion)
	case standby:
		return fmt.Errorf("%w (%s)", ErrStandby, where)
	case encoding != "UTF8":
		return fmt.Errorf("%w (%s has %s)", ErrEncoding, where, encoding)
	}
	return nil
}

// checkSequence says what about the sequence of positions would make readers skip
// events. A dump that was restored in parts, or a logical replica that became the
// primary, has the events and not the sequence.
func (db *DB) checkSequence(ctx context.Context) error {
	var name string
	var cache, step int64
	var cycle, visible bool
	var last, highest int64
	err := db.pool.QueryRow(ctx, db.q(`SELECT pg_get_serial_sequence($1, 'position'), s.seqcache, s.seqincrement, s.seqcycle,
			has_sequence_privilege(s.seqrelid, 'USAGE, SELECT'),
			CASE WHEN has_sequence_privilege(s.seqrelid, 'USAGE, SELECT') THEN coalesce(pg_sequence_last_value(s.seqrelid), 0) ELSE 0 END,
			greatest((SELECT max(position) FROM {schema}.events), (SELECT max(removed) FROM {schema}.removed), (SELECT max(safe) FROM {schema}.safe_head), 0)
		FROM pg_sequence s WHERE s.seqrelid = pg_get_serial_sequence($1, 'position')::regclass`), db.q("{schema}.events")).
		Scan(&name, &cache, &step, &cycle, &visible, &last, &highest)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: column position of %s has none (%s): restore the schema from a copy", ErrSequence, db.q("{schema}.events"), db.where)
	case err != nil:
		return err
	case cache != 1 || step != 1 || cycle:
		return fmt.Errorf("%w: it must count one by one: ALTER SEQUENCE %s INCREMENT 1 CACHE 1 NO CYCLE (%s), then start all that append again",
			ErrSequence, name, db.where)
	case visible && last < highest: // a role that only reads need not see it
		return fmt.Errorf("%w: it stands at %d, and there was an event at %d: while nobody appends, SELECT setval('%s', %d) (%s)",
			ErrSequence, last, highest, name, highest, db.where)
	}
	return nil
}

// Close waits for what runs in the background and closes all connections, each
// as soon as its call in progress has ended. Calls that come later fail with
// [ErrClosed].
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
	db.pool.Close()
	return nil
}

// limit is ctx with the time that a call may take.
func (db *DB) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	if db.opts.Timeout < 0 {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, db.opts.Timeout, ErrTimeout)
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
