package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/race"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// A faultyStore fails at random: before it does anything, or after, so that the
// caller does not know.
type faultyStore struct {
	*memstore.Store
	mu  sync.Mutex
	rnd *rand.Rand
	off bool // it does not fail any more
	cut bool // for the engine that has it, it is gone for good
}

var errFault = errors.New("the store is away")

func (s *faultyStore) fault() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.cut:
		return 1
	case s.off:
		return 0
	}
	return max(0, s.rnd.IntN(60)-57)
}

func (s *faultyStore) Commit(ctx context.Context, c *store.Commit) error {
	time.Sleep(time.Duration(c.Position%3) * time.Millisecond)
	n := s.fault()
	if n == 1 {
		return errFault
	}
	if err := s.Store.Commit(ctx, c); err != nil || n != 2 {
		return err
	}
	return errFault
}

func (s *faultyStore) View(ctx context.Context, f func(store.Tx) error) error {
	if s.fault() == 1 {
		return errFault
	}
	time.Sleep(time.Millisecond)
	return s.Store.View(ctx, f)
}

func (s *faultyStore) Update(ctx context.Context, f func(store.Tx) error) error {
	s.mu.Lock()
	cut := s.cut
	s.mu.Unlock()
	if cut {
		return errFault
	}
	return s.Store.Update(ctx, f)
}

func (s *faultyStore) Extend(ctx context.Context, id, notes string, ttl time.Duration) (bool, error) {
	s.mu.Lock()
	cut := s.cut
	s.mu.Unlock()
	if cut {
		return false, errFault
	}
	return s.Store.Extend(ctx, id, notes, ttl)
}

// TestStreamChaos does everything at once: operators who detach, merge, pause
// and retry, a store that fails or does not answer, poison that is mended,
// restarts, processes that die. In the end everything was handled, in order, and
// again only what an operator took away, or a process lost, while it was in
// progress: with even seeds, where nobody does, nothing.
func TestStreamChaos(t *testing.T) {
	seeds := uint64(30)
	if testing.Short() || race.Enabled {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { streamChaos(t, seed) }) })
	}
}

func streamChaos(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := newRig(t)
	var st *faultyStore
	gentle := seed%2 == 0
	tenants := []string{"a", "b", "c"}
	var sick atomic.Bool
	sick.Store(true)
	w := newWitness(t, func(ctx context.Context, d Delivery) error {
		x := uint64(d.Position)*0x9e3779b97f4a7c15 + seed
		if sick.Load() && x>>40%17 == 0 && d.Attempt < 20 {
			if x>>50%2 == 0 {
				return Permanent(errors.New("poison"))
			}
			return errors.New("poison")
		}
		took := time.Duration(x>>32%7) * time.Millisecond
		if x>>20%50 == 0 {
			took = 400 * time.Millisecond
		}
		if x>>25%2 == 0 {
			time.Sleep(took)
			return nil
		}
		return sleeps(took)(ctx, d)
	})
	policy := []Policy{ParkKey, ParkKey, ParkTenant, StopLane}[rnd.IntN(4)]
	p := reactor(w, Processor{
		Concurrency: 1 + rnd.IntN(12), Poison: policy, Retry: Retry{Attempts: 2, Min: 5 * time.Millisecond, Max: 50 * time.Millisecond},
		Freshness: slo.Objective{P99: 200 * time.Millisecond},
	})
	engine := func(i int) *Engine {
		st = &faultyStore{Store: r.st, rnd: rand.New(rand.NewPCG(seed, uint64(2+i)))}
		e, err := New(Config{Log: r.log, Store: st, Name: fmt.Sprint("e", i), Memory: 1 << 20, Lease: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		for {
			if err = e.Add(t.Context(), p); err == nil {
				return e
			}
			if !errors.Is(err, errFault) {
				t.Fatal(err)
			}
		}
	}
	r.e = engine(0)
	stop := r.run(r.e)
	disturbed := 0
	ctx := t.Context()
	check := func(what string, err error) {
		if err != nil && !errors.Is(err, lane.ErrUnknown) && !errors.Is(err, lane.ErrState) && !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range 60 {
		r.fill(rnd, rnd.IntN(60), 10, tenants...)
		time.Sleep(time.Duration(rnd.IntN(40)) * time.Millisecond)
		tenant := tenants[rnd.IntN(len(tenants))]
		switch do := rnd.IntN(13); do {
		case 0, 3, 9:
			if gentle {
				break
			}
			disturbed++
			switch do {
			case 0:
				check("detach", lane.Detach(ctx, r.st, "r", tenant))
			case 3:
				check("pause", lane.Pause(ctx, r.st, "r", tenant, "test"))
			case 9: // the process dies
				st.mu.Lock()
				st.cut = true
				st.mu.Unlock()
				stop()
				r.e = engine(i + 1)
				stop = r.run(r.e)
			}
		case 1, 2:
			check("unpin", lane.Unpin(ctx, r.st, "r", tenant))
		case 4:
			check("resume", lane.Resume(ctx, r.st, "r", tenant))
		case 5:
			check("pause all", lane.PauseProcessor(ctx, r.st, "r", true))
			time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond)
			check("resume all", lane.PauseProcessor(ctx, r.st, "r", false))
		case 6, 7:
			_, err := lane.RetryKey(ctx, r.st, "r", tenant, "")
			check("retry", err)
		case 8:
			stop()
			r.e = engine(i + 1)
			stop = r.run(r.e)
		}
	}
	sick.Store(false)
	st.mu.Lock()
	st.off = true
	st.mu.Unlock()
	var tok eventlog.Token
	for range 20 {
		tok = r.fill(rnd, 5, 10, tenants...)
		time.Sleep(2 * time.Second)
		check("resume all", lane.PauseProcessor(ctx, r.st, "r", false))
		for _, tenant := range tenants {
			check("unpin", lane.Unpin(ctx, r.st, "r", tenant))
			_, err := lane.RetryKey(ctx, r.st, "r", tenant, "")
			check("retry", err)
		}
		if len(r.letters()) == 0 && len(r.lanes("r")) == 1 {
			break
		}
	}
	time.Sleep(10 * time.Second)
	r.wait("r", tok)
	stop()
	if got := r.letters(); len(got) > 0 {
		t.Errorf("letters left: %q", letterStates(got))
	}
	if lanes := r.lanes("r"); len(lanes) != 1 || len(lanes[0].Done) > 0 {
		t.Errorf("lanes %+v, want only the base lane", lanes)
	}
	// What is in progress or not committed as an operator takes a tenant away is
	// handled again: at most so many a time.
	w.check(r, disturbed*40)
	if calls, done := w.count(); calls < done {
		t.Errorf("%d calls for %d events", calls, done)
	}
}
