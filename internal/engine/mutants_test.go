//go:build mutants

package engine

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/mutant"
)

func TestSimulationFindsMutants(t *testing.T) {
	defer mutant.Plant("")
	for _, bug := range mutant.All {
		t.Run(bug, func(t *testing.T) {
			mutant.Plant(bug)
			findBug(t, func(*sim) {})
		})
	}
}

// findBug runs seeds until the checker complains.
func findBug(t *testing.T, plant func(*sim)) {
	t.Helper()
	const most = 3000
	var next, found atomic.Uint64
	t.Run("seeds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1); seed <= most && found.Load() == 0; seed = next.Add(1) {
					if _, err := runSeed(t, seed, plant); err != nil && found.CompareAndSwap(0, seed) {
						t.Logf("found by seed %d: %v", seed, err)
					}
				}
			})
		}
	})
	if found.Load() == 0 {
		t.Errorf("not found in %d seeds", most)
	}
}

func TestSimulationFindsStoreBugs(t *testing.T) {
	for _, bug := range []storeBug{fenceDropped, epochIgnored, revisionIgnored, checkpointFirst, lettersAfter, checkpointAfter, fenceAfterWrites} {
		t.Run(string(bug), func(t *testing.T) { findBug(t, func(s *sim) { s.planted = bug }) })
	}
}
