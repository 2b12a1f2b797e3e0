package postgres

import (
	"context"

	"github.com/fairlead-dev/fairlead/store"
)

// listBuild reads the documents of a build in the order of their keys, through
// the primary key: the tenant's rest, and what others have.
const listBuild = `SELECT d.* FROM (SELECT FROM {schema}.processors WHERE no = $1 AND name = $2) AS p LEFT JOIN LATERAL (
	SELECT tenant, id, version, position, updated, document, raw FROM {table} WHERE build = $3 AND (tenant, id) > ($4, $5)
	 ORDER BY tenant, id LIMIT $6) AS d ON true ORDER BY d.tenant, d.id`

// ListBuild implements [store.Store].
func (db *DB) ListBuild(ctx context.Context, b store.Build, after store.Key, limit int) ([]store.Document, error) {
	if err := ctx.Err(); err != nil || limit <= 0 {
		return nil, err
	}
	return db.documents(ctx, "list documents of a build", &db.tables.of, tableOfProcessor, b.Processor, listBuild,
		b.Processor, b.Number, after.Tenant, after.ID, limit)
}
