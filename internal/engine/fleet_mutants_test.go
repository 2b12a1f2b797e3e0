//go:build mutants

package engine

import (
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
	find(t, 300, func(t *testing.T, seed uint64) error {
		_, err := runFleetSeed(t, seed, bug)
		return err
	})
}
