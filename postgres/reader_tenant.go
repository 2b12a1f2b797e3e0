package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// tenantSetting says whose documents a transaction of a reader sees.
const tenantSetting = "fairlead.tenant"

// ErrReader means that a role cannot be held to one tenant.
var ErrReader = errors.New("postgres: role cannot be held to one tenant")

// SecureReaders lets a role read the read model, and only documents of the tenant
// that its transaction has named with [InTenant]; of none where it has named
// none, and never those that belong to no tenant. The rule is PostgreSQL's
// (row-level security on the tables of documents, those that come later too), so SQL that forgets its WHERE
// keeps to it too. It does not keep those from naming another tenant who may
// write SQL of their own.
//
// Call it as the role that owns the schema, as often as you like. The consumers
// must go on as that role (or one with BYPASSRLS), which the rule does not hold.
// The role must be none of these, else the error wraps [ErrReader]. Views of
// one's own need WITH (security_invoker). It needs PostgreSQL 15.
func (db *DB) SecureReaders(ctx context.Context, role string) error {
	ctx, cancel := db.limit(ctx)
	defer cancel()
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if err := db.checkReader(ctx, tx, role); err != nil {
			return err
		}
		b := &pgx.Batch{}
		b.Queue(db.q("LOCK {schema}.processors IN SHARE ROW EXCLUSIVE MODE")) // no collection comes meanwhile: those that come later are secured as they are made
		b.Queue(db.q("SELECT {schema}.secure_readers($1)"), role)
		return tx.SendBatch(ctx, b).Close()
	})
	return db.fault(ctx, fmt.Sprintf("secure readers of role %q", role), err)
}

// checkReader returns why the rule would not hold a role.
func (db *DB) checkReader(ctx context.Context, tx pgx.Tx, role string) error {
	var version int
	var super, bypass, owner bool
	err := tx.QueryRow(ctx, db.q(`SELECT current_setting('server_version_num')::integer, r.rolsuper, r.rolbypassrls,
			pg_has_role(r.oid, c.relowner, 'MEMBER')
		FROM pg_roles AS r, pg_class AS c WHERE r.rolname = $1 AND c.oid = format('%I.documents', {schema_text})::regclass`), role).
		Scan(&version, &super, &bypass, &owner)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%w: there is no role %q", ErrReader, role)
	case err != nil:
		return err
	case version < 150000:
		return fmt.Errorf("%w: that needs views that read as their invoker, which PostgreSQL has since version 15", ErrReader)
	case super || bypass:
		return fmt.Errorf("%w: %q is a superuser or has BYPASSRLS", ErrReader, role)
	case owner:
		return fmt.Errorf("%w: %q owns the schema's tables, or may become their owner", ErrReader, role)
	}
	return nil
}

// checkWriter refuses a role that SecureReaders' rule would hold: it would find
// its own documents missing, and begin them anew.
func (db *DB) checkWriter(ctx context.Context) error {
	var held bool
	if err := db.pool.QueryRow(ctx, db.q("SELECT row_security_active(format('%I.documents', {schema_text})::regclass)")).Scan(&held); err != nil {
		return err
	}
	if held {
		return fmt.Errorf("%w: row-level security hides documents from it: use the role that owns schema %q, or one with BYPASSRLS", ErrRights, db.opts.Schema)
	}
	return nil
}

// InTenant runs f in a read-only transaction that sees the documents of one
// tenant alone, where the pool's role is one of [DB.SecureReaders]. The
// transaction ends with f, and with it what was named: the next one on the same
// connection, through a pooler too, sees nothing of the tenant.
func InTenant(ctx context.Context, pool *pgxpool.Pool, tenant string, f func(tx pgx.Tx) error) error {
	if err := event.CheckTenant(tenant); err != nil {
		return err
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("postgres: read as tenant %q: %w", tenant, err)
	}
	defer conn.Release()
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{AccessMode: pgx.ReadOnly})
	b.Queue("SELECT set_config($1, $2, true)", tenantSetting, tenant)
	br := conn.SendBatch(ctx, b)
	err = br.Close()
	defer rollback(ctx, conn) // if it did not commit, or a panic comes by
	if err != nil {
		return fmt.Errorf("postgres: read as tenant %q: %w", tenant, err)
	}
	if err := f(br.Tx()); err != nil {
		return err
	}
	if err := br.Tx().Commit(ctx); err != nil {
		return fmt.Errorf("postgres: read as tenant %q: %w", tenant, err)
	}
	return nil
}
