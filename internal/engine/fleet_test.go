package engine

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

const fleetLease = 10 * time.Second

// A fleetRig is a store and log with engines that come and go.
type fleetRig struct {
	*rig
	log *memlog.Log
	mem *memstore.Store
}

// A fleetStore takes as long as a database would, and can be cut off.
type fleetStore struct {
	*memstore.Store
	mu   sync.Mutex
	dead bool
}

func (s *fleetStore) call() error {
	time.Sleep(time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return errCrash
	}
	return nil
}

func (s *fleetStore) Update(ctx context.Context, f func(store.Tx) error) error {
	if err := s.call(); err != nil {
		return err
	}
	return s.Store.Update(ctx, f)
}

func (s *fleetStore) Extend(ctx context.Context, id, notes string, ttl time.Duration) (bool, error) {
	if err := s.call(); err != nil {
		return false, err
	}
	return s.Store.Extend(ctx, id, notes, ttl)
}

func (s *fleetStore) Commit(ctx context.Context, c *store.Commit) error {
	if err := s.call(); err != nil {
		return err
	}
	return s.Store.Commit(ctx, c)
}

func newFleetRig(t *testing.T) *fleetRig {
	log, mem := memlog.New(), memstore.New()
	return &fleetRig{rig: &rig{t: t, log: log, st: mem}, log: log, mem: mem}
}

// start runs an engine with processors. Stop is what a deployment does; kill
// leaves its leases behind.
func (r *fleetRig) start(name string, ps ...Processor) (stop, kill func()) {
	r.t.Helper()
	s := &fleetStore{Store: r.mem}
	e, err := New(Config{Log: r.log, Store: s, Name: name, Lease: fleetLease})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range ps {
		if err := e.Add(r.t.Context(), p); err != nil {
			r.t.Fatal(err)
		}
	}
	stop = r.run(e)
	return stop, func() {
		s.mu.Lock()
		s.dead = true
		s.mu.Unlock()
		stop()
	}
}

// counts returns how many lanes each host has ("": nobody).
func (r *fleetRig) counts() map[string]int {
	out := map[string]int{}
	for _, o := range r.owners() {
		out[o.host]++
	}
	return out
}

// An owner is who holds a lane, "" for nobody, and since which epoch.
type owner struct {
	host  string
	epoch int64
}

func (r *fleetRig) owners() map[store.LaneID]owner {
	out := map[store.LaneID]owner{}
	err := r.mem.View(r.t.Context(), func(tx store.Tx) error {
		hosts := map[string]string{}
		members, err := tx.Members()
		if err != nil {
			return err
		}
		for _, m := range members {
			if m.Until.After(tx.Now()) {
				hosts[m.ID] = m.Host
			}
		}
		lanes, err := tx.Lanes("")
		for _, l := range lanes {
			out[l.LaneID] = owner{hosts[l.Owner], l.Epoch}
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// A watcher looks at the owners every ten milliseconds.
type watcher struct {
	moves    map[store.LaneID]int           // to another owner than before
	unserved map[store.LaneID]time.Duration // the longest time without an owner who has acquired it
	stop     func()
}

func (r *fleetRig) watch() *watcher {
	w := &watcher{moves: map[store.LaneID]int{}, unserved: map[store.LaneID]time.Duration{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		last, since := r.owners(), map[store.LaneID]time.Time{}
		for pause(ctx, 10*time.Millisecond) {
			for id, o := range r.owners() {
				if o.host == "" || o.host != last[id].host && o.epoch == last[id].epoch {
					if since[id].IsZero() {
						since[id] = time.Now()
					}
					w.unserved[id] = max(w.unserved[id], time.Since(since[id]))
					continue
				}
				delete(since, id)
				if last[id].host != "" && last[id].host != o.host {
					w.moves[id]++
				}
				last[id] = o
			}
		}
	}()
	w.stop = func() { cancel(); <-done }
	return w
}

func (w *watcher) longest() (d time.Duration) {
	for _, x := range w.unserved {
		d = max(d, x)
	}
	return d
}

func counter(partitions int) Processor {
	p := projection.New("counts", projection.On("added", func(t *tally, e projection.Event[added]) error {
		t.N++
		t.Sum = t.Sum*31 + uint64(e.Data.N)
		return nil
	}))
	return Processor{Name: "counts", Projection: p, Partitions: partitions}
}

// TestFleetSpreads: who joins gets a share of the lanes when things have been
// calm for half a lease, and each lane pauses for less than 100 ms; who leaves
// is replaced at once; who dies, when its lease has ended. Events go on being
// applied once, in order.
func TestFleetSpreads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		stopA, _ := r.start("a", counter(24))
		time.Sleep(time.Second)
		if got := r.counts(); got["a"] != 24 {
			t.Fatalf("alone: %v", got)
		}
		w := r.watch()
		stopB, _ := r.start("b", counter(24))
		_, killC := r.start("c", counter(24))
		load, cancel := context.WithCancel(context.Background())
		loaded := make(chan int)
		go func() {
			n := 0
			for ; pause(load, 10*time.Millisecond); n++ {
				r.append("acme", fmt.Sprint("s", n%50), added{N: n + 1})
			}
			loaded <- n
		}()
		time.Sleep(2 * time.Second)
		if got := r.counts(); got["a"] != 24 {
			t.Errorf("two seconds after others joined: %v, want nothing moved yet", got)
		}
		time.Sleep(2 * fleetLease)
		for host, n := range r.counts() {
			if n < 4 || n > 10 || host == "" {
				t.Errorf("three members: %v, want about 8 each", r.counts())
			}
		}
		w.stop()
		if d := w.longest(); d > 100*time.Millisecond {
			t.Errorf("a lane was without an owner for %v while it was handed over", d)
		}
		for id, n := range w.moves {
			if n > 1 {
				t.Errorf("lane %v moved %d times", id, n)
			}
		}
		w = r.watch()
		killC()
		time.Sleep(2 * fleetLease)
		if got := r.counts(); got["c"]+got[""] > 0 {
			t.Errorf("after a member died: %v", got)
		}
		w.stop()
		if d := w.longest(); d > time.Second { // beyond the lease: until then it counts as its owner
			t.Errorf("a lane was without an owner for %v after the lease", d)
		}
		w = r.watch()
		stopB()
		time.Sleep(time.Second)
		w.stop()
		if got := r.counts(); got["a"] != 24 || w.longest() > 100*time.Millisecond {
			t.Errorf("after a member left: %v, longest without an owner %v", got, w.longest())
		}
		cancel()
		n := <-loaded
		r.append("acme", "s0", added{N: n + 1})
		time.Sleep(time.Second)
		sum := 0
		docs, err := r.mem.List(t.Context(), "counts", "acme", "", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range docs {
			x, err := counter(1).Projection.Decode(d.Data)
			if err != nil {
				t.Fatal(err)
			}
			sum += int(x.(*tally).N)
		}
		if sum != n+1 {
			t.Errorf("%d events counted, want %d", sum, n+1)
		}
		stopA()
	})
}

// TestFleetRollingRestart: six processes with many tenants in lanes of their own
// are replaced one after the other. Names last, so each lane moves away from the
// process that is restarted and perhaps back to it, and is hardly ever unserved.
func TestFleetRollingRestart(t *testing.T) {
	tenants := 120
	if testing.Short() {
		tenants = 40
	}
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		stops := map[string]func(){}
		for i := range 6 {
			name := fmt.Sprint("w", i)
			stops[name], _ = r.start(name, counter(1))
		}
		for i := range tenants {
			if err := lane.Detach(t.Context(), r.mem, "counts", fmt.Sprint("tenant-", i)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(6 * fleetLease)
		before := r.counts()
		for name := range stops {
			if share := tenants / 6; before[name] < share/2 || before[name] > share*2 {
				t.Errorf("before: %v, want about %d each", before, share)
			}
		}
		w := r.watch()
		for _, name := range slices.Sorted(maps.Keys(stops)) {
			stops[name]()
			time.Sleep(3 * time.Second)
			stops[name], _ = r.start(name, counter(1))
			time.Sleep(2 * fleetLease)
		}
		w.stop()
		moved := map[int]int{}
		for _, n := range w.moves {
			moved[n]++
		}
		for n := range moved {
			if n > 2 {
				t.Errorf("lanes by how often they moved: %v, want at most twice each", moved)
				break
			}
		}
		if d := w.longest(); d > time.Second {
			t.Errorf("a lane was without an owner for %v", d)
		}
		t.Logf("%d lanes; by how often they moved: %v; longest without an owner %v; before %v, after %v", len(r.owners()), moved, w.longest(), before, r.counts())
		for _, stop := range stops {
			stop()
		}
	})
}

// TestFleetOfDifferentPrograms: a lane is only ever given to a process that has
// its processor, and one that cannot work a lane does not keep it from others.
func TestFleetOfDifferentPrograms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		other := counter(1)
		other.Name, other.Projection = "other", projection.New("other", projection.On("added", func(*tally, projection.Event[added]) error { return nil }))
		stopA, _ := r.start("a", counter(12))
		stopB, _ := r.start("b", other)
		time.Sleep(3 * fleetLease)
		if got := r.counts(); got["a"] != 12 || got["b"] != 1 {
			t.Errorf("%v, want 12 with a and 1 with b", got)
		}
		stopC, _ := r.start("c", counter(12), other)
		time.Sleep(3 * fleetLease)
		if got := r.counts(); got["c"] < 3 || got["a"] < 3 || got["a"]+got["b"]+got["c"] != 13 {
			t.Errorf("%v, want the lanes shared out", got)
		}
		stopA()
		stopB()
		stopC()
	})
}

// TestFleetPlacesByCost: what a lane costs is measured, told to the others, and
// counts: who has a busy lane gets few idle ones beside it.
func TestFleetPlacesByCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		busy := Processor{Name: "busy", Concurrency: 2, React: func(ctx context.Context, _ Delivery) error {
			pause(ctx, 10*time.Millisecond)
			return nil
		}}
		r.add(busy)
		r.add(counter(16))
		for i := range 100 {
			for range 100 {
				r.append("acme", fmt.Sprint("s", i), added{})
			}
		}
		stop := r.run(r.e)
		time.Sleep(20 * time.Second) // of 50 that it takes
		var v view
		err := r.st.View(t.Context(), func(tx store.Tx) (err error) {
			if v.procs, err = tx.Processors(); err == nil {
				v.lanes, err = tx.Lanes("")
			}
			if err == nil {
				v.members, err = tx.Members()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		stop()
		other := v.members[0]
		other.ID, other.Host = "other", "other"
		v.members = append(v.members, other)
		counts, owner := map[string]int{}, ""
		targets, _ := place(&v)
		for id, member := range targets {
			if counts[member]++; id.Processor == "busy" {
				owner = member
			}
		}
		if len(v.lanes) != 17 || counts[owner] > 4 {
			t.Errorf("notes %s: of %d lanes, %d are placed with the busy one", other.Notes, len(v.lanes), counts[owner])
		}
	})
}
