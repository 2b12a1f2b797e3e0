package sqlite

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	zs "zombiezen.com/go/sqlite"
)

// ledgerMigrations are those of a ledger's file, as migrations are a store's.
var ledgerMigrations = []migration{{"route ledger", `
CREATE TABLE fairlead_sandboxes(
	id         INTEGER PRIMARY KEY,
	token      TEXT NOT NULL UNIQUE, -- the registration's name in the sandbox's file
	log        TEXT NOT NULL,
	service    TEXT NOT NULL,
	host       TEXT NOT NULL,
	generation INTEGER NOT NULL,
	store      TEXT NOT NULL,        -- the sandbox's file
	since      INTEGER NOT NULL,
	lease      INTEGER NOT NULL,     -- its end
	closed     INTEGER,              -- NULL: it is open
	lanes      TEXT,                 -- of its store when it was closed: JSON
	UNIQUE(log, service, host, generation)
);
CREATE UNIQUE INDEX fairlead_sandboxes_open ON fairlead_sandboxes(log, service, host) WHERE closed IS NULL;
CREATE TABLE fairlead_spans(
	sandbox   INTEGER NOT NULL,
	partition INTEGER NOT NULL,
	begins    INTEGER, -- NULL while the end of the log partition has not been read
	PRIMARY KEY(sandbox, partition)
) WITHOUT ROWID;
CREATE TABLE fairlead_routes(name TEXT PRIMARY KEY, route TEXT NOT NULL) WITHOUT ROWID;
`}, {"routing keys", ledgerKeys}}

// A Ledger is a route ledger in a file of its own, beside the files of the sandboxes on
// one machine. No transaction spans two files. So that a registration is open is
// written in the sandbox's file, and there a transaction closes it and keeps what the
// lanes say; the ledger's file then says the same. Who dies between the two leaves a
// registration that is open in the ledger and can commit nothing: to close it again
// ends that.
type Ledger struct{ db *DB }

var (
	_ ledger.Ledger = (*Ledger)(nil)
	_ ledger.Routes = (*Ledger)(nil)
)

// OpenLedger opens the file of a ledger, or makes it. The caller closes the Ledger.
func OpenLedger(path string) (*Ledger, error) {
	db, err := open(path, ledgerMigrations)
	if errors.Is(err, store.ErrNewerSchema) {
		return nil, fmt.Errorf("open ledger: %w; or that file is a store: a ledger has a file of its own", err)
	}
	if err != nil {
		return nil, err
	}
	return &Ledger{db}, nil
}

// Close closes the ledger's file.
func (l *Ledger) Close() error { return l.db.Close() }

const (
	sandboxColumns = "id, token, log, service, host, generation, store, since, lease, closed, lanes"
	// In the sandbox's file.
	makeRegistrations = "CREATE TABLE IF NOT EXISTS fairlead_registrations(token TEXT PRIMARY KEY, closed INTEGER NOT NULL DEFAULT 0, lanes TEXT) WITHOUT ROWID"
	stillOpen         = "SELECT 1 FROM fairlead_registrations WHERE token = ? AND closed = 0"
)

// A row is a registration with its name in the sandbox's file.
type sandboxRow struct {
	ledger.Sandbox
	token string
}

func scanSandbox(s *zs.Stmt) (r sandboxRow, err error) {
	r = sandboxRow{token: s.ColumnText(1)}
	r.ID, r.Log, r.Service, r.Host, r.Generation, r.Store = s.ColumnInt64(0), s.ColumnText(2), s.ColumnText(3), s.ColumnText(4), s.ColumnInt(5), s.ColumnText(6)
	r.Partitions = map[int]ledger.Span{}
	r.Open, r.Since, r.Lease = s.ColumnIsNull(9), time.Unix(0, s.ColumnInt64(7)).UTC(), time.Unix(0, s.ColumnInt64(8)).UTC()
	r.Expired = r.Lease.Before(time.Now())
	if !r.Open {
		r.Closed = time.Unix(0, s.ColumnInt64(9)).UTC()
		err = json.Unmarshal([]byte(s.ColumnText(10)), &r.Lanes)
	}
	return r, err
}

// sandboxes returns the registrations that a condition selects.
func (c *conn) sandboxes(where string, args ...any) (out []sandboxRow, err error) {
	err = c.rows("SELECT "+sandboxColumns+" FROM fairlead_sandboxes WHERE "+where+" ORDER BY host, generation", func(s *zs.Stmt) error {
		r, err := scanSandbox(s)
		out = append(out, r)
		return err
	}, args...)
	for i := range out {
		if err == nil {
			err = c.rows("SELECT partition, begins FROM fairlead_spans WHERE sandbox = ?", func(s *zs.Stmt) error {
				out[i].Partitions[s.ColumnInt(0)] = ledger.Span{From: event.Position(s.ColumnInt64(1)), Pending: s.ColumnIsNull(1)}
				return nil
			}, out[i].ID)
		}
	}
	return out, err
}

// Sandboxes implements [ledger.Ledger].
func (l *Ledger) Sandboxes(ctx context.Context, log, service string, hosts []string) (out []ledger.Sandbox, err error) {
	names, err := json.Marshal(hosts)
	if err != nil {
		return nil, err
	}
	// A write transaction is one snapshot, too.
	err = l.db.write(ctx, "read the ledger", func(w *writer) error {
		out = nil
		found, err := w.sandboxes("log = ?1 AND service = ?2 AND (?3 = 'null' OR host IN (SELECT value FROM json_each(?3)))", log, service, string(names))
		for i := range found {
			out = append(out, found[i].Sandbox)
		}
		return err
	})
	return out, err
}

// Register implements [ledger.Ledger]. S is a [*DB].
func (l *Ledger) Register(ctx context.Context, log, service, host string, s store.Store, lease time.Duration) (ledger.Sandbox, error) {
	db, ok := s.(*DB)
	if !ok {
		return ledger.Sandbox{}, fmt.Errorf("sqlite: register sandbox %q: its store is a %T: with a ledger in a file it must be in a file too", host, s)
	}
	for {
		token := rand.Text()
		err := db.write(ctx, "register sandbox", func(w *writer) error {
			if err := w.exec(makeRegistrations); err != nil {
				return err
			}
			return w.exec("INSERT INTO fairlead_registrations(token) VALUES(?)", token)
		})
		if err != nil {
			return ledger.Sandbox{}, err
		}
		var row sandboxRow
		err = l.db.write(ctx, "register sandbox", func(w *writer) error {
			const own = "log = ? AND service = ? AND host = ? AND closed IS NULL"
			found, err := w.sandboxes(own, log, service, host)
			if err == nil && len(found) == 0 {
				now := time.Now()
				if err = w.exec(`INSERT INTO fairlead_sandboxes(token, log, service, host, generation, store, since, lease)
					SELECT ?1, ?2, ?3, ?4, coalesce(max(generation), 0) + 1, ?5, ?6, ?7 FROM fairlead_sandboxes WHERE log = ?2 AND service = ?3 AND host = ?4`,
					token, log, service, host, db.path, now.UnixNano(), now.Add(lease).UnixNano()); err == nil {
					found, err = w.sandboxes(own, log, service, host)
				}
			}
			if err == nil {
				row = found[0]
			}
			return err
		})
		if err != nil {
			return ledger.Sandbox{}, err
		}
		if row.token != token { // there is one, and this one is not needed
			if err := db.write(ctx, "register sandbox", func(w *writer) error {
				return w.exec("DELETE FROM fairlead_registrations WHERE token = ?", token)
			}); err != nil {
				return ledger.Sandbox{}, err
			}
		}
		if row.Store != db.path {
			return ledger.Sandbox{}, &ledger.HostError{Sandbox: row.Sandbox, Store: db.path}
		}
		closed, err := l.finish(ctx, &row)
		if err != nil {
			return ledger.Sandbox{}, err
		}
		if closed { // it was closed in the store, and whoever did that did not come to say so here; or that store was deleted
			continue
		}
		db.guard.Store(&row.token)
		return row.Sandbox, l.Renew(ctx, row.ID, lease)
	}
}

// open fails unless a registration is open in the ledger.
func (w *writer) registered(id int64) error {
	_, ok, err := w.int64("SELECT 1 FROM fairlead_sandboxes WHERE id = ? AND closed IS NULL", id)
	if err == nil && !ok {
		err = &passed{ledger.ErrClosed}
	}
	return err
}

// passedOn returns the error of a function in a transaction as it is.
func passedOn(err error) error {
	if p, ok := errors.AsType[*passed](err); ok {
		return p.err
	}
	return err
}

// Reserve implements [ledger.Ledger].
func (l *Ledger) Reserve(ctx context.Context, id int64, partition int) (span ledger.Span, err error) {
	err = l.db.write(ctx, "reserve a partition", func(w *writer) error {
		if err := w.registered(id); err != nil {
			return err
		}
		if err := w.exec("INSERT OR IGNORE INTO fairlead_spans(sandbox, partition) VALUES(?, ?)", id, partition); err != nil {
			return err
		}
		return w.rows("SELECT begins FROM fairlead_spans WHERE sandbox = ? AND partition = ?", func(s *zs.Stmt) error {
			span = ledger.Span{From: event.Position(s.ColumnInt64(0)), Pending: s.ColumnIsNull(0)}
			return nil
		}, id, partition)
	})
	return span, passedOn(err)
}

// Begin implements [ledger.Ledger].
func (l *Ledger) Begin(ctx context.Context, id int64, partition int, from event.Position) (at event.Position, err error) {
	err = l.db.write(ctx, "begin a partition", func(w *writer) error {
		if err := w.registered(id); err != nil {
			return err
		}
		if err := w.exec("UPDATE fairlead_spans SET begins = coalesce(begins, ?) WHERE sandbox = ? AND partition = ?", int64(from), id, partition); err != nil {
			return err
		}
		n, _, err := w.int64("SELECT begins FROM fairlead_spans WHERE sandbox = ? AND partition = ?", id, partition)
		at = event.Position(n)
		return err
	})
	return at, passedOn(err)
}

// Renew implements [ledger.Ledger].
func (l *Ledger) Renew(ctx context.Context, id int64, lease time.Duration) error {
	row, err := l.row(ctx, id)
	if errors.Is(err, store.ErrNotFound) { // forgotten
		return ledger.ErrClosed
	}
	if err != nil {
		return err
	}
	if closed, err := l.finish(ctx, &row); closed || err != nil {
		return errors.Join(err, closedErr(closed))
	}
	err = l.db.write(ctx, "renew the lease of a sandbox", func(w *writer) error {
		if err := w.registered(id); err != nil {
			return err
		}
		return w.exec("UPDATE fairlead_sandboxes SET lease = ? WHERE id = ?", time.Now().Add(lease).UnixNano(), id)
	})
	return passedOn(err)
}

func closedErr(closed bool) error {
	if closed {
		return ledger.ErrClosed
	}
	return nil
}

func (l *Ledger) row(ctx context.Context, id int64) (row sandboxRow, err error) {
	err = l.db.write(ctx, "read the ledger", func(w *writer) error {
		found, err := w.sandboxes("id = ?", id)
		if err == nil && len(found) == 0 {
			err = store.ErrNotFound
		}
		if err == nil {
			row = found[0]
		}
		return err
	})
	return row, err
}

// End implements [ledger.Ledger].
func (l *Ledger) End(ctx context.Context, id int64, when ledger.When) (closed bool, err error) {
	row, err := l.row(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound): // forgotten
		return true, nil
	case err != nil:
		return false, err
	case !row.Open:
		return true, nil
	case when == ledger.Expired && !row.Expired:
		return l.finish(ctx, &row)
	}
	there, err := l.inStore(ctx, &row, func(c *conn) error {
		if then, err := c.closedWith(row.token); then != "" || err != nil {
			return err
		}
		if when == ledger.Left {
			_, alive, err := c.int64("SELECT 1 FROM fairlead_members WHERE until > ? LIMIT 1", time.Now().UnixNano())
			if alive || err != nil {
				return err
			}
		}
		lanes, err := c.liveLanes()
		if err != nil {
			return err
		}
		text, err := json.Marshal(lanes)
		if err != nil {
			return err
		}
		return c.exec("UPDATE fairlead_registrations SET closed = 1, lanes = ? WHERE token = ? AND closed = 0", string(text), row.token)
	})
	if err != nil {
		return false, err
	}
	if !there { // its file is gone, and its read models with it
		return true, l.say(ctx, id, noLanes)
	}
	return l.finish(ctx, &row)
}

// finish has the ledger say that a registration is closed which is so in its store.
func (l *Ledger) finish(ctx context.Context, row *sandboxRow) (closed bool, err error) {
	if !row.Open {
		return true, nil
	}
	text := ""
	there, err := l.inStore(ctx, row, func(c *conn) (err error) {
		text, err = c.closedWith(row.token)
		return err
	})
	if err != nil || !there || text == "" {
		return false, err
	}
	return true, l.say(ctx, row.ID, text)
}

const noLanes = "[]"

// closedWith returns the lanes that a registration was closed with, "" where it is open.
// A store that does not have it at all was made in the place of the one that had: this
// one is gone, with its read models, and nothing commits under the registration any more.
func (c *conn) closedWith(token string) (lanes string, err error) {
	_, made, err := c.int64("SELECT 1 FROM sqlite_schema WHERE name = 'fairlead_registrations'")
	if err != nil || !made {
		return noLanes, err
	}
	lanes = noLanes
	err = c.rows("SELECT closed, lanes FROM fairlead_registrations WHERE token = ?", func(s *zs.Stmt) error {
		if lanes = ""; s.ColumnInt(0) != 0 {
			lanes = s.ColumnText(1)
		}
		return nil
	}, token)
	return lanes, err
}

// say writes into the ledger that a registration is closed.
func (l *Ledger) say(ctx context.Context, id int64, lanes string) error {
	return l.db.write(ctx, "close a sandbox", func(w *writer) error {
		return w.exec("UPDATE fairlead_sandboxes SET closed = ?, lanes = ? WHERE id = ? AND closed IS NULL", time.Now().UnixNano(), lanes, id)
	})
}

// Lanes implements [ledger.Ledger].
func (l *Ledger) Lanes(ctx context.Context, id int64) (out []store.Lane, err error) {
	row, err := l.row(ctx, id)
	if errors.Is(err, store.ErrNotFound) { // forgotten
		return nil, nil
	}
	if err != nil || !row.Open {
		return row.Lanes, err
	}
	_, err = l.inStore(ctx, &row, func(c *conn) error {
		then, err := c.closedWith(row.token)
		switch {
		case err != nil:
		case then != "":
			err = json.Unmarshal([]byte(then), &out)
		default:
			out, err = c.liveLanes()
		}
		return err
	})
	return out, err
}

// Forget implements [ledger.Ledger]. The newest registration stays, for else its id
// would be the next one's too, and whoever has it could close that.
func (l *Ledger) Forget(ctx context.Context, id int64) error {
	return l.db.write(ctx, "forget a sandbox", func(w *writer) error {
		err := w.exec("DELETE FROM fairlead_sandboxes WHERE id = ? AND closed IS NOT NULL AND id < (SELECT max(id) FROM fairlead_sandboxes)", id)
		if err != nil || w.Changes() == 0 {
			return err
		}
		return w.exec("DELETE FROM fairlead_spans WHERE sandbox = ?", id)
	})
}

// inStore runs f in a write transaction on a sandbox's file, which it neither makes nor
// migrates: the sandbox's program may be an older one.
func (l *Ledger) inStore(ctx context.Context, row *sandboxRow, f func(*conn) error) (there bool, err error) {
	if _, err := os.Stat(row.Store); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	fail := func(err error) (bool, error) {
		if ctx.Err() != nil {
			return true, ctx.Err()
		}
		return true, fmt.Errorf("sqlite: sandbox %q: %s: %w", row.Host, row.Store, err)
	}
	raw, err := zs.OpenConn(row.Store, zs.OpenReadWrite)
	if err != nil {
		return fail(err)
	}
	c := &conn{Conn: raw, db: l.db}
	defer func() { _ = raw.Close() }()
	raw.SetInterrupt(ctx.Done())
	raw.SetBusyTimeout(0) // SQLite's own waits become so long that a busy sandbox is never found between two commits
	if err := l.db.retryBusy(ctx, func() error { return c.exec("BEGIN IMMEDIATE") }); err != nil {
		return fail(err)
	}
	err = f(c)
	if err == nil {
		err = c.exec("COMMIT")
	}
	if err != nil {
		if !raw.AutocommitEnabled() {
			raw.SetInterrupt(nil)
			_ = c.exec("ROLLBACK")
		}
		return fail(err)
	}
	return true, nil
}

// liveLanes returns how far the lanes of the live builds of a store are.
func (c *conn) liveLanes() (out []store.Lane, err error) {
	out = []store.Lane{}
	var numbers []int64
	err = c.rows(`SELECT l.processor, l.number, l.partition, l.tenant, l.position, l.done, l.lane_no, CASE WHEN l.modulus > 0 THEN l.modulus ELSE p.partitions END
		FROM fairlead_lanes l JOIN fairlead_processors p ON p.name = l.processor AND p.live = l.number ORDER BY 1, 3, 4`, func(s *zs.Stmt) error {
		lane := store.Lane{Position: event.Position(s.ColumnInt64(4)), Done: columnBytes(s, 5), Of: s.ColumnInt(7)}
		lane.Processor, lane.Number, lane.Partition, lane.Tenant = s.ColumnText(0), s.ColumnInt64(1), s.ColumnInt(2), s.ColumnText(3)
		out, numbers = append(out, lane), append(numbers, s.ColumnInt64(6))
		return nil
	})
	for i := range out {
		if err == nil {
			err = c.rows("SELECT tenant, until FROM fairlead_exclusions WHERE lane_no = ?", func(s *zs.Stmt) error {
				if out[i].Exclusions == nil {
					out[i].Exclusions = map[string]event.Position{}
				}
				out[i].Exclusions[s.ColumnText(0)] = event.Position(s.ColumnInt64(1))
				return nil
			}, numbers[i])
		}
	}
	return out, err
}

// guarded fails where the store's registration is closed.
func (w *writer) guarded() error {
	token := w.db.guard.Load()
	if token == nil {
		return nil
	}
	_, ok, err := w.int64(stillOpen, *token)
	if err == nil && !ok {
		err = ledger.ErrClosed
	}
	return err
}
