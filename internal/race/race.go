//go:build race

// Package race tells tests whether the race detector is on. Then the longest have fewer
// seeds or less time, since they are slower by as much; make sim runs them in full.
package race

// Enabled says whether the race detector is on.
const Enabled = true
