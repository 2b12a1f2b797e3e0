//go:build mutants

package engine

import (
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
	const most = 1500
	for seed := uint64(1); seed <= most; seed++ {
		if _, err := runSeed(t, seed, plant); err != nil {
			t.Logf("found by seed %d: %v", seed, err)
			return
		}
	}
	t.Errorf("not found in %d seeds", most)
}

func TestSimulationFindsStoreBugs(t *testing.T) {
	for _, bug := range []storeBug{fenceDropped, epochIgnored, revisionIgnored, checkpointFirst, lettersAfter, checkpointAfter, fenceAfterWrites} {
		t.Run(string(bug), func(t *testing.T) { findBug(t, func(s *sim) { s.planted = bug }) })
	}
}
