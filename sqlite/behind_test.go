package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/behindtest"
	"github.com/fairlead-dev/fairlead/sqlite"
)

// TestBehind: see package behindtest.
func TestBehind(t *testing.T) {
	for _, parts := range []int{1, 3, 4} {
		t.Run(fmt.Sprint(parts), func(t *testing.T) {
			t.Parallel()
			db, err := sqlite.Open(filepath.Join(t.TempDir(), "test.db"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			behindtest.Run(t, db, db, parts)
		})
	}
}
