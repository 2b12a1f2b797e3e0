package postgres

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// How processes learn of changes in the store. Whoever raises the revision
// notifies, in the same transaction, and the notification has the new one. So
// where notifications come, nobody asks: only now and then, in case one was lost.
// Where none come, the revision is asked for about as often as the log is, and
// with it, in one statement, where somebody waits for that one too.
const (
	rowsChannel = "fairlead_store" // payload: the revision, a space, the schema
	askedAtMost = 10 * time.Second // where notifications come
	unasked     = -1
)

// A rowWatch is those who wait for another revision. From the first of them on,
// one goroutine of the DB sees to it that they learn of it; it counts in DB.uses.
type rowWatch struct {
	mu      sync.Mutex
	n       int // who waits
	started bool
	changed chan struct{} // closed at the next change; nil: nobody waits
	err     error         // what kept the last question from an answer
	seen    int64         // the revision, or unasked
	asked   time.Time     // when it was asked for, or told; zero: ask again
	moved   time.Time     // when it was another one last

	look  chan struct{} // holds a value where it is to be asked for
	needy chan struct{} // holds a value where somebody has begun to wait
}

func (r *rowWatch) init() {
	r.look, r.needy, r.seen = make(chan struct{}, 1), make(chan struct{}, 1), unasked
}

// hint makes the goroutine ask at once: what is known may be old.
func (r *rowWatch) hint() { signal(r.look) }

// told takes in a notification.
func (r *rowWatch) told(payload, schema string) {
	number, of, _ := strings.Cut(payload, " ")
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && of == schema {
		r.raise(n)
	}
}

// raise notes the revision as it was just read. Two readings may come in the
// wrong order: then whoever waits is told twice, and the next question mends it.
func (r *rowWatch) raise(revision int64) {
	if revision == unasked {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = time.Now()
	if revision != r.seen {
		r.seen, r.moved = revision, r.asked
		r.wake()
	}
}

// wake wakes up all who wait. The caller holds mu.
func (r *rowWatch) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// fail hands an error to all who wait now.
func (r *rowWatch) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed != nil {
		r.err = err
		r.wake()
	}
}

// waited reports whether somebody waits.
func (r *rowWatch) waited() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n > 0
}

// due returns how long it is until the revision is to be asked for; at once, if
// that was hinted at.
func (r *rowWatch) due(hears, hinted bool) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if hinted || r.asked.IsZero() {
		return 0
	}
	every := askedAtMost
	if !hears {
		// A little more rarely than the log, which is asked for both.
		every = min(max(time.Since(r.moved)/lookBack, 2*lookBusy), lookBlind+lookBlind/lookBack)
	}
	return every - time.Since(r.asked)
}

// Changed implements [store.Store]. A change by another process is known as soon
// as its notification comes; where none can come (a pooler is between), within a
// moment while changes come often, and at the latest after 800 ms.
func (db *DB) Changed(ctx context.Context, known int64) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := db.use(); err != nil {
		return 0, err
	}
	defer db.uses.Done()
	r := &db.rows
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n++
	defer func() { r.n-- }()
	if !r.started {
		r.started = true
		db.uses.Add(1) // never the first: this call counts already
		go db.watchRows()
	}
	if r.n == 1 {
		signal(r.needy)
	}
	for {
		if r.seen != unasked && r.seen != known {
			return r.seen, nil
		}
		if r.changed == nil {
			r.changed, r.err = make(chan struct{}), nil
		}
		changed := r.changed
		r.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = ctx.Err()
		case <-db.closing.Done():
			err = ErrClosed
		}
		r.mu.Lock()
		if err == nil {
			err = r.err
		}
		if err != nil {
			return 0, err
		}
	}
}

// watchRows asks for the revision while somebody waits, until the DB is closed.
func (db *DB) watchRows() {
	defer db.uses.Done()
	ctx, r := db.closing, &db.rows
	db.listen()
	timer := time.NewTimer(0)
	defer timer.Stop()
	failures, hinted := 0, false
	for {
		if !r.waited() {
			select {
			case <-r.needy:
			case <-ctx.Done():
				return
			}
		}
		wait := r.due(db.watch.hears.Load(), hinted)
		hinted = false
		if wait <= 0 {
			revision, err := db.Revision(ctx)
			if err == nil {
				failures = 0
				r.raise(revision)
				continue
			}
			failures, hinted = min(failures+1, 10), true
			r.fail(err)
			wait = min(lookBusy<<failures, lookIdle)
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-r.look:
			hinted = true
		case <-ctx.Done():
			return
		}
	}
}

// Extend implements [store.Store], in one statement, beside all Updates: a
// heartbeat waits for nobody.
func (db *DB) Extend(ctx context.Context, id, notes string, ttl time.Duration) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	db.warmed.Do(func() { db.warm(ctx) })
	const extend = `UPDATE {schema}.members SET valid_until = clock_timestamp() + $3::bigint * interval '1 microsecond'
		WHERE id = $1 AND notes = $2 AND valid_until > clock_timestamp()`
	var tag pgconn.CommandTag
	var err error
	for range 2 { // it may be done twice
		if tag, err = db.pool.Exec(ctx, db.q(extend), id, notes, ttl.Microseconds()); err == nil || ctx.Err() != nil || !isNetwork(err) {
			break
		}
	}
	return tag.RowsAffected() == 1, db.fault(ctx, "extend a lease", err)
}
