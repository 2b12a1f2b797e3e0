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

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/internal/race"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// engine is start, with the engine itself.
func (r *fleetRig) engine(name string, ps ...Processor) (e *Engine, stop func()) {
	r.t.Helper()
	e, err := New(Config{Log: r.log, Store: &fleetStore{Store: r.mem}, Name: name, Lease: fleetLease})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range ps {
		if err := e.Add(r.t.Context(), p); err != nil {
			r.t.Fatal(err)
		}
	}
	return e, r.run(e)
}

// TestFleetHandOverToOneWhoRemoved: a lane takes a while to end, because a handler
// is in progress. Meanwhile the process that it is to be given to removes the
// processor. The lane must not be owned for ever by a process that does not work it.
func TestFleetHandOverToOneWhoRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		slow := func() Processor {
			return Processor{Name: "slow", Partitions: 16, React: func(context.Context, Delivery) error {
				time.Sleep(8 * time.Second) // does not look at its context
				return nil
			}}
		}
		a, stopA := r.engine("a", slow())
		defer stopA()
		time.Sleep(time.Second) // it has all the lanes
		b, stopB := r.engine("b", slow())
		defer stopB()
		load, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			for n := 0; pause(load, 100*time.Millisecond); n++ {
				r.append("acme", fmt.Sprint("s", n%200), added{N: n})
			}
		}()
		// until a is giving lanes away
		leaving := func() int {
			n := 0
			a.mu.Lock()
			defer a.mu.Unlock()
			for _, o := range a.procs["slow"].lanes {
				if !o.leaving.IsZero() {
					n++
				}
			}
			return n
		}
		for i := 0; leaving() == 0; i++ {
			if i > 100_000 {
				t.Fatal("nothing is given away")
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := b.Remove(t.Context(), "slow"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * fleetLease)
		for id, o := range r.owners() {
			if o.host != "a" {
				t.Errorf("lane %v: owner %q, five minutes after b has removed the processor", id, o.host)
			}
		}
	})
}

// TestFleetZombieThatRecovers: a process whose heartbeats failed for longer than
// a lease, and whose lanes others have taken, must stop to work them once it sees
// the rows again, and not only when one of its commits is refused: a reactor
// would run an event twice that was not in flight.
func TestFleetZombieThatRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		var ran atomic.Int64
		p := Processor{Name: "mail", React: func(context.Context, Delivery) error {
			ran.Add(1)
			return nil
		}}
		a, stopA := r.engine("a", p)
		defer stopA()
		time.Sleep(time.Second)
		id := store.LaneID{Build: store.Build{Processor: "mail", Number: 1}}
		// another one takes the lane, as after a lease that ended
		err := r.mem.Update(t.Context(), func(tx store.Tx) error {
			if err := tx.PutMember(store.Member{ID: "z", Host: "z", Since: time.Now(), Until: time.Now().Add(time.Hour)}); err != nil {
				return err
			}
			l, err := tx.Lane(id)
			if err != nil {
				return err
			}
			l.Owner = ""
			return tx.PutLane(l)
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := lane.Acquire(t.Context(), r.mem, id, "z"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * fleetLease) // a looks at the rows twenty times a second, or so
		a.mu.Lock()
		n := len(a.procs["mail"].lanes)
		a.mu.Unlock()
		if n > 0 {
			t.Errorf("the lane has been another's for three leases, and is still worked here")
		}
		r.append("acme", "s1", added{N: 1})
		time.Sleep(time.Second)
		if n := ran.Load(); n > 0 {
			t.Errorf("a ran %d events of a lane that it lost 30 s before", n)
		}
	})
}

// TestFleetAddRemoveUnderLoad: several engines with one reactor, which is added
// and removed in them at random. A key is never in progress twice, and all is
// done in the end; what comes twice was in progress as its lane was taken away.
func TestFleetAddRemoveUnderLoad(t *testing.T) {
	seeds := uint64(3)
	if race.Enabled {
		seeds = 1
	}
	for seed := range seeds {
		synctest.Test(t, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			r := newFleetRig(t)
			var mu sync.Mutex
			last, busy, twice, overlaps, disorder := map[string]int64{}, map[string]int{}, 0, 0, 0
			proc := func() Processor {
				return Processor{Name: "mail", Partitions: 8, Concurrency: 8, React: func(ctx context.Context, d Delivery) error {
					mu.Lock()
					if busy[d.Stream]++; busy[d.Stream] > 1 {
						overlaps++
					}
					mu.Unlock()
					ok := pause(ctx, 5*time.Millisecond)
					mu.Lock()
					defer mu.Unlock()
					busy[d.Stream]--
					if !ok {
						return ctx.Err()
					}
					switch v := d.Version; {
					case v == last[d.Stream]+1:
						last[d.Stream] = v
					case v <= last[d.Stream]:
						twice++
					default:
						disorder++
						last[d.Stream] = v
					}
					return nil
				}}
			}
			var es []*Engine
			var stops []func()
			for i := range 3 {
				e, stop := r.engine(fmt.Sprint("w", i), proc())
				es, stops = append(es, e), append(stops, stop)
			}
			ctx, cancel := context.WithCancel(context.Background())
			total := make(chan int)
			go func() {
				n := 0
				for ; pause(ctx, 5*time.Millisecond); n++ {
					r.append("acme", fmt.Sprint("s", n%40), added{N: n})
				}
				total <- n
			}()
			in := []bool{true, true, true}
			for range 40 {
				time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
				i := rng.IntN(3)
				if in[i] {
					if err := es[i].Remove(t.Context(), "mail"); err != nil {
						t.Fatal(err)
					}
				} else if err := es[i].Add(t.Context(), proc()); err != nil {
					t.Fatal(err)
				}
				in[i] = !in[i]
			}
			for i := range in {
				if !in[i] {
					if err := es[i].Add(t.Context(), proc()); err != nil {
						t.Fatal(err)
					}
				}
			}
			time.Sleep(5 * time.Second)
			cancel()
			n := <-total
			time.Sleep(60 * time.Second)
			mu.Lock()
			sum := int64(0)
			for _, v := range last {
				sum += v
			}
			if sum != int64(n) || overlaps > 0 || disorder > 0 {
				t.Errorf("seed %d: %d events, %d done, %d twice, %d overlaps, %d out of order; owners %v", seed, n, sum, twice, overlaps, disorder, r.owners())
			}
			t.Logf("seed %d: %d events, %d twice", seed, n, twice)
			mu.Unlock()
			for _, stop := range stops {
				stop()
			}
		})
	}
}

// TestFleetThatIsSteadyKeepsItsLanes: nobody comes or goes, the load is the same
// all the time but for chance. Then lanes stay where they are: each move ends the
// contexts of handlers in progress, whose events come again.
func TestFleetThatIsSteadyKeepsItsLanes(t *testing.T) {
	lasts, every := 2*time.Minute, 5*time.Millisecond
	if race.Enabled { // make sim has the whole of it
		lasts, every = time.Minute, 25*time.Millisecond
	}
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		rng := rand.New(rand.NewPCG(1, 2))
		var calls, cut atomic.Int64
		proc := Processor{Name: "mail", Partitions: 24, Concurrency: 16, React: func(ctx context.Context, d Delivery) error {
			calls.Add(1)
			if !pause(ctx, time.Duration(10+d.Position%80)*time.Millisecond) {
				cut.Add(1)
				return ctx.Err()
			}
			return nil
		}}
		var stops []func()
		for i := range 3 {
			_, stop := r.engine(fmt.Sprint("w", i), proc)
			stops = append(stops, stop)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan int)
		go func() {
			n := 0
			for ; pause(ctx, time.Duration(rng.ExpFloat64()*float64(every))); n++ {
				r.append("acme", fmt.Sprint("s", int(400*rng.Float64()*rng.Float64())), added{N: n})
			}
			ended <- n
		}()
		time.Sleep(time.Minute) // things have settled
		calls.Store(0)
		cut.Store(0)
		w := r.watch()
		time.Sleep(lasts)
		w.stop()
		cancel()
		n := <-ended
		moves := 0
		for _, m := range w.moves {
			moves += m
		}
		t.Logf("%d events; in %v of steady load: %d moves of 24 lanes, %d handlers cut off", n, lasts, moves, cut.Load())
		if moves > int(16*lasts/(2*time.Minute)) {
			t.Errorf("%d moves of 24 lanes in %v, although nobody came or went", moves, lasts)
		}
		for _, stop := range stops {
			stop()
		}
	})
}

// A refusingStore fails the updates that free a lane, while it is told to.
type refusingStore struct {
	*memstore.Store
	refuse atomic.Bool
}

func (s *refusingStore) Update(ctx context.Context, f func(store.Tx) error) error {
	if s.refuse.Load() {
		return errors.New("database is locked")
	}
	return s.Store.Update(ctx, f)
}

func (s *refusingStore) Extend(ctx context.Context, id, notes string, ttl time.Duration) (bool, error) {
	if s.refuse.Load() {
		return false, errors.New("database is locked")
	}
	return s.Store.Extend(ctx, id, notes, ttl)
}

// TestFleetRemoveWhileTheStoreFails: a processor is removed while the store is
// locked for a moment, so its lane cannot be released. The process lives on. Then
// another process that has the processor must get the lane.
func TestFleetRemoveWhileTheStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		s := &refusingStore{Store: r.mem}
		a, err := New(Config{Log: r.log, Store: s, Name: "a", Lease: fleetLease})
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Add(t.Context(), counter(4)); err != nil {
			t.Fatal(err)
		}
		stopA := r.run(a)
		defer stopA()
		time.Sleep(time.Second)
		s.refuse.Store(true)
		if err := a.Remove(t.Context(), "counts"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s.refuse.Store(false)
		_, stopB := r.engine("b", counter(4))
		defer stopB()
		time.Sleep(10 * fleetLease)
		if got := r.counts(); got["b"] != 4 {
			t.Errorf("%v, want all lanes with b, which alone has the processor", got)
		}
	})
}

// TestFleetForgetsMembersThatDied: processes that were killed leave a row
// each, which every look reads. They must not add up for ever.
func TestFleetForgetsMembersThatDied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		for range 50 {
			_, kill := r.start("w", counter(1))
			time.Sleep(time.Second)
			kill()
		}
		_, stop := r.engine("w", counter(1))
		defer stop()
		time.Sleep(2 * time.Hour)
		var members []store.Member
		if err := r.mem.View(t.Context(), func(tx store.Tx) (err error) { members, err = tx.Members(); return err }); err != nil {
			t.Fatal(err)
		}
		if len(members) > 1 {
			t.Errorf("%d members are listed two hours after all but one have died", len(members))
		}
	})
}

// TestFleetForgetsRemovedProcessors: a program adds a processor for each
// job and removes it when that is done. Nothing of it must stay.
func TestFleetForgetsRemovedProcessors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		stop := r.run(r.e)
		r.append("acme", "s", added{N: 1})
		for i := range 100 {
			name := fmt.Sprint("job-", i)
			p := projection.New(name, projection.On("added", func(*tally, projection.Event[added]) error { return nil }))
			r.add(Processor{Name: name, Projection: p})
			time.Sleep(time.Second)
			if err := r.e.Remove(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
		r.e.turns.mu.Lock()
		n := len(r.e.turns.procs)
		r.e.turns.mu.Unlock()
		if n > 1 {
			t.Errorf("%d processors are in the queue for turns, each of which looks at all of them; none is in the consumer", n)
		}
		stop()
	})
}
