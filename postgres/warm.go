package postgres

import (
	"context"
	"math"
	"sync"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// warmConns is how many connections a process opens before it is given work, or three
	// quarters of the most that it may have.
	warmConns = 8
	// warmTables is of how many collections a connection prepares the statements.
	warmTables = 16
)

// warm opens connections. To open one takes a server's process, a login and its first look
// at the catalog, some ten milliseconds each on a busy machine, and as much again for the
// first of each statement: lanes that come to a process that has just begun would all wait
// for theirs at once. Where no other member is alive there is none to hand lanes over: who is alone, or
// begins together with others, takes what nobody works, and has begun sooner. What fails is tried
// again when it is needed.
func (db *DB) warm(ctx context.Context) {
	if db.opts.Pooler { // it keeps sessions itself
		return
	}
	var others bool
	err := db.pool.QueryRow(ctx, db.q("SELECT EXISTS (SELECT FROM {schema}.members WHERE valid_until > clock_timestamp())")).Scan(&others)
	if err == nil && !others {
		return
	}
	tables, _ := db.knownTables(ctx)
	safe, _, _ := db.known(ctx)
	n := min(warmConns, int(db.pool.Config().MaxConns)*3/4)
	conns := make(chan *pgxpool.Conn, n)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			if c, err := db.pool.Acquire(ctx); err == nil {
				conns <- c
			}
		})
	}
	wg.Wait()
	close(conns)
	for c := range conns {
		wg.Go(func() {
			_ = db.rehearse(ctx, c, tables, safe)
			c.Release()
		})
	}
	wg.Wait()
}

// knownTables returns where the documents of some processors are: those that this role may
// write to, and that nobody is working on, as one who builds an index is.
func (db *DB) knownTables(ctx context.Context) ([]table, error) {
	rows, _ := db.pool.Query(ctx, db.q(`SELECT p.no, p.document_table FROM {schema}.processors p, to_regclass(format('%I.%I', $2::text, p.document_table)) r
		WHERE p.no IS NOT NULL AND p.document_table IS NOT NULL
		AND has_table_privilege(r, 'SELECT') AND has_table_privilege(r, 'INSERT') AND has_table_privilege(r, 'UPDATE')
		AND NOT EXISTS (SELECT FROM pg_locks l WHERE l.relation = r AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
			AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
		ORDER BY p.name LIMIT $1`), warmTables, db.opts.Schema)
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t table, err error) {
		err = row.Scan(&t.no, &t.name)
		t.name = pgx.Identifier{db.opts.Schema, t.name}.Sanitize()
		return t, err
	})
}

// rehearse runs the statements of a lane on a connection, without an effect: with no documents,
// no events, and for a lane that there is none of, whose refusal is not an error in the server's log.
// It waits next to nothing for a table that somebody has locked: that would be the first heartbeat's time.
func (db *DB) rehearse(ctx context.Context, c *pgxpool.Conn, tables []table, safe int64) error {
	b := &pgx.Batch{}
	if db.mapped == nil {
		b.Queue(db.planned(db.sql.readAll, safe), safe, safe, int64(event.Unbounded), 1, int64(1), math.MaxInt32)
	}
	b.Queue(db.q(`DO $$ BEGIN
		PERFORM {schema}.fence('', 0, 0, '', -1, -1, -1, 0, NULL, NULL, NULL, NULL);
	EXCEPTION WHEN SQLSTATE '` + stateFenced + `' THEN NULL; END $$`))
	none := documents{}
	for _, t := range tables {
		b.Queue(t.q(db, putDocuments), t.no, int64(0), none.tenants, none.ids, none.versions, none.positions, none.docs)
	}
	return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
		// Statements lock tables as soon as they are prepared, so this cannot be of the batch.
		if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = 100"); err != nil {
			return err
		}
		err := tx.SendBatch(ctx, b).Close()
		for i := 0; i < len(tables) && err == nil; i++ {
			_, err = tx.Exec(ctx, tables[i].q(db, loadDocuments), planned, tables[i].no, "", int64(0), []string{}, []string{})
		}
		return err
	})
}
