package deps

import (
	"fmt"
	"slices"
	"strings"
)

// A pkg is what the rules need to know of a package, as go list -json has it.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string               // direct; without those of its tests
	Module     *struct{ Path string } // nil in the standard library
}

// check returns what in the graph breaks the rules, sorted. The graph holds the
// packages of the module and all that they reach.
func check(graph []pkg, floors []floor, allowed map[string]string) []string {
	byPath := make(map[string]pkg, len(graph))
	for _, p := range graph {
		byPath[p.ImportPath] = p
	}
	var faults []string
	for _, p := range graph {
		if !ours(p.ImportPath) {
			continue
		}
		from := floorOf(floors, p.ImportPath)
		if from < 0 {
			faults = append(faults, fmt.Sprintf("package %s has no floor: add %q to the floors in internal/deps/floors_test.go "+
				"and, if it is a new kind of package, to docs/architecture.md", p.ImportPath, below(p.ImportPath)))
			continue
		}
		for _, path := range p.Imports {
			if why := forbidden(floors, from, p.ImportPath, path); why != "" {
				faults = append(faults, fmt.Sprintf("%s imports %s: %s", p.ImportPath, path, why))
			}
		}
		if floors[from].core {
			faults = append(faults, foreign(byPath, p.ImportPath, allowed)...)
		}
	}
	slices.Sort(faults)
	return faults
}

// forbidden says why the package path, which stands on the floor from, must not
// import the package imported; "" where it may.
func forbidden(floors []floor, from int, path, imported string) string {
	if !ours(imported) {
		return ""
	}
	to := floorOf(floors, imported)
	f := floors[from]
	switch {
	case to < 0: // reported once, for the package itself
		return ""
	case slices.ContainsFunc(f.never, func(p string) bool { return fit(p, imported) >= 0 }):
		return fmt.Sprintf("never from the floor %q: %s", f.name, f.why)
	case to < from:
		return fmt.Sprintf("an arrow up, from the floor %q to %q", f.name, floors[to].name)
	case to == from && !f.peers && !sameFolder(path, imported):
		return fmt.Sprintf("packages of the floor %q do not know each other", f.name)
	}
	return ""
}

// foreign returns the faults of a core package that reaches a module which is
// not allowed, with the shortest way to it: whose import is to be removed is
// what one wants to know.
func foreign(byPath map[string]pkg, root string, allowed map[string]string) []string {
	var faults []string
	seen := map[string]bool{root: true}
	reported := map[string]bool{}
	queue := [][]string{{root}}
	for len(queue) > 0 {
		way := queue[0]
		queue = queue[1:]
		p := byPath[way[len(way)-1]]
		if p.Module != nil && p.Module.Path != module && allowed[p.Module.Path] == "" {
			if !reported[p.Module.Path] {
				reported[p.Module.Path] = true
				faults = append(faults, fmt.Sprintf("%s is core and reaches the module %s: %s (a driver never belongs there; "+
					"anything else must be in coreModules in internal/deps/floors_test.go)", root, p.Module.Path, strings.Join(way, " -> ")))
			}
			continue // what it reaches is its own doing
		}
		for _, path := range p.Imports {
			if !seen[path] && !byPath[path].Standard {
				seen[path] = true
				queue = append(queue, append(slices.Clone(way), path))
			}
		}
	}
	return faults
}

// floorOf returns the index of the floor of a package of the module, -1 where it
// has none.
func floorOf(floors []floor, path string) int {
	best, at := -1, -1
	for i, f := range floors {
		for _, pattern := range f.packages {
			if n := fit(pattern, path); n > best {
				best, at = n, i
			}
		}
	}
	return at
}

// fit returns how many bytes of the path of a package of the module a pattern
// names, -1 where it does not fit.
func fit(pattern, path string) int {
	rel := below(path)
	if folder, ok := strings.CutSuffix(pattern, "/..."); ok {
		if rel == folder || strings.HasPrefix(rel, folder+"/") {
			return len(folder)
		}
		return -1
	}
	if rel == pattern {
		return len(pattern)
	}
	return -1
}

func sameFolder(a, b string) bool {
	return strings.HasPrefix(a+"/", b+"/") || strings.HasPrefix(b+"/", a+"/")
}

func ours(path string) bool { return path == module || strings.HasPrefix(path, module+"/") }

// below returns a path relative to the module; the root is ".".
func below(path string) string {
	if path == module {
		return "."
	}
	return strings.TrimPrefix(path, module+"/")
}
