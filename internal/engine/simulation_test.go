package engine

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

const simSteps = 800

// seeds returns the seeds to run, from and before to. FAIRLEAD_SIM_SEEDS is their
// number, or the first and the last as "M-N", or one as "=N" to replay it.
func seeds(t *testing.T, number uint64) (from, to uint64) {
	first, last := "1", os.Getenv("FAIRLEAD_SIM_SEEDS")
	if last == "" {
		return 1, number + 1
	}
	if one, ok := strings.CutPrefix(last, "="); ok {
		first, last = one, one
	} else if a, b, ok := strings.Cut(last, "-"); ok {
		first, last = a, b
	}
	from, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	to, err = strconv.ParseUint(last, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return from, to + 1
}

func TestSimulation(t *testing.T) {
	from, to := seeds(t, 100)
	var next atomic.Uint64
	next.Store(from)
	for range runtime.GOMAXPROCS(0) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for seed := next.Add(1) - 1; seed < to && !t.Failed(); seed = next.Add(1) - 1 {
				simulate(t, seed, to == from+1)
			}
		})
	}
}

// runSeed runs a seed in a bubble of its own: it begins at the same time.
func runSeed(t *testing.T, seed uint64, plant func(*sim)) (s *sim, err error) {
	synctest.Test(t, func(*testing.T) {
		s = newSim(seed)
		plant(s)
		err = s.run(simSteps)
	})
	return s, err
}

func simulate(t *testing.T, seed uint64, whole bool) {
	s, err := runSeed(t, seed, func(*sim) {})
	if err == nil {
		return
	}
	t.Errorf("seed %d: %v\nreplay it with FAIRLEAD_SIM_SEEDS==%d go test -run 'TestSimulation$' ./internal/engine", seed, err, seed)
	n := len(s.trace)
	if whole {
		n = 0
	}
	t.Log(strings.Join(s.trace[max(0, n-15):], "\n"))
}

func TestSimulationReplays(t *testing.T) {
	for seed := uint64(1); seed <= 12; seed++ { // so of all kinds
		a, errA := runSeed(t, seed, func(*sim) {})
		b, errB := runSeed(t, seed, func(*sim) {})
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
