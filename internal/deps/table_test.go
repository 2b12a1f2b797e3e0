package deps

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A requirement is a line of go.mod, as go mod edit -json has it.
type requirement struct {
	Path     string
	Version  string
	Indirect bool
}

// TestDependenciesAreExplained compares docs/dependencies.md with go.mod: each
// direct requirement has its line there, and no line is left over.
func TestDependenciesAreExplained(t *testing.T) {
	var mod struct{ Require []requirement }
	if err := json.Unmarshal(goCommand(t, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatalf("output of go mod edit: %v", err)
	}
	doc, err := os.ReadFile(filepath.Join(root(t), "docs", "dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range checkTable(mod.Require, string(doc)) {
		t.Error(fault)
	}
}

// checkTable returns what is wrong with the table of modules in doc: its rows
// are those that begin with a module path in backquotes.
func checkTable(required []requirement, doc string) []string {
	var faults []string
	rows := map[string]bool{}
	for line := range strings.Lines(doc) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		path := strings.TrimSpace(cells[0])
		if !strings.HasPrefix(line, "| `") || !strings.HasSuffix(path, "`") {
			continue
		}
		path = strings.Trim(path, "`")
		if rows[path] {
			faults = append(faults, fmt.Sprintf("%s has two lines in docs/dependencies.md", path))
		}
		rows[path] = true
		if len(cells) != 4 || slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "" }) {
			faults = append(faults, fmt.Sprintf("%s: its line in docs/dependencies.md must have 4 cells that say something: module, licence, why, size and health", path))
		}
		if !slices.ContainsFunc(required, func(r requirement) bool { return r.Path == path }) {
			faults = append(faults, fmt.Sprintf("%s has a line in docs/dependencies.md, but go.mod does not require it", path))
		}
	}
	for _, r := range required {
		if !r.Indirect && !rows[r.Path] {
			faults = append(faults, fmt.Sprintf("%s is a direct requirement of go.mod without a line in docs/dependencies.md: "+
				"say there why it is worth having, under which licence it comes and what it weighs", r.Path))
		}
	}
	return faults
}

func TestCheckTable(t *testing.T) {
	required := []requirement{{Path: "a.org/x"}, {Path: "a.org/y", Indirect: true}}
	const head = "| module | licence | why | size, health |\n| --- | --- | --- | --- |\n"
	for _, tt := range []struct {
		name, doc string
		want      []string
	}{
		{"complete", head + "| `a.org/x` | MIT | speed | small |\n", nil},
		{"an indirect one may be explained", head + "| `a.org/x` | MIT | speed | small |\n| `a.org/y` | MIT | speed | small |\n", nil},
		{"missing", head, []string{"a.org/x is a direct requirement of go.mod without a line"}},
		{"named in prose only", head + "`a.org/x` is good\n", []string{"a.org/x is a direct requirement of go.mod without a line"}},
		{"left over", head + "| `a.org/x` | MIT | speed | small |\n| `a.org/z` | MIT | speed | small |\n", []string{"a.org/z has a line"}},
		{"no reason", head + "| `a.org/x` | MIT |  | small |\n", []string{"must have 4 cells"}},
		{"a cell short", head + "| `a.org/x` | MIT | speed |\n", []string{"must have 4 cells"}},
		{"twice", head + "| `a.org/x` | MIT | speed | small |\n| `a.org/x` | MIT | speed | small |\n", []string{"two lines"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := checkTable(required, tt.doc)
			if len(got) != len(tt.want) {
				t.Fatalf("faults: got %q, want %d", got, len(tt.want))
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) {
					t.Errorf("fault %d: got %q, want %q", i, got[i], tt.want[i])
				}
			}
		})
	}
}
