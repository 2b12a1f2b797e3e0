package sqlite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

const ownTable = "CREATE TABLE IF NOT EXISTS own(id INTEGER PRIMARY KEY, name TEXT UNIQUE, at INTEGER)"

// TestUserSQL: what the user's function does in a commit, and what becomes of it.
func TestUserSQL(t *testing.T) {
	exec := func(queries ...string) func(*Tx) error {
		return func(tx *Tx) error {
			for _, q := range queries {
				if _, err := tx.Exec(q); err != nil {
					return err
				}
			}
			return nil
		}
	}
	ignoring := func(queries ...string) func(*Tx) error { // as a careless user does
		return func(tx *Tx) error {
			for _, q := range queries {
				_, _ = tx.Exec(q)
			}
			return nil
		}
	}
	boom := errors.New("boom")
	insert := "INSERT INTO own(name) VALUES('new')"
	for _, tt := range []struct {
		name string
		f    func(*Tx) error
		want error // nil: it is committed
	}{
		{"insert", exec(insert), nil},
		{"create a table and an index", exec("CREATE TABLE more(a)", "CREATE INDEX more_a ON more(a)", insert), nil},
		{"read the tables of Fairlead", exec("INSERT INTO own(name) SELECT 'new' FROM fairlead_lanes"), nil},
		{"savepoint", exec("SAVEPOINT s", "INSERT INTO own(name) VALUES('undone')", "ROLLBACK TO s", "RELEASE s", insert), nil},
		{"a failed statement that is ignored", ignoring("INSERT INTO own(name) VALUES('old')", insert), nil},
		{"an error", func(tx *Tx) error { return errors.Join(exec(insert)(tx), boom) }, boom},
		{"COMMIT", exec(insert, "COMMIT"), ErrTransaction},
		{"commit; with a comment", exec(insert, "/* */ commit;"), ErrTransaction},
		{"END", exec(insert, "END TRANSACTION"), ErrTransaction},
		{"ROLLBACK", exec(insert, "ROLLBACK"), ErrTransaction},
		{"BEGIN", exec(insert, "BEGIN"), ErrTransaction},
		{"INSERT OR ROLLBACK", exec(insert, "INSERT OR ROLLBACK INTO own(name) VALUES('old')"), nil},
		{"INSERT OR ROLLBACK that is ignored", ignoring(insert, "INSERT OR ROLLBACK INTO own(name) VALUES('old')", "INSERT INTO own(name) VALUES('half done')"), ErrTransaction},
		{"ROLLBACK over the connection", func(tx *Tx) error {
			_, _, err := tx.Conn().PrepareTransient("ROLLBACK")
			return err
		}, nil},
		{"lost, then over the connection", func(tx *Tx) error {
			_, _ = tx.Exec("INSERT OR ROLLBACK INTO own(name) VALUES('old')")
			s, err := tx.Conn().Prepare("INSERT INTO own(name) VALUES('half done')")
			if err == nil {
				_, err = s.Step()
			}
			return err
		}, nil},
		{"write a lane", exec("UPDATE fairlead_lanes SET position = 0"), ErrTransaction},
		{"write a lane, in other letters", exec(`DELETE FROM main."FairLead_Lanes"`), ErrTransaction},
		{"drop the log", exec("DROP TABLE fairlead_events"), ErrTransaction},
		{"trigger on the documents", exec("CREATE TRIGGER x AFTER INSERT ON fairlead_documents BEGIN DELETE FROM own; END"), ErrTransaction},
		{"trigger that writes a lane", exec("CREATE TRIGGER x AFTER INSERT ON own BEGIN UPDATE fairlead_lanes SET position = 0; END", insert), ErrTransaction},
		{"drop a view", exec("DROP VIEW log"), ErrTransaction},
		{"set the version", exec("PRAGMA user_version = 77"), ErrTransaction},
		{"attach", exec("ATTACH ':memory:' AS m"), ErrTransaction},
		{"wrong SQL", exec("SELEKT 1"), nil},
		{"wrong number of arguments", func(tx *Tx) error { _, err := tx.Exec("INSERT INTO own(name) VALUES(?)"); return err }, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			db := openTemp(t)
			setup(t, db)
			sql(t, db.path, ownTable, "INSERT INTO own(name) VALUES('old')")
			c := next(t, db, "1", `{}`)
			c.SQL = func(_ context.Context, tx any) error { return tt.f(tx.(*Tx)) }
			committed := tt.want == nil && slices.Contains([]string{"insert", "create a table and an index", "read the tables of Fairlead", "savepoint", "a failed statement that is ignored"}, tt.name)
			names := "old"
			if committed {
				if err := db.Commit(t.Context(), c); err != nil {
					t.Fatalf("Commit = %v", err)
				}
				names = "old new"
			} else {
				err := checkUnchanged(t, db, func() error { return db.Commit(t.Context(), c) })
				if _, ok := errors.AsType[*store.UserError](err); !ok || (tt.want != nil && !errors.Is(err, tt.want)) {
					t.Errorf("error = %v, want a UserError with %v", err, tt.want)
				}
			}
			if got := strings.Join(sql(t, db.path, "SELECT name FROM own ORDER BY id"), " "); got != names {
				t.Errorf("own table has %q, want %q", got, names)
			}
			// And the store goes on.
			if err := db.Commit(t.Context(), next(t, db, "2", `{}`)); err != nil {
				t.Errorf("the next commit = %v", err)
			}
			integrity(t, db.path)
		})
	}
}

func TestUserSQLValues(t *testing.T) {
	db := openTemp(t)
	setup(t, db)
	at := time.Unix(1700000000, 123).UTC()
	var kept *Tx
	c := next(t, db, "1", `{}`)
	c.SQL = func(_ context.Context, tx any) error {
		kept = tx.(*Tx)
		if _, err := kept.Exec("CREATE TABLE v(a, b, c, d, e, f, g)"); err != nil {
			return err
		}
		n, err := kept.Exec("INSERT INTO v VALUES(?, ?, ?, ?, ?, ?, ?)", nil, true, 7, 1.5, "t", []byte("b\x00"), at)
		if err != nil || n != 1 {
			return fmt.Errorf("insert changed %d rows: %w", n, err)
		}
		if _, err := kept.Exec("INSERT INTO v(a) VALUES(?)", struct{}{}); err == nil {
			return errors.New("a struct as an argument is fine, want an error")
		}
		rows := 0
		err = kept.Query("SELECT a, b, c, d, e, f, g FROM v WHERE e = ?", func(r *Row) error {
			rows++
			if r.Len() != 7 || !r.IsNull(0) || r.Int64(1) != 1 || r.Int64(2) != 7 || r.Float64(3) != 1.5 || r.Text(4) != "t" ||
				string(r.Bytes(5)) != "b\x00" || r.Int64(6) != at.UnixNano() {
				return errors.New("values came back as others")
			}
			return nil
		}, "t")
		if rows != 1 {
			return fmt.Errorf("%d rows, want 1: %w", rows, err)
		}
		enough := errors.New("enough")
		if err := kept.Query("SELECT 1 UNION SELECT 2", func(*Row) error { return enough }); !errors.Is(err, enough) {
			return fmt.Errorf("Query = %w, want the error of its function", err)
		}
		return err
	}
	if err := db.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Exec("INSERT INTO v(a) VALUES(1)"); err == nil {
		t.Error("Exec after the commit = nil, want an error")
	}
	if got := sql(t, db.path, "SELECT count(*) FROM v"); got[0] != "1" {
		t.Errorf("%s rows, want 1", got[0])
	}
}

func TestPanicsRollBack(t *testing.T) {
	db := openTemp(t)
	setup(t, db)
	for name, f := range map[string]func() error{
		"Commit.SQL": func() error {
			c := next(t, db, "1", `{}`)
			c.SQL = func(_ context.Context, tx any) error {
				if _, err := tx.(*Tx).Exec(ownTable); err != nil {
					return err
				}
				panic("boom")
			}
			return db.Commit(t.Context(), c)
		},
		"Update": func() error {
			return db.Update(t.Context(), func(tx store.Tx) error {
				if err := tx.DeleteLane(testLane); err != nil {
					return err
				}
				panic("boom")
			})
		},
		"View": func() error {
			return db.View(t.Context(), func(tx store.Tx) error { panic("boom") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			checkUnchanged(t, db, func() (err error) { //nolint:errcheck // the panic is caught here
				defer func() {
					if r := recover(); r != "boom" {
						t.Errorf("panic = %v, want boom", r)
					}
					err = errors.New("panicked")
				}()
				return f()
			})
			if err := db.Commit(t.Context(), next(t, db, "1", `{}`)); err != nil {
				t.Errorf("the next commit = %v", err)
			}
		})
	}
}

// TestInterrupted: a context that ends in the middle of a statement ends it.
func TestInterrupted(t *testing.T) {
	db := openTemp(t)
	setup(t, db)
	const forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	c := next(t, db, "1", `{}`)
	c.SQL = func(_ context.Context, tx any) error {
		return tx.(*Tx).Query(forever, func(*Row) error { return nil })
	}
	start := time.Now()
	err := checkUnchanged(t, db, func() error { return db.Commit(ctx, c) })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want %v", err, context.DeadlineExceeded)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	// A function that does not look at its context: nothing is committed.
	late, cancelLate := context.WithCancel(t.Context())
	c.SQL = func(context.Context, any) error { cancelLate(); return nil }
	err = checkUnchanged(t, db, func() error { return db.Commit(late, c) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
	c.SQL = nil
	if err := db.Commit(t.Context(), c); err != nil {
		t.Errorf("the next commit = %v", err)
	}
}

// TestViews are the two views for people.
func TestViews(t *testing.T) {
	db := openTemp(t)
	setup(t, db)
	mustAppend(t, db, eventlog.StreamAppend{Tenant: "O'Neil é", Stream: "s/1", Events: []eventlog.NewEvent{
		{Type: "Paid", OccurredAt: time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC), Data: []byte(`{"amount":42}`), Metadata: event.Metadata{"k": "v"}},
		{ID: "mine", Type: "Sent"},
	}})
	got := sql(t, db.path, `SELECT position || '|' || id || '|' || tenant || '|' || stream || '|' || version || '|' || type || '|' || occurred_at || '|' ||
		json_extract(metadata, '$.k') || '|' || json_extract(data, '$.amount') FROM log WHERE position = 1`)
	want := "1|" + event.DerivedID("O'Neil é", "s/1", 1) + "|O'Neil é|s/1|1|Paid|2024-02-29T12:00:00.000Z|v|42"
	if len(got) != 1 || got[0] != want {
		t.Errorf("log = %q, want %q", got, want)
	}
	if got := sql(t, db.path, "SELECT id FROM log WHERE type = 'Sent' AND recorded_at > '2020'"); len(got) != 1 || got[0] != "mine" {
		t.Errorf("log of type Sent = %q, want mine", got)
	}
	c := next(t, db, "d1", `{"total":7}`)
	c.Writes[0].Version, c.Writes[0].Position = 3, 9
	if err := db.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	got = sql(t, db.path, `SELECT collection || '|' || tenant || '|' || id || '|' || version || '|' || position || '|' || json_extract(doc, '$.total') FROM read_model`)
	if want := "c|a|d1|3|9|7"; len(got) != 1 || got[0] != want {
		t.Errorf("read_model = %q, want %q", got, want)
	}
	// Another build is not served.
	err := db.Update(t.Context(), func(tx store.Tx) error {
		p, err := tx.Processor("p")
		if err != nil {
			return err
		}
		p.Live = 2
		return tx.PutProcessor(p)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := sql(t, db.path, "SELECT count(*) FROM read_model"); got[0] != "0" {
		t.Errorf("read_model has %s rows of a build that is not live", got[0])
	}
}

// TestRevisionOfOthers: it shows what another process has written.
func TestRevisionOfOthers(t *testing.T) {
	a := openTemp(t)
	b := openAt(t, a.path)
	setup(t, a)
	before, err := b.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Update(t.Context(), func(tx store.Tx) error { return tx.PutWeight("a", 2) }); err != nil {
		t.Fatal(err)
	}
	if after, err := b.Revision(t.Context()); err != nil || after <= before {
		t.Errorf("revision = %d, %v, want above %d", after, err, before)
	}
}

// A handle remembers the rows of documents. Another one may delete them
// meanwhile, or give their numbers to others.
func TestRowsRememberedAreCompared(t *testing.T) {
	a := openTemp(t)
	setup(t, a)
	b := openAt(t, a.path)
	commit := func(db *DB, id, doc string) {
		t.Helper()
		if err := db.Commit(t.Context(), next(t, db, id, doc)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want ...string) {
		t.Helper()
		got := sql(t, a.path, "SELECT group_concat(id || '=' || doc, ' ') FROM (SELECT id, doc FROM fairlead_documents ORDER BY id)")
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Fatalf("documents are %q, want %q", got, want)
		}
	}
	commit(a, "x", "1")
	commit(a, "x", "2") // by its number
	check("x=2")
	remove := func() {
		t.Helper()
		err := b.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.DeleteDocuments(testLane.Build, "a", 0)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	remove()
	check("")
	commit(b, "y", "1") // in the row that x had
	commit(a, "x", "3")
	check("x=3 y=1")
	commit(a, "x", "4")
	commit(b, "y", "2")
	check("x=4 y=2")

	// What was rolled back has a number too.
	c := next(t, a, "z", "1")
	c.SQL = func(context.Context, any) error { return errors.New("told to fail") }
	if err := a.Commit(t.Context(), c); err == nil {
		t.Fatal("a commit whose SQL fails = nil")
	}
	commit(b, "w", "1") // in the row that z would have had
	commit(a, "z", "2")
	check("w=1 x=4 y=2 z=2")
	if n, known := a.docNos.get(docKey{1, 1, "z"}); !known || n == 0 {
		t.Errorf("the row of a document that was written is not remembered: %d, %t", n, known)
	}
}

// While a large commit waits for the writer, or has it, others that are large wait
// for that one; what is small passes them.
func TestLargeCommitsQueueUp(t *testing.T) {
	db := openTemp(t)
	setup(t, db)
	many := func() *store.Commit {
		c := next(t, db, "one", "{}")
		for i := range largeWrites {
			c.Writes = append(c.Writes, store.Write{Document: store.Document{Key: store.Key{Tenant: "a", ID: fmt.Sprint("d", i)}, Data: []byte("{}")}})
		}
		return c
	}
	long := func() *store.Commit { return next(t, db, "long", `"`+strings.Repeat("x", largeBytes)+`"`) }
	db.large <- struct{}{} // one is on its way
	for _, c := range []*store.Commit{many(), long()} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := db.Commit(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second large commit = %v, want it to wait until its context ends", err)
		}
		cancel()
	}
	if err := db.Commit(t.Context(), next(t, db, "small", "{}")); err != nil {
		t.Errorf("a small commit beside a large one: %v", err)
	}
	mustAppend(t, db, one("a", "s", 1))
	<-db.large
	for _, c := range []func() *store.Commit{many, long, many} {
		if err := db.Commit(t.Context(), c()); err != nil {
			t.Errorf("a large commit once the other has ended: %v", err)
		}
	}
	c := many()
	c.Fence.Epoch++
	if err := db.Commit(t.Context(), c); !errors.Is(err, store.ErrFenced) {
		t.Errorf("a large commit under another epoch = %v, want it fenced", err)
	}
	if len(db.large) > 0 {
		t.Error("a large commit that was refused is still in the way")
	}
}
