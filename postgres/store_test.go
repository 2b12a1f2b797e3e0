package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

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
	storetest.Run(t, func(t *testing.T) store.Store { return openTemp(t) }, storetest.Features{
		SQL: userTable, JSONOnly: true, TimePrecision: time.Microsecond,
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
