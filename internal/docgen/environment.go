package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// environment says what the variables are for that the code reads; those of
// tests and benchmarks are in docs/development.md.
var environment = map[string]string{
	"FAIRLEAD_DB":         "the database, for the commands that have `--db`",
	"FAIRLEAD_CONFIG":     "the file of `--config`",
	"FAIRLEAD_HOST_LABEL": "the label of the sandbox that this process belongs to, unless `hostLabelEnv` names another variable; not set: the baseline",
	"FAIRLEAD_DATA":       "the folder of the data sets with which the tests of the examples compare; only those need it",
}

var variable = regexp.MustCompile(`"(FAIRLEAD_[A-Z_]+)"`)

// writeEnvironment writes the variables that the code names, and fails if one is
// not described.
func writeEnvironment(b *bytes.Buffer, root string) error {
	found := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (d.Name() == "docgen" || d.Name() == "bench" || d.Name() == "pgtest" || d.Name() == "kafkatest" || strings.HasPrefix(d.Name(), ".")):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path) //nolint:gosec // a source file of the module
		for _, m := range variable.FindAllSubmatch(text, -1) {
			found[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	b.WriteString("## Environment\n\n| variable | what |\n| --- | --- |\n")
	for _, name := range slices.Sorted(maps.Keys(found)) {
		what, ok := environment[name]
		if !ok {
			return fmt.Errorf("the code reads %s: describe it in internal/docgen/environment.go", name)
		}
		fmt.Fprintf(b, "| `%s` | %s |\n", name, what)
	}
	b.WriteByte('\n')
	return nil
}
