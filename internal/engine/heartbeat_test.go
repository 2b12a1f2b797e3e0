package engine

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/store"
)

// A crowdedStore lets no Update through for a while, as one does that many wait for.
type crowdedStore struct {
	store.Store
	busy    atomic.Bool
	lost    atomic.Bool // its answers
	waiting atomic.Int32
}

func (s *crowdedStore) Update(ctx context.Context, f func(store.Tx) error) error {
	for s.waiting.Add(1); s.busy.Load() && ctx.Err() == nil; {
		time.Sleep(10 * time.Millisecond)
	}
	s.waiting.Add(-1)
	if err := s.Store.Update(ctx, f); err != nil || !s.lost.Load() {
		return err
	}
	return errors.New("no answer")
}

// crowded runs an engine on a crowdedStore, which lets everything through yet.
func crowded(t *testing.T, lease time.Duration) (*rig, *crowdedStore, *Engine) {
	t.Helper()
	r := newRig(t)
	s := &crowdedStore{Store: r.st}
	e, err := New(Config{Log: r.log, Store: s, Name: "me", Lease: lease})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.run(e))
	time.Sleep(2 * time.Second)
	return r, s, e
}

// TestHeartbeatWaitsForNoUpdate: a process whose news wait for longer than its lease, because
// the Updates of others come first, keeps the lease, and the last news are told as soon as they
// can be: also where there were others meanwhile, and where the store took some without an answer.
func TestHeartbeatWaitsForNoUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, s, e := crowded(t, 30*time.Second)
		pool := func() string {
			t.Helper()
			var n memberNotes
			if err := r.st.View(t.Context(), func(tx store.Tx) error {
				all, err := tx.Members()
				if err == nil && len(all) != 1 {
					t.Fatalf("members: %v", all)
				}
				if left := all[0].Until.Sub(tx.Now()); left < 19*time.Second {
					t.Errorf("the lease has %v left", left)
				}
				return json.Unmarshal([]byte(all[0].Notes), &n)
			}); err != nil {
				t.Fatal(err)
			}
			return n.Pool
		}
		news := func(pool string) { // as those of a partition that the log gave
			e.mu.Lock()
			e.cfg.Pool = pool
			e.mu.Unlock()
			e.news()
			synctest.Wait()
		}
		crowd := func(d time.Duration) {
			s.busy.Store(true)
			for range d / time.Second {
				time.Sleep(time.Second)
				pool()
			}
			if n := s.waiting.Load(); n > 1 {
				t.Errorf("%d Updates wait, want that of who tells", n)
			}
		}
		told := func(want string) {
			t.Helper()
			s.busy.Store(false)
			time.Sleep(100 * time.Millisecond)
			if p := pool(); p != want {
				t.Errorf("told: %q, want %q", p, want)
			}
		}
		s.busy.Store(true)
		news("a")
		crowd(2 * time.Minute)
		if p := pool(); p != "" {
			t.Errorf("told: %q", p)
		}
		told("a")

		s.busy.Store(true)
		news("b")
		time.Sleep(100 * time.Millisecond)
		news("c") // while b is being told
		crowd(50 * time.Second)
		told("c")

		s.busy.Store(true)
		news("d")
		news("c") // again, while the store is about to have d
		crowd(50 * time.Second)
		told("c")

		s.lost.Store(true) // the store takes it, and there is no answer
		news("e")
		time.Sleep(100 * time.Millisecond)
		s.busy.Store(true)
		s.lost.Store(false)
		news("f")
		crowd(2 * time.Minute)
		told("f")
	})
}

// TestToldWhenItIs: what waits until the others know something is not let go before.
func TestToldWhenItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, s, e := crowded(t, 3*time.Second)
		s.busy.Store(true)
		e.mu.Lock()
		e.cfg.Pool = "a"
		e.mu.Unlock()
		e.news()
		synctest.Wait()
		e.mu.Lock()
		e.cfg.Pool = ""
		e.assigned = &assigned{took: map[store.LaneID]time.Time{}, released: []released{{c: make(chan struct{})}}}
		e.mu.Unlock()
		isTold := func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			return len(e.assigned.released) == 0 || e.assigned.released[0].told
		}
		e.news()
		for range 10 {
			if time.Sleep(time.Second); isTold() {
				t.Fatal("told, while the store is about to have other notes")
			}
		}
		s.busy.Store(false)
		if time.Sleep(time.Second); !isTold() {
			t.Error("not told")
		}
	})
}
