package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/cli"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// many returns n events of three tenants.
func many(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(event(fmt.Sprintf("t%d", i%3), fmt.Sprintf("s%d", i%30), i/30+1, "pen", false))
	}
	return b.String()
}

func TestExportIsWhatWasImported(t *testing.T) {
	text := many(5000)
	db := filepath.Join(t.TempDir(), "a.db")
	if got := object(t, "import", "--db", db, write(t, "events.jsonl", text)); got["appended"] != 5000.0 || got["present"] != 0.0 {
		t.Errorf("import: got %v, want 5000 appended", got)
	}
	if got := ok(t, "export", "--db", db, "-q"); got != text {
		t.Error("the export differs from what was imported")
	}
	for _, ending := range []string{"", ".gz", ".zst"} {
		t.Run("through a file"+ending, func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(dir, "out.jsonl"+ending)
			ok(t, "export", "--db", db, "-o", out)
			if ending != "" && len(read(t, out)) > len(text)/3 {
				t.Errorf("%s has %d bytes, which is not compressed", out, len(read(t, out)))
			}
			other := filepath.Join(dir, "b.db")
			ok(t, "import", "--db", other, out)
			if got := ok(t, "export", "--db", other, "-q"); got != text {
				t.Error("the second export differs")
			}
			names, err := filepath.Glob(filepath.Join(dir, ".*"))
			if err != nil || len(names) > 0 {
				t.Errorf("left over: %v, %v", names, err)
			}
		})
	}
	t.Run("selected", func(t *testing.T) {
		got := ok(t, "export", "--db", db, "-q", "--tenant", "t1", "--from", "2026-01-02", "--to", "2026-01-02T03:04:06Z")
		if n := strings.Count(got, "\n"); n != 1667 || strings.Count(got, `"tenant":"t1"`) != n {
			t.Errorf("got %d events, want the 1667 of t1", n)
		}
		if got := ok(t, "export", "--db", db, "-q", "--to", "2026-01-02T03:04:05Z"); got != "" {
			t.Errorf("before all of them: got %q", got)
		}
	})
}

func TestImportOfBadLines(t *testing.T) {
	lines := strings.SplitAfter(many(6000), "\n")
	lines[4100] = "{\n"
	text := strings.Join(lines, "")
	file := write(t, "events.jsonl", text)
	db := filepath.Join(t.TempDir(), "a.db")

	r := run(t, nil, "import", "--db", db, file)
	if r.status != cli.Failed || !strings.Contains(r.stderr, "events.jsonl:4101: ") || !strings.Contains(r.stderr, "--skip-bad") {
		t.Errorf("got %+v, want status 1 and line 4101", r)
	}
	if got := ok(t, "export", "--db", db, "-q"); got != strings.Join(lines[:4000], "") {
		t.Errorf("%d events were imported, want the 4000 of the blocks before", strings.Count(got, "\n"))
	}

	bad := filepath.Join(t.TempDir(), "bad.jsonl")
	got := object(t, "import", "--db", db, "--skip-bad", bad, file)
	// Of the stream of the bad line, nothing can follow.
	want := map[string]float64{"present": 4000, "lines": 6000, "bad": 1 + 63, "appended": 6000 - 4000 - 64}
	for k, v := range want {
		if got[k] != v {
			t.Errorf("%s: got %v, want %v", k, got[k], v)
		}
	}
	collected := strings.Split(strings.TrimSpace(read(t, bad)), "\n")
	if len(collected) != 64 {
		t.Fatalf("%d bad lines were collected, want 64", len(collected))
	}
	for i, l := range collected {
		var f struct {
			File, Reason, Text string
			Line               int
		}
		if err := json.Unmarshal([]byte(l), &f); err != nil {
			t.Fatal(err)
		}
		if wantLine := 4101 + 30*i; f.File != file || f.Line != wantLine || f.Text+"\n" != lines[wantLine-1] || f.Reason == "" {
			t.Errorf("bad line %d: got %+v, want line %d as it is", i, f, wantLine)
		}
	}
}

func TestImportGoesOnAfterAKill(t *testing.T) {
	text := many(60_000)
	file := write(t, "events.jsonl", text)
	db := filepath.Join(t.TempDir(), "a.db")
	killed := 0
	for killed < 3 {
		cmd := program(t, "import", "--db", db, "-q", file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Killed as soon as there is more in the log than before.
		before := head(t, db)
		eventually(t, func() string {
			if cmd.ProcessState == nil && head(t, db) == before && before < 60_000 {
				return "the import does not begin"
			}
			return ""
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		killed++
	}
	at := head(t, db)
	if at == 0 {
		t.Error("nothing was imported before the kills")
	}
	if got := object(t, "import", "--db", db, "-q", file); got["present"] != at || got["appended"] != 60_000-at {
		t.Errorf("got %v, want %v present", got, at)
	}
	if got := ok(t, "export", "--db", db, "-q"); got != text {
		t.Errorf("%d events after %d kills, want 60000, in order", strings.Count(got, "\n"), killed)
	}
}

// head returns the position of the last event, 0 where there is no database yet.
func head(t *testing.T, db string) float64 {
	t.Helper()
	r := run(t, nil, "status", "--db", db, "--json")
	var s struct{ Heads []float64 }
	if r.status != cli.OK || json.Unmarshal([]byte(r.stdout), &s) != nil {
		return 0
	}
	return s.Heads[0]
}

func TestDocumentsAsCSV(t *testing.T) {
	db := database(t,
		event("acme", "c1", 1, `a "pen", blue`, false), event("acme", "c1", 2, "cap", false),
		event("=zoo", "c/1", 1, "line\\nbreak", false))
	ok(t, "run", "--once", "--db", db)
	want := "tenant,id,items,last,by\n" +
		`=zoo,c/1,1,line\nbreak,"{""line\\nbreak"":1}"` + "\n" +
		`acme,c1,2,cap,"{""a \""pen\"", blue"":1,""cap"":1}"` + "\n"
	if got := ok(t, "documents", "export", "carts", "--db", db, "--format", "csv", "-q"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := ok(t, "documents", "export", "totals", "--db", db, "--format", "csv", "-q"), "tenant,id,items\n,ItemAdded,3\n"; got != want {
		t.Errorf("across tenants: got %q, want %q", got, want)
	}
	lines := strings.Split(strings.TrimSpace(ok(t, "documents", "export", "carts", "--db", db, "--tenant", "acme", "-q")), "\n")
	var d struct {
		Tenant, ID string
		Version    int
		Data       cart
	}
	if err := json.Unmarshal([]byte(lines[0]), &d); err != nil || len(lines) != 1 || d.Tenant != "acme" || d.ID != "c1" || d.Version != 2 || d.Data.Items != 2 {
		t.Errorf("jsonl: got %q, %v", lines, err)
	}
}
