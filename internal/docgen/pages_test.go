package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// block returns the first block of a language after a heading of a page.
func block(t *testing.T, text, heading, language string) string {
	t.Helper()
	_, text, ok := strings.Cut(text, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("no heading %q", heading)
	}
	_, text, ok = strings.Cut(text, "\n```"+language+"\n")
	if !ok {
		t.Fatalf("no block of %s after %q", language, heading)
	}
	text, _, _ = strings.Cut(text, "\n```\n")
	return text + "\n"
}

// TestProgramOfTheReadme checks that the README's program is the example, whose
// own test runs it, and that it prints what the README says.
func TestProgramOfTheReadme(t *testing.T) {
	readme := read(t, "README.md")
	for language, file := range map[string]string{"go": "examples/carts/main.go", "text": "examples/carts/testdata/output.txt"} {
		if got, want := block(t, readme, "## A program", language), read(t, file); got != want {
			t.Errorf("README.md, A program, has\n%sbut %s is\n%s", got, file, want)
		}
	}
}

var (
	namedTest = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz|Example)[A-Za-z_0-9]*)(/[A-Za-z0-9_,/-]+)?`")
	namedCase = regexp.MustCompile("`((?:storetest|eventlogtest))/([A-Z][A-Za-z]+)`")
)

// TestGuaranteesNameTests checks that each test which a page names is there, and
// that every invariant has some.
func TestGuaranteesNameTests(t *testing.T) {
	text := read(t, "docs/guarantees.md")
	sections := strings.Split(text, "\n## ")[1:]
	numbered := 0
	for _, s := range sections {
		if title, _, _ := strings.Cut(s, "\n"); title != "" && title[0] >= '1' && title[0] <= '9' {
			numbered++
			if !namedTest.MatchString(s) {
				t.Errorf("%q names no test", title)
			}
		}
	}
	if numbered != 7 {
		t.Errorf("%d invariants, want 7", numbered)
	}
	known := map[string][]string{} // of a package
	for _, page := range pages(t) {
		text := read(t, page)
		for _, m := range namedTest.FindAllStringSubmatch(text, -1) {
			if known[m[1]] == nil {
				known[m[1]] = tests(t, m[1])
			}
			if !slices.Contains(known[m[1]], m[2]) {
				t.Errorf("%s: there is no %s in package %s", page, m[2], m[1])
			}
		}
		for _, m := range namedCase.FindAllStringSubmatch(text, -1) {
			if !suiteHas(t, m[1], m[2]) {
				t.Errorf("%s: suite %s has no case %s", page, m[1], m[2])
			}
		}
	}
}

// tests returns the test functions of a package.
func tests(t *testing.T, dir string) (names []string) {
	t.Helper()
	if dir == "fairlead" { // the package of the root
		dir = "."
	}
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}

// suiteHas reports whether a conformance suite runs a case of that name.
func suiteHas(t *testing.T, suite, name string) bool {
	t.Helper()
	dir := map[string]string{"storetest": "store/storetest", "eventlogtest": "eventlog/eventlogtest"}[suite]
	files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // a source file of the module
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `("`+name+`"`) {
			return true
		}
	}
	return false
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	dropped = regexp.MustCompile("[^a-z0-9 _-]")
)

// TestLinksLeadSomewhere follows the links between pages and to files.
func TestLinksLeadSomewhere(t *testing.T) {
	seen := 0
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			seen++
			path := filepath.Join(filepath.Dir(page), target)
			if target == "" {
				path = page
			}
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(read(t, path)), anchor) {
				t.Errorf("%s: link to %s: no such heading", page, m[1])
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d links in all pages: are they still found?", seen)
	}
}

// anchors returns the names under which the headings of a page can be linked.
func anchors(text string) (names []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		names = append(names, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return names
}

// pages returns all Markdown files of the module.
func pages(t *testing.T) (out []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules"): // other people's pages
			return filepath.SkipDir
		case strings.HasSuffix(path, ".md"):
			rel, err := filepath.Rel(root, path)
			out = append(out, rel)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
