package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/jackc/pgx/v5"
)

// The safe head is the position below which no event can appear any more.
//
// Positions are drawn before their transactions commit, so 7 may become visible
// before 6. An INSERT takes a RowExclusive lock on the table, then draws its
// position, and the lock is given up after the commit has become visible. So:
//
//	In a snapshot, the highest position is s. Then the holders of the lock are
//	listed. Whoever drew a position below s either is in the list, or has ended
//	before it was made. When each holder of the list has ended, every snapshot
//	that is taken from then on has all events up to s that there will ever be.
//
// Such a pair, a position and those to wait for, is a round. Where a snapshot has
// no gap behind the safe head, it proves as much without a list. Below the safe
// head, any newer snapshot can be read with any filter.
type safeHead struct {
	// settling holds a value while nobody lists the holders: one list settles
	// the gaps of everybody who waits for it.
	settling chan struct{}

	mu       sync.Mutex
	loaded   bool
	safe     int64
	server   int64           // when the server was started, as pages say it
	rounds   []round         // by position, each waiting at least for what those before wait for
	prepared map[string]bool // the prepared transactions of the last list
	listed   time.Time       // when that was
	dirty    bool            // safe has passed a gap that safe_head does not know of
	stored   time.Time

	late time.Duration // see Mapping.LateInserts
}

// A round ends when nobody is in wait. Then everything up to seen is settled.
type round struct {
	seen  int64
	wait  map[string]bool // holders, by their key; nil: the list is not made yet
	since time.Time
}

const (
	maxRounds  = 32
	storeEvery = 10 * time.Second
	// Between two lists of one process: an eighth of the time that the oldest gap
	// is waited for, within these bounds.
	listOften = time.Millisecond
	listLeast = 5 * time.Millisecond
)

func (h *safeHead) init() {
	h.settling = make(chan struct{}, 1)
	h.settling <- struct{}{}
	h.prepared = map[string]bool{}
}

// A frontier is what a statement says of the log, all in one snapshot.
type frontier struct {
	safe   int64 // from the safe head it was asked with, up to the first gap
	seen   int64 // the highest position
	gone   int64 // reading must begin at or after it
	server int64
}

// firstGap is within how many positions behind the safe head a snapshot is looked
// through for its first gap.
const firstGap = "1024"

// selectFrontier is the beginning of each statement that reads the log. $1 is
// the safe head that is known. What has no gap behind it is in the range of
// positions that ends there, and a range has two ends: of a condition with one
// end PostgreSQL thinks that a third of the rows fulfil it as long as it has no
// statistics, which a new table does not have for minutes. Then it reads and sorts
// the whole table for each look at the log's end.
const selectFrontier = `WITH x AS MATERIALIZED (
	SELECT t.position, t.position - row_number() OVER (ORDER BY t.position) AS before
	FROM (SELECT position FROM {schema}.events WHERE position > $1 AND position <= $1::bigint + ` + firstGap + `) t
), f AS MATERIALIZED (
	SELECT coalesce((SELECT max(x.position) FROM x WHERE x.before = $1), $1::bigint) AS safe,
		greatest($1::bigint, (SELECT max(position) FROM {schema}.events), m.removed) AS seen,
		CASE WHEN m.accepted < m.removed THEN m.removed ELSE 0 END AS gone,
		(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS server
	FROM {schema}.removed m LIMIT 1
)`

const (
	frontierColumns = "f.safe, f.seen, f.gone, f.server"
	readFrontier    = selectFrontier + " SELECT " + frontierColumns + " FROM f"
	readBoth        = selectFrontier + " SELECT " + frontierColumns + ", c.revision FROM f CROSS JOIN {schema}.store_control c"
	readSafeHead    = "SELECT safe, (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint FROM {schema}.safe_head"
	// Whoever else stores it at this moment need not be waited for.
	storeSafeHead = `UPDATE {schema}.safe_head SET safe = $1
		WHERE one IN (SELECT one FROM {schema}.safe_head WHERE safe < $1 FOR UPDATE SKIP LOCKED)`
	// The partitions of the table count, if somebody has partitioned it. There is
	// a row at least.
	listHolders = holdersOf + `)`
	holdersOf   = `SELECT DISTINCT l.virtualtransaction, l.pid IS NULL, s.standby
		FROM (SELECT pg_is_in_recovery() AS standby) s LEFT JOIN pg_locks l
		ON l.locktype = 'relation' AND l.mode = 'RowExclusiveLock' AND l.granted
		AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
		AND l.relation IN (SELECT to_regclass($1)::oid UNION ALL SELECT p.relid FROM pg_partition_tree(to_regclass($1)) p`
)

// known returns the safe head that this process knows, and of which start of the
// server.
func (db *DB) known(ctx context.Context) (safe, server int64, err error) {
	h := &db.head
	h.mu.Lock()
	safe, server, loaded := h.safe, h.server, h.loaded
	h.mu.Unlock()
	if loaded {
		return safe, server, nil
	}
	if err := db.pool.QueryRow(ctx, db.q(db.sql.readSafeHead)).Scan(&safe, &server); err != nil {
		return 0, 0, damaged(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.loaded {
		h.loaded, h.safe, h.server = true, safe, server
	}
	return h.safe, h.server, nil
}

// damaged says what a row that is missing means.
func damaged(err error) error {
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("postgres: a row of Fairlead's own is gone from the schema: restore it from a copy: %w", err)
	}
	return err
}

// learn takes in a frontier that was asked for with a safe head of the given
// start of the server. It returns false where the server was restarted since:
// what a crash took away may come again under the same position, so nothing is
// known any more, and the page that came with f must not be used.
func (h *safeHead) learn(f *frontier, server int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.server != server {
		if h.server == server {
			h.loaded, h.rounds, h.safe, h.dirty = false, nil, 0, false
			clear(h.prepared)
		}
		return false
	}
	if h.server == server {
		h.advance(f.safe)
	}
	return true
}

// advance raises the safe head. The caller holds mu.
func (h *safeHead) advance(to int64) {
	if to <= h.safe {
		return
	}
	h.safe = to
	for len(h.rounds) > 0 && h.rounds[0].seen <= to {
		h.rounds = h.rounds[1:]
	}
}

// position returns the safe head as known.
func (h *safeHead) position() event.Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	return event.Position(h.safe)
}

// settle looks whether the gaps up to f.seen are dead, and reports whether the
// safe head has moved past f.safe. It never waits for other transactions; where
// it is patient it waits up to listLeast for the last list to grow old.
func (db *DB) settle(ctx context.Context, f *frontier, patient bool) (moved bool, err error) {
	h := &db.head
	select {
	case <-h.settling:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer func() { h.settling <- struct{}{} }()
	h.mu.Lock()
	moved = h.safe > f.safe
	every := listOften
	if len(h.rounds) > 0 {
		every = min(max(time.Since(h.rounds[0].since)/lookBack, listOften), listLeast)
	}
	rest := every - time.Since(h.listed)
	h.mu.Unlock()
	if moved || rest > 0 && !patient {
		return moved, nil
	}
	if rest > 0 && !sleep(ctx, rest) {
		return false, ctx.Err()
	}
	rows, err := db.pool.Query(ctx, db.sql.listHolders, db.events())
	if err != nil {
		return false, err
	}
	list := make(map[string]bool)
	var key *string
	var prepared, standby bool
	_, err = pgx.ForEachRow(rows, []any{&key, &prepared, &standby}, func() error {
		if standby { // connections may lead to another server than at start
			return fmt.Errorf("%w (%s)", ErrStandby, db.where)
		}
		if key != nil {
			list[*key] = prepared
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	h.mu.Lock()
	if f.server != h.server { // restarted meanwhile
		h.mu.Unlock()
		return false, nil
	}
	h.note(list, f.seen, time.Now())
	moved = h.safe > f.safe
	safe, store := h.safe, h.dirty && db.mapped == nil && time.Since(h.stored) > storeEvery
	if store {
		h.stored, h.dirty = time.Now(), false
	}
	h.mu.Unlock()
	if store {
		// It only saves work later, and a role that only reads may not.
		_, _ = db.pool.Exec(ctx, db.q(storeSafeHead), safe)
	}
	return moved, nil
}

// note takes in a list of holders (key -> is prepared) that was made after a
// snapshot whose highest position was seen. The caller holds mu.
func (h *safeHead) note(list map[string]bool, seen int64, now time.Time) {
	settled := int64(0)
	for i := range h.rounds {
		r := &h.rounds[i]
		for key := range r.wait {
			if _, ok := list[key]; !ok {
				delete(r.wait, key)
			}
		}
		// Where PREPARE TRANSACTION gives a holder another key (in older versions,
		// and after a restart), one that is new may be any that has just gone.
		for key, prepared := range list {
			if prepared && !h.prepared[key] && r.wait != nil {
				r.wait[key] = true
			}
		}
		if r.wait == nil && now.Sub(r.since) >= h.late {
			r.wait = keys(list)
		}
		if r.wait != nil && len(r.wait) == 0 {
			settled = max(settled, r.seen)
		}
	}
	if len(list) == 0 && h.late == 0 {
		settled = max(settled, seen)
	}
	clear(h.prepared)
	for key, prepared := range list {
		if prepared {
			h.prepared[key] = true
		}
	}
	if settled > h.safe {
		h.dirty = true
		h.advance(settled)
	}
	h.listed = now
	if last := len(h.rounds) - 1; seen > h.safe && len(h.rounds) < maxRounds &&
		(last < 0 || seen > h.rounds[last].seen && now.Sub(h.rounds[last].since) >= h.late/maxRounds) {
		r := round{seen: seen, since: now}
		if h.late == 0 {
			r.wait = keys(list)
		}
		h.rounds = append(h.rounds, r)
	}
}

func keys(list map[string]bool) map[string]bool {
	out := make(map[string]bool, len(list))
	for key := range list {
		out[key] = true
	}
	return out
}

// pending returns since when the oldest gap is waited for, zero where none is.
func (h *safeHead) pending() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.rounds) == 0 {
		return time.Time{}
	}
	return h.rounds[0].since
}

// advance brings the safe head up to date and returns it.
func (db *DB) advance(ctx context.Context) (event.Position, error) {
	for range 3 {
		safe, server, err := db.known(ctx)
		if err != nil {
			return 0, err
		}
		last, idle, err := db.mapped.idle(ctx, db, safe, server)
		if err != nil {
			return 0, err
		}
		if idle {
			return event.Position(safe), nil
		}
		var f frontier
		sql, dest := db.sql.readFrontier, []any{&f.safe, &f.seen, &f.gone, &f.server}
		revision := int64(unasked)
		if db.mapped == nil && db.rows.waited() { // one statement for both, where all has to be asked for
			sql, dest = readBoth, append(dest, &revision)
		}
		if err := db.pool.QueryRow(ctx, db.planned(sql, safe), safe).Scan(dest...); err != nil {
			return 0, damaged(err)
		}
		db.rows.raise(revision)
		if !db.head.learn(&f, server) {
			continue
		}
		f.seen = max(f.seen, last)
		if f.safe < f.seen {
			if _, err := db.settle(ctx, &f, true); err != nil {
				return 0, err
			}
		}
		return db.head.position(), nil
	}
	return 0, errRestarts
}

var errRestarts = fmt.Errorf("%w (it was restarted again and again)", ErrUnreachable)

// Head implements [eventlog.Log].
func (db *DB) Head(ctx context.Context, partition int) (event.Position, error) {
	if err := checkCall(ctx, partition); err != nil {
		return 0, err
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	head, err := db.advance(ctx)
	if err != nil {
		return 0, db.fault(ctx, "read head", err)
	}
	db.watch.raise(head)
	return head, nil
}

// A Holder is a transaction that readers of the log wait for.
type Holder = eventlog.Holder

var _ eventlog.HolderLister = (*DB)(nil)

const describeHolders = `SELECT DISTINCT l.virtualtransaction, coalesce(l.pid, 0), coalesce(p.gid, ''), coalesce(a.application_name, ''),
		coalesce(a.usename::text, p.owner::text, ''), coalesce(a.state, ''), coalesce(a.xact_start, p.prepared)
	FROM pg_locks l
	LEFT JOIN pg_stat_activity a ON a.pid = l.pid
	LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.virtualtransaction = l.virtualtransaction AND x.locktype = 'transactionid'
	LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
	WHERE l.virtualtransaction = ANY($1) AND l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
	ORDER BY 7, 2`

// Holders returns the transactions that hold back the safe head, the oldest
// first; none where nothing does. They are the reason for a lag that no worker
// can catch up with.
func (db *DB) Holders(ctx context.Context) ([]Holder, error) {
	ctx, cancel := db.limit(ctx)
	defer cancel()
	if _, err := db.advance(ctx); err != nil {
		return nil, db.fault(ctx, "look at the safe head", err)
	}
	var keys []string
	db.head.mu.Lock()
	if len(db.head.rounds) > 0 {
		for key := range db.head.rounds[0].wait {
			keys = append(keys, key)
		}
	}
	db.head.mu.Unlock()
	if len(keys) == 0 {
		return nil, nil
	}
	rows, err := db.pool.Query(ctx, describeHolders, keys)
	if err != nil {
		return nil, db.fault(ctx, "list transactions", err)
	}
	out, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (h Holder, err error) {
		var key string
		var since *time.Time
		err = r.Scan(&key, &h.PID, &h.Prepared, &h.Application, &h.User, &h.State, &since)
		if since != nil {
			h.Since = since.UTC()
		}
		return h, err
	})
	return out, db.fault(ctx, "list transactions", err)
}
