package ledgertest

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// keys returns what the ledger has of keys for a service.
func (f *fixture) keys(service string, names ...string) []ledger.Key {
	f.Helper()
	all, err := f.l.Keys(f.ctx, "log", service, names)
	f.must(err)
	return all
}

// key returns what it has of one.
func (f *fixture) key(service, name string) *ledger.Key {
	f.Helper()
	all := f.keys(service, name)
	if len(all) != 1 || all[0].Name != name {
		f.Fatalf("key %q of service %q: %+v", name, service, all)
	}
	return &all[0]
}

func (f *fixture) bind(service string, k *ledger.Key, partition int, from event.Position) {
	f.Helper()
	f.must(f.l.Bind(f.ctx, "log", service, k, partition, from))
}

func (f *fixture) put(name string, route map[string]string) {
	f.Helper()
	f.must(f.l.PutRoute(f.ctx, name, route))
}

func (f *fixture) remove(name string, want bool) {
	f.Helper()
	if there, err := f.l.DeleteRoute(f.ctx, name); there != want || err != nil {
		f.Errorf("delete %q: %v, %v, want %v", name, there, err, want)
	}
}

// is checks what a key stands for, as one host for each position from 1 on; "." is none.
func (f *fixture) is(k *ledger.Key, partition int, want string) {
	f.Helper()
	var got strings.Builder
	for p := range event.Position(len(want)) {
		if host := k.At(partition, p+1); host != nil {
			got.WriteString(string(host))
		} else {
			got.WriteString(".")
		}
	}
	if got.String() != want {
		f.Errorf("key %q stands in partition %d for %s, want %s (%+v)", k.Name, partition, got.String(), want, k.Bindings)
	}
}

// A key stands for what its route says, from the position on at which it was bound to that.
func testKeys(f *fixture) {
	if all := f.keys("svc"); len(all) != 0 {
		f.Errorf("keys of a new ledger: %+v", all)
	}
	f.put("k", map[string]string{"svc": "a", "mail": "m"})
	f.put("l", map[string]string{"mail": "m"})
	k := f.key("svc", "k")
	if k.Host != "a" || !k.Pending(0) || !k.Pending(1) {
		f.Errorf("new: %+v", k)
	}
	f.is(k, 0, "......")
	if l := f.key("svc", "l"); l.Host != "" || l.Pending(0) {
		f.Errorf("the route of another service: %+v", l)
	}
	f.bind("svc", k, 0, 2)
	f.bind("svc", k, 0, 9) // the first counts
	again := f.key("svc", "k")
	if again.Pending(0) || !again.Pending(1) {
		f.Errorf("bound: %+v", again)
	}
	f.is(again, 0, "..aaaa")
	f.is(again, 1, "......")
	if mail := f.key("mail", "k"); !mail.Pending(0) || mail.Host != "m" || len(mail.Bindings) > 0 {
		f.Errorf("of another service: %+v", mail)
	}
	if all, err := f.l.Keys(f.ctx, "another", "svc", nil); err != nil || len(all) != 2 || !all[0].Pending(0) {
		f.Errorf("of another log: %+v, %v", all, err)
	}

	// It changes.
	f.put("k", map[string]string{"mail": "m", "svc": "a"})
	if same := f.key("svc", "k"); same.Version != again.Version {
		f.Errorf("the same route has version %d, and had %d", same.Version, again.Version)
	}
	f.put("k", map[string]string{"svc": "a"})
	if of := f.key("svc", "k"); of.Pending(0) || of.Version == again.Version {
		f.Errorf("a change for others: %+v", of)
	}
	f.put("k", map[string]string{"svc": "b"})
	changed := f.key("svc", "k")
	if !changed.Pending(0) {
		f.Errorf("changed: %+v", changed)
	}
	f.is(changed, 0, "..aaaa")
	f.put("k", map[string]string{"svc": "c"})
	f.bind("svc", changed, 0, 3) // that was read before it was c's
	if k := f.key("svc", "k"); !k.Pending(0) || len(k.Bindings[0]) != 1 {
		f.Errorf("bound to what the route was: %+v", k)
	}
	f.put("k", map[string]string{"svc": "b"})
	f.bind("svc", changed, 0, 3) // b's again, and yet another change
	if k := f.key("svc", "k"); !k.Pending(0) || len(k.Bindings[0]) != 1 {
		f.Errorf("bound by a reading before the change: %+v", k)
	}
	f.bind("svc", f.key("svc", "k"), 0, 4)
	f.is(f.key("svc", "k"), 0, "..aabb")
	f.put("k", map[string]string{"svc": "d"})
	f.bind("svc", f.key("svc", "k"), 0, 1) // which cannot be the end: it was 4
	f.is(f.key("svc", "k"), 0, "..aadd")

	// It is removed, and made anew.
	f.remove("k", true)
	f.remove("k", false)
	if all, err := f.l.Routes(f.ctx); err != nil || len(all) != 1 {
		f.Errorf("routes %v, %v", all, err)
	}
	gone := f.key("svc", "k")
	if gone.Host != "" || !gone.Pending(0) || gone.Pending(1) {
		f.Errorf("removed: %+v", gone)
	}
	f.bind("svc", gone, 0, 5)
	f.is(f.key("svc", "k"), 0, "..aad.")
	f.put("k", map[string]string{"svc": "e"})
	f.bind("svc", f.key("svc", "k"), 0, 6)
	f.is(f.key("svc", "k"), 0, "..aad.e")
	f.remove("l", true)
	if all := f.keys("svc", "l"); len(all) != 0 {
		f.Errorf("a route that was never bound leaves %+v", all)
	}
	f.bind("svc", &ledger.Key{Name: "l", Host: "x", Version: 1}, 0, 1)
	if all := f.keys("svc", "l"); len(all) != 0 {
		f.Errorf("a key that is gone was bound: %+v", all)
	}

	before, err := f.l.Versions(f.ctx)
	f.must(err)
	if len(before) != 1 || before["k"] != f.key("svc", "k").Version {
		f.Errorf("versions %v", before)
	}

	// All that is pending, by one call.
	f.put("l", map[string]string{"svc": "f"})
	f.must(ledger.Bind(f.ctx, f.l, "log", "svc", nil, 3, func(_ context.Context, p int) (event.Position, error) { return event.Position(10 * p), nil }))
	f.is(f.key("svc", "l"), 0, "ff")
	f.is(f.key("svc", "l"), 1, "..........ff")
	f.is(f.key("svc", "k"), 0, "..aad.e")
	f.is(f.key("svc", "k"), 2, "....................e")
}

// Many bind a key at once, while its route changes: all agree on where it begins.
func testKeysAtOnce(f *fixture) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	head := event.Position(0)
	grow := func(context.Context, int) (event.Position, error) {
		mu.Lock()
		defer mu.Unlock()
		head++
		return head, nil
	}
	told := map[event.Position]string{} // what anybody has decided, by position
	for reader := range 4 {
		v := ledger.NewKeyView(f.l, "log", "svc", grow)
		wg.Go(func() {
			for round := range 30 {
				p, _ := grow(f.ctx, 0) // an event
				if round%5 == reader {
					f.put("k", map[string]string{"svc": fmt.Sprint(reader, round)})
				}
				keys, err := v.Keys(f.ctx, 0, map[string]event.Position{"k": p}, p)
				if err != nil {
					f.Error(err)
					return
				}
				mu.Lock()
				for at := max(1, p-10); at <= p; at++ {
					host := string(keys["k"].At(0, at))
					if before, ok := told[at]; ok && before != host {
						f.Errorf("position %d is %q's, and was %q's", at, host, before)
					}
					told[at] = host
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	k := f.key("svc", "k")
	for at, host := range told {
		if got := string(k.At(0, at)); got != host {
			f.Errorf("position %d was %q's, and is %q's", at, host, got)
		}
	}
	if len(k.Bindings[0]) < 5 {
		f.Errorf("only %d changes in %d positions", len(k.Bindings[0]), head)
	}
}

func testForgetKeys(f *fixture) {
	change := func(host string, from event.Position) {
		f.Helper()
		if host == "" {
			f.remove("k", true)
		} else {
			f.put("k", map[string]string{"svc": host, "mail": "m"})
		}
		f.bind("svc", f.key("svc", "k"), 0, from)
		f.bind("svc", f.key("svc", "k"), 1, 2*from)
	}
	forget := func(to ...event.Position) {
		f.Helper()
		upTo := map[int]event.Position{}
		for p, end := range to {
			upTo[p] = end
		}
		f.must(f.l.ForgetKeys(f.ctx, "log", "svc", upTo))
	}
	change("a", 1)
	change("b", 3)
	change("", 5)
	change("c", 7)
	f.is(f.key("svc", "k"), 0, ".aabb..c")
	forget(2, 2)
	f.is(f.key("svc", "k"), 0, ".aabb..c")
	forget(4, 5)
	f.is(f.key("svc", "k"), 0, "...bb..c")
	f.is(f.key("svc", "k"), 1, "..aaaabbbb....c")
	forget(6)
	f.is(f.key("svc", "k"), 0, ".......c")
	forget(100)
	if k := f.key("svc", "k"); k.Pending(0) || len(k.Bindings[0]) != 1 || len(k.Bindings[1]) != 4 {
		f.Errorf("%+v", k)
	}
	f.is(f.key("svc", "k"), 0, ".......c")
	f.bind("mail", f.key("mail", "k"), 0, 5)
	change("", 9)
	forget(100, 100)
	if k := f.key("svc", "k"); len(k.Bindings[0])+len(k.Bindings[1]) > 0 || k.Pending(0) {
		f.Errorf("removed, and nobody can read what was its: %+v", k)
	}
	k := f.key("mail", "k")
	if !k.Pending(0) {
		f.Errorf("another service has still to learn of the removal: %+v", k)
	}
	f.bind("mail", k, 0, 8)
	f.must(f.l.ForgetKeys(f.ctx, "log", "mail", map[int]event.Position{0: 8}))
	if all := f.keys("svc"); len(all) != 0 {
		f.Errorf("left: %+v", all)
	}
	f.put("k", map[string]string{"svc": "d"})
	f.bind("svc", &ledger.Key{Name: "k", Host: "d", Version: k.Version}, 0, 3)
	if now := f.key("svc", "k"); now.Version == k.Version || !now.Pending(0) {
		f.Errorf("made anew: %+v", now)
	}
}

// Keys are data of strangers: none stops the reading of others.
func testHostileKeys(f *fixture) {
	f.put("k", map[string]string{"svc": "a"})
	v := ledger.NewKeyView(f.l, "log", "svc", func(context.Context, int) (event.Position, error) { return 2, nil })
	last := map[string]event.Position{"k": 3, "": 3}
	for _, name := range []string{"k\x00", "\xff\xfe", "k' OR ''='", `k"]`, "ü\n", strings.Repeat("x", 4096), "\u2028", "NULL", "null", "{k,b}"} {
		last[name] = 3
	}
	keys, err := v.Keys(f.ctx, 0, last, 3)
	f.must(err)
	for name := range last {
		if host := string(keys[name].At(0, 3)); (host == "a") != (name == "k") || (host == "") != (name != "k") {
			f.Errorf("key %.20q stands for %q", name, host)
		}
	}
}
