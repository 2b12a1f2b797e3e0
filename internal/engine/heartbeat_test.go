package engine

import (
	"context"
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
	waiting atomic.Int32
}

func (s *crowdedStore) Update(ctx context.Context, f func(store.Tx) error) error {
	for s.waiting.Add(1); s.busy.Load() && ctx.Err() == nil; {
		time.Sleep(10 * time.Millisecond)
	}
	s.waiting.Add(-1)
	return s.Store.Update(ctx, f)
}

// TestHeartbeatWaitsForNoUpdate: a process whose news wait for longer than its lease, because
// the Updates of others come first, keeps the lease, and the news are told once they can be.
func TestHeartbeatWaitsForNoUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		s := &crowdedStore{Store: r.st}
		e, err := New(Config{Log: r.log, Store: s, Name: "me", Lease: 3 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer r.run(e)()
		time.Sleep(2 * time.Second)
		s.busy.Store(true)
		quiet := make(chan error, 1)
		go func() { quiet <- e.Add(t.Context(), Processor{Name: "p", Projection: tallies("p", false)}) }()
		member := func() (m store.Member) {
			t.Helper()
			if err := r.st.View(t.Context(), func(tx store.Tx) error {
				all, err := tx.Members()
				if err == nil && len(all) != 1 {
					t.Fatalf("members: %v", all)
				}
				m = all[0]
				if left := m.Until.Sub(tx.Now()); left < time.Second {
					t.Errorf("the lease has %v left", left)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			return m
		}
		// What the notes have of the processor is made by hand: Add waits for an Update too.
		e.mu.Lock()
		e.cfg.Pool = "other"
		e.mu.Unlock()
		before := member().Notes
		for range 20 {
			time.Sleep(500 * time.Millisecond)
			if m := member(); m.Notes != before {
				t.Fatalf("told: %s", m.Notes)
			}
		}
		if n := s.waiting.Load(); n != 2 {
			t.Errorf("%d Updates wait, want the new processor's and that of who tells", n)
		}
		s.busy.Store(false)
		if err := <-quiet; err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if m := member(); m.Notes == before {
			t.Error("what was new was not told")
		}
	})
}
