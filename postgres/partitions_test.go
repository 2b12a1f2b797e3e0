package postgres

import (
	"testing"

	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/store"
)

// TestMigratePartitions: lanes of a schema from before partitions could be split
// are as they were.
func TestMigratePartitions(t *testing.T) {
	url, i := pgtest.Database(t), 0
	for migrations[i].name != "partitions" {
		i++
	}
	old, err := open(t.Context(), url, migrations[:i], Options{})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, old.pool, `INSERT INTO fairlead.lanes(processor, number, partition, tenant, epoch, position, revision, state, reason, pinned, owner)
		VALUES('p', 1, 2, '', 3, 4, 5, 'running', '', false, 'me')`)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	err = openAt(t, url).View(t.Context(), func(tx store.Tx) error {
		got, err := tx.Lane(store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: 2})
		if got.Of != 0 || got.Want != 0 || got.Until != 0 || got.Epoch != 3 || got.Position != 4 || got.Revision != 5 || got.Owner != "me" {
			t.Errorf("lane after the migration: %+v", got)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
