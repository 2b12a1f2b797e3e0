//go:build mutants

package engine

import (
	"testing"

	"github.com/fairlead-dev/fairlead/internal/mutant"
)

func TestSimulationFindsRemovalMutants(t *testing.T) {
	defer mutant.Plant("")
	for _, bug := range []string{mutant.RemovedBuilt, mutant.RemovedInHand} {
		t.Run(bug, func(t *testing.T) {
			mutant.Plant(bug)
			findBug(t, removing)
		})
	}
}
