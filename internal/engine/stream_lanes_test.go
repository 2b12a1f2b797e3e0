package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// lets waits until the tenants' lanes have merged.
func (r *rig) untilMerged() {
	r.t.Helper()
	for range 600 {
		if len(r.lanes("r")) == 1 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	for _, l := range r.lanes("r") {
		r.t.Errorf("lane %+v", l)
	}
	r.t.Fatal("tenants have lanes of their own after a minute")
}

func TestStreamLaneOperationsWhileBusy(t *testing.T) {
	ctx := context.Background()
	for _, tt := range []struct {
		name string
		do   func(r *rig) error
	}{
		{"detach and merge", func(r *rig) error {
			if err := lane.Detach(ctx, r.st, "r", "a"); err != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond)
			return lane.Unpin(ctx, r.st, "r", "a")
		}},
		{"detach and merge at once", func(r *rig) error {
			if err := lane.Detach(ctx, r.st, "r", "a"); err != nil {
				return err
			}
			return lane.Unpin(ctx, r.st, "r", "a")
		}},
		{"pause and resume", func(r *rig) error {
			if err := lane.Pause(ctx, r.st, "r", "a", "test"); err != nil {
				return err
			}
			time.Sleep(300 * time.Millisecond)
			return lane.Resume(ctx, r.st, "r", "a")
		}},
		{"pause all", func(r *rig) error {
			if err := lane.PauseProcessor(ctx, r.st, "r", true); err != nil {
				return err
			}
			time.Sleep(300 * time.Millisecond)
			return lane.PauseProcessor(ctx, r.st, "r", false)
		}},
		{"hold", func(r *rig) error {
			if err := lane.Detach(ctx, r.st, "r", "a"); err != nil {
				return err
			}
			id := r.lanes("r")[1].LaneID
			if err := lane.Hold(ctx, r.st, id); err != nil {
				return err
			}
			return lane.Unpin(ctx, r.st, "r", "a")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				rnd := rand.New(rand.NewPCG(5, 6))
				w := newWitness(t, func(ctx context.Context, d Delivery) error {
					return sleeps(time.Duration(1+d.Position*7919%10)*time.Millisecond)(ctx, d)
				})
				r.add(reactor(w, Processor{Concurrency: 8}))
				stop := r.run(r.e)
				defer func() { stop() }()
				again := 0
				for range 5 {
					r.fill(rnd, 200, 20, "a", "b", "c")
					time.Sleep(37 * time.Millisecond)
					if err := tt.do(r); err != nil {
						t.Fatal(err)
					}
					again += 8 + 8 // in progress, and done since the last commit
				}
				tok := r.fill(rnd, 50, 20, "a", "b", "c")
				time.Sleep(time.Second)
				r.untilMerged()
				r.wait("r", tok)
				w.check(r, again)
				if got := r.letters(); len(got) > 0 {
					t.Errorf("letters %q", letterStates(got))
				}
			})
		})
	}
}

// What a graceful stop leaves is exact: nothing comes again.
func TestStreamRestartsRepeatNothing(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		rnd := rand.New(rand.NewPCG(7, 8))
		w := newWitness(t, func(_ context.Context, d Delivery) error {
			time.Sleep(time.Duration(1+d.Position%5) * time.Millisecond) // to its end, whatever its context says
			return nil
		})
		p := reactor(w, Processor{Concurrency: 16})
		var tok eventlog.Token
		for i := range 10 {
			tok = r.fill(rnd, 300, 50, "a", "b", "c")
			r.add(p)
			stop := r.run(r.e)
			time.Sleep(20 * time.Millisecond)
			stop()
			r.e = r.engine(fmt.Sprint("e", i))
		}
		r.add(p)
		stop := r.run(r.e)
		defer stop()
		r.wait("r", tok)
		w.check(r, 0)
	})
}

func TestStreamDrainsInOrderThenFlows(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		healed := false
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			if d.Stream == "bad" && !healed {
				return Permanent(errors.New("poison"))
			}
			return sleeps(5*time.Millisecond)(ctx, d)
		})
		r.add(reactor(w, Processor{Concurrency: 4}))
		stop := r.run(r.e)
		defer stop()
		for range 20 {
			r.append("t", "bad", added{})
		}
		time.Sleep(time.Second)
		if n := len(r.letters()); n != 20 {
			t.Fatalf("%d letters, want 20", n)
		}
		// It fails again: the key stays parked, and says so.
		if _, err := lane.RetryKey(t.Context(), r.st, "r", "t", "bad"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		letters := r.letters()
		if len(letters) != 20 || letters[0].Attempts != 2 || letters[0].Retry || letters[0].State != store.Poison {
			t.Fatalf("after a retry that failed: %d letters, the first %+v", len(letters), letters[0])
		}
		healed = true
		if _, err := lane.RetryKey(t.Context(), r.st, "r", "t", "bad"); err != nil {
			t.Fatal(err)
		}
		for range 40 { // while it drains, and after
			r.append("t", "bad", added{})
			time.Sleep(4 * time.Millisecond)
		}
		time.Sleep(time.Second)
		w.check(r, 0)
		if got := r.letters(); len(got) != 0 {
			t.Errorf("letters left: %q", letterStates(got))
		}
		began := time.Now()
		r.wait("r", r.append("t", "bad", added{}))
		if took := time.Since(began); took > 20*time.Millisecond || len(r.letters()) > 0 {
			t.Errorf("the key does not flow again: %v, %d letters", took, len(r.letters()))
		}
	})
}

func TestStreamIdleCostsOneGoroutine(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		w := newWitness(t, sleeps(10*time.Millisecond))
		r.add(reactor(w, Processor{Concurrency: 500}))
		stop := r.run(r.e)
		time.Sleep(time.Second)
		idle := runtime.NumGoroutine()
		var tok eventlog.Token
		for i := range 500 {
			tok = r.append("t", fmt.Sprint("s", i), added{})
		}
		time.Sleep(5 * time.Millisecond)
		if busy := runtime.NumGoroutine(); busy < idle+500 {
			t.Errorf("%d goroutines with 500 events in progress, %d before", busy, idle)
		}
		r.wait("r", tok)
		time.Sleep(3 * time.Second)
		if after := runtime.NumGoroutine(); after > idle {
			t.Errorf("%d goroutines when idle again, want %d", after, idle)
		}
		buf := make([]byte, 1<<20)
		stacks := string(buf[:runtime.Stack(buf, true)])
		if n := strings.Count(stacks, "engine.(*streamRunner).run("); n != 1 {
			t.Errorf("%d shells, want 1", n)
		}
		if n := strings.Count(stacks, "engine.(*streamPool).work("); n != 0 {
			t.Errorf("%d workers when idle, want 0", n)
		}
		stop()
		w.check(r, 0)
	})
}

// p99 returns a quantile of the ages at which a tenant's events were done.
func (w *witness) quantile(q float64, victim func(tenant string) bool) time.Duration {
	var ages []time.Duration
	for _, c := range w.calls {
		if victim(c.tenant) {
			ages = append(ages, c.age)
		}
	}
	slices.Sort(ages)
	return ages[int(q*float64(len(ages)-1))]
}

func TestStreamNoisyNeighbour(t *testing.T) {
	const victims = 99
	arm := func(t *testing.T, k int, hot, burst bool, memory int) (p50, p99 time.Duration, w *witness) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			e, err := New(Config{Log: r.log, Store: r.st, Name: "a", Memory: memory})
			if err != nil {
				t.Fatal(err)
			}
			r.e = e
			w = newWitness(t, sleeps(4*time.Millisecond)) // 4 workers: 1,000 events/s
			r.add(reactor(w, Processor{Concurrency: 4}))
			stop := r.run(r.e)
			rnd := rand.New(rand.NewPCG(uint64(k), 9))
			const rate = 5.0 // events/s of a victim: half of what there is
			type arrival struct {
				at     float64
				tenant string
			}
			var all []arrival
			poisson := func(tenant string, rate float64) {
				for at := rnd.ExpFloat64() / rate; at < 5; at += rnd.ExpFloat64() / rate {
					all = append(all, arrival{at, tenant})
				}
			}
			for v := range victims {
				poisson(fmt.Sprint("v", v), rate)
			}
			if k > 0 && burst {
				for range int(rate * float64(k)) {
					all = append(all, arrival{2, "noisy"})
				}
			} else if k > 0 {
				poisson("noisy", rate*float64(k))
			}
			slices.SortStableFunc(all, func(a, b arrival) int {
				if a.at < b.at {
					return -1
				}
				return 1
			})
			began := time.Now()
			for _, a := range all {
				time.Sleep(time.Until(began.Add(time.Duration(a.at * float64(time.Second)))))
				keys := 10
				if a.tenant == "noisy" {
					keys = 1000
					if hot {
						keys = 1
					}
				}
				r.append(a.tenant, fmt.Sprint("k", rnd.IntN(keys)), added{})
			}
			time.Sleep(100 * time.Millisecond)
			stop()
			victim := func(tenant string) bool { return tenant != "noisy" }
			p50, p99 = w.quantile(0.5, victim), w.quantile(0.99, victim)
			n := 0
			for _, c := range w.calls {
				if victim(c.tenant) {
					n++
				}
			}
			want := 0
			for _, a := range all {
				if victim(a.tenant) {
					want++
				}
			}
			if n != want {
				t.Errorf("k=%d: %d events of victims done, want %d", k, n, want)
			}
		})
		return p50, p99, w
	}
	base50, base99, _ := arm(t, 0, false, false, 64<<20)
	for _, tt := range []struct {
		name       string
		k, memory  int
		hot, burst bool
	}{
		{"k=10", 10, 64 << 20, false, false},
		{"k=100", 100, 64 << 20, false, false},
		{"k=1000", 1000, 64 << 20, false, false},
		{"k=1000, window full", 1000, 2 << 20, false, false},
		{"hot key", 1000, 64 << 20, true, false},
		{"hot key, window full", 1000, 2 << 20, true, false},
		{"burst", 1000, 64 << 20, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p50, p99, w := arm(t, tt.k, tt.hot, tt.burst, tt.memory)
			i50, i99 := p50.Seconds()/base50.Seconds(), p99.Seconds()/base99.Seconds()
			t.Logf("alone %v / %v, with noise %v / %v: P50 index %.2f, P99 index %.2f, %d events", base50, base99, p50, p99, i50, i99, len(w.calls))
			if i50 > 1.5 || i99 > 2 {
				t.Errorf("P50 index %.2f, want at most 1.5; P99 index %.2f, want at most 2", i50, i99)
			}
		})
	}
}

// A key that is stuck does not stop the others, however long it takes: when its
// own events have filled the window, its tenant leaves.
func TestStreamStuckKeyFillsTheWindow(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		e, err := New(Config{Log: r.log, Store: r.st, Name: "a", Memory: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		r.e = e
		bad := true
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			if d.Tenant == "t" && bad {
				return errors.New("down")
			}
			return nil
		})
		r.add(reactor(w, Processor{Concurrency: 4, Freshness: slo.Objective{P99: time.Hour, Max: time.Hour}, Retry: Retry{Attempts: 1000, Min: time.Second}}))
		stop := r.run(r.e)
		defer stop()
		var tok eventlog.Token
		for range 3000 {
			r.append("t", "bad", added{})
			tok = r.append("u", "good", added{})
		}
		began := time.Now()
		r.wait("r", tok)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the others took %v", took)
		}
		if _, ok := r.laneOf("r", "t"); !ok {
			t.Error("tenant t has no lane of its own")
		}
		bad = false
		time.Sleep(time.Minute)
		r.untilMerged()
		w.check(r, 0)
	})
}

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

// TestStreamChaos does everything at once: operators who detach, merge, pause
// and retry, a store that fails or does not answer, poison that is mended,
// restarts, processes that die. In the end everything was handled, in order, and
// again only what an operator took away, or a process lost, while it was in
// progress: with even seeds, where nobody does, nothing.
func TestStreamChaos(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
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
	sick := true
	w := newWitness(t, func(ctx context.Context, d Delivery) error {
		x := uint64(d.Position)*0x9e3779b97f4a7c15 + seed
		if sick && x>>40%17 == 0 && d.Attempt < 20 {
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
	sick = false
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

// An event in progress belongs to its tenant's lane of its own as soon as an
// operator has made that, but it cannot be called back: nobody starts the next
// one of its key, or it again, until it has ended.
func TestStreamDetachWhileInProgress(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails bool
		merge bool
		calls int
	}{
		{"it is done", false, false, 3},
		{"it fails", true, false, 4},
		{"it is done and the tenant is back", false, true, 3},
		{"it fails and the tenant is back", true, true, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *rig) {
				fails := tt.fails
				w := newWitness(t, func(ctx context.Context, d Delivery) error {
					if d.Stream == "slow" && d.Version == 1 {
						time.Sleep(3 * time.Second)
						if fails {
							fails = false
							return errors.New("not this time")
						}
					}
					return nil
				})
				r.add(reactor(w, Processor{Concurrency: 4}))
				stop := r.run(r.e)
				defer stop()
				r.append("t", "slow", added{}, added{})
				time.Sleep(500 * time.Millisecond)
				if err := lane.Detach(t.Context(), r.st, "r", "t"); err != nil {
					t.Fatal(err)
				}
				if tt.merge {
					if err := lane.Unpin(t.Context(), r.st, "r", "t"); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(500 * time.Millisecond)
				began := time.Now()
				r.wait("r", r.append("t", "other", added{})) // held up only by the checkpoint
				if took := time.Since(began); took > 8*time.Second {
					t.Errorf("took %v", took)
				}
				w.check(r, 0)
				if calls, _ := w.count(); calls != tt.calls {
					t.Errorf("%d calls, want %d", calls, tt.calls)
				}
			})
		})
	}
}

// The tenant's lane may begin before its base lane has read that it left.
func TestStreamLaneClaimsItsTenant(t *testing.T) {
	p := &Processor{Name: "r", Concurrency: 2, React: func(context.Context, Delivery) error { return nil }}
	pool := newStreamPool(p, func(func()) { t.Error("a worker was started") })
	base := newStreamLane(p, store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "r", Number: 1}}, State: store.Running}, pool.queue)
	pool.enter(base)
	var tasks []*task
	var keys []string
	for i := range 10 {
		tasks = append(tasks, &task{Event: event.Event{Position: event.Position(i + 1), Tenant: []string{"t", "u"}[i%2], Stream: "s", ID: fmt.Sprint(i)}})
		keys = append(keys, "s")
	}
	base.admit(tasks, keys)
	base.advance(10)
	id := base.id
	id.Tenant = "t"
	pool.enter(newStreamLane(p, store.Lane{LaneID: id, State: store.Running}, pool.queue))
	if base.undone != 5 || base.tenants["t"] != nil || !base.away("t", 11) || base.away("u", 11) {
		t.Errorf("after the claim: %d events, tenants %v; want those of u only", base.undone, base.tenants)
	}
	if turn, ok := pool.queue.pop(time.Now()); !ok || turn.key.id.Tenant != "u" {
		t.Errorf("next turn %v, %v; want one of tenant u", turn.key, ok)
	}
}
