package engine

import (
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
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
	var next atomic.Uint64
	next.Store(from)
	for range runtime.GOMAXPROCS(0) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for seed := next.Add(1) - 1; seed < to && !t.Failed(); seed = next.Add(1) - 1 {
				f, err := runFleetSeed(t, seed, "")
				if err == nil {
					continue
				}
				t.Errorf("seed %d: %v\nreplay it with FAIRLEAD_SIM_SEEDS==%d go test -run 'TestFleetSimulation$' ./internal/engine", seed, err, seed)
				n := len(f.trace)
				if to == from+1 {
					n = 0
				}
				t.Log(strings.Join(f.trace[max(0, n-15):], "\n"))
				if n == 0 {
					t.Log(strings.Join(f.trace, "\n"))
				}
			}
		})
	}
}

// TestFleetSimulationReplays: a seed is one run, to the last line of its trace.
func TestFleetSimulationReplays(t *testing.T) {
	for seed := uint64(1); seed <= 8; seed++ {
		a, errA := runFleetSeed(t, seed, "")
		b, errB := runFleetSeed(t, seed, "")
		if fmt.Sprint(errA) != fmt.Sprint(errB) {
			t.Errorf("two runs of seed %d differ: %v, %v", seed, errA, errB)
		}
		for i := range max(len(a.trace), len(b.trace)) {
			if i >= len(a.trace) || i >= len(b.trace) || a.trace[i] != b.trace[i] {
				t.Errorf("two runs of seed %d differ from line %d on:\n%q\n%q", seed, i, a.trace[i:min(i+1, len(a.trace))], b.trace[i:min(i+1, len(b.trace))])
				break
			}
		}
	}
}
