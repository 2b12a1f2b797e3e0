package sqlite_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger/ledgertest"
	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

func TestLedger(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) (ledgertest.Ledger, func(*testing.T, string) store.Store, func(*testing.T, string)) {
		dir := t.TempDir()
		l, err := sqlite.OpenLedger(filepath.Join(dir, "ledger.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		open := map[string]*sqlite.DB{}
		return l, func(t *testing.T, name string) store.Store {
				db, err := sqlite.Open(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				open[name] = db
				t.Cleanup(func() { _ = db.Close() })
				return db
			}, func(t *testing.T, name string) {
				if err := open[name].Close(); err != nil {
					t.Error(err)
				}
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
	})
}

func TestLedgerHasAFileOfItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	if l, err := sqlite.OpenLedger(path); err == nil {
		_ = l.Close()
		t.Error("a store was opened as a ledger")
	}
}

// A sandbox that is started over and over, and joins what it has registered, leaves
// nothing of that in its file.
func TestRegisteringAgainLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	l, err := sqlite.OpenLedger(filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	path := filepath.Join(dir, "one")
	db, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	for range 5 {
		if _, err := l.Register(t.Context(), "log", "svc", "a", db, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Register(t.Context(), "log", "svc", "b", db, time.Hour); err != nil {
		t.Fatal(err)
	}
	c, err := zs.OpenConn(path, zs.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	n, err := sqlitex.ResultInt64(c.Prep("SELECT count(*) FROM fairlead_registrations"))
	if n != 2 || err != nil {
		t.Errorf("%d rows of two registrations, %v", n, err)
	}
}
