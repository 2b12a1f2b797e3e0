package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/eventlogtest"
	"github.com/fairlead-dev/fairlead/internal/pgtest"
)

// listening waits until db hears notifications, and returns the session of its
// listener.
func listening(t *testing.T, db *DB) (pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if db.watch.hears.Load() {
			return value[int](t, db.pool, `SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN fairlead'`)
		}
		sleep(ctx, time.Millisecond)
	}
	t.Fatal("the DB does not listen")
	return 0
}

// waiting begins to wait behind the head.
func waiting(t *testing.T, db *DB) <-chan error {
	t.Helper()
	head, err := db.Head(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	out := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	go func() {
		for {
			err := db.Wait(ctx, 0, head)
			if err == nil {
				if now, headErr := db.Head(ctx, 0); headErr == nil && now <= head {
					continue // early
				}
			}
			out <- err
			return
		}
	}()
	return out
}

// TestNotified: a reader that has been idle for long looks next to never, and
// yet hears of an append of another process at once; also after the connection
// on which it listens was cut.
func TestNotified(t *testing.T) {
	db := openTemp(t)
	other := openAt(t, db.pool.Config().ConnString())
	woken := waiting(t, db)
	pid := listening(t, db)
	for round := range 2 {
		quiet := 4 * time.Second
		if round > 0 {
			quiet = 100 * time.Millisecond
		}
		before := db.pool.Stat().AcquireCount()
		sleep(t.Context(), quiet)
		// An eighth of the time that nothing came: some 8 for each doubling.
		if looks := db.pool.Stat().AcquireCount() - before; looks > 90 {
			t.Errorf("round %d: %d looks in %v of nothing, want fewer and fewer", round, looks, quiet)
		}
		start := time.Now()
		mustAppend(t, other, one("s"))
		if err := <-woken; err != nil {
			t.Fatalf("round %d: Wait = %v", round, err)
		}
		t.Logf("round %d: heard after %v", round, time.Since(start))
		woken = waiting(t, db)
		if round == 0 {
			exec(t, db.pool, "SELECT pg_terminate_backend($1)", pid)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			for db.watch.hears.Load() && ctx.Err() == nil {
				sleep(ctx, time.Millisecond)
			}
			cancel()
			if again := listening(t, db); again == pid {
				t.Errorf("it listens by the session %d, which was ended", pid)
			}
		}
	}
}

// TestLastWords: a process that appends and ends has told the others.
func TestLastWords(t *testing.T) {
	db := openTemp(t)
	c := connect(t, db)
	exec(t, c, "LISTEN fairlead")
	other := openAt(t, db.pool.Config().ConnString())
	hear := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n, err := c.WaitForNotification(ctx)
		if err != nil || n.Payload != "fairlead" {
			t.Fatalf("notification = %+v, %v, want one of the schema", n, err)
		}
	}
	mustAppend(t, other, one("s"))
	hear()
	mustAppend(t, other, one("s")) // so soon that it is not told at once
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	hear()
}

// TestBlind: without notifications an append is found by looking.
func TestBlind(t *testing.T) {
	db := openTemp(t, Options{Pooler: true})
	woken := waiting(t, db)
	sleep(t.Context(), 50*time.Millisecond)
	tx, _ := begin(t, openAt(t, db.pool.Config().ConnString()), "s")
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-woken; err != nil {
		t.Errorf("Wait = %v", err)
	}
	if db.watch.hears.Load() {
		t.Error("it listens through a pooler")
	}
}

// TestWaitUnreachable: who waits is told that the server has gone, and not in a
// busy loop.
func TestWaitUnreachable(t *testing.T) {
	db := openTemp(t)
	woken := waiting(t, db)
	name := value[string](t, db.pool, "SELECT current_database()")
	admin := connect(t, openAt(t, migrated(t)))
	exec(t, admin, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS false")
	exec(t, admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
	if err := <-woken; !errors.Is(err, ErrUnreachable) {
		t.Errorf("Wait = %v, want ErrUnreachable", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	n := 0
	for ctx.Err() == nil {
		if err := db.Wait(ctx, 0, event.Unbounded); err == nil {
			t.Fatal("Wait = nil, want an error")
		}
		n++
	}
	if n > 30 {
		t.Errorf("Wait has failed %d times in a second, want few", n)
	}
	exec(t, admin, "ALTER DATABASE "+name+" ALLOW_CONNECTIONS true")
	mustAppend(t, db, one("s")) // and it goes on by itself
	wantStreams(t, db, "s")
}

// TestLogConformancePooler: nothing needs a prepared statement that outlives its
// transaction.
func TestLogConformancePooler(t *testing.T) {
	t.Parallel()
	eventlogtest.Run(t, inSchemas(t, Options{Pooler: true}), logFeatures)
}

// TestLooksAtRest: who begins to wait on a log in which nothing happens asks it a few
// times in the first half second, in which a log where something has just come is
// asked a dozen times.
func TestLooksAtRest(t *testing.T) {
	filled := openTemp(t)
	appendOne := func(stream string) {
		if _, err := filled.Append(t.Context(), eventlog.StreamAppend{Tenant: "t", Stream: stream, Events: []eventlog.NewEvent{{Type: "x", Data: []byte("{}")}}}); err != nil {
			t.Fatal(err)
		}
	}
	appendOne("first")
	m, url := pgtest.NewMeter(t, filled.pool.Config().ConnString())
	db := openAt(t, url)
	woken := waiting(t, db)
	listening(t, db)
	asked := func() int64 {
		before := m.Statements.Load()
		sleep(t.Context(), 500*time.Millisecond)
		return m.Statements.Load() - before
	}
	if n := asked(); n > 5 {
		t.Errorf("%d statements in half a second at rest", n)
	}
	appendOne("second")
	if err := <-woken; err != nil {
		t.Fatal(err)
	}
	_ = waiting(t, db)
	if n := asked(); n == 0 {
		t.Errorf("%d statements in half a second after an event: the meter does not count", n)
	}
}
