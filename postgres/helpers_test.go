package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/jackc/pgx/v5"
)

// migrated makes a database of the test's own, with the schema up to date; below
// TestPartitionedLog with the events in partitions.
func migrated(t testing.TB) (url string) {
	t.Helper()
	n := 0
	if strings.HasPrefix(t.Name(), "TestPartitionedLog/") {
		n = 16
	}
	return pgtest.Clone(t, fmt.Sprint(migrations, n, partitionedSQL), func(ctx context.Context, url string) error {
		db, err := Open(ctx, url, Options{TenantPartitions: n})
		if err != nil {
			return err
		}
		return db.Close()
	})
}

// openTemp opens a new database of the test's own.
func openTemp(t testing.TB, opts ...Options) *DB {
	t.Helper()
	return openAt(t, migrated(t), opts...)
}

func openAt(t testing.TB, url string, opts ...Options) *DB {
	t.Helper()
	db, err := Open(t.Context(), url, opts...)
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

// connect opens a connection as another program would.
func connect(t testing.TB, db *DB) *pgx.Conn {
	t.Helper()
	c, err := pgx.ConnectConfig(t.Context(), db.pool.Config().ConnConfig)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func exec(t testing.TB, c querier, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one returns the value of a query's one row.
func value[T any](t testing.TB, c querier, sql string, args ...any) (v T) {
	t.Helper()
	if err := c.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}
