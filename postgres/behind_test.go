package postgres_test

import (
	"fmt"

	"testing"

	"github.com/fairlead-dev/fairlead/internal/behindtest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
)

// TestBehind: see package behindtest.
func TestBehind(t *testing.T) {
	for _, parts := range []int{1, 3, 4} {
		t.Run(fmt.Sprint(parts), func(t *testing.T) {
			t.Parallel()
			db, err := postgres.Open(t.Context(), pgtest.Database(t), postgres.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			behindtest.Run(t, db, db, parts)
		})
	}
}
