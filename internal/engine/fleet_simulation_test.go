package engine

import (
	"testing"
	"testing/synctest"
)

const simFleetSteps = 250

// runFleetSeed runs a seed in a bubble of its own.
func runFleetSeed(t *testing.T, seed uint64, bug fleetBug) (f *simFleet, err error) {
	synctest.Test(t, func(*testing.T) {
		f = newSimFleet(seed, bug)
		err = f.run(simFleetSteps)
	})
	return f, err
}

// TestFleetSimulation: see simFleet.
func TestFleetSimulation(t *testing.T) {
	from, to := seeds(t, 100)
	eachSeed(t, from, to, func(t *testing.T, seed uint64) bool {
		f, err := runFleetSeed(t, seed, "")
		return reportSeed(t, seed, to == from+1, err, f.trace)
	})
}

// TestFleetSimulationReplays: a seed is one run, to the last line of its trace.
func TestFleetSimulationReplays(t *testing.T) {
	for seed := uint64(1); seed <= 8; seed++ {
		a, errA := runFleetSeed(t, seed, "")
		b, errB := runFleetSeed(t, seed, "")
		sameRuns(t, seed, a.trace, b.trace, errA, errB)
	}
}
