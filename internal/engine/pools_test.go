package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/internal/lane"
	"github.com/fairlead-dev/fairlead/projection"
	"github.com/fairlead-dev/fairlead/store"
)

// member runs an engine in a pool.
func (r *fleetRig) member(name, pool string, ps ...Processor) (e *Engine, stop, kill func()) {
	r.t.Helper()
	s := &fleetStore{Store: r.mem}
	e, err := New(Config{Log: r.log, Store: s, Name: name, Lease: fleetLease, Pool: pool})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range ps {
		if err := e.Add(r.t.Context(), p); err != nil {
			r.t.Fatal(err)
		}
	}
	stop = r.run(e)
	return e, stop, func() {
		s.mu.Lock()
		s.dead = true
		s.mu.Unlock()
		stop()
	}
}

// A calls records what a reactor was handed, by stream.
type calls struct {
	mu      sync.Mutex
	busy    map[string]bool
	handled map[string][]int
	bad     []string
}

func newCalls() *calls { return &calls{busy: map[string]bool{}, handled: map[string][]int{}} }

// reactor handles each event in took; it does not look at its context.
func (c *calls) reactor(took time.Duration) Processor {
	return Processor{Name: "mail", Partitions: 2, Concurrency: 8, React: func(_ context.Context, d Delivery) error {
		var x added
		if err := (projection.JSON{}).Decode(d.Data, &x); err != nil {
			return err
		}
		k := d.Tenant + "/" + d.Stream
		c.mu.Lock()
		if c.busy[k] {
			c.bad = append(c.bad, fmt.Sprintf("event %d of %s began while another was in progress", x.N, k))
		}
		c.busy[k] = true
		c.mu.Unlock()
		time.Sleep(took)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.busy[k] = false
		c.handled[k] = append(c.handled[k], x.N)
		return nil
	}}
}

// check checks that each of n events was handled, in order, and at most so many
// of them twice, one time right after the other.
func (c *calls) check(t *testing.T, n, most int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.bad {
		t.Error(b)
	}
	total, again := 0, 0
	for k, ns := range c.handled {
		for i := range ns {
			if i > 0 && ns[i] < ns[i-1] {
				t.Errorf("%s: event %d was handled after %d", k, ns[i], ns[i-1])
			}
			if i > 0 && ns[i] == ns[i-1] {
				again++
				continue
			}
			total++
		}
	}
	if total != n || again > most {
		t.Errorf("%d events were handled, want %d; %d of them twice, want at most %d, which were in flight", total, n, again, most)
	}
}

// lanesOn returns the hosts that have lanes of a tenant, or of all others.
func (r *fleetRig) lanesOn(tenant string) (its, others map[string]int) {
	its, others = map[string]int{}, map[string]int{}
	for id, o := range r.owners() {
		if id.Tenant == tenant {
			its[o.host]++
		} else {
			others[o.host]++
		}
	}
	return its, others
}

// load appends an event of one of two tenants all 10 ms until stop, which returns
// how many there were.
func (r *fleetRig) load() (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	n, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for ; pause(ctx, 10*time.Millisecond); n++ {
			r.append([]string{"acme", "zoo"}[n%2], fmt.Sprint("s", n/2%20), added{N: n + 1})
		}
	}()
	return func() int { cancel(); <-done; return n }
}

// counted returns how many events are in the documents of the processor "counts".
func (r *fleetRig) counted() (sum int) {
	r.t.Helper()
	for _, tenant := range []string{"acme", "zoo"} {
		docs, err := r.mem.List(r.t.Context(), "counts", tenant, "", 100)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, d := range docs {
			x, err := counter(1).Projection.Decode(d.Data)
			if err != nil {
				r.t.Fatal(err)
			}
			sum += int(x.(*tally).N)
		}
	}
	return sum
}

// TestPoolMoves: a tenant goes to a pool and comes back, while it is busy, three
// times. Its lanes are the pool's a second after the command, and nobody else's
// ever are; nothing is lost or reordered, nor doubled but for a reactor's events
// in flight at the command.
func TestPoolMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newFleetRig(t), newCalls()
		ps := func() []Processor { return []Processor{counter(2), c.reactor(30 * time.Millisecond)} }
		_, stopA, _ := r.member("a", "", ps()...)
		defer stopA()
		_, stopB, _ := r.member("b", "", ps()...)
		defer stopB()
		_, stopG, _ := r.member("g", "gold", ps()...)
		defer stopG()
		time.Sleep(3 * fleetLease)
		stop := r.load()
		defer stop()
		time.Sleep(time.Second)
		for round := range 3 {
			if _, err := lane.SetPool(t.Context(), r.mem, "acme", "gold"); err != nil {
				t.Fatal(err)
			}
			w := r.watch()
			time.Sleep(time.Second)
			for range 300 {
				time.Sleep(10 * time.Millisecond)
				its, others := r.lanesOn("acme")
				if its["g"] != 4 || others["g"] > 0 || others["a"]+others["b"] != 4 {
					t.Fatalf("round %d: a second after pool set: acme is with %v, the others with %v", round, its, others)
				}
			}
			if w.stop(); w.longest() > 500*time.Millisecond {
				t.Errorf("round %d: a lane was without an owner for %v", round, w.longest())
			}
			if err := lane.ClearPool(t.Context(), r.mem, "acme"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
			its, others := r.lanesOn("acme")
			if len(its) > 0 || others["g"] > 0 || others["a"]+others["b"] != 4 {
				t.Fatalf("round %d: three seconds after pool clear: acme is with %v, the others with %v", round, its, others)
			}
		}
		n := stop()
		time.Sleep(3 * time.Second)
		if got := r.counted(); got != n {
			t.Errorf("%d events counted, want %d", got, n)
		}
		c.check(t, n, 3*8)
	})
}

// TestPoolWaitsForHandlers: handlers of the tenant take three seconds, and are in
// progress as it goes to the pool. The pool begins no event of a key before the
// one in progress has ended elsewhere.
func TestPoolWaitsForHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newFleetRig(t), newCalls()
		_, stopA, _ := r.member("a", "", c.reactor(3*time.Second))
		defer stopA()
		_, stopG, _ := r.member("g", "gold", c.reactor(3*time.Second))
		defer stopG()
		time.Sleep(time.Second)
		n := 0
		for range 3 {
			for s := range 4 {
				n++
				r.append("acme", fmt.Sprint("s", s), added{N: n})
			}
		}
		time.Sleep(time.Second) // the first of each stream are in progress
		if _, err := lane.SetPool(t.Context(), r.mem, "acme", "gold"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Second)
		if its, _ := r.lanesOn("acme"); its["g"] != 2 {
			t.Errorf("after the handlers have ended acme is with %v", its)
		}
		time.Sleep(20 * time.Second)
		c.check(t, n, 0)
	})
}

// TestPoolWithoutMembers: a pool whose last process dies is served by nobody else.
// That shows, with what to do about it; another process of the pool takes over
// at once, and nothing is lost.
func TestPoolWithoutMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		a, stopA, _ := r.member("a", "", counter(2))
		_, _, killG := r.member("g", "gold", counter(2))
		stop := r.load()
		defer stop()
		if _, err := lane.SetPool(t.Context(), r.mem, "acme", "gold"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * fleetLease)
		if its, _ := r.lanesOn("acme"); its["g"] != 2 {
			t.Fatalf("acme is with %v", its)
		}
		killG()
		time.Sleep(2 * fleetLease)
		its, others := r.lanesOn("acme")
		if its[""] != 2 || others["a"] != 2 {
			t.Errorf("the pool is dead: acme is with %v, the others with %v", its, others)
		}
		st, err := a.Stats("counts")
		if err != nil {
			t.Fatal(err)
		}
		why := fmt.Sprint(st.Errors)
		if st.Unowned != 2 || len(st.Errors) != 2 || !strings.Contains(why, `"acme"`) || !strings.Contains(why, `pool "gold"`) || !strings.Contains(why, "start one") {
			t.Errorf("%d lanes unowned, errors %v; want 2, naming the tenant, its pool and what to do", st.Unowned, st.Errors)
		}
		_, stopH, _ := r.member("h", "gold", counter(2))
		defer stopH()
		time.Sleep(300 * time.Millisecond)
		if its, _ := r.lanesOn("acme"); its["h"] != 2 {
			t.Errorf("0.3 s after another process of the pool has come, acme is with %v", its)
		}
		if st, _ := a.Stats("counts"); st.Unowned != 0 || len(st.Errors) != 0 {
			t.Errorf("served again: %d unowned, errors %v", st.Unowned, st.Errors)
		}
		// The shared processes end: then the others wait, and the pool goes on.
		stopA()
		time.Sleep(2 * fleetLease)
		if its, others := r.lanesOn("acme"); its["h"] != 2 || others[""] != 2 {
			t.Errorf("without shared processes acme is with %v, the others with %v", its, others)
		}
		_, stopB, _ := r.member("b", "", counter(2))
		defer stopB()
		n := stop()
		time.Sleep(time.Second)
		if got := r.counted(); got != n {
			t.Errorf("%d events counted, want %d", got, n)
		}
	})
}

// TestPoolOfWhatComesLater: a tenant without events, a processor that is new, and
// the build of a rebuild: the tenant is in lanes of the pool there too, and stays
// until it is given back; merge by hand is refused.
func TestPoolOfWhatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, c := newFleetRig(t), newCalls()
		a, stopA, _ := r.member("a", "", counter(2))
		defer stopA()
		g, stopG, _ := r.member("g", "gold", counter(2))
		defer stopG()
		across := counter(1)
		across.Name, across.Projection = "across", projection.New("across", projection.On("added", func(*tally, projection.Event[added]) error { return nil })).AcrossTenants()
		if err := a.Add(t.Context(), across); err != nil {
			t.Fatal(err)
		}
		shared, err := lane.SetPool(t.Context(), r.mem, "acme", "gold")
		if err != nil || len(shared) != 1 || shared[0] != "across" {
			t.Fatalf("SetPool = %v, %v, want the projection across tenants to stay shared", shared, err)
		}
		for _, e := range []*Engine{a, g} {
			if err := e.Add(t.Context(), c.reactor(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
		}
		stop := r.load()
		defer stop()
		time.Sleep(2 * time.Second)
		if its, _ := r.lanesOn("acme"); its["g"] != 4 || len(its) != 1 {
			t.Errorf("acme is with %v, want 4 lanes with g", its)
		}
		if err := lane.Unpin(t.Context(), r.mem, "counts", "acme"); !errors.Is(err, lane.ErrState) || !strings.Contains(err.Error(), "clear its pool") {
			t.Errorf("merge of a tenant that is given to a pool: %v", err)
		}
		if err := lane.Pause(t.Context(), r.mem, "counts", "acme", "test"); err != nil {
			t.Fatal(err)
		}
		if err := lane.StartRebuild(t.Context(), r.mem, "counts", ""); err != nil {
			t.Fatal(err)
		}
		sawBuild := false
		for range 2000 {
			time.Sleep(time.Millisecond)
			for id, o := range r.owners() {
				if id.Number == 2 && id.Tenant == "acme" && o.host != "" {
					sawBuild = true
					if o.host != "g" {
						t.Fatalf("lane %v of the rebuild is with %s", id, o.host)
					}
				}
			}
		}
		n := stop()
		if err := lane.Resume(t.Context(), r.mem, "counts", "acme"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		its, _ := r.lanesOn("acme")
		var row store.Processor
		_ = r.mem.View(t.Context(), func(tx store.Tx) (err error) { row, err = tx.Processor("counts"); return err })
		if !sawBuild || row.Live != 2 || its["g"] != 4 || len(its) != 1 {
			t.Errorf("after the rebuild (seen %v) build %d is live, acme is with %v", sawBuild, row.Live, its)
		}
		if got := r.counted(); got != n {
			t.Errorf("%d events counted, want %d", got, n)
		}
		c.check(t, n, 8)
		if err := lane.ClearPool(t.Context(), r.mem, "acme"); err != nil {
			t.Fatal(err)
		}
		if err := lane.ClearPool(t.Context(), r.mem, "acme"); !errors.Is(err, lane.ErrUnknown) {
			t.Errorf("ClearPool of a tenant in no pool = %v", err)
		}
		time.Sleep(3 * time.Second)
		if its, others := r.lanesOn("acme"); len(its) > 0 || others["g"] > 0 {
			t.Errorf("after pool clear acme is with %v, the others with %v", its, others)
		}
	})
}
