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
	if err := old.Update(t.Context(), func(tx store.Tx) error { return tx.PutWeight("a", 2) }); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	sql(t, path, "INSERT INTO fairlead_tenants VALUES(1, 'a')")
	sql(t, path, "INSERT INTO fairlead_types VALUES(1, 'T')")
	sql(t, path, "INSERT INTO fairlead_streams VALUES(1, 1, 's', 0)")
	sql(t, path, `INSERT INTO fairlead_events(position, tenant_no, stream_no, version, type_no, occurred_at, recorded_at, data)
		VALUES(1, 1, 1, 1, 1, 1, 1, '{"n":1}'), (2, 1, 1, 2, 1, 2, 2, '{"n":2}'), (3, 1, 1, 3, 1, 3, 3, '{"n":3}')`)
	db := openAt(t, path)
	if got := len(checkLog(t, db)); got != 3 {
		t.Errorf("%d events, want 3", got)
	}
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
