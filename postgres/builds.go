package postgres

import (
	"context"

	"github.com/fairlead-dev/fairlead/store"
)

// listBuild reads the documents of a build in the order of their keys, through
// the primary key: the tenant's rest, and what others have.
const listBuild = `SELECT tenant, id, version, position, updated_at, doc FROM {schema}.documents
	WHERE build_no = (SELECT build_no FROM {schema}.builds WHERE processor = $1 AND number = $2) AND (tenant, id) > ($3, $4)
	ORDER BY tenant, id LIMIT $5`

// ListBuild implements [store.Store].
func (db *DB) ListBuild(ctx context.Context, b store.Build, after store.Key, limit int) ([]store.Document, error) {
	if err := ctx.Err(); err != nil || limit <= 0 {
		return nil, err
	}
	return db.documents(ctx, "list documents of a build", listBuild, b.Processor, b.Number, after.Tenant, after.ID, limit)
}
