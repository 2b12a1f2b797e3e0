package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/cli"
)

// TestHelp compares the help of all commands with testdata/help.txt; go test
// -update writes that anew, to be read before it is committed.
func TestHelp(t *testing.T) {
	t.Setenv(cli.EnvDB, "")
	var b strings.Builder
	for _, command := range []string{
		"", "run", "import", "export", "status", "lanes", "tenants", "tenants add", "tenants move", "tenants remove",
		"documents", "documents get", "documents list", "documents export",
		"dead-letters", "dead-letters list", "dead-letters retry", "dead-letters skip", "dead-letters export",
		"pause", "resume", "detach", "merge", "weight", "pool", "pool set", "pool clear", "pool list",
		"partitions", "partitions list", "partitions split", "partitions merge", "partitions cancel",
		"rebuild", "rebuild start", "rebuild cancel", "rebuild switch", "rebuild limit", "rebuild report", "rebuild back", "rebuild forget", "drop", "migrate", "plan",
		"routes", "routes set", "routes show", "routes remove", "routes close", "greet",
	} {
		b.WriteString("$ shop " + command + " --help\n" + ok(t, append(strings.Fields(command), "--help")...) + "\n")
	}
	golden := filepath.Join("testdata", "help.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	got, wanted := strings.Split(b.String(), "\n"), strings.Split(string(want), "\n")
	for i := range max(len(got), len(wanted)) {
		if i >= len(got) || i >= len(wanted) || got[i] != wanted[i] {
			t.Fatalf("line %d of %s differs: go test -update, and read it\ngot  %q", i+1, golden, got[min(i, len(got)-1)])
		}
	}
}

func TestExitStatusAndErrors(t *testing.T) {
	db := database(t, event("acme", "c1", 1, "pen", false))
	ok(t, "run", "--once", "--db", db)
	for _, tt := range []struct {
		name   string
		args   []string
		status int
		says   string // in stderr
	}{
		{"no such command", []string{"stauts"}, cli.Misuse, "did you mean status?"},
		{"nothing like it", []string{"xyzzy"}, cli.Misuse, "see shop --help"},
		{"no such flag", []string{"status", "--frob"}, cli.Misuse, "unknown flag: --frob: see shop status --help"},
		{"a flag that does not parse", []string{"documents", "list", "carts", "--limit", "x"}, cli.Misuse, "--limit"},
		{"a plan for nobody", []string{"plan"}, cli.Misuse, "needs --tenants"},
		{"a plan with copies of nothing", []string{"plan", "--tenants", "3", "--replication", "0"}, cli.Misuse, "must be positive"},
		{"a plan for a broker of no known size", []string{"plan", "--tenants", "3", "--broker-size", "huge"}, cli.Misuse, "neither a number"},
		{"a plan with more copies than brokers", []string{"plan", "--tenants", "3", "--brokers", "2"}, cli.Misuse, "replication 3 on 2 brokers"},
		{"a group without its command", []string{"dead-letters"}, cli.Misuse, "needs a command"},
		{"a group with another", []string{"rebuild", "stert"}, cli.Misuse, "did you mean start?"},
		{"too few arguments", []string{"pause"}, cli.Misuse, "too few arguments"},
		{"too many", []string{"status", "x"}, cli.Misuse, `"x" is one argument too many`},
		{"no database", []string{"status", "--db", ""}, cli.Misuse, "set FAIRLEAD_DB"},
		{"no tenant for detach", []string{"detach", "carts"}, cli.Misuse, "needs --tenant"},
		{"no tenant for a document", []string{"documents", "get", "carts", "c1"}, cli.Misuse, "give --tenant"},
		{"a tenant where there is none", []string{"documents", "get", "totals", "x", "--tenant", "acme"}, cli.Misuse, "leave --tenant out"},
		{"drop without --yes", []string{"drop", "carts"}, cli.Misuse, "--yes"},
		{"retry of what", []string{"dead-letters", "retry", "carts"}, cli.Misuse, "--all"},
		{"retry of a key of nobody", []string{"dead-letters", "retry", "carts", "--key", "k"}, cli.Misuse, "--tenant"},
		{"skip what", []string{"dead-letters", "skip", "x"}, cli.Misuse, "no id"},
		{"no state of letters", []string{"dead-letters", "list", "--state", "x"}, cli.Misuse, "none of poison"},
		{"no format", []string{"documents", "export", "carts", "--format", "xml"}, cli.Misuse, "none of jsonl, csv"},
		{"no time", []string{"export", "--from", "yesterday"}, cli.Misuse, "is no time"},
		{"no weight", []string{"weight", "acme", "x"}, cli.Misuse, "no number"},
		{"half a weight", []string{"weight", "acme"}, cli.Misuse, "a tenant and its weight"},
		{"an own command's misuse", []string{"greet"}, cli.Misuse, "who?"},
		{"database that does not exist", []string{"status", "--db", "/does/not/exist"}, cli.Failed, "does not exist"},
		{"no such processor", []string{"pause", "nope"}, cli.Failed, `no processor "nope": the database has carts, totals`},
		{"no such processor for lanes", []string{"lanes", "nope"}, cli.Failed, `no processor "nope"`},
		{"no such processor to rebuild", []string{"rebuild", "start", "nope"}, cli.Failed, `no processor "nope"`},
		{"no such tenant", []string{"pause", "carts", "--tenant", "amce"}, cli.Failed, `no tenant "amce"`},
		{"no such tenant of documents", []string{"documents", "list", "carts", "--tenant", "amce"}, cli.Failed, `no tenant "amce"`},
		{"no such tenant in tenants", []string{"tenants", "amce"}, cli.Failed, `no tenant "amce"`},
		{"a tenant across tenants", []string{"pause", "totals", "--tenant", "acme"}, cli.Failed, "shared documents"},
		{"a tenant that cannot be", []string{"pause", "carts", "--tenant", "a\x00"}, cli.Failed, "control character"},
		{"no such document", []string{"documents", "get", "carts", "c2", "--tenant", "acme"}, cli.Failed, `no document "c2"`},
		{"no such collection", []string{"documents", "export", "nope"}, cli.Failed, `no collection "nope": the database has carts, totals`},
		{"no such letter", []string{"dead-letters", "skip", "7"}, cli.Failed, "7"},
		{"no letters of the tenant", []string{"dead-letters", "retry", "carts", "--tenant", "acme"}, cli.Failed, "no dead letters of tenant \"acme\""},
		{"no rebuild to switch to", []string{"rebuild", "switch", "carts"}, cli.Failed, "not being rebuilt"},
		{"no rebuild to limit", []string{"rebuild", "limit", "carts", "5"}, cli.Failed, "not being rebuilt"},
		{"a limit that is none", []string{"rebuild", "limit", "carts", "many"}, cli.Misuse, "is no number of events"},
		{"nothing to compare", []string{"rebuild", "report", "carts"}, cli.Failed, "nothing to compare"},
		{"nothing to go back to", []string{"rebuild", "back", "carts"}, cli.Failed, "no build of before"},
		{"nothing to forget", []string{"rebuild", "forget", "carts"}, cli.Failed, "no build of before"},
		{"no rebuild to cancel", []string{"rebuild", "cancel", "carts"}, cli.Failed, "not being rebuilt"},
		{"weight out of range", []string{"weight", "acme", "1000"}, cli.Failed, "from 0.01 to 100"},
		{"no such file", []string{"import", "/does/not/exist"}, cli.Failed, "/does/not/exist"},
		{"no such folder", []string{"export", "-o", "/does/not/exist/x"}, cli.Failed, "/does/not/exist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(cli.EnvDB, db)
			r := run(t, nil, tt.args...)
			if r.status != tt.status || !strings.Contains(r.stderr, tt.says) || !strings.HasPrefix(r.stderr, "shop: ") || r.stdout != "" {
				t.Errorf("%q: got %+v, want status %d and %q on stderr", tt.args, r, tt.status, tt.says)
			}
			r = run(t, nil, append(tt.args, "--json")...)
			var e struct {
				Error  string `json:"error"`
				Status int    `json:"status"`
			}
			if err := json.Unmarshal([]byte(r.stderr), &e); err != nil || e.Status != tt.status || r.status != tt.status || e.Error == "" {
				t.Errorf("%q --json: got %+v, %v, want an object with status %d", tt.args, r, err, tt.status)
			}
		})
	}
}

func TestOwnCommandAndVersion(t *testing.T) {
	if got, want := ok(t, "greet", "you", "--json"), "hello you true\n"; got != want {
		t.Errorf("greet: got %q, want %q", got, want)
	}
	if got, want := ok(t, "--version"), "shop v1.2.3\n"; got != want {
		t.Errorf("--version: got %q, want %q", got, want)
	}
}

func TestRunWithoutProcessorsSaysWhatToDo(t *testing.T) {
	var out, errs strings.Builder
	status := cli.Run(t.Context(), cli.App{Name: "x"}, []string{"run", "--db", filepath.Join(t.TempDir(), "x.db")},
		&cli.Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs})
	if status != cli.Failed || !strings.Contains(errs.String(), "write a program that calls cli.Main") {
		t.Errorf("got status %d, %q", status, errs.String())
	}
}
