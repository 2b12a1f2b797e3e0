package sqlite

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// polling counts the goroutines that poll.
func polling() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "sqlite.(*DB).poll(")
}

// TestWaitForOthers: an append through another DB is seen; there is one poller
// for many who wait, and none when nobody does.
func TestWaitForOthers(t *testing.T) {
	a := openTemp(t)
	b := openAt(t, a.path)
	const rounds, many = 5, 20
	for round := range rounds {
		after := headOf(t, a)
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		for range many {
			wg.Go(func() {
				for a.seen.Load() <= int64(after) {
					if err := a.Wait(ctx, 0, after); err != nil {
						t.Errorf("Wait = %v", err)
						return
					}
				}
			})
		}
		waitFor(t, func() bool { a.waiting.mu.Lock(); defer a.waiting.mu.Unlock(); return a.waiting.n == many })
		if n := polling(); n != 1 {
			t.Errorf("round %d: %d goroutines poll, want 1", round, n)
		}
		start := time.Now()
		mustAppend(t, b, one("a", "s", 1))
		wg.Wait()
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("round %d: it took %v to see the append", round, took)
		}
		cancel()
		waitFor(t, func() bool { return polling() == 0 })
	}
}

func TestCloseEndsWaiting(t *testing.T) {
	db := openTemp(t)
	errs := make(chan error)
	go func() { errs <- db.Wait(context.Background(), 0, 0) }()
	waitFor(t, func() bool { return polling() == 1 })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Errorf("Wait = %v, want %v", err, ErrClosed)
	}
	waitFor(t, func() bool { return polling() == 0 }) // it has said that it ends, and may be on its last instructions
	for name, err := range map[string]error{
		"Append":   func() error { _, err := db.Append(context.Background(), one("a", "s", 1)); return err }(),
		"Head":     func() error { _, err := db.Head(context.Background(), 0); return err }(),
		"Revision": func() error { _, err := db.Revision(context.Background()); return err }(),
		"Commit":   db.Commit(context.Background(), next0()),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s of a closed DB = %v, want %v", name, err, ErrClosed)
		}
	}
	if err := db.Close(); err != nil {
		t.Errorf("Close again = %v", err)
	}
}
