package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
	zs "zombiezen.com/go/sqlite"
)

// next0 is a commit for a database that is not asked where the lane is.
func next0() *store.Commit { return &store.Commit{Lane: testLane, Position: 1} }

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := filepath.Join(dir, "foreign.db")
	sql(t, foreign, "CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
	marked := filepath.Join(dir, "marked.db")
	sql(t, marked, "PRAGMA application_id = 1234")
	newer := filepath.Join(dir, "newer.db")
	if err := openAt(t, newer).Close(); err != nil {
		t.Fatal(err)
	}
	sql(t, newer, fmt.Sprintf("PRAGMA user_version = %d", len(migrations)+1))

	for _, tt := range []struct {
		name, path string
		opts       []Options
		want       error // nil: any
	}{
		{"text", write("text", []byte(strings.Repeat("this is no database\n", 500))), nil, ErrNotFairlead},
		{"a short file", write("short", []byte("short")), nil, ErrNotFairlead},
		{"a database of another program", foreign, nil, ErrNotFairlead},
		{"... with an application id", marked, nil, ErrNotFairlead},
		{"... for reading", foreign, []Options{{ReadOnly: true}}, ErrNotFairlead},
		{"newer", newer, nil, store.ErrNewerSchema},
		{"newer, for reading", newer, []Options{{ReadOnly: true}}, store.ErrNewerSchema},
		{"a directory", dir, nil, ErrCannotOpen},
		{"no such directory", filepath.Join(dir, "no", "such.db"), nil, ErrCannotOpen},
		{"no such file, for reading", filepath.Join(dir, "none.db"), []Options{{ReadOnly: true}}, ErrCannotOpen},
		{"no name", "", nil, nil},
		{"in memory", ":memory:", nil, nil},
		{"two Options", filepath.Join(dir, "two.db"), []Options{{}, {}}, nil},
		{"options that are negative", filepath.Join(dir, "negative.db"), []Options{{LockWait: -1, Readers: -1}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, _ := os.ReadFile(tt.path)
			db, err := Open(tt.path, tt.opts...)
			if err == nil {
				_ = db.Close()
				t.Fatal("Open = nil, want an error")
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("Open = %v, want %v", err, tt.want)
			}
			if tt.want != nil && !strings.Contains(err.Error(), tt.path) {
				t.Errorf("%q does not name the file", err)
			}
			if after, _ := os.ReadFile(tt.path); !bytes.Equal(after, before) {
				t.Errorf("the file was changed: %d bytes, were %d", len(after), len(before))
			}
			for _, extra := range []string{"-wal", "-shm", "-journal"} {
				if extra == "-shm" && errors.Is(tt.want, store.ErrNewerSchema) {
					continue // SQLite's own, beside a file in WAL mode; a reader leaves it
				}
				if fileSize(tt.path+extra) > 0 {
					t.Errorf("%s was left behind", tt.path+extra)
				}
			}
		})
	}
	if fileSize(filepath.Join(dir, "none.db")) >= 0 {
		t.Error("opening for reading has made a file")
	}
}

// TestOddPaths: a path is not a URI and not a pattern.
func TestOddPaths(t *testing.T) {
	for _, name := range []string{"a b.db", "100%.db", "what?mode=ro.db", "a#b.db", "file:x.db", "é'\".db", "%41.db"} {
		path := filepath.Join(t.TempDir(), name)
		db := openAt(t, path)
		mustAppend(t, db, one("a", "s", 1))
		if fileSize(path) <= 0 {
			t.Errorf("no file at %s", path)
		}
	}
}

// TestMigrate runs migrations that do not exist yet on a file of today.
func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	n := len(migrations)
	before, err := open(path, migrations)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, before, one("a", "s", 3))
	if err := before.Close(); err != nil {
		t.Fatal(err)
	}
	version := func() string { return sql(t, path, "PRAGMA user_version")[0] }

	broken := append(migrations[:n:n], migration{"breaks", "CREATE TABLE half(a); CREATE TABLE fairlead_events(again);"})
	if _, err := open(path, broken); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("version %d (breaks)", n+1)) {
		t.Errorf("open with a broken migration = %v, want an error that names it", err)
	}
	if got := sql(t, path, "SELECT count(*) FROM sqlite_schema WHERE name = 'half'"); got[0] != "0" || version() != strconv.Itoa(n) {
		t.Errorf("after a broken migration: %s tables of it, version %s, want 0 and %d", got[0], version(), n)
	}

	more := append(migrations[:n:n],
		migration{"color", "ALTER TABLE fairlead_types ADD COLUMN color TEXT; UPDATE fairlead_types SET color = 'red';"},
		migration{"index", "CREATE INDEX fairlead_types_color ON fairlead_types(color);"})
	if _, err := open(path, more, Options{ReadOnly: true}); err == nil {
		t.Error("an old file was opened for reading by a newer program, want an error")
	}
	after, err := open(path, more)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, after, one("a", "s", 1))
	if got := len(checkLog(t, after)); got != 4 || version() != strconv.Itoa(n+2) {
		t.Errorf("after the migration: %d events, version %s, want 4 and %d", got, version(), n+2)
	}
	if got := sql(t, path, "SELECT color FROM fairlead_types"); len(got) != 1 || got[0] != "red" {
		t.Errorf("colors = %q, want red", got)
	}
	if err := after.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := open(path, migrations); !errors.Is(err, store.ErrNewerSchema) {
		t.Errorf("the old program opens the new file: %v, want %v", err, store.ErrNewerSchema)
	}
}

func TestOpenAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	errs := make(chan error)
	const n = 8
	for range n {
		go func() {
			db, err := Open(path)
			if err == nil {
				_, err = db.Append(context.Background(), one("a", "s", 1))
				err = errors.Join(err, db.Close())
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Errorf("Open = %v", err)
		}
	}
	if got := len(checkLog(t, openAt(t, path))); got != n {
		t.Errorf("%d events, want %d", got, n)
	}
}

func TestDiskFull(t *testing.T) {
	for _, tt := range []struct {
		name string
		f    func(*DB) error
	}{
		{"append", func(db *DB) error {
			a := one("a", "s", 1)
			a.Events[0].Data = bytes.Repeat([]byte("x"), 1<<20)
			_, err := db.Append(context.Background(), a)
			return err
		}},
		{"many appends", func(db *DB) error {
			for {
				if _, err := db.Append(context.Background(), one("b", "s", 10)); err != nil {
					return err
				}
			}
		}},
		{"commit", func(db *DB) error {
			c := next0()
			for i := range 1000 {
				c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: store.Key{Tenant: "a", ID: fmt.Sprint(i)}, Data: make([]byte, 1000)}})
			}
			return db.Commit(context.Background(), c)
		}},
		{"update", func(db *DB) error {
			return db.Update(context.Background(), func(tx store.Tx) error {
				for i := range 100_000 {
					if err := tx.PutWeight(fmt.Sprint(i), 2); err != nil {
						return err
					}
				}
				return nil
			})
		}},
		{"the user's SQL", func(db *DB) error {
			c := next0()
			c.SQL = func(_ context.Context, tx any) error {
				_, err := tx.(*Tx).Exec("CREATE TABLE big AS SELECT zeroblob(1000000)")
				return err
			}
			return db.Commit(context.Background(), c)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db := openTemp(t)
			setup(t, db)
			mustAppend(t, db, one("a", "s", 1))
			limitPages(t, db, 80)
			err := tt.f(db)
			user, _ := errors.AsType[*store.UserError](err)
			if !errors.Is(err, ErrFull) && (user == nil || zs.ErrCode(user.Err).ToPrimary() != zs.ResultFull) {
				t.Fatalf("error = %v, want %v", err, ErrFull)
			}
			if got := laneNow(t, db).Position; got != 0 {
				t.Errorf("the lane is at %v, want 0 as before", got)
			}
			checkLog(t, db)
			limitPages(t, db, 1<<20) // somebody has made room
			mustAppend(t, db, one("a", "s", 1))
			if err := db.Commit(t.Context(), next(t, db, "1", `{}`)); err != nil {
				t.Errorf("the next commit = %v", err)
			}
			checkLog(t, db)
			integrity(t, db.path)
		})
	}
}

// childFill appends until its file may not grow: the system's own refusal, not
// SQLite's.
func childFill() error {
	signal.Ignore(syscall.SIGXFSZ)
	db, err := Open(os.Getenv(fileVariable))
	if err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 2 << 20, Max: 1 << 40}); err != nil {
		return err
	}
	for {
		token, err := db.Append(context.Background(), one("a", "s", 100))
		if err != nil {
			if !errors.Is(err, ErrFull) && !errors.Is(err, ErrIO) {
				return fmt.Errorf("append at the limit = %w, want %w or %w", err, ErrFull, ErrIO)
			}
			break
		}
		fmt.Println(int64(token.Position))
	}
	// Then there is room again, in the same process.
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 30, Max: 1 << 40}); err != nil {
		return err
	}
	token, err := db.Append(context.Background(), one("a", "s", 100))
	if err != nil {
		return fmt.Errorf("append with room again: %w", err)
	}
	fmt.Println(int64(token.Position))
	return db.Close()
}

func TestFileSizeLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	c := startChild(t, "fill", path, "")
	last := ""
	for c.out.Scan() {
		last = c.out.Text()
	}
	c.done(t)
	integrity(t, path)
	if got := fmt.Sprint(len(checkLog(t, openAt(t, path)))); got != last {
		t.Errorf("the log has %s events, %s were acknowledged", got, last)
	}
}

// childNobody is a user without rights on the file.
func childNobody() error {
	path := os.Getenv(fileVariable)
	if db, err := Open(path); err == nil {
		_ = db.Close()
		return errors.New("Open for writing = nil, want an error")
	} else if !errors.Is(err, ErrReadOnly) && !errors.Is(err, ErrCannotOpen) {
		return fmt.Errorf("Open = %w, want %w", err, ErrReadOnly)
	}
	db, err := Open(path, Options{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("Open for reading: %w", err)
	}
	defer db.Close()
	events, err := readFrom(context.Background(), db, eventlog.Filter{})
	if err != nil || len(events) != 3 {
		return fmt.Errorf("%d events, want 3: %w", len(events), err)
	}
	if _, err := db.Append(context.Background(), one("a", "s", 1)); !errors.Is(err, ErrReadOnly) {
		return fmt.Errorf("Append = %w, want %w", err, ErrReadOnly)
	}
	if err := db.Commit(context.Background(), next0()); !errors.Is(err, ErrReadOnly) {
		return fmt.Errorf("Commit = %w, want %w", err, ErrReadOnly)
	}
	return nil
}

// TestReadOnlyFile: neither file nor directory can be written. Root can write
// everything, so another user tries.
func TestReadOnlyFile(t *testing.T) {
	dir, err := os.MkdirTemp("", "fairlead") //nolint:usetesting // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755); _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "test.db")
	db := openAt(t, path)
	mustAppend(t, db, one("a", "s", 3))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "program.test") // the test's own may be where only root can go
	if err := os.WriteFile(copied, program, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(path, 0o444), os.Chmod(dir, 0o555)); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, "nobody", path, "", func(c *exec.Cmd) {
		c.Path, c.Dir = copied, dir
		if os.Getuid() == 0 {
			c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		}
	})
	c.done(t)
}

// TestReadOnlyBesideAWriter is the command line that looks at the database of a
// program that runs.
func TestReadOnlyBesideAWriter(t *testing.T) {
	db := openTemp(t)
	setup(t, db)
	mustAppend(t, db, one("a", "s", 3))
	look := openAt(t, db.path, Options{ReadOnly: true})
	mustAppend(t, db, one("a", "s", 2))
	if got := len(checkLog(t, look)); got != 5 {
		t.Errorf("the reader sees %d events, want 5", got)
	}
	if _, err := look.Append(t.Context(), one("a", "s", 1)); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Append = %v, want %v", err, ErrReadOnly)
	}
	if err := look.Update(t.Context(), func(store.Tx) error { return nil }); !errors.Is(err, ErrReadOnly) {
		t.Errorf("Update = %v, want %v", err, ErrReadOnly)
	}
}

// TestDamaged: what is not as it was written is an error, not other contents.
func TestDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	db := openAt(t, path)
	for range 50 {
		mustAppend(t, db, one("a", "s", 100))
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 40 * 4096; i < len(b); i++ { // all pages behind the first 40
		b[i] = 0xa5
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	db = openAt(t, path)
	if _, err := readFrom(t.Context(), db, eventlog.Filter{}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Read = %v, want %v", err, ErrCorrupt)
	}
}

// TestMigrateBuilds: a processor of a file of before has no more to say of its
// builds, and the rest of its row stays.
func TestMigrateBuilds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	old, err := open(path, migrations[:2])
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	sql(t, path, `INSERT INTO fairlead_processors(name, kind, collection, partitions, live, last_build, rebuild, rebuild_tenant, retired, cross_tenant, version, paused)
		VALUES('p', 'projection', 'p', 1, 1, 2, 2, '', '[]', 0, 'v1', 0)`)
	db, err := open(path, migrations)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	want := store.Processor{Name: "p", Kind: "projection", Collection: "p", Partitions: 1, Live: 1, LastBuild: 2, Rebuild: 2, Version: "v1"}
	err = db.View(t.Context(), func(tx store.Tx) error {
		p, err := tx.Processor("p")
		if p.Retired = nil; !reflect.DeepEqual(p, want) {
			t.Errorf("processor = %+v, want %+v", p, want)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
