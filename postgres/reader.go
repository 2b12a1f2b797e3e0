package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

// loadDocuments looks up each key for itself: OFFSET 0 keeps the planner from
// joining the documents to the keys in any other way, such as by reading them
// all, whatever it takes the number of either for.
const loadDocuments = `SELECT k.tenant, k.id, d.version, d.position, d.updated_at, d.doc
	FROM unnest($3::text[], $4::text[]) AS k (tenant, id), LATERAL (
		SELECT version, position, updated_at, doc FROM {schema}.documents
		 WHERE build_no = (SELECT build_no FROM {schema}.builds WHERE processor = $1 AND number = $2) AND tenant = k.tenant AND id = k.id
		OFFSET 0) AS d`

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
	return db.documents(ctx, "load documents", loadDocuments, b.Processor, b.Number, tenants, ids)
}

// documents runs a query for tenant, id, version, position, updated_at and doc.
func (db *DB) documents(ctx context.Context, what, query string, args ...any) ([]store.Document, error) {
	ctx, cancel := db.limit(ctx)
	defer cancel()
	rows, _ := db.pool.Query(ctx, db.q(query), append([]any{planned}, args...)...) // the error comes back from rows
	out, err := pgx.AppendRows([]store.Document(nil), rows, func(row pgx.CollectableRow) (d store.Document, err error) {
		var updated time.Time
		err = row.Scan(&d.Tenant, &d.ID, &d.Version, (*int64)(&d.Position), &updated, &d.Data)
		d.Updated = updated.UTC()
		return d, err
	})
	return out, db.fault(ctx, what, err)
}

// live finds the build of the collection $1 that is served.
const live = `SELECT b.build_no FROM {schema}.processors AS p JOIN {schema}.builds AS b ON b.processor = p.name AND b.number = p.live
	WHERE p.collection = $1 AND $1 <> '' ORDER BY p.name LIMIT 1`

const (
	getDocument = "SELECT tenant, id, version, position, updated_at, doc FROM {schema}.documents WHERE build_no = (" + live +
		") AND tenant = $2 AND id = $3"
	listDocuments = "SELECT tenant, id, version, position, updated_at, doc FROM {schema}.documents WHERE build_no = (" + live +
		") AND tenant = $2 AND id > $3 ORDER BY id LIMIT $4"

	// One look into the index for each tenant, however many documents it has.
	listTenants = `WITH RECURSIVE live AS MATERIALIZED (` + live + `), found AS (
		(SELECT tenant, 1 AS n FROM {schema}.documents
		  WHERE build_no = (SELECT build_no FROM live) AND tenant > $2 ORDER BY build_no, tenant LIMIT 1)
		UNION ALL
		SELECT next.tenant, found.n + 1 FROM found, LATERAL (
			SELECT tenant FROM {schema}.documents
			 WHERE build_no = (SELECT build_no FROM live) AND tenant > found.tenant ORDER BY build_no, tenant LIMIT 1) AS next
		 WHERE found.n < $3)
		SELECT tenant FROM found`
)

// Get implements [store.Reader].
func (db *DB) Get(ctx context.Context, collection, tenant, id string) (store.Document, error) {
	if err := ctx.Err(); err != nil {
		return store.Document{}, err
	}
	found, err := db.documents(ctx, "get document", getDocument, collection, tenant, id)
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
	return db.documents(ctx, "list documents", listDocuments, collection, tenant, after, limit)
}

// Tenants implements [store.Reader].
func (db *DB) Tenants(ctx context.Context, collection, after string, limit int) ([]string, error) {
	if err := ctx.Err(); err != nil || limit <= 0 {
		return nil, err
	}
	ctx, cancel := db.limit(ctx)
	defer cancel()
	rows, _ := db.pool.Query(ctx, db.q(listTenants), planned, collection, after, limit) // the error comes back from rows
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return out, db.fault(ctx, "list tenants", err)
}
