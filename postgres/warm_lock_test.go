package postgres

import (
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// TestRehearsalWaitsForNobody: an index that is built on the documents of one processor
// keeps no process from its first heartbeat.
func TestRehearsalWaitsForNobody(t *testing.T) {
	db := openTemp(t)
	err := db.Update(t.Context(), func(tx store.Tx) error {
		return tx.PutProcessor(store.Processor{Name: "carts", Kind: "projection", Collection: "carts", Partitions: 1, Live: 1})
	})
	if err != nil {
		t.Fatal(err)
	}
	tables, err := db.knownTables(t.Context())
	if err != nil || len(tables) != 1 {
		t.Fatalf("%d tables, %v, want 1", len(tables), err)
	}
	c := connect(t, db)
	exec(t, c, "BEGIN")
	exec(t, c, "LOCK TABLE "+tables[0].name+" IN SHARE MODE") // as CREATE INDEX does
	c2, err := db.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c2.Release()
	began := time.Now()
	if err := db.rehearse(t.Context(), c2, tables, 0); err == nil {
		t.Error("a table that is locked was written to")
	}
	if _, err := db.Extend(t.Context(), "me", "", time.Minute); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("a rehearsal and the first heartbeat took %v", took)
	}
}
