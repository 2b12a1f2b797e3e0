package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/memstore"
)

// ownerStore notes what its Updates make of lanes' owners and epochs.
type ownerStore struct {
	*memstore.Store
	mu   sync.Mutex
	puts []store.Lane // with the owner before in Reason
}

type ownerTx struct {
	store.Tx
	s *ownerStore
}

func (s *ownerStore) Update(ctx context.Context, f func(store.Tx) error) error {
	return s.Store.Update(ctx, func(tx store.Tx) error { return f(&ownerTx{tx, s}) })
}

func (tx *ownerTx) PutLane(l store.Lane) error {
	before, err := tx.Lane(l.LaneID)
	if err == nil && (before.Owner != l.Owner || before.Epoch != l.Epoch) {
		c := l
		c.Reason = before.Owner
		tx.s.mu.Lock()
		tx.s.puts = append(tx.s.puts, c)
		tx.s.mu.Unlock()
	}
	return tx.Tx.PutLane(l)
}

// TestLeavingHandsOver: the lanes of a process that ends are never without an owner,
// change hands once, and go on; it takes no longer than its batches in flight.
func TestLeavingHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFleetRig(t)
		s := &ownerStore{Store: r.mem}
		stops := map[string]func(){}
		for _, name := range []string{"a", "b", "c"} {
			e, err := New(Config{Log: r.log, Store: s, Name: name, Lease: fleetLease})
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Add(t.Context(), counter(24)); err != nil {
				t.Fatal(err)
			}
			stops[name] = r.run(e)
		}
		time.Sleep(6 * fleetLease)
		before := r.owners()
		s.mu.Lock()
		s.puts = nil
		s.mu.Unlock()
		began := time.Now()
		stops["a"]()
		took := time.Since(began)
		s.mu.Lock()
		puts := slices.Clone(s.puts)
		s.mu.Unlock()
		moved := map[store.LaneID]int{}
		for _, l := range puts {
			if moved[l.LaneID]++; l.Owner == "" || l.Epoch != before[l.LaneID].epoch+1 {
				t.Errorf("lane %v: %q gives it to %q under epoch %d, it was %d", l.LaneID, l.Reason, l.Owner, l.Epoch, before[l.LaneID].epoch)
			}
		}
		mine := 0
		for id, o := range before {
			if want := map[bool]int{true: 1}[o.host == "a"]; moved[id] != want {
				t.Errorf("lane %v of %s changed hands %d times, want %d", id, o.host, moved[id], want)
			}
			if o.host == "a" {
				mine++
			}
		}
		if mine == 0 || took > 100*time.Millisecond {
			t.Errorf("%d lanes in %v, want some in less than 100 ms", mine, took)
		}
		time.Sleep(time.Second)
		for id, o := range r.owners() {
			if o.host == "a" || o.host == "" {
				t.Errorf("lane %v is with %q", id, o.host)
			}
		}
		stops["b"]()
		stops["c"]()
		if n := len(r.counts()); n != 1 || r.counts()[""] != 24 {
			t.Errorf("all have left: %v", r.counts())
		}
	})
}

// TestHeirsAreHomes: who leaves gives lanes that are with it for another's absence to
// that one, and the rest to others that stay.
func TestHeirsAreHomes(t *testing.T) {
	v := &view{procs: []store.Processor{{Name: "p", Kind: KindProjection, Live: 1}}}
	for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
		n := memberNotes{Processors: []string{"p"}, Leaving: id == "d", Costs: map[string]int64{}}
		for i := range 54 { // so few that some are not where they would be, but for the others
			if id == "b" && i%7 == 0 {
				n.Costs[store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: i}.String()] = 4
			}
		}
		v.members = append(v.members, store.Member{ID: id, Host: id, Notes: n.String()})
	}
	for i := range 54 {
		v.lanes = append(v.lanes, store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 1}, Partition: i}, State: store.Running})
	}
	home, _ := place(v)
	ofA := memberNotes{Processors: []string{"p"}, Leaving: true}
	v.members[0].Notes, v.notes = ofA.String(), nil
	without, _ := place(v)
	v.notes = nil
	heirs := v.heirs("a")
	if told := v.told()["a"]; !told.Leaving {
		t.Error("the view has changed")
	}
	differ := 0
	for i := range v.lanes {
		id := v.lanes[i].LaneID
		want := home[id]
		if want == "a" {
			want = without[id]
		} else if without[id] != want {
			differ++
		}
		if got := heirs[id]; got != want || got == "a" || got == "d" || got == "" {
			t.Errorf("lane %v goes to %q, want %q: its home is %q", id, got, want, home[id])
		}
	}
	if differ == 0 {
		t.Error("no lane has another place without a but those of a: nothing is tested")
	}
}

// TestHandOverOrder: groups have a lane for each heir; a reactor's tenant lanes come
// after its base lanes, in which events of the tenant may be in progress.
func TestHandOverOrder(t *testing.T) {
	var lanes []store.LaneID
	heirs := map[store.LaneID]string{}
	add := func(p, tenant, heir string, n int) {
		for i := range n {
			id := store.LaneID{Build: store.Build{Processor: p, Number: 1}, Partition: i, Tenant: tenant}
			lanes = append(lanes, id)
			heirs[id] = heir
		}
	}
	add("calls", "t", "b", 3)
	for i, heir := range []string{"b", "c", "d", "e", "f"} {
		add(fmt.Sprint("p", i), "", heir, 4)
		add(fmt.Sprint("p", i), "t", heir, 1)
	}
	add("calls", "", "c", 2)
	groups := handOverOrder(lanes, heirs, func(p string) bool { return p == "calls" })
	all, last := 0, 0
	for i, ids := range groups {
		seen := map[string]int{}
		for _, id := range ids {
			if all++; id.Processor == "calls" && id.Tenant != "" {
				last++
			} else if last > 0 {
				t.Errorf("group %d: %v comes after a tenant lane of a reactor", i, id)
			}
			seen[heirs[id]]++
		}
		if i < 4 && (len(ids) != 5 || len(seen) != 5) {
			t.Errorf("group %d has %d lanes for %v, want one for each of five", i, len(ids), seen)
		}
	}
	if all != len(lanes) || last != 3 {
		t.Errorf("%d of %d lanes, %d of a reactor's tenant", all, len(lanes), last)
	}
}
