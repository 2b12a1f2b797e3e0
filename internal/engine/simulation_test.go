package engine

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const simSteps = 800

// seeds returns the seeds to run: FAIRLEAD_SIM_SEEDS is their number, or one
// seed as "=N" to replay it.
func seeds(t *testing.T, number int) (from, to uint64) {
	v := os.Getenv("FAIRLEAD_SIM_SEEDS")
	if one, ok := strings.CutPrefix(v, "="); ok {
		n, err := strconv.ParseUint(one, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n, n + 1
	}
	if v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatal(err)
		}
		number = n
	}
	return 1, uint64(number) + 1
}

func TestSimulation(t *testing.T) {
	from, to := seeds(t, 100)
	var next atomic.Uint64
	next.Store(from)
	var g sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() {
			for seed := next.Add(1) - 1; seed < to && !t.Failed(); seed = next.Add(1) - 1 {
				simulate(t, seed, to == from+1)
			}
		})
	}
	g.Wait()
}

func simulate(t *testing.T, seed uint64, whole bool) {
	s := newSim(seed)
	err := s.run(simSteps)
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
	a, b := newSim(7), newSim(7)
	errA, errB := a.run(simSteps), b.run(simSteps)
	if !errors.Is(errA, errB) || strings.Join(a.trace, "\n") != strings.Join(b.trace, "\n") {
		t.Errorf("two runs of one seed differ: %v, %v", errA, errB)
	}
}
