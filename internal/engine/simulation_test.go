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

	"github.com/fairlead-dev/fairlead/internal/race"
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

// eachSeed calls f with the seeds from and before to, on all processors, until one
// call reports true. It returns when all calls have.
func eachSeed(t *testing.T, from, to uint64, f func(t *testing.T, seed uint64) (enough bool)) {
	t.Helper()
	var next atomic.Uint64
	var enough atomic.Bool
	next.Store(from)
	t.Run("seeds", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for seed := next.Add(1) - 1; seed < to && !enough.Load(); seed = next.Add(1) - 1 {
					if f(t, seed) {
						enough.Store(true)
					}
				}
			})
		}
	})
}

func TestSimulation(t *testing.T) {
	number := uint64(100)
	if race.Enabled { // make sim has 2,000
		number = 40
	}
	from, to := seeds(t, number)
	eachSeed(t, from, to, func(t *testing.T, seed uint64) bool {
		s, err := runSeed(t, seed, func(*sim) {})
		return reportSeed(t, seed, to == from+1, err, s.trace)
	})
}

// reportSeed says how to replay a seed that failed, and how it ended, or all of it.
func reportSeed(t *testing.T, seed uint64, whole bool, err error, trace []string) (failed bool) {
	if err == nil {
		return false
	}
	name, _, _ := strings.Cut(t.Name(), "/")
	t.Errorf("seed %d: %v\nreplay it with FAIRLEAD_SIM_SEEDS==%d go test -run '%s$' ./internal/engine", seed, err, seed, name)
	if !whole {
		trace = trace[max(0, len(trace)-15):]
	}
	t.Log(strings.Join(trace, "\n"))
	return true
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

func TestSimulationReplays(t *testing.T) {
	for seed := uint64(1); seed <= 12; seed++ { // so of all kinds
		a, errA := runSeed(t, seed, func(*sim) {})
		b, errB := runSeed(t, seed, func(*sim) {})
		sameRuns(t, seed, a.trace, b.trace, errA, errB)
	}
}

// sameRuns checks that two runs of a seed were one, to the last line of the trace.
func sameRuns(t *testing.T, seed uint64, a, b []string, errA, errB error) {
	t.Helper()
	if fmt.Sprint(errA) != fmt.Sprint(errB) {
		t.Errorf("two runs of seed %d differ: %v, %v", seed, errA, errB)
	}
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Errorf("two runs of seed %d differ from line %d on:\n%q\n%q", seed, i, a[i:min(i+1, len(a))], b[i:min(i+1, len(b))])
			return
		}
	}
}
