//go:build mutants

package engine

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/fairlead-dev/fairlead/internal/mutant"
)

func TestFleetSimulationFindsMutants(t *testing.T) {
	defer mutant.Plant("")
	for _, bug := range mutant.Fleet {
		t.Run(bug, func(t *testing.T) {
			mutant.Plant(bug)
			findFleetBug(t, "")
		})
	}
}

func TestFleetSimulationFindsShellBugs(t *testing.T) {
	for _, bug := range []fleetBug{handsOverBusy, ownClock} {
		t.Run(string(bug), func(t *testing.T) { findFleetBug(t, bug) })
	}
}

// findFleetBug runs seeds until something is found.
func findFleetBug(t *testing.T, bug fleetBug) {
	t.Helper()
	const most = 300
	var next, found atomic.Uint64
	t.Run("seeds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1); seed <= most && found.Load() == 0; seed = next.Add(1) {
					if _, err := runFleetSeed(t, seed, bug); err != nil && found.CompareAndSwap(0, seed) {
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
