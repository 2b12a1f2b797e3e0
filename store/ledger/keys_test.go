package ledger_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/store/ledger"
)

// A slowKeys has one key, and readings that are answered late: with what there was when
// they began.
type slowKeys struct {
	key   *ledger.Key
	hold  chan struct{} // nil: no reading is held up
	reads int
	down  error
}

func (l *slowKeys) Keys(_ context.Context, _, _ string, names []string) (out []ledger.Key, _ error) {
	l.reads++
	if l.down != nil {
		return nil, l.down
	}
	if l.key != nil && slices.Contains(names, l.key.Name) {
		k := *l.key
		k.Bindings = map[int][]ledger.Binding{}
		for p, all := range l.key.Bindings {
			k.Bindings[p] = slices.Clone(all)
		}
		out = append(out, k)
	}
	if hold := l.hold; hold != nil {
		l.hold = nil
		<-hold
	}
	return out, nil
}

func (l *slowKeys) Versions(context.Context) (map[string]int64, error) {
	return map[string]int64{"k": l.key.Version}, l.down
}

func (l *slowKeys) Bind(_ context.Context, _, _ string, k *ledger.Key, partition int, from event.Position) error {
	if l.key.Version == k.Version && l.key.Pending(partition) {
		l.key.Bindings[partition] = append(l.key.Bindings[partition], ledger.Binding{From: from, Host: []byte(k.Host)})
	}
	return nil
}

func (l *slowKeys) ForgetKeys(context.Context, string, string, map[int]event.Position) error {
	return nil
}

// stands returns what k stands for at an event, which the partition ends with.
func stands(t *testing.T, v *ledger.KeyView, partition int, p event.Position) string {
	t.Helper()
	keys, err := v.Keys(t.Context(), partition, map[string]event.Position{"k": p}, p)
	if err != nil {
		t.Fatal(err)
	}
	return string(keys["k"].At(partition, p))
}

// Who has read the ledger knows enough for what had been seen by then, of keys that it
// does not have too, and asks again for what came later.
func TestKeyViewAsksForWhatItDoesNotKnow(t *testing.T) {
	l, head := &slowKeys{}, event.Position(0)
	v := ledger.NewKeyView(l, "log", "svc", func(context.Context, int) (event.Position, error) { return head, nil })
	check := func(partition int, p event.Position, want string, reads int) {
		t.Helper()
		if got := stands(t, v, partition, p); got != want || l.reads != reads {
			t.Errorf("at %d of partition %d: %q after %d reads, want %q after %d", p, partition, got, l.reads, want, reads)
		}
	}
	head = 5
	check(0, 5, "", 1)
	check(0, 4, "", 1)
	l.key = &ledger.Key{Name: "k", Host: "a", Version: 1, Bindings: map[int][]ledger.Binding{}}
	check(0, 5, "", 1) // it begins behind what had been seen before
	head = 8
	check(0, 7, "", 3) // which finds it pending, binds it at 8, and reads it again
	check(0, 9, "a", 4)
	check(0, 8, "", 4)
	check(1, 6, "", 6) // pending there
	check(1, 9, "a", 7)
	check(0, 9, "a", 7)
	l.key.Host, l.key.Version = "b", 2
	check(0, 9, "a", 7)
	head = 12
	check(0, 13, "b", 9)
	check(0, 12, "a", 9)
	if _, err := v.Keys(t.Context(), 0, map[string]event.Position{"\x00": 99, "\xff": 99, "": 99}, 99); err != nil || l.reads != 9 {
		t.Errorf("keys that there cannot be: %v, %d reads", err, l.reads)
	}
}

// Two lanes ask at once. The answer that comes last is the older one.
func TestOlderReadingOfKeysComesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hold := make(chan struct{})
		l := &slowKeys{hold: hold, key: &ledger.Key{Name: "k", Host: "a", Version: 1, Bindings: map[int][]ledger.Binding{0: {{From: 1, Host: []byte("a")}}, 1: {{From: 1, Host: []byte("a")}}}}}
		v := ledger.NewKeyView(l, "log", "svc", func(context.Context, int) (event.Position, error) { return 20, nil })
		ended := make(chan struct{})
		go func() { // partition 0, before the change
			defer close(ended)
			if got := stands(t, v, 0, 5); got != "a" {
				t.Errorf("before the change: %q", got)
			}
		}()
		synctest.Wait()
		l.key = &ledger.Key{Name: "k", Host: "b", Version: 2, Bindings: map[int][]ledger.Binding{0: {{From: 1, Host: []byte("a")}, {From: 5, Host: []byte("b")}}, 1: {{From: 1, Host: []byte("a")}, {From: 10, Host: []byte("b")}}}}
		own := func(when string) {
			t.Helper()
			if got := stands(t, v, 1, 11); got != "b" {
				t.Errorf("%s: %q", when, got)
			}
		}
		own("while the older answer is under way")
		close(hold)
		<-ended
		own("after the older answer")
		if l.reads != 2 {
			t.Errorf("%d reads of the ledger, want 2", l.reads)
		}
	})
}

// While the ledger is away nothing is decided, but what is known.
func TestKeyViewWithoutLedger(t *testing.T) {
	l := &slowKeys{key: &ledger.Key{Name: "k", Host: "a", Version: 1, Bindings: map[int][]ledger.Binding{0: {{From: 1, Host: []byte("a")}}}}}
	headErr := error(nil)
	v := ledger.NewKeyView(l, "log", "svc", func(context.Context, int) (event.Position, error) { return 3, headErr })
	if got := stands(t, v, 0, 4); got != "a" {
		t.Errorf("%q", got)
	}
	l.down = errors.New("the ledger is down")
	if got := stands(t, v, 0, 4); got != "a" {
		t.Errorf("%q", got)
	}
	ask := func(want error) {
		t.Helper()
		if _, err := v.Keys(t.Context(), 0, map[string]event.Position{"k": 5}, 5); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	ask(l.down)
	l.down, headErr = nil, errors.New("the log is down")
	l.key.Host, l.key.Version = "b", 2
	ask(headErr)
	headErr = nil
	if got := stands(t, v, 0, 5); got != "b" {
		t.Errorf("%q", got)
	}
}

// What a key stands for costs no allocation.
func TestKeyAtAllocatesNothing(t *testing.T) {
	keys := map[string]*ledger.Key{"k": {Bindings: map[int][]ledger.Binding{0: {{From: 1, Host: []byte("a")}, {From: 9, Host: []byte("b")}}}}}
	name, n := []byte("k"), 0
	if allocs := testing.AllocsPerRun(100, func() { n += len(keys[string(name)].At(0, 5)) }); allocs != 0 || n == 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// Who binds all that is pending, time and again, asks only for what may be.
func TestBindAllAsksForChanges(t *testing.T) {
	l := &slowKeys{key: &ledger.Key{Name: "k", Host: "a", Version: 1, Bindings: map[int][]ledger.Binding{}}}
	head := event.Position(3)
	v := ledger.NewKeyView(l, "log", "svc", func(context.Context, int) (event.Position, error) { return head, nil })
	check := func(partitions, reads int, want ...string) {
		t.Helper()
		if err := v.Bind(t.Context(), nil, partitions); err != nil {
			t.Fatal(err)
		}
		var got []string
		for p := range partitions {
			got = append(got, string(l.key.At(p, 9)))
		}
		if !slices.Equal(got, want) || l.reads != reads {
			t.Errorf("%q after %d reads, want %q after %d", got, l.reads, want, reads)
		}
	}
	check(2, 1, "a", "a")
	check(2, 1, "a", "a")
	check(3, 2, "a", "a", "a") // one was added
	l.key.Host, l.key.Version, head = "b", 2, 5
	check(3, 3, "b", "b", "b")
	check(3, 3, "b", "b", "b")
	l.key.Host, l.key.Version, l.down = "c", 3, errors.New("down")
	if err := v.Bind(t.Context(), nil, 3); !errors.Is(err, l.down) {
		t.Errorf("bound without a ledger: %v", err)
	}
	l.down, head = nil, 6
	check(3, 4, "c", "c", "c")
}
