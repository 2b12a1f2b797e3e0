//go:build race

package lane_test

// raced says that the race detector is on. Then the longest tests have fewer seeds or
// less time, since they are slower by as much; make sim runs them in full.
const raced = true
