package postgres

import (
	"cmp"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/jackc/pgx/v5"
)

//go:embed ledger/migrations/*.sql
var ledgerFiles embed.FS

var ledgerMigrations = func() []migration {
	files, err := fs.Sub(ledgerFiles, "ledger")
	if err != nil {
		panic(err)
	}
	return mustLoadMigrations(files)
}()

// LedgerSchema is the schema of a ledger, unless [Options].Schema says another one.
const LedgerSchema = "fairlead_ledger"

// A Ledger is a route ledger in a schema of its own, in the database that has the
// stores of the sandboxes, each in its schema. A baseline's store may be elsewhere.
type Ledger struct{ db *DB }

var _ ledger.Ledger = (*Ledger)(nil)

// OpenLedger connects to a database as [Open] does, and brings the ledger's schema up
// to date. The caller closes the Ledger.
func OpenLedger(ctx context.Context, url string, opts ...Options) (*Ledger, error) {
	var o Options
	if len(opts) > 0 {
		o = opts[0]
	}
	o.Schema = cmp.Or(o.Schema, LedgerSchema)
	o.MaxConns = cmp.Or(o.MaxConns, 4)
	db, err := prepare(ctx, url, o)
	if err != nil {
		return nil, err
	}
	db.migrations = ledgerMigrations
	if err = db.checkServer(ctx); err == nil {
		err = db.migrate(ctx)
	}
	if err != nil {
		err = db.fault(ctx, "open ledger", err)
		_ = db.Close()
		return nil, err
	}
	return &Ledger{db}, nil
}

// Close closes all connections.
func (l *Ledger) Close() error { return l.db.Close() }

// A guard is a registration that every commit of a store needs to be open.
type guard struct {
	statement string
	id        int64
}

// queue adds to a commit that the registration is open.
func (g *guard) queue(b *pgx.Batch) {
	if g != nil {
		b.Queue(g.statement, g.id)
	}
}

const stateClosed = "FL010"

// within runs f in a transaction.
func (l *Ledger) within(ctx context.Context, what string, f func(context.Context, pgx.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	err := pgx.BeginTxFunc(ctx, l.db.pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, limitIdle); err != nil {
			return err
		}
		return f(ctx, tx)
	})
	if _, ok := errors.AsType[*ledger.HostError](err); ok || errors.Is(err, ledger.ErrClosed) || errors.Is(err, errElsewhere) {
		return err
	}
	return l.db.fault(ctx, what, err)
}

const sandboxColumns = `s.id, s.log, s.service, s.host, s.generation, s.store, s.since, s.closed, s.lanes, l.valid_until, l.valid_until < clock_timestamp()`

const selectSandboxes = "SELECT " + sandboxColumns + " FROM {schema}.sandboxes s JOIN {schema}.leases l ON l.sandbox = s.id WHERE "

func scanSandbox(row pgx.CollectableRow) (s ledger.Sandbox, err error) {
	var lanes *string
	var closed *time.Time
	err = row.Scan(&s.ID, &s.Log, &s.Service, &s.Host, &s.Generation, &s.Store, &s.Since, &closed, &lanes, &s.Lease, &s.Expired)
	if err == nil && lanes != nil {
		err = json.Unmarshal([]byte(*lanes), &s.Lanes)
	}
	s.Open, s.Closed, s.Since, s.Lease = closed == nil, utc(closed), s.Since.UTC(), s.Lease.UTC()
	s.Partitions = map[int]ledger.Span{}
	return s, err
}

// Sandboxes implements [ledger.Ledger].
func (l *Ledger) Sandboxes(ctx context.Context, log, service string, hosts []string) (out []ledger.Sandbox, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	// One snapshot, or a registration might be read without a partition that it has.
	err = pgx.BeginTxFunc(ctx, l.db.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, l.db.q(selectSandboxes+"s.log = $1 AND s.service = $2 AND ($3::text[] IS NULL OR s.host = ANY ($3)) ORDER BY s.host, s.generation"),
			log, service, hosts)
		if err != nil {
			return err
		}
		if out, err = pgx.CollectRows(rows, scanSandbox); err != nil {
			return err
		}
		return l.spans(ctx, tx, out)
	})
	return out, l.db.fault(ctx, "read the ledger", err)
}

// spans fills in the partitions of sandboxes.
func (l *Ledger) spans(ctx context.Context, tx pgx.Tx, out []ledger.Sandbox) error {
	ids, at := make([]int64, len(out)), make(map[int64]*ledger.Sandbox, len(out))
	for i := range out {
		ids[i], at[out[i].ID] = out[i].ID, &out[i]
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, l.db.q("SELECT sandbox, partition, begins FROM {schema}.spans WHERE sandbox = ANY ($1)"), ids)
	if err != nil {
		return err
	}
	var id int64
	var partition int
	var begins *int64
	_, err = pgx.ForEachRow(rows, []any{&id, &partition, &begins}, func() error {
		span := ledger.Span{Pending: begins == nil}
		if begins != nil {
			span.From = event.Position(*begins)
		}
		at[id].Partitions[partition] = span
		return nil
	})
	return err
}

var errElsewhere = errors.New("the store is not in the ledger's database: a sandbox's read models and the ledger must be, each in a schema of its own, " +
	"so that one transaction can close the one and read the other")

// Register implements [ledger.Ledger]. S is a [*DB].
func (l *Ledger) Register(ctx context.Context, log, service, host string, s store.Store, lease time.Duration) (out ledger.Sandbox, err error) {
	db, ok := s.(*DB)
	if !ok {
		return out, fmt.Errorf("postgres: register sandbox %q: its store is a %T: %w", host, s, errElsewhere)
	}
	var here, there string
	if err := l.db.pool.QueryRow(ctx, l.db.q("SELECT id FROM {schema}.identity")).Scan(&here); err != nil {
		return out, l.db.fault(ctx, "register sandbox", err)
	}
	err = db.pool.QueryRow(ctx, l.db.q("SELECT id FROM {schema}.identity")).Scan(&there)
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	if err != nil || here != there {
		return out, fmt.Errorf("postgres: register sandbox %q: ledger in %s, store in %s: %w", host, l.db.where, db.where, errElsewhere)
	}
	err = l.within(ctx, "register sandbox "+host, func(ctx context.Context, tx pgx.Tx) error {
		// Of several processes of a sandbox one begins the registration.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('fairlead sandbox ' || $1, 0))", host); err != nil {
			return err
		}
		open := func() error {
			rows, err := tx.Query(ctx, l.db.q(selectSandboxes+"s.log = $1 AND s.service = $2 AND s.host = $3 AND s.closed IS NULL"), log, service, host)
			if err != nil {
				return err
			}
			out, err = pgx.CollectExactlyOneRow(rows, scanSandbox)
			return err
		}
		err := open()
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			_, err = tx.Exec(ctx, l.db.q(`WITH new AS (
				INSERT INTO {schema}.sandboxes (log, service, host, generation, store, since)
				SELECT $1, $2, $3, coalesce(max(generation), 0) + 1, $4, clock_timestamp()
				  FROM {schema}.sandboxes WHERE log = $1 AND service = $2 AND host = $3
				RETURNING id)
				INSERT INTO {schema}.leases SELECT id, clock_timestamp() + $5::bigint * interval '1 microsecond' FROM new`),
				log, service, host, db.opts.Schema, lease.Microseconds())
			if err != nil {
				return err
			}
			if err := open(); err != nil {
				return err
			}
		case err != nil:
			return err
		case out.Store != db.opts.Schema:
			return &ledger.HostError{Sandbox: out, Store: db.opts.Schema}
		default:
			_, err := tx.Exec(ctx, l.db.q(renewLease), out.ID, lease.Microseconds())
			if err != nil {
				return err
			}
		}
		one := []ledger.Sandbox{out}
		return l.spans(ctx, tx, one)
	})
	if err == nil {
		db.guard.Store(&guard{l.db.q("SELECT {schema}.still_open($1)"), out.ID})
	}
	return out, err
}

// hold fails unless a registration is open, and keeps it open until tx ends.
func (l *Ledger) hold(ctx context.Context, tx pgx.Tx, id int64) error {
	var one int
	err := tx.QueryRow(ctx, l.db.q("SELECT 1 FROM {schema}.sandboxes WHERE id = $1 AND closed IS NULL FOR SHARE"), id).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return ledger.ErrClosed
	}
	return err
}

// Reserve implements [ledger.Ledger].
func (l *Ledger) Reserve(ctx context.Context, id int64, partition int) (span ledger.Span, err error) {
	err = l.within(ctx, "reserve a partition", func(ctx context.Context, tx pgx.Tx) error {
		if err := l.hold(ctx, tx, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, l.db.q("INSERT INTO {schema}.spans (sandbox, partition) VALUES ($1, $2) ON CONFLICT DO NOTHING"), id, partition); err != nil {
			return err
		}
		var begins *int64
		if err := tx.QueryRow(ctx, l.db.q("SELECT begins FROM {schema}.spans WHERE sandbox = $1 AND partition = $2"), id, partition).Scan(&begins); err != nil {
			return err
		}
		if span.Pending = begins == nil; !span.Pending {
			span.From = event.Position(*begins)
		}
		return nil
	})
	return span, err
}

// Begin implements [ledger.Ledger].
func (l *Ledger) Begin(ctx context.Context, id int64, partition int, from event.Position) (at event.Position, err error) {
	err = l.within(ctx, "begin a partition", func(ctx context.Context, tx pgx.Tx) error {
		if err := l.hold(ctx, tx, id); err != nil {
			return err
		}
		return tx.QueryRow(ctx, l.db.q("UPDATE {schema}.spans SET begins = coalesce(begins, $3) WHERE sandbox = $1 AND partition = $2 RETURNING begins"),
			id, partition, int64(from)).Scan((*int64)(&at))
	})
	return at, err
}

const renewLease = "UPDATE {schema}.leases SET valid_until = clock_timestamp() + $2::bigint * interval '1 microsecond' WHERE sandbox = $1"

// Renew implements [ledger.Ledger].
func (l *Ledger) Renew(ctx context.Context, id int64, lease time.Duration) error {
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	tag, err := l.db.pool.Exec(ctx, l.db.q(renewLease+" AND EXISTS (SELECT FROM {schema}.sandboxes s WHERE s.id = $1 AND s.closed IS NULL)"),
		id, lease.Microseconds())
	if err == nil && tag.RowsAffected() == 0 {
		return ledger.ErrClosed
	}
	return l.db.fault(ctx, "renew the lease of a sandbox", err)
}

// End implements [ledger.Ledger]. It waits for the commits of the sandbox that have
// begun, and holds up those that come meanwhile: they fail then.
func (l *Ledger) End(ctx context.Context, id int64, when ledger.When) (closed bool, err error) {
	err = l.within(ctx, "close a sandbox", func(ctx context.Context, tx pgx.Tx) error {
		closed = false
		var schema string
		err := tx.QueryRow(ctx, l.db.q("SELECT store FROM {schema}.sandboxes WHERE id = $1 AND closed IS NULL FOR UPDATE"), id).Scan(&schema)
		if errors.Is(err, pgx.ErrNoRows) {
			closed = true
			return nil
		}
		if err != nil {
			return err
		}
		there, err := hasStore(ctx, tx, schema)
		if err != nil {
			return err
		}
		may := true
		switch {
		case when == ledger.Expired:
			err = tx.QueryRow(ctx, l.db.q("SELECT valid_until < clock_timestamp() FROM {schema}.leases WHERE sandbox = $1"), id).Scan(&may)
		case when == ledger.Left && there:
			err = tx.QueryRow(ctx, names(schema).Replace("SELECT NOT EXISTS (SELECT FROM {schema}.members WHERE valid_until > clock_timestamp())")).Scan(&may)
		}
		if err != nil || !may {
			return err
		}
		lanes := []store.Lane{}
		if there { // a statement of its own: it sees what the lock waited for
			if lanes, err = liveLanes(ctx, tx, schema); err != nil {
				return err
			}
		}
		text, err := json.Marshal(lanes)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, l.db.q("UPDATE {schema}.sandboxes SET closed = clock_timestamp(), lanes = $2 WHERE id = $1"), id, string(text))
		closed = err == nil
		return err
	})
	return closed && err == nil, err
}

// Lanes implements [ledger.Ledger].
func (l *Ledger) Lanes(ctx context.Context, id int64) (out []store.Lane, err error) {
	err = l.within(ctx, "read the lanes of a sandbox", func(ctx context.Context, tx pgx.Tx) error {
		var schema string
		var then *string
		// The lock keeps it open until its lanes are read, if it is.
		err := tx.QueryRow(ctx, l.db.q("SELECT store, lanes FROM {schema}.sandboxes WHERE id = $1 FOR SHARE"), id).Scan(&schema, &then)
		if errors.Is(err, pgx.ErrNoRows) { // forgotten
			return nil
		}
		if err != nil {
			return err
		}
		if then != nil {
			return json.Unmarshal([]byte(*then), &out)
		}
		there, err := hasStore(ctx, tx, schema)
		if err == nil && there {
			out, err = liveLanes(ctx, tx, schema)
		}
		return err
	})
	return out, err
}

// Forget implements [ledger.Ledger].
func (l *Ledger) Forget(ctx context.Context, id int64) error {
	ctx, cancel := l.db.limit(ctx)
	defer cancel()
	_, err := l.db.pool.Exec(ctx, l.db.q("DELETE FROM {schema}.sandboxes WHERE id = $1 AND closed IS NOT NULL"), id)
	return l.db.fault(ctx, "forget a sandbox", err)
}

// hasStore reports whether a schema has a store: somebody may have dropped it.
func hasStore(ctx context.Context, tx pgx.Tx, schema string) (there bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = 'lanes')`, schema).Scan(&there)
	return there, err
}

// liveLanes returns how far the lanes of the live builds of a store are.
func liveLanes(ctx context.Context, tx pgx.Tx, schema string) ([]store.Lane, error) {
	rows, err := tx.Query(ctx, names(schema).Replace(`SELECT l.processor, l.number, l.partition, l.tenant, l.position, l.done, l.exclusions,
			CASE WHEN l.modulus > 0 THEN l.modulus ELSE p.partitions END
		FROM {schema}.lanes l JOIN {schema}.processors p ON p.name = l.processor AND p.live = l.number
		ORDER BY l.processor, l.partition, l.tenant`))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (lane store.Lane, err error) {
		var exclusions []byte
		err = row.Scan(&lane.Processor, &lane.Number, &lane.Partition, &lane.Tenant, (*int64)(&lane.Position), &lane.Done, &exclusions, &lane.Of)
		if err == nil && exclusions != nil {
			err = json.Unmarshal(exclusions, &lane.Exclusions)
		}
		return lane, err
	})
}
