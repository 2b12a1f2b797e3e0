//go:build mutants

package chaos

import (
	"os"

	"github.com/fairlead-dev/fairlead/internal/mutant"
)

// With the tag mutants, FAIRLEAD_CHAOS_MUTANT plants one of package mutant's bugs in
// all workers.
func init() { mutant.Plant(os.Getenv("FAIRLEAD_CHAOS_MUTANT")) }
