package sqlite

import (
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/store"
)

// TestPoolsOfAnOldFile: a file of a version without pools gets their table, and
// keeps what it has.
func TestPoolsOfAnOldFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "old.db")
	old, err := open(path, migrations[:2])
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, old, one("a", "s", 3))
	if err := old.Update(t.Context(), func(tx store.Tx) error { return tx.PutWeight("a", 2) }); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	db := openAt(t, path)
	if err := db.Update(t.Context(), func(tx store.Tx) error { return tx.PutPool("a", "gold") }); err != nil {
		t.Fatal(err)
	}
	err = db.View(t.Context(), func(tx store.Tx) error {
		pools, err := tx.Pools()
		if err != nil {
			return err
		}
		weights, err := tx.Weights()
		if pools["a"] != "gold" || weights["a"] != 2 {
			t.Errorf("pools %v, weights %v", pools, weights)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
