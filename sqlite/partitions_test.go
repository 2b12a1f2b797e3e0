package sqlite

import (
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/store"
)

// TestMigratePartitions: lanes of a file from before partitions could be split
// are as they were.
func TestMigratePartitions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	i := 0
	for migrations[i].name != "partitions of lanes" {
		i++
	}
	old, err := open(path, migrations[:i])
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	sql(t, path, `INSERT INTO fairlead_lanes(processor, number, partition, tenant, epoch, position, revision, state, reason, pinned, owner)
		VALUES('p', 1, 2, '', 3, 4, 5, 'running', '', 0, 'me')`)
	want := store.Lane{
		LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: 2}, Epoch: 3, Position: 4, Revision: 5,
		State: store.Running, Owner: "me",
	}
	err = openAt(t, path).View(t.Context(), func(tx store.Tx) error {
		got, err := tx.Lane(want.LaneID)
		if got.Of != 0 || got.Want != 0 || got.Until != 0 || got.Epoch != 3 || got.Position != 4 || got.Revision != 5 || got.Owner != "me" {
			t.Errorf("lane after the migration: %+v, want %+v", got, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
