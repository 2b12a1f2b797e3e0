package cli_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

// TestNotMigrated: what works on a database says of one that is empty, or of a
// version of before, what to do, and makes nothing in it.
func TestNotMigrated(t *testing.T) {
	db := pgtest.Database(t)
	c := connectTo(t, db, "test")
	commands := [][]string{
		{"status"}, {"lanes"}, {"tenants"}, {"partitions", "list", "orders"}, {"pool", "list"}, {"weight"}, {"export"},
		{"documents", "list", "orders", "--tenant", "a"}, {"dead-letters", "list"}, {"migrate", "--check"},
		{"pause", "orders"}, {"resume", "orders"}, {"detach", "orders", "--tenant", "a"}, {"merge", "orders", "--tenant", "a"},
		{"pool", "set", "a", "gold"}, {"pool", "clear", "a"}, {"weight", "a", "2"}, {"rebuild", "start", "orders"}, {"drop", "orders", "--yes"},
		{"dead-letters", "retry", "orders", "--all"}, {"dead-letters", "skip", "1"},
	}
	check := func(state string, want ...string) {
		t.Helper()
		for _, command := range commands {
			for _, json := range []bool{false, true} {
				args := append([]string{}, append(command, "--db", db)...)
				if json {
					args = append(args, "--json")
				}
				r := run(t, nil, args...)
				if r.status != cli.Failed || r.stdout != "" || strings.Count(strings.TrimSpace(r.stderr), "\n") > 0 {
					t.Errorf("%s: %q: exit status %d, want %d and one line on stderr: %s%s", state, command, r.status, cli.Failed, r.stdout, r.stderr)
				}
				for _, w := range want {
					if json {
						w = strings.ReplaceAll(w, `"`, `\"`)
					}
					if !strings.Contains(r.stderr, w) {
						t.Errorf("%s: %q: %s, want %q in it", state, command, r.stderr, w)
					}
				}
				for _, not := range []string{"NoMigrate", "SQLSTATE", ":fairlead@", "does not exist"} {
					if strings.Contains(r.stderr, not) {
						t.Errorf("%s: %q: %s, want nothing of %s", state, command, r.stderr, not)
					}
				}
			}
		}
	}
	objects := func() (n int) {
		if err := c.QueryRow(t.Context(), "SELECT (SELECT count(*) FROM pg_class) + (SELECT count(*) FROM pg_namespace WHERE nspname NOT LIKE 'pg_t%')").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := objects()
	check("empty", `nothing of Fairlead is in schema "fairlead" of `, "make the schema: the commands migrate, import and run do that", "--db", "schema=NAME")
	if n := objects(); n != before {
		t.Errorf("the commands have made %d objects in an empty database", n-before)
	}
	made := object(t, "migrate", "--db", db)
	to, _ := made["to"].(float64)
	if _, err := c.Exec(t.Context(), "DELETE FROM fairlead.migrations WHERE version > 3"); err != nil {
		t.Fatal(err)
	}
	check("old", `schema "fairlead" of `, fmt.Sprintf("has version 3, this program needs %.0f: bring it up to date with a role that owns the schema's tables: the commands migrate, import and run do that", to))
	var version int
	if err := c.QueryRow(t.Context(), "SELECT max(version) FROM fairlead.migrations").Scan(&version); err != nil || version != 3 {
		t.Errorf("version %d after commands that work on what is there, %v, want 3", version, err)
	}
}
