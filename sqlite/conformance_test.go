package sqlite

import (
	"context"
	"fmt"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/storetest"
)

func TestLogConformance(t *testing.T) {
	eventlogtest.Run(t, func(t *testing.T) eventlog.Log { return openTemp(t) }, eventlogtest.Features{
		Append: true, ReadStream: true, Count: true, CountTenants: true,
		Truncate: func(t *testing.T, log eventlog.Log, _ int, before event.Position) {
			sql(t, log.(*DB).path, fmt.Sprintf("DELETE FROM fairlead_events WHERE position < %d", before))
		},
		Reopen: func(t *testing.T, log eventlog.Log) eventlog.Log {
			if err := log.(*DB).Close(); err != nil {
				t.Error(err)
			}
			return openAt(t, log.(*DB).path)
		},
	})
}

// userTable is the table in which the suite uses the transaction of a commit.
const userTable = "CREATE TABLE IF NOT EXISTS kv(key TEXT PRIMARY KEY, value TEXT)"

func TestStoreConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return openTemp(t) }, storetest.Features{
		SQL: &storetest.SQL{
			Put: func(_ context.Context, tx any, key, value string) error {
				if _, err := tx.(*Tx).Exec(userTable); err != nil {
					return err
				}
				_, err := tx.(*Tx).Exec("INSERT OR REPLACE INTO kv VALUES(?, ?)", key, value)
				return err
			},
			Get: func(_ context.Context, tx any, key string) (value string, ok bool, err error) {
				if _, err := tx.(*Tx).Exec(userTable); err != nil {
					return "", false, err
				}
				err = tx.(*Tx).Query("SELECT value FROM kv WHERE key = ?", func(r *Row) error {
					value, ok = r.Text(0), true
					return nil
				}, key)
				return value, ok, err
			},
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.(*DB).Close(); err != nil {
				t.Error(err)
			}
			return openAt(t, s.(*DB).path)
		},
	})
}
