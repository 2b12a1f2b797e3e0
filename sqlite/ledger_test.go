package sqlite_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/sqlite"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger/ledgertest"
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
