package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/storetest"
	"github.com/jackc/pgx/v5"
)

// userTable is a table of the user's, beside those of Fairlead.
var userTable = &storetest.SQL{
	Put: func(ctx context.Context, tx any, key, value string) error {
		if err := makeUserTable(ctx, tx); err != nil {
			return err
		}
		_, err := tx.(pgx.Tx).Exec(ctx, "INSERT INTO kv VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
		return err
	},
	Get: func(ctx context.Context, tx any, key string) (value string, ok bool, err error) {
		if err := makeUserTable(ctx, tx); err != nil {
			return "", false, err
		}
		err = tx.(pgx.Tx).QueryRow(ctx, "SELECT value FROM kv WHERE key = $1", key).Scan(&value)
		if errors.Is(err, pgx.ErrNoRows) {
			return "", false, nil
		}
		return value, err == nil, err
	},
}

func makeUserTable(ctx context.Context, tx any) error {
	_, err := tx.(pgx.Tx).Exec(ctx, "CREATE TABLE IF NOT EXISTS kv (key text PRIMARY KEY, value text)")
	return err
}

func TestStore(t *testing.T) {
	t.Parallel()
	base, n := pgtest.Database(t), 0
	all := newSchemas(t, base)
	open := func(t *testing.T) store.Store {
		n++
		return all.open(t, fmt.Sprintf("Schema %d's \"store\"", n), func(schema string) *DB { // the user's table goes there too
			return openAt(t, base+"&search_path="+url.PathEscape(pgx.Identifier{schema}.Sanitize()), Options{Schema: schema})
		})
	}
	storetest.Run(t, open, storetest.Features{
		SQL: userTable, JSONOnly: true, JSONByValue: true, TimePrecision: time.Microsecond,
		Reopen: func(t *testing.T, s store.Store) store.Store {
			old := s.(*DB)
			url := old.pool.Config().ConnString()
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			return openAt(t, url, old.opts)
		},
	})
}

// TestStoreThroughPooler: the whole contract where each transaction may have
// another session of the server.
func TestStoreThroughPooler(t *testing.T) {
	t.Parallel()
	bouncer := pgtest.Bouncer(t, pgtest.URL(t))
	base, n := pgtest.Database(t), 0
	all := newSchemas(t, base)
	open := func(t *testing.T) store.Store {
		n++
		return all.open(t, fmt.Sprintf("Schema %d", n), func(schema string) *DB {
			return openAt(t, through(t, bouncer, base), Options{Pooler: true, Schema: schema})
		})
	}
	storetest.Run(t, open, storetest.Features{SQL: userTable, JSONOnly: true, JSONByValue: true, TimePrecision: time.Microsecond})
}

// through is the URL of a database by way of a pooler.
func through(t testing.TB, bouncer, database string) string {
	t.Helper()
	b, err1 := url.Parse(bouncer)
	d, err2 := url.Parse(database)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	d.Host = b.Host
	return d.String()
}
