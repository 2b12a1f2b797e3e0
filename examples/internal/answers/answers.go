// Package answers compares what the examples write with the known answers of
// the real data, which is no part of this project.
package answers

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Dir returns the folder of a data set: in the one that FAIRLEAD_DATA names, or
// in shared/data beside the checkout. Where it is not there: "", or with CI in
// the environment, a failed test, so that no one is content with less by
// mistake.
func Dir(t *testing.T, name string) string {
	t.Helper()
	root := os.Getenv("FAIRLEAD_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "data") // from the folder of the example
	}
	dir := filepath.Join(root, name)
	if _, err := os.Stat(filepath.Join(dir, "events.jsonl.gz")); err == nil {
		return dir
	} else if os.Getenv("CI") != "" || os.Getenv("FAIRLEAD_DATA") != "" {
		t.Fatalf("%v: the data is needed for this test: set FAIRLEAD_DATA to the folder that has %s/", err, name)
	}
	t.Logf("without the data set %s (see FAIRLEAD_DATA) only made-up events are tested", name)
	return ""
}

// A Table is a CSV file.
type Table struct {
	Header []string
	Rows   [][]string
}

// Read reads a CSV file, also a compressed one.
func Read(t *testing.T, path string) Table {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r io.Reader = bytes.NewReader(data)
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(r); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	rows, err := csv.NewReader(r).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if len(rows) == 0 {
		t.Fatalf("%s: no header", path)
	}
	return Table{rows[0], rows[1:]}
}

// Column returns the index of a column.
func (tb *Table) Column(t *testing.T, name string) int {
	t.Helper()
	i := slices.Index(tb.Header, name)
	if i < 0 {
		t.Fatalf("no column %q in %q", name, tb.Header)
	}
	return i
}

// Select returns the table with only these columns, in this order.
func (tb *Table) Select(t *testing.T, columns ...string) Table {
	t.Helper()
	index := make([]int, len(columns))
	for i, c := range columns {
		index[i] = tb.Column(t, c)
	}
	out := Table{Header: columns, Rows: make([][]string, len(tb.Rows))}
	for n, row := range tb.Rows {
		for _, i := range index {
			out.Rows[n] = append(out.Rows[n], row[i])
		}
	}
	return out
}

// Of returns the table with only the rows of some tenants, which are its first
// column. All must have one.
func (tb *Table) Of(t *testing.T, tenants []string) Table {
	t.Helper()
	out, have := Table{Header: tb.Header}, map[string]bool{}
	for _, row := range tb.Rows {
		if slices.Contains(tenants, row[0]) {
			out.Rows = append(out.Rows, row)
			have[row[0]] = true
		}
	}
	if len(have) != len(tenants) {
		t.Fatalf("%d of the tenants %q have rows", len(have), tenants)
	}
	return out
}

// Equal fails the test unless both tables are equal, row by row in order.
func Equal(t *testing.T, what string, got, want Table) {
	t.Helper()
	if !slices.Equal(got.Header, want.Header) {
		t.Fatalf("%s: columns %q, want %q", what, got.Header, want.Header)
	}
	const shown = 5
	mismatches := 0
	for i := range max(len(got.Rows), len(want.Rows)) {
		var g, w []string
		if i < len(got.Rows) {
			g = got.Rows[i]
		}
		if i < len(want.Rows) {
			w = want.Rows[i]
		}
		if slices.Equal(g, w) {
			continue
		}
		if mismatches++; mismatches <= shown {
			t.Errorf("%s, row %d:\n got %q\nwant %q", what, i+1, g, w)
		}
	}
	if mismatches > shown {
		t.Errorf("%s: and %d more rows differ", what, mismatches-shown)
	}
	t.Logf("%s: %d rows compared, %d mismatches", what, len(want.Rows), mismatches)
}

// Of returns a file with all events of some tenants in another.
func Of(t *testing.T, path string, tenants []string) string {
	t.Helper()
	begins := make([][]byte, len(tenants))
	for i, tenant := range tenants {
		begins[i] = []byte(`{"tenant":"` + tenant + `",`)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r, err := gzip.NewReader(file)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var out []byte
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Bytes()
		if slices.ContainsFunc(begins, func(b []byte) bool { return bytes.HasPrefix(line, b) }) {
			out = append(append(out, line...), '\n')
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return File(t, "events.jsonl", string(out))
}

// File writes a file into a temporary folder and returns its path.
func File(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
