// Package ledgertest is the conformance suite of route ledgers.
package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// A Ledger is what an adapter has: a ledger that names routes too.
type Ledger interface {
	ledger.Ledger
	ledger.Routes
}

// Open returns a new ledger, what opens a store of a name in its database, as another
// process would, and what does away with a store.
type Open func(t *testing.T) (l Ledger, store func(t *testing.T, name string) store.Store, drop func(t *testing.T, name string))

// Run tests an adapter.
func Run(t *testing.T, open Open) {
	for name, test := range map[string]func(*fixture){
		"Register": testRegister, "Partitions": testPartitions, "RegisterAtOnce": testAtOnce, "ClosedRefusesCommits": testClosed,
		"CloseBesideCommits": testBeside, "Lease": testLease, "Left": testLeft, "LanesOfTheLiveBuild": testLanes, "DroppedStore": testDropped, "Routes": testRoutes,
		"HostileHosts": testHostileHosts, "ReplacedStore": testReplaced, "Forget": testForget, "CloseABusySandbox": testBusy,
		"Keys": testKeys, "KeysAtOnce": testKeysAtOnce, "ForgetKeys": testForgetKeys, "HostileKeys": testHostileKeys,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &fixture{T: t, ctx: t.Context()}
			f.l, f.store, f.drop = open(t)
			test(f)
		})
	}
}

type fixture struct {
	*testing.T
	ctx   context.Context
	l     Ledger
	store func(t *testing.T, name string) store.Store
	drop  func(t *testing.T, name string)
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) register(host string, s store.Store, lease time.Duration) ledger.Sandbox {
	f.Helper()
	sb, err := f.l.Register(f.ctx, "log", "svc", host, s, lease)
	f.must(err)
	return sb
}

func (f *fixture) end(id int64, when ledger.When, want bool) {
	f.Helper()
	got, err := f.l.End(f.ctx, id, when)
	f.must(err)
	if got != want {
		f.Errorf("End(%d, %d) = %v, want %v", id, when, got, want)
	}
}

func (f *fixture) all(hosts ...string) []ledger.Sandbox {
	f.Helper()
	all, err := f.l.Sandboxes(f.ctx, "log", "svc", hosts)
	f.must(err)
	return all
}

var lane0 = store.LaneID{Build: store.Build{Processor: "p", Number: 1}}

// setup makes a processor with one lane.
func (f *fixture) setup(s store.Store) {
	f.Helper()
	f.must(s.Update(f.ctx, func(tx store.Tx) error {
		if err := tx.PutProcessor(store.Processor{Name: "p", Kind: "batch", Partitions: 1, Live: 1, LastBuild: 1}); err != nil {
			return err
		}
		return tx.PutLane(store.Lane{LaneID: lane0, Epoch: 1, State: store.Running})
	}))
}

func commit(ctx context.Context, s store.Store, from, to event.Position) error {
	return s.Commit(ctx, &store.Commit{Lane: lane0, Fence: store.Fence{Epoch: 1, Position: from}, Position: to})
}

func testRegister(f *fixture) {
	s := f.store(f.T, "one")
	if n := len(f.all("a")); n != 0 {
		f.Errorf("%d sandboxes in a new ledger", n)
	}
	a := f.register("a", s, time.Minute)
	if !a.Open || a.Expired || a.Generation != 1 || a.Host != "a" || a.Service != "svc" || a.Log != "log" || a.Store == "" || len(a.Partitions) != 0 || time.Until(a.Lease) < 0 {
		f.Errorf("registered as %+v", a)
	}
	if again := f.register("a", f.store(f.T, "one"), time.Minute); again.ID != a.ID { // another process of it
		f.Errorf("registered again as %+v", again)
	}
	_, err := f.l.Register(f.ctx, "log", "svc", "a", f.store(f.T, "two"), time.Minute)
	if e, ok := errors.AsType[*ledger.HostError](err); !ok || e.Sandbox.ID != a.ID || e.Store == a.Store {
		f.Errorf("a label that another sandbox has: %v", err)
	}
	b := f.register("b", f.store(f.T, "two"), time.Minute)
	f.end(a.ID, ledger.Always, true)
	f.end(a.ID, ledger.Always, true)
	c := f.register("a", f.store(f.T, "three"), time.Minute)
	if c.ID == a.ID || c.Generation != 2 {
		f.Errorf("registered anew as %+v", c)
	}
	for _, tt := range []struct {
		hosts []string
		want  []int64
	}{{nil, []int64{a.ID, c.ID, b.ID}}, {[]string{"a"}, []int64{a.ID, c.ID}}, {[]string{"b", "x"}, []int64{b.ID}}, {[]string{"x"}, nil}} {
		var got []int64
		for _, s := range f.all(tt.hosts...) {
			got = append(got, s.ID)
		}
		if !slices.Equal(got, tt.want) {
			f.Errorf("hosts %q: %v, want %v", tt.hosts, got, tt.want)
		}
	}
	other, err := f.l.Sandboxes(f.ctx, "log", "another", nil)
	if len(other) != 0 || err != nil {
		f.Errorf("another service has %v, %v", other, err)
	}
	ended, cancel := context.WithCancel(f.ctx)
	cancel()
	if _, err := f.l.Register(ended, "log", "svc", "c", s, time.Minute); !errors.Is(err, context.Canceled) {
		f.Errorf("a context that has ended: %v", err)
	}
}

func testPartitions(f *fixture) {
	a := f.register("a", f.store(f.T, "one"), time.Minute)
	span, err := f.l.Reserve(f.ctx, a.ID, 3)
	f.must(err)
	if !span.Pending {
		f.Errorf("reserved: %+v", span)
	}
	if got := f.all("a")[0].Partitions; !maps.Equal(got, map[int]ledger.Span{3: {Pending: true}}) {
		f.Errorf("partitions %v", got)
	}
	for i, from := range []event.Position{17, 99} { // the first counts
		at, err := f.l.Begin(f.ctx, a.ID, 3, from)
		if at != 17 || err != nil {
			f.Errorf("begin %d: %v, %v", i, at, err)
		}
	}
	if span, err = f.l.Reserve(f.ctx, a.ID, 3); span != (ledger.Span{From: 17}) || err != nil {
		f.Errorf("reserved again: %+v, %v", span, err)
	}
	_, err = f.l.Reserve(f.ctx, a.ID, 4)
	f.must(err)
	f.end(a.ID, ledger.Always, true)
	if _, err := f.l.Reserve(f.ctx, a.ID, 5); !errors.Is(err, ledger.ErrClosed) {
		f.Errorf("reserve when closed: %v", err)
	}
	if _, err := f.l.Begin(f.ctx, a.ID, 4, 5); !errors.Is(err, ledger.ErrClosed) {
		f.Errorf("begin when closed: %v", err)
	}
	if got := f.all("a")[0].Partitions; !maps.Equal(got, map[int]ledger.Span{3: {From: 17}, 4: {Pending: true}}) {
		f.Errorf("partitions %v", got)
	}
}

// Many processes of a sandbox share a registration.
func testAtOnce(f *fixture) {
	var wg sync.WaitGroup
	ids := make([]int64, 8)
	s, other := f.store(f.T, "one"), f.store(f.T, "one")
	for i := range ids {
		s := []store.Store{s, other}[i%2]
		wg.Go(func() {
			sb, err := f.l.Register(f.ctx, "log", "svc", "a", s, time.Minute)
			if err != nil {
				f.Error(err)
			}
			ids[i] = sb.ID
		})
	}
	wg.Wait()
	if all := f.all(); len(all) != 1 || len(slices.Compact(ids)) != 1 {
		f.Errorf("registrations %v of %v", ids, all)
	}
}

func testClosed(f *fixture) {
	s, other := f.store(f.T, "one"), f.store(f.T, "two")
	f.setup(s)
	f.setup(other)
	f.must(commit(f.ctx, s, 0, 1)) // no sandbox yet
	a := f.register("a", s, time.Minute)
	f.register("b", other, time.Minute)
	f.must(commit(f.ctx, s, 1, 2))
	f.end(a.ID, ledger.Always, true)
	if err := commit(f.ctx, s, 2, 3); !errors.Is(err, ledger.ErrClosed) {
		f.Errorf("a commit of a closed sandbox: %v", err)
	}
	f.must(commit(f.ctx, other, 0, 1))
	if lanes := f.all("a")[0].Lanes; len(lanes) != 1 || lanes[0].Position != 2 {
		f.Errorf("it was closed with the lanes %+v", lanes)
	}
	f.register("a", s, time.Minute) // the process registers anew
	f.must(commit(f.ctx, s, 2, 3))
	lanes, err := f.l.Lanes(f.ctx, a.ID) // of the first registration
	if err != nil || len(lanes) != 1 || lanes[0].Position != 2 {
		f.Errorf("the lanes of a registration that is closed: %+v, %v", lanes, err)
	}
	if err := f.l.Renew(f.ctx, a.ID, time.Minute); !errors.Is(err, ledger.ErrClosed) {
		f.Errorf("renewed when closed: %v", err)
	}
}

// What a registration is closed with is the last that its sandbox ever commits.
func testBeside(f *fixture) {
	for round := range 5 {
		name := fmt.Sprint("s", round)
		s := f.store(f.T, name)
		f.setup(s)
		a := f.register(name, s, time.Minute)
		var wg sync.WaitGroup
		last := event.Position(0)
		wg.Go(func() {
			for {
				err := commit(f.ctx, s, last, last+1)
				if errors.Is(err, ledger.ErrClosed) {
					return
				}
				if err != nil {
					f.Error(err)
					return
				}
				last++
			}
		})
		for range 1 + round { // a little later each time
			_, err := f.l.Lanes(f.ctx, a.ID)
			f.must(err)
		}
		f.end(a.ID, ledger.Always, true)
		wg.Wait()
		if lanes := f.all(name)[0].Lanes; len(lanes) != 1 || lanes[0].Position != last {
			f.Errorf("closed with %+v, and the last commit that was answered was %v", lanes, last)
		}
	}
}

func testLease(f *fixture) {
	s := f.store(f.T, "one")
	a := f.register("a", s, time.Hour)
	f.end(a.ID, ledger.Expired, false)
	f.must(f.l.Renew(f.ctx, a.ID, -time.Second))
	if sb := f.all("a")[0]; !sb.Expired || !sb.Open {
		f.Errorf("a lease that has ended: %+v", sb)
	}
	f.must(f.l.Renew(f.ctx, a.ID, time.Hour))
	f.end(a.ID, ledger.Expired, false)
	f.must(f.l.Renew(f.ctx, a.ID, -time.Second))
	f.register("a", s, time.Hour) // another process renews it too
	f.end(a.ID, ledger.Expired, false)
	f.must(f.l.Renew(f.ctx, a.ID, -time.Second))
	f.end(a.ID, ledger.Expired, true)
	if sb := f.all("a")[0]; sb.Open || sb.Closed.IsZero() {
		f.Errorf("closed: %+v", sb)
	}
}

func testLeft(f *fixture) {
	s := f.store(f.T, "one")
	a := f.register("a", s, time.Hour)
	member := func(until time.Duration) {
		f.must(s.Update(f.ctx, func(tx store.Tx) error { return tx.PutMember(store.Member{ID: "m", Until: tx.Now().Add(until)}) }))
	}
	member(time.Hour)
	f.end(a.ID, ledger.Left, false)
	member(-time.Hour)
	f.end(a.ID, ledger.Left, true)
}

func testLanes(f *fixture) {
	s := f.store(f.T, "one")
	want := []store.Lane{
		{LaneID: lane0, Position: 7, Done: []byte{1, 2}, Of: 2, Exclusions: map[string]event.Position{"t": event.Unbounded, "u": 5}},
		{LaneID: store.LaneID{Build: lane0.Build, Tenant: "t"}, Position: 3, Of: 2},
		{LaneID: store.LaneID{Build: lane0.Build, Partition: 1}, Position: 9, Of: 4},
	}
	f.must(s.Update(f.ctx, func(tx store.Tx) error {
		if err := tx.PutProcessor(store.Processor{Name: "p", Kind: "batch", Partitions: 2, Live: 1, LastBuild: 2, Rebuild: 2}); err != nil {
			return err
		}
		for i, l := range want {
			if l.State = store.Running; i < 2 {
				l.Of = 0 // the processor's
			}
			if err := tx.PutLane(l); err != nil {
				return err
			}
		}
		return tx.PutLane(store.Lane{LaneID: store.LaneID{Build: store.Build{Processor: "p", Number: 2}}, State: store.Running})
	}))
	a := f.register("a", s, time.Hour)
	check := func(when string, lanes []store.Lane, err error) {
		f.Helper()
		if got, wanted := fmt.Sprintf("%+v", lanes), fmt.Sprintf("%+v", want); got != wanted || err != nil {
			f.Errorf("%s: %v\n%s, want\n%s", when, err, got, wanted)
		}
	}
	lanes, err := f.l.Lanes(f.ctx, a.ID)
	check("open", lanes, err)
	f.end(a.ID, ledger.Always, true)
	check("closed", f.all("a")[0].Lanes, nil)
}

func testDropped(f *fixture) {
	s := f.store(f.T, "one")
	f.setup(s)
	a := f.register("a", s, time.Hour)
	f.drop(f.T, "one")
	if lanes, err := f.l.Lanes(f.ctx, a.ID); len(lanes) != 0 || err != nil {
		f.Errorf("lanes of a store that is gone: %v, %v", lanes, err)
	}
	f.end(a.ID, ledger.Always, true)
	if sb := f.all("a")[0]; sb.Open || len(sb.Lanes) != 0 {
		f.Errorf("closed: %+v", sb)
	}
}

func testRoutes(f *fixture) {
	f.must(f.l.PutRoute(f.ctx, "x", map[string]string{"svc": "a"}))
	f.must(f.l.PutRoute(f.ctx, "y", map[string]string{"svc": "ü", "o=,": `"`}))
	f.must(f.l.PutRoute(f.ctx, "x", map[string]string{"svc": "b"}))
	all, err := f.l.Routes(f.ctx)
	if err != nil || len(all) != 2 || !maps.Equal(all["x"], map[string]string{"svc": "b"}) || !maps.Equal(all["y"], map[string]string{"svc": "ü", "o=,": `"`}) {
		f.Errorf("routes %v, %v", all, err)
	}
	for _, want := range []bool{true, false} {
		if there, err := f.l.DeleteRoute(f.ctx, "x"); there != want || err != nil {
			f.Errorf("delete: %v, %v, want %v", there, err, want)
		}
	}
}

// What an event is routed to is data of strangers: no label stops the reading of others.
func testHostileHosts(f *fixture) {
	v := ledger.NewView(f.l, "log", "svc")
	a := f.register("a", f.store(f.T, "one"), time.Hour)
	_, err := f.l.Reserve(f.ctx, a.ID, 0)
	f.must(err)
	_, err = f.l.Begin(f.ctx, a.ID, 0, 1)
	f.must(err)
	last := map[string]event.Position{"a": 2, "": 2}
	for _, host := range []string{"a\x00", "\xff\xfe", "a' OR ''='", `a"]`, "ü\n", strings.Repeat("x", 4096), "\u2028", "NULL", "{a,b}"} {
		last[host] = 2
		if _, err := ledger.Join(f.ctx, f.l, "log", "svc", host, f.store(f.T, "hostile"), 0, 0, nil); err == nil {
			f.Errorf("%.20q: joined with no lease", host)
		}
	}
	found, err := v.Registrations(f.ctx, 0, last, 2)
	f.must(err)
	for host := range last {
		if got, want := ledger.Decide(found[host], 0, 2), host == "a"; (got == ledger.Sandboxes) != want {
			f.Errorf("an event for %.20q: %v", host, got)
		}
	}
	for _, host := range []string{"", "a\x00", "\xff"} {
		if _, err := ledger.Join(f.ctx, f.l, "log", "svc", host, f.store(f.T, "hostile"), time.Hour, 0, nil); err == nil {
			f.Errorf("joined as %q", host)
		}
	}
}

// A store that was deleted and made anew is another store, which has done nothing of
// what the one before had: it can be registered.
func testReplaced(f *fixture) {
	s := f.store(f.T, "one")
	f.setup(s)
	a := f.register("a", s, time.Hour)
	f.must(commit(f.ctx, s, 0, 7))
	f.drop(f.T, "one")
	s = f.store(f.T, "one")
	f.setup(s)
	b := f.register("a", s, time.Hour)
	f.must(commit(f.ctx, s, 0, 3))
	f.end(b.ID, ledger.Always, true)
	for _, id := range []int64{a.ID, b.ID} {
		lanes, err := f.l.Lanes(f.ctx, id)
		if err != nil || len(lanes) > 1 || len(lanes) == 1 && lanes[0].Position != 3 {
			f.Errorf("lanes %+v, %v: the store that had done 7 events is gone", lanes, err)
		}
	}
	if err := commit(f.ctx, s, 3, 4); !errors.Is(err, ledger.ErrClosed) {
		f.Errorf("a commit of a closed sandbox: %v", err)
	}
}

// A registration that was forgotten leaves nothing, and nothing that somebody still does
// in its name reaches another one.
func testForget(f *fixture) {
	s := f.store(f.T, "one")
	f.setup(s)
	a := f.register("a", s, time.Hour)
	_, err := f.l.Reserve(f.ctx, a.ID, 0)
	f.must(err)
	f.must(f.l.Forget(f.ctx, a.ID))
	if len(f.all("a")) != 1 {
		f.Error("an open registration was forgotten")
	}
	f.end(a.ID, ledger.Always, true)
	b := f.register("b", f.store(f.T, "two"), time.Hour)
	f.must(f.l.Forget(f.ctx, a.ID))
	f.must(f.l.Forget(f.ctx, a.ID))
	if all := f.all(); len(all) != 1 || all[0].ID != b.ID {
		f.Errorf("registrations %+v", all)
	}
	f.end(a.ID, ledger.Left, true)
	if err := f.l.Renew(f.ctx, a.ID, time.Hour); !errors.Is(err, ledger.ErrClosed) {
		f.Errorf("renewed what was forgotten: %v", err)
	}
	if _, err := f.l.Reserve(f.ctx, a.ID, 0); !errors.Is(err, ledger.ErrClosed) {
		f.Errorf("reserved what was forgotten: %v", err)
	}
	if _, err := f.l.Begin(f.ctx, a.ID, 0, 1); !errors.Is(err, ledger.ErrClosed) {
		f.Errorf("began what was forgotten: %v", err)
	}
	if lanes, err := f.l.Lanes(f.ctx, a.ID); len(lanes) != 0 || err != nil {
		f.Errorf("lanes of what was forgotten: %+v, %v", lanes, err)
	}
	if err := commit(f.ctx, s, 0, 1); !errors.Is(err, ledger.ErrClosed) {
		f.Errorf("a commit of a sandbox that was forgotten: %v", err)
	}
	f.end(b.ID, ledger.Always, true)
	f.must(f.l.Forget(f.ctx, b.ID))
	c := f.register("a", s, time.Hour)
	if len(c.Partitions) != 0 || c.ID == a.ID || c.ID == b.ID || !c.Open {
		f.Errorf("registered anew as %+v, after %d and %d", c, a.ID, b.ID)
	}
	f.must(commit(f.ctx, s, 0, 1))
}

// A sandbox that commits in many lanes without a pause can be closed all the same.
func testBusy(f *fixture) {
	const lanes = 8
	s := f.store(f.T, "one")
	id := func(i int) store.LaneID { return store.LaneID{Build: lane0.Build, Partition: i} }
	f.must(s.Update(f.ctx, func(tx store.Tx) error {
		if err := tx.PutProcessor(store.Processor{Name: "p", Kind: "batch", Partitions: lanes, Live: 1, LastBuild: 1}); err != nil {
			return err
		}
		for i := range lanes {
			if err := tx.PutLane(store.Lane{LaneID: id(i), Epoch: 1, State: store.Running}); err != nil {
				return err
			}
		}
		return nil
	}))
	a := f.register("a", s, time.Minute)
	var wg sync.WaitGroup
	last := make([]event.Position, lanes)
	for i := range lanes {
		wg.Go(func() {
			for f.ctx.Err() == nil {
				err := s.Commit(f.ctx, &store.Commit{Lane: id(i), Fence: store.Fence{Epoch: 1, Position: last[i]}, Position: last[i] + 1})
				if errors.Is(err, ledger.ErrClosed) {
					return
				}
				if err != nil {
					f.Error(err)
					return
				}
				last[i]++
			}
		})
	}
	began := time.Now()
	for range 20 { // while all of them commit
		_, err := f.l.Lanes(f.ctx, a.ID)
		f.must(err)
	}
	middle := time.Now()
	f.end(a.ID, ledger.Always, true)
	closed := time.Since(middle)
	wg.Wait()
	f.Logf("20 looks took %v, the close %v, beside %d commits", middle.Sub(began), closed, last)
	for _, l := range f.all("a")[0].Lanes {
		if l.Position != last[l.Partition] {
			f.Errorf("closed with %+v, and the last commit that was answered was %v", l, last[l.Partition])
		}
	}
}
