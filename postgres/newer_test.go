package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/store"
)

// A record is what a program logs.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(b)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// TestNewerSchemaWhileRunning: a newer program migrates the schema under one that
// runs. It goes on where its statements still fit; where they do not it applies
// nothing, ends and says why. Either way the newer one takes over, exactly once, and
// this one does not begin again.
func TestNewerSchemaWhileRunning(t *testing.T) {
	next := len(migrations) + 1
	for _, tt := range []struct {
		name, sql string
		goesOn    bool
		back      string // what a version still newer does, which this test's program fits
	}{
		{"another column", "ALTER TABLE {schema}.lanes ADD COLUMN later bigint NOT NULL DEFAULT 0; ALTER TABLE {schema}.documents ADD COLUMN later bigint", true, "SELECT 1"},
		{"another table", "CREATE TABLE {schema}.later (x bigint)", true, "SELECT 1"},
		{"a table under another name", "ALTER TABLE {schema}.lanes RENAME TO lanes_2", false, "ALTER TABLE {schema}.lanes_2 RENAME TO lanes"},
		{"a column under another name", "ALTER TABLE {schema}.lanes RENAME COLUMN position TO at", false, "ALTER TABLE {schema}.lanes RENAME COLUMN at TO position"},
		{"a function with other arguments", "ALTER FUNCTION {schema}.fence RENAME TO fence_2", false, "ALTER FUNCTION {schema}.fence_2 RENAME TO fence"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := migrated(t)
			ctx := t.Context()
			run := func(db *DB, name string, ends error) (said *record, stop func(by bool)) {
				said = &record{}
				ctx, cancel := context.WithCancel(ctx)
				c, err := fairlead.New(fairlead.Config{Log: db, Store: db, Name: name, Lease: 2 * time.Second, Logger: slog.New(slog.NewTextHandler(said, nil))})
				if err != nil {
					t.Fatal(err)
				}
				if err := c.Add(ctx, fairlead.Project(sums())); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- c.Run(ctx) }()
				var once sync.Once
				return said, func(by bool) { // by itself
					once.Do(func() {
						if !by {
							cancel()
						}
						defer cancel()
						select {
						case err := <-ended:
							if !errors.Is(err, ends) {
								t.Errorf("Run of the %s program = %v, want %v", name, err, ends)
							}
						case <-time.After(30 * time.Second):
							t.Fatalf("the %s program does not end; it says %.3000s", name, said)
						}
					})
				}
			}
			state := func(db *DB) sum {
				d, err := fairlead.Get(ctx, db, sums(), "a", "s")
				if err != nil && !errors.Is(err, fairlead.ErrNotFound) {
					t.Fatal(err)
				}
				return d.State
			}
			becomes := func(db *DB, want sum) {
				t.Helper()
				for end := time.Now().Add(20 * time.Second); state(db) != want; <-time.After(10 * time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("the document is %+v, want %+v", state(db), want)
					}
				}
			}
			plusOne := func(db *DB, n int) {
				t.Helper()
				mustAppend(t, db, eventlog.StreamAppend{Tenant: "a", Stream: "s", Events: []eventlog.NewEvent{fairlead.MustEvent("plus", plus{n})}})
			}
			old := openAt(t, url)
			ends := store.ErrNewerSchema
			if tt.goesOn {
				ends = context.Canceled
			}
			said, stop := run(old, "old", ends)
			defer stop(false)
			plusOne(old, 1)
			becomes(old, sum{1, 1})

			later := append(before(t, len(migrations)), migration{next, "later", tt.sql})
			newer, err := open(ctx, url, later)
			if newer != nil {
				defer newer.Close()
			}
			if err != nil && tt.goesOn {
				t.Fatal(err)
			}
			plusOne(old, 2)
			if tt.goesOn {
				becomes(old, sum{2, 12})
				plusOne(old, 3)
				becomes(old, sum{3, 123})
				if s := said.String(); strings.Contains(s, "level=ERROR") {
					t.Errorf("it says %s", s)
				}
			} else {
				stop(true)
				if says := fmt.Sprintf("version %d while this program ran, which knows %d: replace it", next, len(migrations)); !strings.Contains(said.String(), says) {
					t.Fatalf("it says %.3000s, want %q", said.String(), says)
				}
				if got := state(old); got != (sum{1, 1}) {
					t.Errorf("the document is %+v: it has gone on", got)
				}
				plusOne(old, 3)
			}
			if db, err := Open(ctx, url); !errors.Is(err, store.ErrNewerSchema) {
				if err == nil {
					_ = db.Close()
				}
				t.Errorf("begun again it opens the schema: %v", err)
			}

			newest, err := open(ctx, url, append(later, migration{next + 1, "back", tt.back}))
			if err != nil {
				t.Fatal(err)
			}
			defer newest.Close()
			_, stopNew := run(newest, "new", context.Canceled)
			defer stopNew(false)
			stop(false)
			becomes(newest, sum{3, 123})
			plusOne(newest, 4)
			becomes(newest, sum{4, 1234})
		})
	}
}
