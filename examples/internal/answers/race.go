//go:build race

package answers

// Race says that the race detector is on, which makes programs ten times
// slower.
const Race = true
