//go:build mutants

package engine

import (
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
	find(t, 3000, func(t *testing.T, seed uint64) error {
		_, err := runSeed(t, seed, plant)
		return err
	})
}

// find runs seeds until one fails, which it should.
func find(t *testing.T, most uint64, run func(t *testing.T, seed uint64) error) {
	t.Helper()
	var found atomic.Bool
	eachSeed(t, 1, most+1, func(t *testing.T, seed uint64) bool {
		err := run(t, seed)
		if err != nil && found.CompareAndSwap(false, true) {
			t.Logf("found by seed %d: %v", seed, err)
		}
		return err != nil
	})
	if !found.Load() {
		t.Errorf("not found in %d seeds", most)
	}
}

func TestSimulationFindsStoreBugs(t *testing.T) {
	for _, bug := range []storeBug{fenceDropped, epochIgnored, revisionIgnored, checkpointFirst, lettersAfter, checkpointAfter, fenceAfterWrites} {
		t.Run(string(bug), func(t *testing.T) { findBug(t, func(s *sim) { s.planted = bug }) })
	}
}
