package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
	"github.com/jackc/pgx/v5"
)

// How the store works.
//
// Documents are in a table for each collection, keyed (build, tenant, id): a
// switch to another build changes one number in one row. A view with the
// collection's name shows the live build, and read_model all collections. See
// 0003_documents.sql for the names, and tables.go for how they are known here.
//
// A document is kept as jsonb, which comes back equal as JSON. What jsonb cannot
// hold is kept to the byte beside it; see splitJSON.
//
// A commit costs one round trip. Its statements go out together, as a pipeline
// without BEGIN and with one Sync: PostgreSQL runs them as one transaction, which
// it commits at the Sync, and skips everything behind the first error. The first
// statement is the fence, a function that updates the lane's row or else raises
// an error that carries what it found: nothing behind it is run then. A commit
// with the user's SQL is a transaction with BEGIN and COMMIT, three round trips
// and the user's own. Each commit locks its own lane's row first and writes its
// documents by ascending key.
//
// No statement needs anything of the session but the transaction it is in, so
// all of it works behind a pooler that gives each transaction another session.
//
// When no answer comes to a commit, the server may run it yet, even after the
// lane's owner has looked at the row and found it unchanged: a commit that moves
// no position would then pass the fence beside its own repetition. So a commit
// of unknown outcome is settled before anything else is told about its lane: see
// settle.

var _ store.Store = (*DB)(nil)

// Commit implements [store.Store]. Commit.SQL is given a [pgx.Tx], which it must
// neither commit nor roll back. A panic of it rolls back and goes on. Where two
// transactions were in each other's way (a deadlock), a commit without SQL is
// tried again; one with SQL fails with an error that is no [store.UserError].
func (db *DB) Commit(ctx context.Context, c *store.Commit) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.Position < c.Fence.Position {
		return fmt.Errorf("postgres: commit lane %v: position %v is before %v, where the lane is", c.Lane, c.Position, c.Fence.Position)
	}
	for i := range c.Writes {
		if w := &c.Writes[i]; len(w.Data) > maxDocumentBytes {
			fault := fmt.Errorf("it has %d bytes, and PostgreSQL takes no message of 1 GiB: at most %d", len(w.Data), maxDocumentBytes)
			return fmt.Errorf("postgres: commit lane %v: %w", c.Lane, &DocumentError{w.Tenant, w.ID, fault})
		}
	}
	if err := db.settleLane(ctx, c.Lane); err != nil {
		return err
	}
	commit := db.commitPipelined
	if c.SQL != nil {
		commit = db.commitWithSQL
	}
	var err error
	for try := range retries {
		err = db.inTableOf(ctx, c, func(t table) error { return commit(ctx, c, t) })
		if c.SQL != nil || !raceLost(err) || !pause(ctx, try) {
			break
		}
	}
	return db.refusal(ctx, c, err)
}

// inTableOf runs f with the table that the writes of c go into.
func (db *DB) inTableOf(ctx context.Context, c *store.Commit, f func(table) error) error {
	if len(c.Writes) == 0 {
		return f(table{})
	}
	return db.inTable(ctx, &db.tables.of, tableOfProcessor, c.Lane.Processor, f)
}

// refusal makes the contract's error of what a commit failed with.
func (db *DB) refusal(ctx context.Context, c *store.Commit, err error) error {
	switch err.(type) { //nolint:errorlint // the outermost error alone
	case nil, *store.UserError:
		return err
	}
	server := serverError(err)
	switch {
	case server == nil:
	case server.Code == stateFenced:
		fenced := &store.FenceError{Lane: c.Lane, Expected: c.Fence}
		f := &fenced.Found
		if _, err := fmt.Sscan(server.Detail, &f.Epoch, (*int64)(&f.Position), &f.Revision); err != nil {
			return fmt.Errorf("postgres: commit lane %v: fence found %q: %w", c.Lane, server.Detail, err)
		}
		return fenced
	case server.Code == stateNoLetter:
		return fmt.Errorf("postgres: commit lane %v: remove dead letter %s: %w", c.Lane, server.Detail, store.ErrNotFound)
	case server.Code == stateClosed:
		return fmt.Errorf("postgres: commit lane %v: %w", c.Lane, ledger.ErrClosed)
	case server.Code == stateNoCollection:
		return fmt.Errorf("postgres: commit lane %v: its processor has no collection, so it can keep no documents", c.Lane)
	case strings.HasPrefix(server.Code, "22"), server.Code == "54000", server.Code == "54001":
		for i := range c.Writes {
			if fault := documentFault(&c.Writes[i], server); fault != nil {
				return fmt.Errorf("postgres: commit lane %v: %w", c.Lane, fault)
			}
		}
	}
	op := fmt.Sprintf("commit lane %v at %v", c.Lane, c.Position)
	if errors.Is(err, ErrOutcomeUnknown) {
		return fmt.Errorf("postgres: %s: %w", op, err)
	}
	return db.fault(ctx, op, err)
}

func (db *DB) commitPipelined(ctx context.Context, c *store.Commit, t table) error {
	ctx, cancel := db.limit(ctx)
	defer cancel()
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	b := &pgx.Batch{}
	db.queueCommit(b, c, t)
	if changesLanes(c) {
		b.Queue(db.q(raiseRevision)) // last: nobody waits for anything while he holds that row
	}
	err = conn.SendBatch(ctx, b).Close()
	if unknown(err) {
		db.unsettled.add(c)
		err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, db.fault(ctx, "commit", err))
	}
	return err
}

func changesLanes(c *store.Commit) bool { return len(c.Detach) > 0 || len(c.Forget) > 0 }

// queueCommit queues everything of a commit but its SQL.
func (db *DB) queueCommit(b *pgx.Batch, c *store.Commit, t table) {
	id := c.Lane
	var forget []string
	var exclude []byte
	if changesLanes(c) {
		exclusions := make(map[string]event.Position, len(c.Detach))
		for i := range c.Detach {
			exclusions[c.Detach[i].Tenant] = event.Unbounded
		}
		forget, exclude = append([]string{}, c.Forget...), encodeExclusions(exclusions)
	}
	b.Queue(db.q("SELECT {schema}.fence($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"),
		id.Processor, id.Number, id.Partition, id.Tenant, c.Fence.Epoch, int64(c.Fence.Position), c.Fence.Revision,
		int64(c.Position), c.Done, timeOrNil(c.AppliedAt), forget, exclude)
	if c.Lazy {
		b.Queue("SELECT set_config('synchronous_commit', 'off', true)")
	}
	db.guard.Load().queue(b)
	db.queueWrites(b, c, t)
	db.queueLetters(b, c.Letters)
	if len(c.Remove) > 0 {
		b.Queue(db.q("SELECT {schema}.remove_letters($1, $2, $3, $4, $5)"), id.Processor, id.Number, id.Partition, []byte(id.Tenant), c.Remove)
	}
	for i := range c.Detach {
		l := &c.Detach[i]
		b.Queue(db.q(insertLane), laneArgs(l)...)
	}
}

const (
	putDocuments = `INSERT INTO {table} (collection_no, build, tenant, id, version, position, updated, document)
		SELECT $1::integer, $2::bigint, k.tenant, k.id, k.version, k.position, now(), k.document
		  FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::jsonb[]) AS k (tenant, id, version, position, document)` + onConflict
	putRawDocuments = `INSERT INTO {table} (collection_no, build, tenant, id, version, position, updated, document, raw)
		SELECT $1::integer, $2::bigint, k.tenant, k.id, k.version, k.position, now(), k.document, k.raw
		  FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::jsonb[], $8::bytea[])
		    AS k (tenant, id, version, position, document, raw)` + onConflict
	onConflict = ` ON CONFLICT (build, tenant, id) DO UPDATE
		SET version = excluded.version, position = excluded.position, updated = excluded.updated, document = excluded.document, raw = excluded.raw`

	// A statement has so many documents at most, and ends with the one that reaches
	// so many bytes of them. What it has beyond that costs the server more: memory
	// that a statement needs once, it takes from the system and gives back, page by
	// page. A few statements more cost little, as they go out together.
	statementDocuments = 200
	statementBytes     = 32 << 10
	// The largest document. With what one statement has beside it, a message stays
	// below 1 GiB, where the server ends the connection.
	maxDocumentBytes = 960 << 20
)

// queueWrites queues the documents by ascending key, so that two transactions
// that should ever write the same ones lock them in the same order.
func (db *DB) queueWrites(b *pgx.Batch, c *store.Commit, t table) {
	if len(c.Writes) == 0 {
		return
	}
	if t.name == "" {
		b.Queue(db.q("SELECT {schema}.no_collection($1)"), c.Lane.Processor)
		return
	}
	order := make([]*store.Write, len(c.Writes))
	for i := range c.Writes {
		order[i] = &c.Writes[i]
	}
	slices.SortFunc(order, func(x, y *store.Write) int {
		if n := strings.Compare(x.Tenant, y.Tenant); n != 0 {
			return n
		}
		return strings.Compare(x.ID, y.ID)
	})
	put, gone := makeDocuments(len(order)), documents{}
	statement := t.q(db, putDocuments)
	from, bytes := 0, 0 // of put: where the statement begins that the next document goes into
	queue := func(to int) {
		args := []any{t.no, c.Lane.Number, put.tenants[from:to], put.ids[from:to], put.versions[from:to], put.positions[from:to], put.docs[from:to]}
		if put.raws != nil {
			statement, args = t.q(db, putRawDocuments), append(args, put.raws[from:to])
		}
		b.Queue(statement, args...)
		from, bytes = to, 0
	}
	for _, w := range order {
		if w.Delete {
			gone.key(w)
			continue
		}
		put.add(w)
		bytes += len(w.Data)
		if to := len(put.ids); bytes >= statementBytes || to-from == statementDocuments {
			queue(to)
		}
	}
	if to := len(put.ids); from < to {
		queue(to)
	}
	if len(gone.ids) > 0 {
		b.Queue(db.q("SELECT {schema}.delete_documents($1::text::regclass, $2, $3, $4, $5)"), t.name, t.no, c.Lane.Number, gone.tenants, gone.ids)
	}
}

// documents are the columns of documents.
type documents struct {
	tenants, ids        wireTexts
	versions, positions wireInt8s
	docs                wireJSONB
	raws                wireBytes // nil where no document has any
}

func makeDocuments(n int) documents {
	return documents{make(wireTexts, 0, n), make(wireTexts, 0, n), make(wireInt8s, 0, n), make(wireInt8s, 0, n), make(wireJSONB, 0, n), nil}
}

func (d *documents) key(w *store.Write) {
	d.tenants = append(d.tenants, w.Tenant)
	d.ids = append(d.ids, w.ID)
}

func (d *documents) add(w *store.Write) {
	d.key(w)
	d.versions = append(d.versions, w.Version)
	d.positions = append(d.positions, int64(w.Position))
	doc, whole := splitJSON(w.Data)
	switch {
	case whole && doc == nil:
		doc = []byte{} // nil would be NULL: this is no JSON
	case !whole && d.raws == nil:
		d.raws = make(wireBytes, len(d.docs), cap(d.docs))
	}
	d.docs = append(d.docs, doc)
	switch {
	case d.raws == nil:
	case whole:
		d.raws = append(d.raws, nil)
	default:
		d.raws = append(d.raws, w.Data)
	}
}

// commitWithSQL is a commit whose last part is the user's.
func (db *DB) commitWithSQL(ctx context.Context, c *store.Commit, t table) (err error) {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release() // a connection inside a transaction is closed by it
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	b.Queue(limitIdle)
	db.queueCommit(b, c, t)
	br := conn.SendBatch(ctx, b)
	err = br.Close()
	tx := br.Tx()
	defer rollback(ctx, conn) // if it did not commit, or a panic comes by
	if err != nil {
		return err
	}
	if err := userSQL(ctx, tx, c.SQL); err != nil {
		return err
	}
	if changesLanes(c) {
		if _, err := tx.Exec(ctx, db.q(raiseRevision)); err != nil {
			return err
		}
	}
	err = tx.Commit(ctx)
	switch {
	case err == nil:
	case unknown(err):
		db.unsettled.add(c)
		err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, db.fault(ctx, "commit", err))
	case serverError(err) != nil && !transient(err):
		return &store.UserError{Err: err} // a deferred constraint: Fairlead has none
	}
	return err
}

// A userTx is the transaction that a user's function gets.
type userTx struct{ pgx.Tx }

// ErrTransaction means that a user's SQL tried to end the transaction that it
// was given, or went on after a statement that had failed.
var ErrTransaction = errors.New("postgres: not allowed inside a commit")

func (userTx) Commit(context.Context) error {
	return fmt.Errorf("%w: COMMIT is not yours to do", ErrTransaction)
}

func (userTx) Rollback(context.Context) error {
	return fmt.Errorf("%w: ROLLBACK is not yours to do: return an error", ErrTransaction)
}

// userSQL runs the user's function. What is no fault of it, such as a deadlock
// or a connection that broke, does not come back as a [store.UserError]: the
// engine is to try again, and to park nothing.
func userSQL(ctx context.Context, tx pgx.Tx, f func(context.Context, any) error) error {
	err := f(ctx, userTx{tx})
	switch status := tx.Conn().PgConn().TxStatus(); {
	case err != nil && (tx.Conn().IsClosed() && ctx.Err() == nil || transient(err)):
		return fmt.Errorf("user function: %w", err)
	case err != nil:
	case status == 'E':
		err = fmt.Errorf("%w: a statement failed and the function returned nil: nothing after it can be committed", ErrTransaction)
	case status != 'T':
		err = fmt.Errorf("%w: COMMIT and ROLLBACK are not yours to do: what ran before is out of Fairlead's hands", ErrTransaction)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = errors.Join(err, ctx.Err())
	}
	return &store.UserError{Err: err}
}

func encodeExclusions(m map[string]event.Position) []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // not of strings and integers
	}
	return b
}

// timeOrNil makes NULL of the zero time.
func timeOrNil(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

// utc is the inverse of timeOrNil.
func utc(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
