package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

var roles atomic.Int64

// newRole makes a role of the test's own, and returns the URL by which it
// connects.
func newRole(t *testing.T, db *DB, with string) (role, as string) {
	t.Helper()
	role = fmt.Sprintf("fairlead-role-%d-%d", os.Getpid(), roles.Add(1))
	quoted := pgx.Identifier{role}.Sanitize()
	c := connect(t, db)
	exec(t, c, "CREATE ROLE "+quoted+" LOGIN PASSWORD 'secret' "+with)
	config := db.pool.Config().ConnConfig
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		c, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close(ctx)
		for _, s := range []string{"DROP OWNED BY ", "DROP ROLE "} {
			if _, err := c.Exec(ctx, s+quoted); err != nil {
				t.Error(err)
			}
		}
	})
	u, err := url.Parse(config.ConnString())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "secret")
	return role, u.String()
}

// secured is a store with documents of several tenants, and a role that may read
// them one tenant at a time.
func secured(t *testing.T) (db *DB, role, as string) {
	t.Helper()
	db = openTemp(t)
	_, commit := laneOf(t, db, "orders")
	err := commit(func(c *store.Commit) { c.Writes = threeOfEach() })
	if err != nil {
		t.Fatal(err)
	}
	role, as = newRole(t, db, "")
	for range 2 { // it may be called again
		err := db.SecureReaders(t.Context(), role)
		if !invokerViews(t, db.pool) {
			if !errors.Is(err, ErrReader) || !strings.Contains(err.Error(), "since version 15") {
				t.Errorf("SecureReaders on a server that cannot = %v", err)
			}
			t.Skip("refused, as it has to be before PostgreSQL 15")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return db, role, as
}

// invokerViews reports whether the server has views that read as their invoker.
func invokerViews(t *testing.T, c querier) bool {
	t.Helper()
	return value[int](t, c, "SELECT current_setting('server_version_num')::integer") >= 150000
}

func threeOfEach() (out []store.Write) {
	for _, tenant := range []string{"a", "b", "O'Neil", "", "%"} {
		for i := range 3 {
			k := store.Key{Tenant: tenant, ID: fmt.Sprint(i)}
			out = append(out, store.Write{Document: store.Document{Key: k, Data: fmt.Appendf(nil, "{\"of\":%q}", tenant)}})
		}
	}
	return out
}

func poolOf(t *testing.T, url string, conns int32, mode pgx.QueryExecMode) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = conns
	config.ConnConfig.DefaultQueryExecMode = mode
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

const seen = "SELECT coalesce(string_agg(DISTINCT tenant, ',' ORDER BY tenant) || ' ' || count(*), 'nothing') FROM "

func TestReadersSeeOneTenant(t *testing.T) {
	t.Parallel()
	db, _, as := secured(t)
	pool := poolOf(t, as, 1, pgx.QueryExecModeCacheStatement) // one connection: it is the same each time
	in := func(tenant, query string) (got string) {
		t.Helper()
		err := InTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error { return tx.QueryRow(t.Context(), query).Scan(&got) })
		if err != nil {
			t.Errorf("in tenant %q: %v", tenant, err)
		}
		return got
	}
	for _, from := range []string{"fairlead.read_model", "fairlead.documents", "fairlead.orders", "fairlead.orders_documents"} {
		for _, tenant := range []string{"a", "O'Neil", "%"} {
			if got := in(tenant, seen+from); got != tenant+" 3" {
				t.Errorf("tenant %q sees %q in %s, want its own 3 documents", tenant, got, from)
			}
			// What was named has ended with the transaction: the setting is empty now.
			if got := value[string](t, pool, "SELECT current_setting('fairlead.tenant', true)"); got != "" {
				t.Errorf("the setting after the transaction is %q, want it empty", got)
			}
			if got := value[string](t, pool, seen+from); got != "nothing" {
				t.Errorf("a reader that forgets its tenant sees %q in %s, want nothing", got, from)
			}
		}
		if got := in("nobody", seen+from); got != "nothing" {
			t.Errorf("a tenant without documents sees %q in %s, want nothing", got, from)
		}
		if got := in("a", seen+from+" WHERE tenant = 'b' OR true"); got != "a 3" {
			t.Errorf("tenant a, who asks for b, sees %q in %s, want its own", got, from)
		}
	}
	// Documents of no tenant are nobody's, whatever is named.
	exec(t, pool, "SELECT set_config('fairlead.tenant', '', false)")
	if got := value[string](t, pool, seen+"fairlead.documents"); got != "nothing" {
		t.Errorf("the tenant \"\" sees %q, want nothing", got)
	}
	if err := InTenant(t.Context(), pool, "", func(pgx.Tx) error { t.Error("f was called"); return nil }); err == nil {
		t.Error("InTenant of no tenant = nil, want an error")
	}
	// The owner, as which the consumers work, goes on.
	if docs, err := db.List(t.Context(), "orders", "b", "", 10); err != nil || len(docs) != 3 {
		t.Errorf("the store lists %d documents, %v, want 3", len(docs), err)
	}
	if _, err := db.Load(t.Context(), store.Build{Processor: "orders", Number: 1}, []store.Key{{ID: "1"}}); err != nil {
		t.Error(err)
	}
	// The policy is part of the look into the index.
	var plan string
	err := InTenant(t.Context(), pool, "a", func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SET LOCAL enable_seqscan = off"); err != nil {
			return err
		}
		plan = explain(t, tx.Conn(), "SELECT * FROM fairlead.read_model WHERE collection = 'orders' AND id = '1'")
		return nil
	})
	if err != nil || !strings.Contains(plan, "documents_pkey") {
		t.Errorf("plan of a secured reader, %v:\n%s", err, plan)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	t.Parallel()
	db, role, as := secured(t)
	pool := poolOf(t, as, 1, pgx.QueryExecModeCacheStatement)
	write := func() error {
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "SELECT set_config('fairlead.tenant', 'a', true)"); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), "INSERT INTO fairlead.documents (collection_no, build, tenant, id, version, position, updated, document) VALUES (1, 1, 'b', 'x', 1, 1, now(), '{}')")
			return err
		})
	}
	if err := write(); serverError(err) == nil || serverError(err).Code != "42501" {
		t.Errorf("a reader's insert = %v, want it refused", err)
	}
	// Even with the right to insert: no policy lets it.
	exec(t, connect(t, db), "GRANT INSERT, UPDATE, DELETE ON fairlead.documents TO "+pgx.Identifier{role}.Sanitize())
	if err := write(); serverError(err) == nil || !strings.Contains(err.Error(), "row-level security") {
		t.Errorf("an insert for another tenant = %v, want it refused by the policy", err)
	}
	for _, table := range []string{"lanes", "dead_letters", "events", "members", "letters"} {
		if _, err := pool.Exec(t.Context(), "SELECT FROM fairlead."+table); err == nil {
			t.Errorf("a reader may read %s", table)
		}
	}
	// A consumer as such a role would miss its documents: it does not open.
	_, err := Open(t.Context(), as, Options{NoMigrate: true})
	if !errors.Is(err, ErrRights) {
		t.Errorf("Open as a reader = %v, want ErrRights", err)
	}
}

func TestSecureReadersRefuses(t *testing.T) {
	t.Parallel()
	db := openTemp(t)
	var owner string
	if err := db.pool.QueryRow(t.Context(), "SELECT current_user").Scan(&owner); err != nil {
		t.Fatal(err)
	}
	super, _ := newRole(t, db, "SUPERUSER")
	bypass, _ := newRole(t, db, "BYPASSRLS")
	member, _ := newRole(t, db, "IN ROLE "+pgx.Identifier{owner}.Sanitize())
	for name, role := range map[string]string{"owner": owner, "superuser": super, "BYPASSRLS": bypass, "member of the owner": member, "nobody": "no such role"} {
		if err := db.SecureReaders(t.Context(), role); !errors.Is(err, ErrReader) {
			t.Errorf("%s: SecureReaders = %v, want ErrReader", name, err)
		}
	}
}

// TestReadersOfLaterCollections: a collection that is made after the readers were
// secured, under a hostile name, and one whose documents were there before.
func TestReadersOfLaterCollections(t *testing.T) {
	t.Parallel()
	db, _, as := secured(t)
	const name = `O'Neil's "later" {schema} one`
	_, commit := laneOf(t, db, name)
	if err := commit(func(c *store.Commit) { c.Writes = threeOfEach() }); err != nil {
		t.Fatal(err)
	}
	pool := poolOf(t, as, 1, pgx.QueryExecModeCacheStatement)
	var view, of string
	err := db.pool.QueryRow(t.Context(), `SELECT view, "table" FROM fairlead.collections WHERE collection = $1`, name).Scan(&view, &of)
	if err != nil {
		t.Fatal(err)
	}
	for _, relation := range []string{view, of} {
		from := pgx.Identifier{"fairlead", relation}.Sanitize()
		for _, tenant := range []string{"a", "O'Neil"} {
			var got string
			err := InTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error { return tx.QueryRow(t.Context(), seen+from).Scan(&got) })
			if err != nil || got != tenant+" 3" {
				t.Errorf("tenant %q sees %q in %s, %v, want its own 3 documents", tenant, got, from, err)
			}
			if got := value[string](t, pool, seen+from); got != "nothing" {
				t.Errorf("a reader that forgets its tenant sees %q in %s, want nothing", got, from)
			}
		}
		if _, err := pool.Exec(t.Context(), "DELETE FROM "+from); err == nil {
			t.Errorf("a reader may delete from %s", from)
		}
	}
	if _, err := pool.Exec(t.Context(), "SELECT fairlead.drop_collection('orders')"); serverError(err) == nil || serverError(err).Code != "42501" {
		t.Errorf("a reader drops a collection: %v, want it refused", err)
	}
	if docs, err := db.List(t.Context(), name, "b", "", 10); err != nil || len(docs) != 3 {
		t.Errorf("the store lists %d documents, %v, want 3", len(docs), err)
	}
}

// TestPooledReadersDoNotMixTenants: many readers of different tenants on few
// connections, through a pooler, beside some who forget theirs.
func TestPooledReadersDoNotMixTenants(t *testing.T) {
	t.Parallel()
	_, _, as := secured(t)
	pool := poolOf(t, pgtest.Bouncer(t, as), 12, pgx.QueryExecModeExec)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			tenant := []string{"a", "b", "O'Neil", ""}[i%4]
			for range 50 {
				got, want := "", tenant+" 3"
				var err error
				if tenant == "" {
					want = "nothing"
					err = pool.QueryRow(t.Context(), seen+"fairlead.read_model").Scan(&got)
				} else {
					err = InTenant(t.Context(), pool, tenant, func(tx pgx.Tx) error {
						return tx.QueryRow(t.Context(), seen+"fairlead.read_model").Scan(&got)
					})
				}
				if err != nil || got != want {
					t.Errorf("tenant %q sees %q, %v, want %q", tenant, got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}
