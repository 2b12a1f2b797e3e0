package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
	"github.com/fairlead-dev/fairlead/store"
)

func TestOpenErrors(t *testing.T) {
	base := pgtest.Database(t)
	with := func(change func(u *url.URL)) string {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		return u.String()
	}
	admin := openAt(t, base)
	name := strings.TrimPrefix(mustParse(t, base).Path, "/") // unique on the server
	nobody, latin := name+"_nobody", name+"_latin"
	exec(t, admin.pool, "DROP ROLE IF EXISTS "+nobody)
	exec(t, admin.pool, "CREATE ROLE "+nobody+" LOGIN PASSWORD 'secret'")
	cleanup := func(sql string) {
		t.Cleanup(func() { // before that of openAt
			if _, err := admin.pool.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		})
	}
	cleanup("DROP ROLE " + nobody)
	cleanup("DROP OWNED BY " + nobody)
	exec(t, admin.pool, "CREATE SCHEMA bare")
	exec(t, admin.pool, "CREATE SCHEMA older; CREATE TABLE older.migrations AS VALUES (3); ALTER TABLE older.migrations RENAME column1 TO version")
	exec(t, admin.pool, "GRANT USAGE ON SCHEMA older TO "+nobody+"; GRANT SELECT ON older.migrations TO "+nobody)
	exec(t, admin.pool, "CREATE SCHEMA newer")
	exec(t, admin.pool, "CREATE TABLE newer.migrations(version integer)")
	exec(t, admin.pool, "INSERT INTO newer.migrations VALUES (99)")
	exec(t, admin.pool, "CREATE DATABASE "+latin+" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
	cleanup("DROP DATABASE " + latin)

	for _, tt := range []struct {
		name string
		url  string
		opts Options
		want error
		says string
	}{
		{"no server", with(func(u *url.URL) { u.Host = "127.0.0.1:1" }), Options{}, ErrUnreachable, "127.0.0.1:1"},
		{"no such host", with(func(u *url.URL) { u.Host = "nowhere.invalid:1" }), Options{}, ErrUnreachable, "nowhere.invalid"},
		{"wrong password", with(func(u *url.URL) { u.User = url.UserPassword("fairlead", "wrong") }), Options{}, ErrRefused, "password"},
		{"no such database", with(func(u *url.URL) { u.Path = "/nothing_here" }), Options{}, ErrNoDatabase, "nothing_here"},
		{"no right to make the schema", with(func(u *url.URL) { u.User = url.UserPassword(nobody, "secret") }),
			Options{Schema: "mine"}, ErrRights, fmt.Sprintf("GRANT CREATE ON DATABASE %q TO %q", name, nobody)},
		{"no right to make tables in the schema", with(func(u *url.URL) { u.User = url.UserPassword(nobody, "secret") }),
			Options{Schema: "bare"}, ErrRights, fmt.Sprintf(`run once: GRANT USAGE, CREATE ON SCHEMA "bare" TO %q`, nobody)},
		{"no right to migrate the schema", with(func(u *url.URL) { u.User = url.UserPassword(nobody, "secret") }),
			Options{Schema: "older"}, ErrRights, fmt.Sprintf(`migrate as role "fairlead", which owns the schema, or run once: GRANT "fairlead" TO %q`, nobody)},
		{"no right to use the schema", with(func(u *url.URL) { u.User = url.UserPassword(nobody, "secret") }),
			Options{}, ErrRights, "GRANT"},
		{"not UTF8", with(func(u *url.URL) { u.Path = "/" + latin }), Options{}, ErrEncoding, "LATIN1"},
		{"newer schema", base, Options{Schema: "newer"}, store.ErrNewerSchema, "replace the program by one that is as new"},
		{"not migrated", base, Options{Schema: "other", NoMigrate: true}, ErrOldSchema, "NoMigrate"},
		{"name of the schema", base, Options{Schema: strings.Repeat("x", 64)}, nil, "63 bytes"},
		{"name of the schema that ends a text", base, Options{Schema: "a$$b"}, nil, "has $$"},
		{"name of the schema that is the role", base, Options{Schema: "$user"}, nil, "$user"},
		{"not a URL", "postgres://%zz", Options{}, nil, "parse"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db, err := Open(t.Context(), tt.url, tt.opts)
			if err == nil {
				_ = db.Close()
				t.Fatal("error = nil, want one")
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error = %v, want %v", err, tt.want)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error = %v, want it to say %q", err, tt.says)
			}
			if strings.Contains(err.Error(), ":wrong") || strings.Contains(err.Error(), "secret") {
				t.Errorf("error has the password: %v", err)
			}
		})
	}
}

// TestFit is for servers that are not at hand.
func TestFit(t *testing.T) {
	for _, tt := range []struct {
		version  int
		number   string
		encoding string
		standby  bool
		want     error
	}{
		{120022, "12.22", "UTF8", false, ErrTooOld},
		{90624, "9.6.24", "UTF8", true, ErrTooOld},
		{130000, "13.0", "UTF8", false, nil},
		{180001, "18.1", "UTF8", false, nil},
		{180001, "18.1", "UTF8", true, ErrStandby},
		{180001, "18.1", "SQL_ASCII", false, ErrEncoding},
	} {
		err := fit("db:5432/app", tt.version, tt.number, tt.encoding, tt.standby)
		if !errors.Is(err, tt.want) || tt.want != nil && !strings.Contains(err.Error(), "db:5432/app") {
			t.Errorf("fit(%d, %s, %t) = %v, want %v with the server's name", tt.version, tt.encoding, tt.standby, err, tt.want)
		}
	}
}

func mustParse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestMigrateAtOnce: many open an empty database at once, one migrates.
func TestMigrateAtOnce(t *testing.T) {
	url := pgtest.Database(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			db, err := Open(t.Context(), url, Options{MaxConns: 2})
			if err != nil {
				t.Error(err)
				return
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	db := openAt(t, url)
	if n := value[int](t, db.pool, "SELECT count(*) FROM fairlead.migrations"); n != len(migrations) {
		t.Errorf("%d migrations were applied, want %d", n, len(migrations))
	}
}

// TestMigrationIsWhole: one that fails leaves nothing, those before it stay, and
// a repaired one goes on from there.
func TestMigrationIsWhole(t *testing.T) {
	url := pgtest.Database(t)
	n := len(migrations)
	first := migration{n + 1, "one", "CREATE TABLE {schema}.one(); INSERT INTO {schema}.one DEFAULT VALUES;"}
	bad := migration{n + 2, "two", "CREATE TABLE {schema}.two(); SELECT 1/0;"}
	all := func() []migration { return append(slices.Clone(migrations), first, bad) }
	o := Options{Schema: `odd "schema'`}
	if _, err := open(t.Context(), url, all(), o); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("migration %d (two)", n+2)) {
		t.Fatalf("error = %v, want one that names the migration", err)
	}
	bad.sql = "CREATE TABLE {schema}.two();"
	for range 2 { // the second finds nothing to do
		db, err := open(t.Context(), url, all(), o)
		if err != nil {
			t.Fatal(err)
		}
		if n := value[int](t, db.pool, db.q("SELECT count(*) FROM {schema}.one")); n != 1 {
			t.Errorf("the first migration ran %d times, want 1", n)
		}
		_ = db.Close()
	}
}

// TestPoolsOfAnOldSchema: one of a version without pools gets their table, and
// keeps what it has.
func TestPoolsOfAnOldSchema(t *testing.T) {
	url := pgtest.Database(t)
	drop := openAt(t, url)
	if _, err := drop.pool.Exec(t.Context(), "DROP SCHEMA fairlead CASCADE"); err != nil {
		t.Fatal(err)
	}
	old, err := open(t.Context(), url, migrations[:2])
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Update(t.Context(), func(tx store.Tx) error { return tx.PutWeight("a", 2) }); err != nil {
		t.Fatal(err)
	}
	_ = old.Close()
	db := openAt(t, url)
	err = db.Update(t.Context(), func(tx store.Tx) error {
		if err := tx.PutPool("a", "gold"); err != nil {
			return err
		}
		pools, err := tx.Pools()
		if err != nil {
			return err
		}
		weights, err := tx.Weights()
		if pools["a"] != "gold" || weights["a"] != 2 {
			t.Errorf("pools %v, weights %v", pools, weights)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSequence: what would make readers skip events is found at start.
func TestSequence(t *testing.T) {
	db := openTemp(t)
	mustAppend(t, db, one("s"), one("s"), one("s"))
	name := value[string](t, db.pool, "SELECT pg_get_serial_sequence('fairlead.events', 'position')")
	for _, tt := range []struct{ broken, says, repair string }{
		{"ALTER SEQUENCE " + name + " CACHE 20", "CACHE 1", "ALTER SEQUENCE " + name + " INCREMENT 1 CACHE 1 NO CYCLE"},
		{"ALTER SEQUENCE " + name + " INCREMENT 2", "INCREMENT 1", "ALTER SEQUENCE " + name + " INCREMENT 1 CACHE 1 NO CYCLE"},
		{"SELECT setval('" + name + "', 2)", "SELECT setval('fairlead.events_position_seq', 3)", "SELECT setval('fairlead.events_position_seq', 3)"},
		{"DELETE FROM fairlead.events WHERE position = 3; ALTER SEQUENCE " + name + " RESTART WITH 1", "setval('fairlead.events_position_seq', 3)", "SELECT setval('fairlead.events_position_seq', 3)"},
	} {
		for sql := range strings.SplitSeq(tt.broken, ";") {
			exec(t, db.pool, sql)
		}
		again, err := Open(t.Context(), db.pool.Config().ConnString())
		if err == nil {
			_ = again.Close()
		}
		if !errors.Is(err, ErrSequence) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("after %s: error = %v, want one that says %s", tt.broken, err, tt.says)
		}
		exec(t, db.pool, tt.repair)
		openAt(t, db.pool.Config().ConnString())
	}
}

func TestClosed(t *testing.T) {
	db := openTemp(t)
	waited := make(chan error, 1)
	go func() { waited <- db.Wait(t.Context(), 0, 0) }()
	for db.pool.Stat().AcquireCount() < 5 { // the goroutine looks
		sleep(t.Context(), time.Millisecond)
	}
	for range 2 {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-waited; !errors.Is(err, ErrClosed) {
		t.Errorf("Wait = %v, want ErrClosed", err)
	}
	if _, err := db.Append(t.Context(), one("s")); !errors.Is(err, ErrClosed) {
		t.Errorf("Append = %v, want ErrClosed", err)
	}
	if _, err := db.Read(t.Context(), eventlog.ReadRequest{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Read = %v, want ErrClosed", err)
	}
	if err := db.Wait(t.Context(), 0, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait = %v, want ErrClosed", err)
	}
}

// TestReader: a role that may only read can read, and is told what it may not.
func TestReader(t *testing.T) {
	db := openTemp(t)
	gone, _ := begin(t, db, "gone")
	mustAppend(t, db, one("s"))
	if err := gone.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	u := mustParse(t, db.pool.Config().ConnString())
	role := strings.TrimPrefix(u.Path, "/") + "_reader"
	exec(t, db.pool, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'")
	t.Cleanup(func() {
		for _, sql := range []string{"DROP OWNED BY " + role, "DROP ROLE " + role} {
			if _, err := db.pool.Exec(context.Background(), sql); err != nil {
				t.Error(err)
			}
		}
	})
	exec(t, db.pool, "GRANT USAGE ON SCHEMA fairlead TO "+role)
	exec(t, db.pool, "GRANT SELECT ON ALL TABLES IN SCHEMA fairlead TO "+role)
	u.User = url.UserPassword(role, "secret")
	reader, err := Open(t.Context(), u.String(), Options{NoMigrate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	wantStreams(t, reader, "s") // over a gap
	woken := waiting(t, reader)
	mustAppend(t, db, one("s"))
	if err := <-woken; err != nil {
		t.Errorf("Wait = %v", err)
	}
	if _, err := reader.Append(t.Context(), one("s")); !errors.Is(err, ErrRights) {
		t.Errorf("Append = %v, want ErrRights", err)
	}
}

// TestQueryModes: what the URL says of pgx's protocol modes does no harm.
func TestQueryModes(t *testing.T) {
	u := mustParse(t, migrated(t))
	q := u.Query()
	for i, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		q.Set("default_query_exec_mode", mode)
		u.RawQuery = q.Encode()
		db := openAt(t, u.String())
		mustAppend(t, db, one(fmt.Sprint("s", i)))
		if got := readAllEvents(t, db, eventlog.Filter{Tenants: []string{"a"}}); len(got) != i+1 || got[i].Stream != fmt.Sprint("s", i) {
			t.Errorf("%s: the log has %+v, want %d events", mode, got, i+1)
		}
		if v, err := db.Versions(t.Context(), eventlog.StreamRef{Tenant: "a", Stream: "s0"}); err != nil || v[0] != 1 {
			t.Errorf("%s: Versions = %v, %v, want 1", mode, v, err)
		}
	}
}

// TestConnectionsGone: the server has none left.
func TestConnectionsGone(t *testing.T) {
	db := openTemp(t)
	u := mustParse(t, db.pool.Config().ConnString())
	role := strings.TrimPrefix(u.Path, "/") + "_few"
	exec(t, db.pool, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret' CONNECTION LIMIT 0")
	t.Cleanup(func() {
		if _, err := db.pool.Exec(context.Background(), "DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	u.User = url.UserPassword(role, "secret")
	if _, err := Open(t.Context(), u.String()); !errors.Is(err, ErrConnections) {
		t.Errorf("Open = %v, want ErrConnections", err)
	}
}

// TestMigrateBuilds: a processor of a schema of before has no more to say of its
// builds, and the rest of its row stays.
func TestMigrateBuilds(t *testing.T) {
	url := pgtest.Database(t)
	old, err := open(t.Context(), url, slices.Clone(migrations[:2]), Options{})
	if err != nil {
		t.Fatal(err)
	}
	exec(t, old.pool, `INSERT INTO fairlead.processors (name, kind, collection, partitions, live, last_build, rebuild, rebuild_tenant, retired, cross_tenant, version, paused)
		VALUES ('p', 'projection', 'p', 1, 1, 2, 2, '', '{}', false, 'v1', false)`)
	_ = old.Close()
	db := openAt(t, url)
	want := store.Processor{Name: "p", Kind: "projection", Collection: "p", Partitions: 1, Live: 1, LastBuild: 2, Rebuild: 2, Version: "v1"}
	err = db.Update(t.Context(), func(tx store.Tx) error {
		p, err := tx.Processor("p")
		if p.Retired = nil; err != nil || !reflect.DeepEqual(p, want) {
			t.Errorf("processor = %+v, %v, want %+v", p, err, want)
		}
		p.Builds.Kept.Number = 7
		return tx.PutProcessor(p)
	})
	if n := value[string](t, db.pool, "SELECT builds FROM fairlead.processors"); err != nil || !strings.Contains(n, "7") {
		t.Errorf("builds = %s, %v", n, err)
	}
}
