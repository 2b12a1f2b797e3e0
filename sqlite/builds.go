package sqlite

import (
	"context"

	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

// Documents are found by their tenant's number and come in the order of its
// name, so a page is the rest of one tenant and then what others have. The
// CROSS JOIN keeps the tenants the outer loop, in their order: no sort.
const (
	listTenantsRest = `SELECT ?, id, version, position, updated_at, doc FROM fairlead_documents
		WHERE build_no = ? AND tenant_no = ? AND id > ? ORDER BY id LIMIT ?`
	listTenantsAfter = `SELECT t.name, d.id, d.version, d.position, d.updated_at, d.doc
		FROM fairlead_tenants t CROSS JOIN fairlead_documents d ON d.build_no = ? AND d.tenant_no = t.tenant_no
		WHERE t.name > ? ORDER BY t.name, d.id LIMIT ?`
)

// ListBuild implements [store.Store].
func (db *DB) ListBuild(ctx context.Context, b store.Build, after store.Key, limit int) ([]store.Document, error) {
	var out []store.Document
	err := db.read(ctx, "list documents of a build", func(c *conn) error {
		out = nil
		build, ok, err := c.int64(findBuild, b.Processor, b.Number)
		if err != nil || !ok || limit <= 0 {
			return err
		}
		add := func(s *zs.Stmt) error {
			d, err := document(s, 2, store.Key{Tenant: s.ColumnText(0), ID: s.ColumnText(1)})
			out = append(out, d)
			return err
		}
		tenant, ok, err := c.int64(findTenant, after.Tenant)
		if err == nil && ok {
			err = c.rows(listTenantsRest, add, after.Tenant, build, tenant, after.ID, limit)
		}
		if err != nil || len(out) == limit {
			return err
		}
		return c.rows(listTenantsAfter, add, build, after.Tenant, limit-len(out))
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
