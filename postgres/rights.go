package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
)

var (
	_ store.RightsLister    = (*DB)(nil)
	_ eventlog.RightsLister = (*DB)(nil)
)

// A need is a right on a relation or a function of the schema.
type need struct{ name, right string }

// needs lists rights: each a name, and what is needed of it.
func needs(of ...[]string) (out []need) {
	for _, rights := range of {
		for _, r := range rights[1:] {
			out = append(out, need{rights[0], r})
		}
	}
	return out
}

var (
	// Reading needs no right to store the safe head, which only saves work, and none on
	// the sequence of positions.
	toRead = needs(
		[]string{"events", "SELECT"}, []string{"streams", "SELECT"}, []string{"removed", "SELECT"}, []string{"safe_head", "SELECT"},
		[]string{"find", "EXECUTE"}, []string{"position_at", "EXECUTE"})
	// What only operators do is not among them: to drop a processor, to give tenants
	// weights and pools. Nor is what only a processor needs that
	// is new to the store: that error says itself what to grant; see grantCollections.
	toWork = needs(
		[]string{"migrations", "SELECT"},
		[]string{"store_control", "SELECT", "UPDATE"},
		[]string{"processors", "SELECT", "INSERT", "UPDATE"},
		[]string{"lanes", "SELECT", "INSERT", "UPDATE", "DELETE"},
		[]string{"dead_letters", "SELECT", "INSERT", "UPDATE", "DELETE"},
		[]string{"members", "SELECT", "INSERT", "UPDATE", "DELETE"},
		[]string{"weights", "SELECT"}, []string{"pools", "SELECT"},
		[]string{"fence", "EXECUTE"}, []string{"remove_letters", "EXECUTE"}, []string{"delete_documents", "EXECUTE"}, []string{"no_collection", "EXECUTE"})
)

// The catalog tells without a right to anything. Who has a right on some columns is
// taken to have what is needed: only what lacks for certain is listed. Of a function
// that has several lists of arguments the longest is the one that is called.
const (
	listMissing = `WITH s AS (SELECT oid, nspname FROM pg_namespace WHERE nspname = $1),
	needs (name, "right") AS (SELECT * FROM unnest($2::text[], $3::text[]) {documents})
	SELECT 'SCHEMA', s.nspname::text, '', '', 'USAGE', current_user::text FROM s WHERE NOT has_schema_privilege(s.oid, 'USAGE')
	UNION ALL
	SELECT 'TABLE', s.nspname, c.relname, '', n."right", current_user
	  FROM s JOIN pg_class c ON c.relnamespace = s.oid JOIN needs n ON n.name = c.relname AND n."right" <> 'EXECUTE'
	 WHERE NOT CASE n."right" WHEN 'DELETE' THEN has_table_privilege(c.oid, 'DELETE') ELSE has_any_column_privilege(c.oid, n."right") END
	UNION ALL
	SELECT 'FUNCTION', s.nspname, f.proname, '(' || oidvectortypes(f.proargtypes) || ')', 'EXECUTE', current_user
	  FROM s CROSS JOIN LATERAL (SELECT DISTINCT ON (p.proname) p.oid, p.proname, p.proargtypes FROM pg_proc p
		WHERE p.pronamespace = s.oid AND p.proname IN (SELECT name FROM needs WHERE "right" = 'EXECUTE') ORDER BY p.proname, p.pronargs DESC) f
	 WHERE NOT has_function_privilege(f.oid, 'EXECUTE')`
	// Each collection's table has rights of its own.
	needDocuments = `UNION ALL SELECT p.document_table, r FROM {schema}.processors p, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) r
		WHERE p.name = ANY ($4::text[]) AND p.document_table IS NOT NULL`
)

// MissingRights implements [store.RightsLister].
func (db *DB) MissingRights(ctx context.Context, processors []string) ([]string, error) {
	ctx, cancel := db.limit(ctx)
	defer cancel()
	grants, err := db.missing(ctx, toWork, needDocuments, processors)
	if e := serverError(err); e != nil && e.Code == "42501" { // it may not even read which tables there are
		grants, err = db.missing(ctx, toWork, "")
	}
	return grants, db.fault(ctx, "look which rights lack", err)
}

// MissingReadRights implements [eventlog.RightsLister].
func (db *DB) MissingReadRights(ctx context.Context) ([]string, error) {
	ctx, cancel := db.limit(ctx)
	defer cancel()
	grants, err := db.missing(ctx, toRead, "")
	return grants, db.fault(ctx, "look which rights lack", err)
}

// missing returns what grants those of the needs that the role has not: one statement
// for each object. The text documents is a query for more of them.
func (db *DB) missing(ctx context.Context, needs []need, documents string, args ...any) (grants []string, err error) {
	names, rights := make([]string, len(needs)), make([]string, len(needs))
	for i, n := range needs {
		names[i], rights[i] = n.name, n.right
	}
	query := db.q(strings.Replace(listMissing, "{documents}", documents, 1))
	rows, err := db.pool.Query(ctx, query, append([]any{db.opts.Schema, names, rights}, args...)...)
	if err != nil {
		return nil, err
	}
	lacks := map[string][]string{} // what is to be granted on: which rights
	var kind, schema, name, of, right, role string
	_, err = pgx.ForEachRow(rows, []any{&kind, &schema, &name, &of, &right, &role}, func() error {
		object := pgx.Identifier{schema}
		if name != "" {
			object = append(object, name)
		}
		on := kind + " " + object.Sanitize() + of
		lacks[on] = append(lacks[on], right)
		return nil
	})
	for on, rights := range lacks {
		slices.Sort(rights)
		grants = append(grants, fmt.Sprintf("GRANT %s ON %s TO %s", strings.Join(rights, ", "), on, pgx.Identifier{role}.Sanitize()))
	}
	slices.Sort(grants)
	return grants, err
}
