package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// Each of these begins with the row of the processor that has the table. Without
// it there is no row in the result, and the table is not the one; see tables.
// Without documents there is one row of NULL.
const (
	// OFFSET 0 keeps the planner from joining the documents to the keys in any other
	// way than by looking up each, such as by reading them all, whatever it takes
	// the number of either for.
	loadDocuments = `SELECT d.* FROM (SELECT FROM {schema}.processors WHERE no = $1 AND name = $2) AS p LEFT JOIN LATERAL (
		SELECT k.tenant, k.id, d.version, d.position, d.updated, d.document, d.raw
		  FROM unnest($4::text[], $5::text[]) AS k (tenant, id), LATERAL (
			SELECT version, position, updated, document, raw FROM {table} WHERE build = $3 AND tenant = k.tenant AND id = k.id OFFSET 0) AS d
		) AS d ON true`
	getDocument = `SELECT d.* FROM (SELECT live FROM {schema}.processors WHERE no = $1 AND collection = $2) AS p LEFT JOIN LATERAL (
		SELECT tenant, id, version, position, updated, document, raw FROM {table} WHERE build = p.live AND tenant = $3 AND id = $4) AS d ON true`
	listDocuments = `SELECT d.* FROM (SELECT live FROM {schema}.processors WHERE no = $1 AND collection = $2) AS p LEFT JOIN LATERAL (
		SELECT tenant, id, version, position, updated, document, raw FROM {table} WHERE build = p.live AND tenant = $3 AND id > $4
		 ORDER BY id LIMIT $5) AS d ON true ORDER BY d.id`

	// One look into the index for each tenant, however many documents it has.
	listTenants = `WITH RECURSIVE live AS MATERIALIZED (SELECT live FROM {schema}.processors WHERE no = $1 AND collection = $2), found AS (
		(SELECT tenant, 1 AS n FROM {table}
		  WHERE build = (SELECT live FROM live) AND tenant > $3 ORDER BY build, tenant LIMIT 1)
		UNION ALL
		SELECT next.tenant, found.n + 1 FROM found, LATERAL (
			SELECT tenant FROM {table}
			 WHERE build = (SELECT live FROM live) AND tenant > found.tenant ORDER BY build, tenant LIMIT 1) AS next
		 WHERE found.n < $4)
		SELECT f.tenant FROM live LEFT JOIN found AS f ON true ORDER BY f.n`
)

// planned makes the server plan a query for the table as it is now. A plan that
// was made and kept while a table was small would read all of it for each key,
// until its statistics are made anew.
const planned = pgx.QueryExecModeCacheDescribe

// Load implements [store.Store].
func (db *DB) Load(ctx context.Context, b store.Build, keys []store.Key) ([]store.Document, error) {
	if err := ctx.Err(); err != nil || len(keys) == 0 {
		return nil, err
	}
	tenants, ids := make([]string, len(keys)), make([]string, len(keys))
	for i, k := range keys {
		tenants[i], ids[i] = k.Tenant, k.ID
	}
	return db.documents(ctx, "load documents", &db.tables.of, tableOfProcessor, b.Processor, loadDocuments, b.Processor, b.Number, tenants, ids)
}

// documents runs one of the queries for documents in the table that find finds.
func (db *DB) documents(ctx context.Context, what string, known *sync.Map, find, name, query string, args ...any) (out []store.Document, err error) {
	ctx, cancel := db.limit(ctx)
	defer cancel()
	err = db.inTable(ctx, known, find, name, func(t table) error {
		out = nil
		if t.name == "" {
			return nil
		}
		rows, _ := db.pool.Query(ctx, t.q(db, query), append([]any{planned, t.no}, args...)...) // the error comes back from rows
		defer rows.Close()
		there := false
		for rows.Next() {
			there = true
			d, ok, err := scanDocument(rows)
			if err != nil {
				return err
			}
			if ok {
				out = append(out, d)
			}
		}
		if err := rows.Err(); err != nil || there {
			return err
		}
		return errMoved
	})
	return out, db.fault(ctx, what, err)
}

// scanDocument reads a row of those queries; ok says whether it is a document.
func scanDocument(row pgx.Rows) (d store.Document, ok bool, err error) {
	var tenant, id *string
	var version, position *int64
	var updated *time.Time
	var document, raw []byte
	if err := row.Scan(&tenant, &id, &version, &position, &updated, &document, &raw); err != nil || tenant == nil {
		return d, false, err
	}
	d.Tenant, d.ID, d.Version, d.Position, d.Updated, d.Data = *tenant, *id, *version, event.Position(*position), updated.UTC(), document
	if raw != nil {
		d.Data = raw
	}
	return d, true, nil
}

// Get implements [store.Reader].
func (db *DB) Get(ctx context.Context, collection, tenant, id string) (store.Document, error) {
	if err := ctx.Err(); err != nil {
		return store.Document{}, err
	}
	found, err := db.documents(ctx, "get document", &db.tables.serves, tableOfCollection, collection, getDocument, collection, tenant, id)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("postgres: document %q of tenant %q in collection %q: %w", id, tenant, collection, store.ErrNotFound)
	}
	if err != nil {
		return store.Document{}, err
	}
	return found[0], nil
}

// List implements [store.Reader].
func (db *DB) List(ctx context.Context, collection, tenant, after string, limit int) ([]store.Document, error) {
	if err := ctx.Err(); err != nil || limit <= 0 {
		return nil, err
	}
	return db.documents(ctx, "list documents", &db.tables.serves, tableOfCollection, collection, listDocuments, collection, tenant, after, limit)
}

// Tenants implements [store.Reader].
func (db *DB) Tenants(ctx context.Context, collection, after string, limit int) ([]string, error) {
	if err := ctx.Err(); err != nil || limit <= 0 {
		return nil, err
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	var out []string
	err := db.inTable(ctx, &db.tables.serves, tableOfCollection, collection, func(t table) error {
		out = nil
		if t.name == "" {
			return nil
		}
		rows, _ := db.pool.Query(ctx, t.q(db, listTenants), planned, t.no, collection, after, limit) // the error comes back from rows
		found, err := pgx.CollectRows(rows, pgx.RowTo[*string])
		if err == nil && len(found) == 0 {
			err = errMoved
		}
		for _, tenant := range found {
			if tenant != nil {
				out = append(out, *tenant)
			}
		}
		return err
	})
	return out, db.fault(ctx, "list tenants", err)
}
