package postgres

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// raise raises the revision.
func raise(t *testing.T, db *DB) {
	t.Helper()
	if err := db.Update(t.Context(), func(tx store.Tx) error { return tx.PutMember(store.Member{ID: "m"}) }); err != nil {
		t.Fatal(err)
	}
}

// changes waits for n changes of db, one after the other, each of which do makes,
// and returns how long after each it was known, in order.
func changes(t *testing.T, db *DB, n int, do func()) (after []time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	known, err := db.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		heard := make(chan time.Time, 1)
		go func() {
			if revision, err := db.Changed(ctx, known); err != nil || revision != known+1 {
				t.Errorf("Changed = %d, %v, want %d", revision, err, known+1)
			}
			heard <- time.Now()
		}()
		sleep(ctx, 20*time.Millisecond)
		do()
		done := time.Now()
		after = append(after, (<-heard).Sub(done))
		known++
	}
	slices.Sort(after)
	return after
}

// TestChangedByAnother: a change by another process is known at once, with no
// question; also after the connection on which it is heard of was cut. One that
// came while nobody heard is found.
func TestChangedByAnother(t *testing.T) {
	db := openTemp(t)
	other := openAt(t, db.pool.Config().ConnString())
	changes(t, db, 1, func() { raise(t, other) })
	pid := listening(t, db)
	sleep(t.Context(), 200*time.Millisecond)
	for round := range 2 {
		before := db.pool.Stat().AcquireCount()
		const n = 30
		took := changes(t, db, n, func() { raise(t, other) })
		asked := db.pool.Stat().AcquireCount() - before - 1
		t.Logf("round %d: known after %v, %v at most, with %d questions", round, took[n/2], took[n-1], asked)
		if took[n/2] > 50*time.Millisecond {
			t.Errorf("round %d: a change by another process is known after %v, want within 50 ms", round, took[n/2])
		}
		if asked > 1 {
			t.Errorf("round %d: %d questions for %d changes that were told", round, asked, n)
		}
		if round > 0 {
			break
		}
		changes(t, db, 1, func() {
			exec(t, other.pool, "SELECT pg_terminate_backend($1)", pid)
			raise(t, other)
		})
		if again := listening(t, db); again == pid {
			t.Errorf("it listens by the session %d, which was ended", pid)
		}
		sleep(t.Context(), 200*time.Millisecond)
	}
}

// TestChangedBlind: without notifications a change is found by asking.
func TestChangedBlind(t *testing.T) {
	db := openTemp(t, Options{Pooler: true})
	other := openAt(t, db.pool.Config().ConnString())
	const n = 10
	took := changes(t, db, n, func() { raise(t, other) })
	t.Logf("known after %v, %v at most", took[n/2], took[n-1])
	if took[n/2] > 50*time.Millisecond {
		t.Errorf("a change is known after %v while changes come often, want within 50 ms", took[n/2])
	}
	sleep(t.Context(), 3*time.Second)
	before := db.pool.Stat().AcquireCount()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	known, err := db.Revision(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Changed(ctx, known); err == nil {
		t.Error("Changed = nil while nothing changes")
	}
	if asked := db.pool.Stat().AcquireCount() - before; asked > 10 {
		t.Errorf("%d questions in 2 s in which nothing changed, want about 4 a second", asked)
	}
}

// TestExtendIsOneStatement, and one that waits for nobody.
func TestExtendIsOneStatement(t *testing.T) {
	url := migrated(t)
	p, through := newProxy(t, url)
	db := openAt(t, through)
	extend := func() {
		t.Helper()
		if ok, err := db.Extend(t.Context(), "m", "", time.Hour); !ok || err != nil {
			t.Fatalf("Extend = %v, %v, want true", ok, err)
		}
	}
	if err := db.Update(t.Context(), func(tx store.Tx) error {
		return tx.PutMember(store.Member{ID: "m", Until: tx.Now().Add(time.Hour)})
	}); err != nil {
		t.Fatal(err)
	}
	extend() // it is prepared now
	p.roundTrips()
	extend()
	if n := p.roundTrips(); n != 1 {
		t.Errorf("a heartbeat took %d round trips, want 1", n)
	}
	err := openAt(t, url).Update(t.Context(), func(store.Tx) error {
		extend() // beside an Update that takes long
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
