//go:build mutants

package mutant

var planted string

// Plant turns on one bug, and off the one before; "" turns all off. Not safe
// beside running engines.
func Plant(name string) { planted = name }

// Is reports whether a bug is planted.
func Is(name string) bool { return name == planted }
