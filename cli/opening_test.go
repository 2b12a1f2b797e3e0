package cli_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

func TestPostgresURL(t *testing.T) {
	db := pgtest.Database(t)
	u, err := url.Parse(db)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	if r := run(t, nil, "status", "--db", db); r.status != cli.Failed || !strings.Contains(r.stderr, "import and run do that") || strings.Contains(r.stderr, password+"@") {
		t.Errorf("status of a database without a schema: exit status %d: %s", r.status, r.stderr)
	}
	filled(t, db, []string{event("acme", "c1", 1, "pen", false)})
	// Another schema of the same database is another log.
	filled(t, db+"&schema=other%20+", []string{event("acme", "c1", 1, "pen", false), event("acme", "c1", 2, "pen", false)})
	other := filled(t, db+"&schema=other", []string{event("acme", "c1", 1, "pen", false), event("acme", "c1", 2, "pen", false)})
	for name, want := range map[string]float64{db: 1, other: 2, db + "&pooler=true": 1, db + "&options=-c%20geqo%3Doff": 1, other + "%20+": 2} {
		s := object(t, "status", "--db", name)
		if heads, _ := s["heads"].([]any); len(heads) != 1 || heads[0] != want {
			t.Errorf("status of %s: heads %v, want %v", name, s["heads"], want)
		}
		if shown, _ := s["database"].(string); strings.Contains(shown, ":"+password+"@") || !strings.Contains(shown, u.Host) {
			t.Errorf("status shows the database as %q, want it without its password", shown)
		}
	}
	for name, want := range map[string]string{
		db + "&pooler=perhaps":             "neither true nor false",
		"postgres://u:secret%zz@localhost": "percent-encoded",
		"postgres://u:secret@127.0.0.1:1/": "cannot be reached",
	} {
		r := run(t, nil, "status", "--db", name)
		if r.status == cli.OK || !strings.Contains(r.stderr, want) || strings.Contains(r.stderr, "secret") {
			t.Errorf("status of %s: exit status %d: %s, want %q", name, r.status, r.stderr, want)
		}
	}
}
