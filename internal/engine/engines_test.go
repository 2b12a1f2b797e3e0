package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// flakyStore is an engine's way to the store: slow now and then, failing before
// or after its effect, or gone for good.
type flakyStore struct {
	store.Store
	mu    sync.Mutex
	rng   *rand.Rand
	calm  atomic.Bool
	dead  atomic.Bool
	calls atomic.Int64
}

func (f *flakyStore) n(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rng.IntN(n)
}

func (f *flakyStore) around(call func() error) error {
	f.calls.Add(1)
	if f.dead.Load() {
		return errCrash
	}
	if f.calm.Load() {
		return call()
	}
	switch f.n(60) {
	case 0:
		return errInjected
	case 1:
		time.Sleep(time.Duration(f.n(3000)) * time.Millisecond)
	case 2:
		if f.n(8) == 0 {
			time.Sleep(15 * time.Second) // the lease ends meanwhile
		}
	}
	if err := call(); err != nil {
		return err
	}
	if f.n(60) == 0 || f.dead.Load() {
		return errInjected
	}
	return nil
}

func (f *flakyStore) View(ctx context.Context, fn func(store.Tx) error) error {
	return f.around(func() error { return f.Store.View(ctx, fn) })
}

func (f *flakyStore) Update(ctx context.Context, fn func(store.Tx) error) error {
	return f.around(func() error { return f.Store.Update(ctx, fn) })
}

func (f *flakyStore) Extend(ctx context.Context, id, notes string, ttl time.Duration) (ok bool, err error) {
	err = f.around(func() (err error) { ok, err = f.Store.Extend(ctx, id, notes, ttl); return err })
	return ok, err
}

func (f *flakyStore) Load(ctx context.Context, b store.Build, keys []store.Key) (docs []store.Document, err error) {
	err = f.around(func() (err error) { docs, err = f.Store.Load(ctx, b, keys); return err })
	return docs, err
}

func (f *flakyStore) Commit(ctx context.Context, c *store.Commit) error {
	return f.around(func() error { return f.Store.Commit(ctx, c) })
}

// flakyLog fails now and then.
type flakyLog struct {
	eventlogFull
	f *flakyStore
}

func (l *flakyLog) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if !l.f.calm.Load() && l.f.n(40) == 0 {
		return eventlog.Page{}, errInjected
	}
	req.MaxEvents = 1 + l.f.n(40)
	return l.eventlogFull.Read(ctx, req)
}

// TestEnginesThroughFaults is the simulation with real engines in virtual time:
// what it adds is the shells around the lanes, with their goroutines. The
// checker looks whenever all engines have ended.
func TestEnginesThroughFaults(t *testing.T) {
	from, to := seeds(t, 20)
	for seed := from; seed < to; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { enginesThroughFaults(t, seed) })
		})
	}
}

func enginesThroughFaults(t *testing.T, seed uint64) {
	s := newSimOf(seed, (*sim).projections)
	s.engines = true
	s.mem = memstore.New()
	ctx := t.Context()
	type running struct {
		f    *flakyStore
		stop func()
	}
	start := func(calm bool) *running {
		f := &flakyStore{Store: s.mem, rng: rand.New(rand.NewPCG(s.rng.Uint64(), 1))}
		f.calm.Store(calm)
		e, err := New(Config{Log: &flakyLog{s.log, f}, Store: f, Slots: 2, Name: "host"})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range s.procs {
			q := *p
			q.Freshness = slo.Objective{P99: 50 * time.Millisecond, Max: time.Second}
			for i := 0; ; i++ {
				if err := e.Add(ctx, q); err == nil {
					break
				} else if i > 50 {
					t.Fatal(err)
				}
			}
		}
		rctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for rctx.Err() == nil {
				_ = e.Run(rctx) // its first heartbeat may fail
			}
		}()
		return &running{f, func() { cancel(); <-done }}
	}
	check := func(when string) {
		s.check()
		if s.bad != nil {
			t.Fatalf("%s: %v", when, s.bad)
		}
	}
	for phase := range 4 {
		var all []*running
		for range 1 + s.rng.IntN(3) {
			all = append(all, start(false))
		}
		for range 60 {
			switch n := s.rng.IntN(10); {
			case n < 5:
				s.append()
			case n < 7:
				s.operate()
			case n < 8 && s.rng.IntN(3) == 0:
				i := s.rng.IntN(len(all))
				all[i].f.dead.Store(s.rng.IntN(2) == 0)
				all[i].stop()
				all[i] = start(false)
			}
			time.Sleep(time.Duration(s.rng.IntN(800)) * time.Millisecond)
		}
		for _, r := range all {
			r.stop()
		}
		check(fmt.Sprint("phase ", phase))
		if s.bad != nil {
			return
		}
	}
	s.healed = true
	time.Sleep(time.Minute)
	r := start(true)
	defer r.stop()
	before := r.f.calls.Load()
	for round := range 60 {
		s.heal(round)
		time.Sleep(10 * time.Second)
		if s.rested() {
			break
		}
	}
	if !s.rested() {
		t.Fatalf("not at rest: %s", s.describe())
	}
	calls := r.f.calls.Load() - before
	before = r.f.calls.Load()
	time.Sleep(time.Minute)
	if idle := r.f.calls.Load() - before; idle > 200 {
		t.Errorf("%d store calls in a minute of rest (%d before)", idle, calls)
	}
	check("the end")
	s.checkEnd()
	if s.bad != nil {
		t.Fatal(s.bad)
	}
}
