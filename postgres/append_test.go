package postgres

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// inTx is a way to append inside the caller's transaction.
type inTx struct {
	exec     func(sql string) error
	append   func(appends ...eventlog.StreamAppend) (eventlog.Token, error)
	commit   func() error
	rollback func() error
}

func bothTx(t *testing.T, db *DB) map[string]func() inTx {
	c := connect(t, db)
	std := stdlib.OpenDB(*db.pool.Config().ConnConfig)
	t.Cleanup(func() { _ = std.Close() })
	return map[string]func() inTx{
		"pgx": func() inTx {
			tx, err := c.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return inTx{
				func(s string) error { _, err := tx.Exec(t.Context(), s); return err },
				func(as ...eventlog.StreamAppend) (eventlog.Token, error) { return db.AppendTx(t.Context(), tx, as...) },
				func() error { return tx.Commit(t.Context()) },
				func() error { return tx.Rollback(t.Context()) },
			}
		},
		"database/sql": func() inTx {
			tx, err := std.BeginTx(t.Context(), &sql.TxOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return inTx{
				func(s string) error { _, err := tx.ExecContext(t.Context(), s); return err },
				func(as ...eventlog.StreamAppend) (eventlog.Token, error) { return db.AppendSQL(t.Context(), tx, as...) },
				tx.Commit, tx.Rollback,
			}
		},
	}
}

// TestAppendInTransaction: the caller's rows and events come together or not at
// all; a refusal leaves the transaction as it was; and whichever way an event
// comes in, it is the same event.
func TestAppendInTransaction(t *testing.T) {
	db := openTemp(t)
	exec(t, db.pool, "CREATE TABLE account(id text, balance int)")
	at := time.Date(2024, 2, 29, 23, 59, 59, 123456000, time.UTC)
	odd := []eventlog.NewEvent{
		{ID: `odd "id" \ {,} `, Type: `T"\{}`, OccurredAt: at, Metadata: event.Metadata{`k"\`: "v,{}", "nul": "\x00"}, Data: []byte(`{"a": "\\ \" {} \u0000"}`)},
		{Type: "NULL", OccurredAt: time.Date(1, 1, 1, 12, 0, 0, 0, time.UTC), Data: []byte{}},
		{Type: "null", OccurredAt: time.Date(9999, 12, 31, 23, 59, 59, 999_999_000, time.UTC), Data: []byte{0, 0xff, '\\', '"'}},
		{Type: "T", Metadata: event.Metadata{"invalid": "\xff"}},
	}
	var last string
	for name, begin := range bothTx(t, db) {
		t.Run(name, func(t *testing.T) {
			a := eventlog.StreamAppend{Tenant: `o'Neil "&" \`, Stream: name, Events: append([]eventlog.NewEvent(nil), odd...)}
			a.Events[0].ID += name

			tx := begin()
			if err := tx.exec("INSERT INTO account VALUES ('" + name + "', 1)"); err != nil {
				t.Fatal(err)
			}
			if _, err := tx.append(a, one(name+"2")); err != nil {
				t.Fatal(err)
			}
			if err := tx.rollback(); err != nil {
				t.Fatal(err)
			}
			if n := value[int](t, db.pool, "SELECT count(*) FROM account WHERE id = $1", name); n != 0 {
				t.Errorf("%d rows after a rollback, want 0", n)
			}

			tx = begin()
			if err := tx.exec("INSERT INTO account VALUES ('" + name + "', 2)"); err != nil {
				t.Fatal(err)
			}
			token, err := tx.append(a, one(name+"2"))
			if err != nil {
				t.Fatal(err)
			}
			// Refusals, each of which leaves the transaction usable.
			b := one(name + "2")
			b.Expected = eventlog.NoStream()
			if _, err := tx.append(b); !errors.Is(err, eventlog.ErrConflict) {
				t.Errorf("error = %v, want a conflict with what the transaction has appended itself", err)
			}
			b.Expected, b.Stream, b.Events[0].ID = eventlog.AnyVersion(), name+"3", a.Events[0].ID
			if _, err := tx.append(b); !errors.Is(err, eventlog.ErrDuplicate) {
				t.Errorf("error = %v, want a duplicate", err)
			}
			b.Events[0].ID = event.DerivedID("a", name+"3", 7)
			if _, err := tx.append(b); !errors.Is(err, event.ErrInvalidName) {
				t.Errorf("error = %v, want a reserved id", err)
			}
			again, err := tx.append(a)
			if err != nil || again.Position > token.Position {
				t.Errorf("repeated in the transaction = %+v, %v, want at most %+v", again, err, token)
			}
			if err := tx.commit(); err != nil {
				t.Fatal(err)
			}
			if n := value[int](t, db.pool, "SELECT count(*) FROM account WHERE id = $1", name); n != 1 {
				t.Errorf("%d rows after the commit, want 1", n)
			}
			if v, err := db.Versions(t.Context(), eventlog.StreamRef{Tenant: "a", Stream: name + "3"}); err != nil || v[0] != 0 {
				t.Errorf("version of a stream that was refused = %v, %v, want 0", v, err)
			}
			if n := value[int](t, db.pool, db.q("SELECT count(*) FROM {schema}.streams WHERE stream = $1"), name+"3"); n != 0 {
				t.Error("a refusal has left the row of a stream")
			}
			got, err := db.ReadStream(t.Context(), eventlog.StreamRef{Tenant: a.Tenant, Stream: name}, 0, 10)
			if err != nil || len(got) != len(odd) {
				t.Fatalf("ReadStream = %+v, %v", got, err)
			}
			for i, e := range got {
				want := a.Events[i]
				if e.Type != want.Type || !bytes.Equal(e.Data, want.Data) || (!want.OccurredAt.IsZero() && !e.OccurredAt.Equal(want.OccurredAt)) ||
					fmt.Sprint(e.Metadata) != fmt.Sprint(want.Metadata) || (want.ID != "" && e.ID != want.ID) {
					t.Errorf("event %d came back as %+v, want %+v", i, e, want)
				}
			}
			if token.Position <= got[len(got)-1].Position-1 {
				t.Errorf("token = %+v, want it to cover %v", token, got[len(got)-1].Position)
			}
			if last != "" {
				eventually := readAllEvents(t, db, eventlog.Filter{})
				if len(eventually) != 2*(len(odd)+1) {
					t.Errorf("the log has %d events, want %d", len(eventually), 2*(len(odd)+1))
				}
			}
			last = name
		})
	}
}

// TestLostRaces: what a transaction of the caller's has lost it is told; Append
// runs again by itself.
func TestLostRaces(t *testing.T) {
	db := openTemp(t)
	mustAppend(t, db, one("s"))

	t.Run("snapshot is too old", func(t *testing.T) {
		tx, err := connect(t, db).BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			t.Fatal(err)
		}
		exec(t, tx, "SELECT 1")
		mustAppend(t, db, one("s"))
		if _, err := db.AppendTx(t.Context(), tx, one("s")); !errors.Is(err, ErrRetry) {
			t.Errorf("error = %v, want ErrRetry", err)
		}
		_ = tx.Rollback(t.Context())
	})

	t.Run("deadlock", func(t *testing.T) {
		tx, _ := begin(t, db, "2")
		waited := make(chan error, 1)
		go func() {
			_, err := db.Append(t.Context(), one("2"), one("1")) // locks 1, waits for 2
			waited <- err
		}()
		for value[int](t, db.pool, "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'") == 0 {
			sleep(t.Context(), time.Millisecond)
		}
		_, err := db.AppendTx(t.Context(), tx, one("1"))
		if err != nil && !errors.Is(err, ErrRetry) {
			t.Errorf("error = %v, want nil or ErrRetry", err)
		}
		if err == nil {
			err = tx.Commit(t.Context())
		} else {
			err = tx.Rollback(t.Context())
		}
		if err != nil {
			t.Error(err)
		}
		if err := <-waited; err != nil {
			t.Errorf("Append = %v, want it to be run again", err)
		}
	})

	t.Run("ids", func(t *testing.T) {
		var wg sync.WaitGroup
		var stored, refused atomic.Int64
		const writers, ids = 8, 40
		for w := range writers {
			wg.Go(func() {
				for i := range ids {
					a := one(fmt.Sprint("w", w))
					a.Events[0].ID = fmt.Sprint("id", i)
					_, err := db.Append(t.Context(), a)
					switch {
					case err == nil:
						stored.Add(1)
					case errors.Is(err, eventlog.ErrDuplicate):
						refused.Add(1)
					default:
						t.Errorf("Append = %v, want nil or a duplicate", err)
					}
				}
			})
		}
		wg.Wait()
		if stored.Load() != ids || refused.Load() != (writers-1)*ids {
			t.Errorf("%d were stored and %d refused, want %d and %d", stored.Load(), refused.Load(), ids, (writers-1)*ids)
		}
	})
}

// TestNoDeadlocks: appends over the same streams, named in any order, new ones
// among them, wait for one another and never crosswise.
func TestNoDeadlocks(t *testing.T) {
	db := openTemp(t)
	var wg sync.WaitGroup
	for w := range 8 {
		c := connect(t, db)
		wg.Go(func() {
			for i := range 30 {
				var as []eventlog.StreamAppend
				for j := range 6 {
					as = append(as, one(fmt.Sprint(i/3, "-", (j*(1+2*(w%2))+w)%7)))
				}
				// Not Append, which would run it again.
				err := pgx.BeginFunc(t.Context(), c, func(tx pgx.Tx) error {
					_, err := db.AppendTx(t.Context(), tx, as...)
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	checkStreams(t, readAllEvents(t, db, eventlog.Filter{}), 8*30*6)
}

// TestPayloads: how people query them, and how large one may be.
func TestPayloads(t *testing.T) {
	db := openTemp(t)
	a := one("s")
	a.Events[0].Data = []byte(`{"total": 12.50, "note": "\u00e9"}`)
	mustAppend(t, db, a)
	a.Events[0].Data = []byte{0, 1, 2}
	mustAppend(t, db, a)
	got := value[string](t, db.pool, "SELECT data::jsonb ->> 'total' FROM fairlead.events WHERE tenant = 'a' AND data IS NOT NULL")
	if got != "12.50" {
		t.Errorf("total = %q, want 12.50", got)
	}
	if n := value[int](t, db.pool, "SELECT octet_length(raw) FROM fairlead.events WHERE raw IS NOT NULL"); n != 3 {
		t.Errorf("a payload that is no text has %d bytes, want 3", n)
	}

	big := bytes.Repeat([]byte(`{"x":"0123456789"}`), 50<<20/18)
	a.Events[0].Data = big
	token := mustAppend(t, db, a)
	read := func(req eventlog.ReadRequest) event.Event {
		t.Helper()
		req.After = token.Position - 1
		page, err := db.Read(t.Context(), req)
		if err != nil || len(page.Events) != 1 || page.Next != token.Position {
			t.Fatalf("Read = %d events up to %v, %v", len(page.Events), page.Next, err)
		}
		return page.Events[0]
	}
	if e := read(eventlog.ReadRequest{}); !bytes.Equal(e.Data, big) {
		t.Errorf("50 MB came back as %d bytes", len(e.Data))
	}
	if e := read(eventlog.ReadRequest{MaxEventBytes: 1 << 20}); e.Data != nil || e.Withheld != int64(len(big)) {
		t.Errorf("withheld came with %d bytes, withheld %d, want 0 and %d", len(e.Data), e.Withheld, len(big))
	}

	// A page of large events does not send what is over the limit.
	a.Events = nil
	for range 20 {
		a.Events = append(a.Events, eventlog.NewEvent{Type: "T", Data: big[:1<<20]})
	}
	token = mustAppend(t, db, a)
	page, err := db.Read(t.Context(), eventlog.ReadRequest{After: token.Position - 20, MaxBytes: 3 << 20})
	if err != nil || len(page.Events) != 3 || page.Next != page.Events[2].Position || page.Head != token.Position {
		t.Errorf("Read = %d events up to %v of %v, %v, want 3", len(page.Events), page.Next, page.Head, err)
	}

	a.Events = []eventlog.NewEvent{{Type: "T", Data: make([]byte, maxAppendBytes+1)}}
	if _, err := db.Append(t.Context(), a); err == nil || !strings.Contains(err.Error(), "several calls") {
		t.Errorf("error = %v, want one that says what to do", err)
	}
}

func TestTimeout(t *testing.T) {
	db := openTemp(t)
	short := openAt(t, db.pool.Config().ConnString(), Options{Timeout: time.Second})
	tx, _ := begin(t, db, "s")
	_, err := short.Append(t.Context(), one("s"))
	if !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("error = %v, want ErrTimeout", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, short, one("s")) // and it works again
}
