package sqlite

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/storetest"
)

// openTemp opens a new database in a directory of the test.
func openTemp(t testing.TB, opts ...Options) *DB {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "test.db"), opts...)
}

func openAt(t testing.TB, path string, opts ...Options) *DB {
	t.Helper()
	db, err := Open(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// sql runs statements as the shell would, on a connection of its own.
func sql(t testing.TB, path string, statements ...string) {
	t.Helper()
	c := shell(t, path)
	for _, q := range statements {
		if err := c.exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLogConformance(t *testing.T) {
	eventlogtest.Run(t, func(t *testing.T) eventlog.Log { return openTemp(t) }, eventlogtest.Features{
		Append: true, ReadStream: true, Count: true,
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
