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
