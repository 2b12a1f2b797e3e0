package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the folder of the module.
const root = "../.."

func TestConfigurationIsCurrent(t *testing.T) {
	want, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	got := read(t, page)
	if got == string(want) {
		return
	}
	old, now := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(old), len(now)) {
		if old[i] != now[i] {
			t.Fatalf("%s is stale: run go run ./internal/docgen\nline %d: %s\nwould be: %s", page, i+1, old[i], now[i])
		}
	}
	t.Fatalf("%s is stale: run go run ./internal/docgen\n%d lines, would be %d", page, len(old), len(now))
}

func TestDefaultsIn(t *testing.T) {
	file := write(t, `package p

func (o Options) withDefaults(n int) Options {
	o.Wait = cmp.Or(o.Wait, 5*time.Second)
	o.Bytes = cmp.Or(o.Bytes, 32<<20)
	o.Parts = max(o.Parts, 1)
	if o.Name == "" {
		o.Name, _ = os.Hostname()
	}
	if o.Pause == 0 {
		o.Pause = time.Minute
	}
	o.Inner.Depth = 7
	o.Copy = o.Bytes
	other.Wait = 9
	return o
}

func elsewhere(o Options) { o.Bytes = 1 }
`)
	got, err := defaultsIn(file, "withDefaults", "o")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"Wait": "5 s", "Bytes": "32 MiB", "Parts": "1", "Name": "os.Hostname()", "Pause": "1 min"}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("default of %s = %q, want %q", name, got[name], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("defaults = %v, want %v", got, want)
	}
	if _, err := defaultsIn(file, "nowhere", "o"); err == nil {
		t.Error("a function that is not there: no error")
	}
}

func TestStructFields(t *testing.T) {
	file := write(t, `package p

type Options struct {
	// Size is in bytes; see [Other].
	Size int
	// Min and Max are the ends.
	Min int
	Max int
	Short, Long string // of names | or both
	hidden bool
}

type Bare struct{ Naked int }
`)
	got, err := structFields(file, "Options")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Size int: Size is in bytes; see `Other`.", "Min int: Min and Max are the ends.", "Max int: Min and Max are the ends.",
		`Short, Long string: of names \| or both`,
	}
	if len(got) != len(want) {
		t.Fatalf("fields = %v, want %v", got, want)
	}
	for i, f := range got {
		if s := strings.Join(f.names, ", ") + " " + f.typ + ": " + f.doc; s != want[i] {
			t.Errorf("field %d = %q, want %q", i, s, want[i])
		}
	}
	for _, name := range []string{"Bare", "Missing"} {
		if _, err := structFields(file, name); err == nil {
			t.Errorf("struct %s: no error", name)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "p.go")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
