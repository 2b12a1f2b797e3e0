package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead-dev/fairlead/event"
	"github.com/fairlead-dev/fairlead/eventlog"
	"github.com/fairlead-dev/fairlead/eventlog/memlog"
	"github.com/fairlead-dev/fairlead/store"
)

// takes admits events of one tenant, whose ordering keys are given, and returns
// the keys in the order in which workers get their first events, n at once.
func takes(t *testing.T, workers, n int, keys string) string {
	t.Helper()
	l := laneOn(t, store.Lane{})
	l.queue.workers = workers
	var tasks []*task
	for i := range keys {
		tasks = append(tasks, &task{Event: event.Event{Position: event.Position(i + 1), Tenant: "t"}})
	}
	l.admit(tasks, strings.Split(keys, ""))
	var got []string
	var busy []*orderedKey
	for {
		for len(busy) < n {
			x, ok := l.queue.pop(time.Time{})
			if !ok {
				break
			}
			l.begin(x.key, time.Time{})
			l.queue.fair.Done(x.grant, time.Millisecond, time.Time{})
			busy = append(busy, x.key)
			got = append(got, x.key.id.ID)
		}
		if len(busy) == 0 {
			return strings.Join(got, "")
		}
		k := busy[0]
		busy = busy[1:]
		l.finish(k, verdict{}, time.Time{})
		l.goOn(k)
	}
}

func TestTurnsOfATenantsKeys(t *testing.T) {
	for _, c := range []struct {
		name    string
		workers int
		n       int
		keys    string
		want    string
	}{
		{"one worker: by age", 1, 1, "abhchdhhe", "abhchdhhe"},
		{"all workers cannot make up for the longest: every other turn", 4, 1, "abcdehhhh", "hahbhcdeh"},
		{"they can, for long", 2, 1, "abcdefhh", "abcdehfh"},
		{"it is busy: the next longest, if that is too long as well", 8, 2, "abcdhhhgg", "hahbgcdhg"},
		{"a queue that grows while it waits", 4, 1, "habchh", "hhabch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := takes(t, c.workers, c.n, c.keys); got != c.want {
				t.Errorf("workers got %s, want %s", got, c.want)
			}
		})
	}
}

// The heaps of a tenant's ready keys agree, whatever is pushed, grown, taken and
// withdrawn.
func TestTurnsAtRandom(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		l := laneOn(t, store.Lane{})
		at := event.Position(0)
		for range 200 {
			switch rng.IntN(5) {
			case 0, 1:
				at++
				l.admit([]*task{{Event: event.Event{Position: at, Tenant: "t"}}}, []string{fmt.Sprint(rng.IntN(12))})
			case 2, 3:
				if x, ok := l.queue.pop(time.Time{}); ok {
					oldest := slices.MinFunc(append(slices.Clone(x.grant.Item.ready), x.key), func(a, b *orderedKey) int {
						return int(a.head.arrival) - int(b.head.arrival)
					})
					if !x.grant.Item.owed && x.key != oldest {
						t.Fatalf("seed %d: key %q was taken, not the oldest, and nothing is owed", seed, x.key.id.ID)
					}
					l.begin(x.key, time.Time{})
					l.queue.fair.Done(x.grant, time.Millisecond, time.Time{})
					l.finish(x.key, verdict{}, time.Time{})
					l.goOn(x.key)
				}
			case 4:
				for _, k := range l.queue.withdraw(l, nil) {
					l.offer(k)
				}
			}
			f := l.queue.flows["t"]
			if f == nil {
				continue
			}
			if len(f.ready) != len(f.long) {
				t.Fatalf("seed %d: %d keys by age, %d by length", seed, len(f.ready), len(f.long))
			}
			for i := range f.ready {
				a, b := f.ready[i], f.long[i]
				if a.slots[older.slot] != i || b.slots[longer.slot] != i {
					t.Fatalf("seed %d: a key does not know its slot", seed)
				}
				if up := (i - 1) / 2; i > 0 && (older.less(a, f.ready[up]) || longer.less(b, f.long[up])) {
					t.Fatalf("seed %d: no heap any more", seed)
				}
			}
		}
	}
}

// Tenants get equal shares, so one with more work than the others ends after
// them. By then its longest queue must be no longer than its others can make up
// for, or one worker works and the others wait.
func TestStreamMakespanOfUnequalTenants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, tenants, workers, cost = 3200, 16, 32, 5 * time.Millisecond
		rng := rand.New(rand.NewPCG(7, 7))
		log := memlog.New()
		tok := eventlog.Token{}
		for i := range n {
			tenant, stream := rng.IntN(tenants), rng.IntN(100)
			if rng.IntN(20) == 0 {
				tenant = 0 // it has about 11 % of the events, the others 6 % each
			}
			if tenant == 0 && rng.IntN(5) == 0 {
				stream = 0 // the hot key: a fifth of that
			}
			a := eventlog.StreamAppend{Tenant: fmt.Sprint("t", tenant), Stream: fmt.Sprint("s", stream), Events: []eventlog.NewEvent{{Type: "x"}}}
			last, err := log.Append(t.Context(), a)
			if err != nil {
				t.Fatal(err)
			}
			if i == n-1 {
				tok.Position = last.Position
			}
		}
		for i := range tenants {
			tok.Tenants = append(tok.Tenants, fmt.Sprint("t", i))
		}
		took := runReactor(t, log, tok, Processor{Name: "r", Concurrency: workers, NoIsolation: true, React: sleeps(cost)})
		ideal := cost * n / workers
		if ratio := ideal.Seconds() / (took - 6*time.Millisecond).Seconds(); ratio < 0.93 {
			t.Errorf("%d events took %v, at least %v are needed: ratio %.3f, want 0.93", n, took, ideal, ratio)
		}
	})
}
