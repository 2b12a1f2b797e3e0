package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// A table is where the documents of a processor are.
type table struct {
	no   int32  // in every row; given once, and never again
	name string // with the schema, quoted; "": there is none
}

// q puts the names of the table and of the schema into a statement. No name of a
// table has braces: see free_stem.
func (t table) q(db *DB, sql string) string { return strings.ReplaceAll(db.q(sql), "{table}", t.name) }

// tables remembers where documents are. A table goes with its processor, and may
// be renamed by a migration; so what is remembered may be wrong, and each
// statement notices: it finds no such table, or no row of a processor that has
// it, or the table refuses rows of another number. See moved.
type tables struct {
	of     sync.Map // processor: table
	serves sync.Map // collection: table
}

// errMoved means that a table is no longer where the documents are.
var errMoved = errors.New("postgres: table of documents has changed")

// moved reports whether a statement failed because of a table that was remembered.
func moved(err error) bool {
	if errors.Is(err, errMoved) {
		return true
	}
	if _, ok := err.(*store.UserError); ok { //nolint:errorlint // the outermost error alone
		return false
	}
	server := serverError(err)
	if server == nil {
		return false
	}
	switch server.Code {
	case "42P01", "42703", "42P10", "23514": // no such table, column, unique index; a row that is not the table's
		return true
	}
	return false
}

const (
	tableOfProcessor  = "SELECT no, document_table FROM {schema}.processors WHERE name = $1 AND no IS NOT NULL"
	tableOfCollection = "SELECT no, document_table FROM {schema}.processors WHERE collection = $1 AND collection <> '' AND no IS NOT NULL ORDER BY name LIMIT 1"
)

// find looks a table up. Its name is "" where there is none.
func (db *DB) find(ctx context.Context, q querier, query, name string) (t table, err error) {
	err = q.QueryRow(ctx, db.q(query), name).Scan(&t.no, &t.name)
	if errors.Is(err, pgx.ErrNoRows) {
		return table{}, nil
	}
	if err == nil {
		t.name = pgx.Identifier{db.opts.Schema, t.name}.Sanitize()
	}
	return t, err
}

// inTable runs f with the table that query finds for a name, and again where it
// has moved. Without a table f is given none.
func (db *DB) inTable(ctx context.Context, known *sync.Map, query, name string, f func(table) error) error {
	for try := 0; ; try++ {
		v, ok := known.Load(name)
		t, _ := v.(table)
		if !ok {
			var err error
			if t, err = db.find(ctx, db.pool, query, name); err != nil {
				return err
			}
			if t.name != "" {
				known.Store(name, t)
			}
		}
		err := f(t)
		if err == nil || !moved(err) || try == 3 {
			return err
		}
		known.Delete(name)
	}
}

// table is where documents of a processor are, as the transaction sees it.
func (tx *storeTx) table(processor string) (table, error) {
	if tx.ended {
		return table{}, errTxEnded
	}
	ctx, cancel := tx.db.limit(tx.ctx)
	defer cancel()
	t, err := tx.db.find(ctx, tx.conn, tableOfProcessor, processor)
	return t, tx.note(ctx, err)
}

// makeCollection makes table and view of a processor's collection.
func (tx *storeTx) makeCollection(processor, collection string) error {
	_, err := tx.exec("SELECT {schema}.make_collection($1)", processor)
	if errors.Is(err, ErrRights) {
		err = fmt.Errorf("make the table of collection %q of processor %q: %w; run once: %s", collection, processor, err, tx.db.grantCollections())
	}
	return err
}

// grantCollections is what lets a role that does not own the schema make and
// drop the tables of collections.
func (db *DB) grantCollections() string {
	return db.q("GRANT EXECUTE ON FUNCTION {schema}.make_collection(text), {schema}.drop_collection(text) TO ") +
		pgx.Identifier{db.pool.Config().ConnConfig.User}.Sanitize()
}

// dropCollection drops table and view of a processor, if it has them.
func (tx *storeTx) dropCollection(processor string) error {
	t, err := tx.table(processor)
	if err != nil || t.name == "" {
		return err
	}
	_, err = tx.exec("SELECT {schema}.drop_collection($1)", processor)
	server := serverError(err)
	switch {
	case errors.Is(err, ErrRights):
		return fmt.Errorf("drop the table %s of processor %q: %w; run once: %s", t.name, processor, err, tx.db.grantCollections())
	case server != nil && server.Code == "2BP01": // dependent_objects_still_exist
		return fmt.Errorf("drop the table %s of processor %q: something of your own reads it, drop that first: %s: %w", t.name, processor, server.Detail, err)
	case waitedTooLong(err):
		return fmt.Errorf("drop the table %s of processor %q: somebody reads it, read_model or documents, in a long transaction: %w", t.name, processor, err)
	}
	return err
}
