package cli_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/cli"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/postgres"
	"github.com/jackc/pgx/v5"
)

func connectTo(t *testing.T, url, application string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url+"&application_name="+application)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	return c
}

// TestMigrate: a schema that is missing, up to date, older and newer.
func TestMigrate(t *testing.T) {
	t.Run("postgres", func(t *testing.T) {
		db := pgtest.Database(t)
		c := connectTo(t, db, "test")
		if r := run(t, nil, "migrate", "--check", "--db", db); r.status != cli.Failed || !strings.Contains(r.stderr, "has version 0") || !strings.Contains(r.stderr, "migrate") {
			t.Errorf("check of an empty database: exit status %d: %s%s", r.status, r.stdout, r.stderr)
		}
		var there bool
		if err := c.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'fairlead')").Scan(&there); err != nil || there {
			t.Fatalf("check has made the schema: %t, %v", there, err)
		}
		made := object(t, "migrate", "--db", db)
		if got := ok(t, "status", "--db", db); !strings.Contains(got, "\nno processors: ") {
			t.Errorf("status without processors does not say so:\n%s", got)
		}
		to, _ := made["to"].(float64)
		if made["from"] != 0.0 || to < 3 {
			t.Errorf("migrate of an empty database = %v", made)
		}
		if got := object(t, "migrate", "--check", "--db", db); got["from"] != to || got["to"] != to {
			t.Errorf("check after migrate = %v, want version %v", got, to)
		}
		if got := ok(t, "migrate", "--db", db); !strings.Contains(got, "up to date") {
			t.Errorf("migrate twice: %s", got)
		}
		// Older, as far as it says: check sees it.
		exec := func(sql string) {
			t.Helper()
			if _, err := c.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
		exec("CREATE TABLE kept AS TABLE fairlead.migrations; DELETE FROM fairlead.migrations WHERE version = (SELECT max(version) FROM fairlead.migrations)")
		if r := run(t, nil, "migrate", "--check", "--db", db); r.status != cli.Failed || !strings.Contains(r.stderr, "this program needs") {
			t.Errorf("check of an older schema: exit status %d: %s%s", r.status, r.stdout, r.stderr)
		}
		exec("INSERT INTO fairlead.migrations SELECT * FROM kept ON CONFLICT DO NOTHING; INSERT INTO fairlead.migrations(version, name) VALUES (99, 'later')")
		for _, args := range [][]string{{"migrate", "--db", db}, {"migrate", "--check", "--db", db}} {
			if r := run(t, nil, args...); r.status != cli.Failed || !strings.Contains(r.stderr, "newer than this program") || !strings.Contains(r.stderr, "version 99") {
				t.Errorf("%q with a newer schema: exit status %d: %s%s", args, r.status, r.stdout, r.stderr)
			}
		}
	})
	t.Run("postgres in partitions", func(t *testing.T) {
		db := filled(t, pgtest.Database(t), []string{event("acme", "c1", 1, "pen", false), event("other", "c1", 1, "ink", false)})
		if r := run(t, nil, "migrate", "--check", "--tenant-partitions", "4", "--db", db); r.status != cli.Failed || !strings.Contains(r.stderr, "in 0 partitions") {
			t.Errorf("check: exit status %d: %s%s", r.status, r.stdout, r.stderr)
		}
		if got := ok(t, "migrate", "--tenant-partitions", "4", "--db", db); !strings.Contains(got, "events in 4 partitions by tenant\n2 events copied in ") {
			t.Errorf("migrate: %s", got)
		}
		for _, args := range [][]string{{}, {"--tenant-partitions", "4"}, {"--check", "--tenant-partitions", "4"}} {
			if got := object(t, append([]string{"migrate", "--db", db}, args...)...); got["tenant_partitions"] != 4.0 || got["copied"] != nil {
				t.Errorf("%q afterwards: %v", args, got)
			}
		}
		for n, want := range map[string]string{"8": "has 4 partitions", "1": "want 2 to 256"} {
			if r := run(t, nil, "migrate", "--tenant-partitions", n, "--db", db); r.status != cli.Failed || !strings.Contains(r.stderr, want) {
				t.Errorf("%s partitions: exit status %d: %s%s", n, r.status, r.stdout, r.stderr)
			}
		}
		ok(t, "run", "--once", "--db", db)
		made := pgtest.Database(t)
		if got := object(t, "migrate", "--tenant-partitions", "3", "--db", made); got["from"] != 0.0 || got["tenant_partitions"] != 3.0 {
			t.Errorf("migrate of an empty database: %v", got)
		}
	})
	t.Run("sqlite", func(t *testing.T) {
		db := filepath.Join(t.TempDir(), "shop.db")
		if r := run(t, nil, "migrate", "--check", "--db", db); r.status != cli.Failed {
			t.Errorf("check of no file: exit status %d: %s", r.status, r.stdout)
		}
		made := object(t, "migrate", "--db", db)
		if to, _ := made["to"].(float64); made["from"] != 0.0 || to < 1 {
			t.Errorf("migrate = %v", made)
		}
		if got := object(t, "migrate", "--check", "--db", db); got["from"] != made["to"] {
			t.Errorf("check after migrate = %v", got)
		}
		if r := run(t, nil, "migrate", "--tenant-partitions", "4", "--db", db); r.status != cli.Failed || !strings.Contains(r.stderr, "is for PostgreSQL") {
			t.Errorf("partitions in SQLite: exit status %d: %s", r.status, r.stderr)
		}
	})
}

// TestStatusNamesWhoHoldsReadersBack: a transaction that has appended, and not one on
// a table of its own.
func TestStatusNamesWhoHoldsReadersBack(t *testing.T) {
	db := filled(t, pgtest.Database(t), []string{event("acme", "c1", 1, "pen", false)})
	ok(t, "run", "--once", "--db", db)
	log, err := postgres.Open(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	appends := func(stream string) eventlog.StreamAppend {
		return eventlog.StreamAppend{Tenant: "acme", Stream: stream, Events: []eventlog.NewEvent{{Type: "ItemAdded", Data: []byte(`{"name":"pen"}`)}}}
	}
	head := func() float64 {
		heads, _ := object(t, "status", "--db", db)["heads"].([]any)
		return heads[0].(float64)
	}
	begin := func(c *pgx.Conn) pgx.Tx {
		t.Helper()
		tx, err := c.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}

	unrelated := begin(connectTo(t, db, "unrelated"))
	if _, err := unrelated.Exec(t.Context(), "CREATE TABLE mine (x int); INSERT INTO mine VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), appends("c2")); err != nil {
		t.Fatal(err)
	}
	if got := object(t, "status", "--db", db); len(rows(t, got, "holders")) != 0 {
		t.Errorf("holders beside an unrelated transaction: %v, want none", got["holders"])
	}
	if got := head(); got != 2 {
		t.Errorf("the head is at %v beside an unrelated transaction, want 2", got)
	}

	c := connectTo(t, db, "slow-importer")
	slow := begin(c)
	if _, err := log.AppendTx(t.Context(), slow, appends("c3")); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), appends("c4")); err != nil {
		t.Fatal(err)
	}
	var held []map[string]any
	eventually(t, func() string {
		if held = rows(t, object(t, "status", "--db", db), "holders"); len(held) != 1 {
			return "nobody is named"
		}
		return ""
	})
	h := held[0]
	if h["pid"] != float64(c.PgConn().PID()) || h["application"] != "slow-importer" || h["user"] == "" || h["state"] != "idle in transaction" {
		t.Errorf("holder = %v, want pid %d of slow-importer", h, c.PgConn().PID())
	}
	if age, isNumber := h["age_seconds"].(float64); !isNumber || age < 0 || age > 60 {
		t.Errorf("age = %v, want some seconds", h["age_seconds"])
	}
	if since, err := time.Parse(time.RFC3339, h["since"].(string)); err != nil || time.Since(since) > time.Minute {
		t.Errorf("since = %v, %v", h["since"], err)
	}
	if got := ok(t, "status", "--db", db); !strings.Contains(got, "readers wait for 1 open") || !strings.Contains(got, "slow-importer") ||
		!strings.Contains(got, fmt.Sprintf("SELECT pg_terminate_backend(%d)", c.PgConn().PID())) {
		t.Errorf("status says nothing of it:\n%s", got)
	}
	if got := head(); got != 2 {
		t.Errorf("the head is at %v behind the open transaction, want 2", got)
	}
	if err := slow.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}

	// A prepared transaction has no session: its name says what to do.
	prepared := begin(connectTo(t, db, "two-phase"))
	if _, err := log.AppendTx(t.Context(), prepared, appends("c5")); err != nil {
		t.Fatal(err)
	}
	if _, err := prepared.Exec(t.Context(), "PREPARE TRANSACTION 'left over'"); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), appends("c6")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if held = rows(t, object(t, "status", "--db", db), "holders"); len(held) != 1 || held[0]["prepared"] != "left over" {
			return "the prepared transaction is not named"
		}
		return ""
	})
	if got := ok(t, "status", "--db", db); !strings.Contains(got, "ROLLBACK PREPARED") {
		t.Errorf("status does not say what to do:\n%s", got)
	}
	if _, err := c.Exec(t.Context(), "ROLLBACK PREPARED 'left over'"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if got := head(); got < 5 {
			return "the head stays behind"
		}
		return ""
	})
	if held := rows(t, object(t, "status", "--db", db), "holders"); len(held) != 0 {
		t.Errorf("holders = %v, want none", held)
	}
}
