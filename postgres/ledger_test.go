package postgres_test

import (
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger/ledgertest"
	"github.com/jackc/pgx/v5"
)

func TestLedger(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) (ledgertest.Ledger, func(*testing.T, string) store.Store, func(*testing.T, string)) {
		url := pgtest.Database(t)
		l, err := postgres.OpenLedger(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l, func(t *testing.T, name string) store.Store {
				db, err := postgres.Open(t.Context(), url, postgres.Options{Schema: name, MaxConns: 3})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = db.Close() })
				return db
			}, func(t *testing.T, name string) {
				c, err := pgx.Connect(t.Context(), url)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = c.Close(t.Context()) }()
				if _, err := c.Exec(t.Context(), "DROP SCHEMA "+name+" CASCADE"); err != nil {
					t.Fatal(err)
				}
			}
	})
}

func TestLedgerInAnotherDatabase(t *testing.T) {
	l, err := postgres.OpenLedger(t.Context(), pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	url := pgtest.Database(t)
	db, err := postgres.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	const says = "must be, each in a schema of its own"
	if _, err := l.Register(t.Context(), "log", "svc", "a", db, time.Minute); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("without a ledger there: %v", err)
	}
	other, err := postgres.OpenLedger(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if _, err := l.Register(t.Context(), "log", "svc", "a", db, time.Minute); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("with another ledger there: %v", err)
	}
}
