package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/slo"
	"github.com/fairlead-dev/fairlead/store"
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
		var healed atomic.Bool
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			if d.Stream == "bad" && !healed.Load() {
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
		healed.Store(true)
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
		buf := make([]byte, 16<<20)
		count := func(when string, workers int) {
			t.Helper()
			stacks := string(buf[:runtime.Stack(buf, true)])
			if n := strings.Count(stacks, "engine.(*streamPool).work("); n != workers {
				t.Errorf("%s: %d workers, want %d", when, n, workers)
			}
			if n := strings.Count(stacks, "engine.(*streamRunner)."); n != strings.Count(stacks, "engine.(*streamRunner).run(")+strings.Count(stacks, "engine.(*streamRunner).wait(") {
				t.Errorf("%s: goroutines of the lane besides its shell:\n%s", when, stacks)
			}
		}
		time.Sleep(time.Second)
		count("before", 0)
		var tok eventlog.Token
		for i := range 500 {
			tok = r.append("t", fmt.Sprint("s", i), added{})
		}
		time.Sleep(5 * time.Millisecond)
		count("busy", 500)
		r.wait("r", tok)
		time.Sleep(3 * time.Second)
		count("idle again", 0)
		stop()
		w.check(r, 0)
	})
}

// quantile returns one of the ages at which a tenant's events were done.
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
				for at := rnd.ExpFloat64() / rate; at < 3; at += rnd.ExpFloat64() / rate {
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
		{"hot key", 1000, 64 << 20, true, false},
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

// A readCounter counts the reads of a log that are for a tenant alone.
type readCounter struct {
	eventlog.Log
	tenants atomic.Int64
}

func (l *readCounter) Read(ctx context.Context, req eventlog.ReadRequest) (eventlog.Page, error) {
	if req.Filter.Tenants != nil {
		l.tenants.Add(1)
	}
	return l.Log.Read(ctx, req)
}

// A tenant's lane that has enough to do does not ask for each event of the others, and
// yet its workers are never without work.
func TestStreamLaneThatIsWellFedReadsRarely(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		reads := &readCounter{Log: r.log}
		e, err := New(Config{Log: reads, Store: r.st, Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		r.e = e
		w := newWitness(t, sleeps(4*time.Millisecond))
		r.add(reactor(w, Processor{Concurrency: 4}))
		if err := lane.Detach(t.Context(), r.st, "r", "noisy"); err != nil {
			t.Fatal(err)
		}
		stop := r.run(r.e)
		const n = 1000 // events that take a second
		r.append("quiet", "k", added{})
		time.Sleep(time.Second)
		began, before := time.Now(), reads.tenants.Load()
		for i := range n {
			r.append("noisy", fmt.Sprint("k", i%100), added{})
		}
		for i := range n {
			time.Sleep(time.Millisecond)
			r.append("quiet", fmt.Sprint("k", i%100), added{})
			r.append("noisy", fmt.Sprint("k", i%100), added{})
		}
		asked := reads.tenants.Load() - before
		time.Sleep(3 * time.Second)
		stop()
		w.check(r, 0)
		last := began
		for _, c := range w.calls {
			if c.tenant == "noisy" && c.end.After(last) {
				last = c.end
			}
		}
		t.Logf("%d reads in a second, all done after %v", asked, last.Sub(began))
		if asked > 60 {
			t.Errorf("the lane read %d times in a second, want 50 or so", asked)
		}
		if took := last.Sub(began); took > 3050*time.Millisecond { // with the thousand events of the other tenant
			t.Errorf("3,000 events of 4 ms took four workers %v, want 3 s", took)
		}
	})
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
		var bad atomic.Bool
		bad.Store(true)
		w := newWitness(t, func(ctx context.Context, d Delivery) error {
			if d.Tenant == "t" && bad.Load() {
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
		bad.Store(false)
		time.Sleep(time.Minute)
		r.untilMerged()
		w.check(r, 0)
	})
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
