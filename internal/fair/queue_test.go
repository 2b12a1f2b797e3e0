package fair

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

// popAll pops until the queue has no more and leaves all in flight.
func popAll[T any](q *Queue[T]) (got []Grant[T]) {
	for {
		g, ok := q.Pop(epoch)
		if !ok {
			return got
		}
		got = append(got, g)
	}
}

// drain works on one item at a time and returns the flows in turn.
func drain(q *Queue[int], cost func(flow string) time.Duration) (flows []string) {
	for {
		g, ok := q.Pop(epoch)
		if !ok {
			return flows
		}
		flows = append(flows, g.Flow)
		q.Done(g, cost(g.Flow), epoch)
	}
}

func always(d time.Duration) func(string) time.Duration {
	return func(string) time.Duration { return d }
}

func TestTurns(t *testing.T) {
	for _, c := range []struct {
		name string
		push string // a flow a letter
		cost func(flow string) time.Duration
		want string
	}{
		{"nothing", "", always(ms), ""},
		{"one flow", "aaa", always(ms), "aaa"},
		{"equal, by arrival", "aaabbbc", always(ms), "abcabab"},
		{"ties by arrival, not by name", "cba", always(ms), "cba"},
		{"twice the cost, half the turns", "aaaabbbbbbbb", func(f string) time.Duration {
			return map[string]time.Duration{"a": 2 * ms, "b": ms}[f]
		}, "abbabbabbabb"},
	} {
		t.Run(c.name, func(t *testing.T) {
			q := New[int](1)
			for i, f := range c.push {
				q.Push(string(f), 1, i)
			}
			var got strings.Builder
			for _, f := range drain(q, c.cost) {
				got.WriteString(f)
			}
			if got.String() != c.want {
				t.Errorf("turns %q, want %q", got.String(), c.want)
			}
		})
	}
}

func TestItemsOfAFlowStayInOrder(t *testing.T) {
	q := New[int](3)
	for i := range 9 {
		q.Push(fmt.Sprint(i%2), 1, i)
	}
	last := map[string]int{}
	for q.Len() > 0 {
		for _, g := range popAll(q) {
			if prev, ok := last[g.Flow]; ok && g.Item < prev {
				t.Errorf("flow %s: item %d after %d", g.Flow, g.Item, prev)
			}
			last[g.Flow] = g.Item
			q.Done(g, ms, epoch)
		}
	}
}

func TestCap(t *testing.T) {
	for _, c := range []struct {
		workers, cap  int
		alone, beside int // of flow a
	}{
		{1, 0, 1, 1}, {2, 0, 2, 1}, {3, 0, 3, 2}, {4, 0, 4, 2}, {5, 0, 5, 3}, {4, 1, 4, 1}, {4, 9, 4, 4},
	} {
		t.Run(fmt.Sprintf("%d workers cap %d", c.workers, c.cap), func(t *testing.T) {
			q := New[int](c.workers)
			q.SetCap(c.cap)
			for i := range 20 {
				q.Push("a", 1, i)
			}
			got := popAll(q)
			if len(got) != c.alone {
				t.Errorf("alone %d in flight, want %d", len(got), c.alone)
			}
			// Another flow comes: a gets no more until it is below its cap.
			q.Push("b", 1, 0)
			b, ok := q.Pop(epoch)
			if !ok || b.Flow != "b" {
				t.Fatalf("popped %q, want b", b.Flow)
			}
			for _, g := range got {
				q.Done(g, ms, epoch)
			}
			got = popAll(q)
			if len(got) != c.beside {
				t.Errorf("beside b %d in flight, want %d", len(got), c.beside)
			}
			// And all, as soon as b is gone.
			q.Done(b, ms, epoch)
			if got := len(got) + len(popAll(q)); got != c.alone {
				t.Errorf("alone again %d in flight, want %d", got, c.alone)
			}
		})
	}
}

// A flow whose items take no longer than those of others has the cap of light ones; one
// whose items do has not.
func TestLightCap(t *testing.T) {
	for _, c := range []struct {
		cost time.Duration // of an item of a, where one of b takes a millisecond
		want int
	}{{ms, 3}, {10 * ms, 2}} {
		q := New[int](4)
		q.SetCap(2)
		q.SetLightCap(3)
		for i := range 500 {
			q.Push("a", 1, i)
			q.Push("b", 1, i)
		}
		for range 400 { // so that the costs are known
			g, ok := q.Pop(epoch)
			if !ok {
				t.Fatal("no turn")
			}
			cost := ms
			if g.Flow == "a" {
				cost = c.cost
			}
			q.Done(g, cost, epoch)
		}
		popAll(q)
		if _, got := q.Flow("a"); got != c.want {
			t.Errorf("items of %v beside items of %v: %d in flight, want %d", c.cost, ms, got, c.want)
		}
	}
}

// What a flow costs of which nothing is known yet is not known to be little: its first items
// leave as many workers to the others as slow ones do.
func TestLightCapOfUnknownCost(t *testing.T) {
	q := New[int](4)
	q.SetCap(2)
	q.SetLightCap(3)
	q.Push("quiet", 1, 0)
	for range 100 {
		g, ok := q.Pop(epoch)
		if !ok {
			t.Fatal("no turn")
		}
		q.Push("quiet", 1, 0)
		q.Done(g, ms, epoch)
	}
	for i := range 10 {
		q.Push("new", 1, i)
	}
	q.Push("quiet", 1, 0)
	popAll(q)
	if _, got := q.Flow("new"); got != 2 {
		t.Errorf("%d items of a flow whose cost is not known are in flight, want 2", got)
	}
}

func TestCapFollowsTheWeight(t *testing.T) {
	q := New[int](8)
	if err := q.SetWeight("a", 3); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		q.Push("a", 1, i)
		q.Push("b", 1, i)
	}
	popAll(q)
	if _, got := q.Flow("a"); got != 6 { // three quarters of 8
		t.Errorf("a has %d in flight, want 6", got)
	}
	if _, got := q.Flow("b"); got != 4 { // the half, that no flow is denied
		t.Errorf("b has %d in flight, want 4", got)
	}
}

func TestHold(t *testing.T) {
	q := New[int](4)
	q.SetHold(time.Second)
	for i := range 20 {
		q.Push("a", 1, i)
	}
	q.Push("b", 1, 0)
	got := popAll(q) // a, b, a
	if len(got) != 3 {
		t.Fatalf("%d in flight, want 2 of a and 1 of b", len(got))
	}
	for _, g := range got {
		if g.Flow == "b" {
			q.Done(g, ms, epoch)
		}
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 2}, {999 * ms, 2}, {time.Second, 4}} {
		for {
			if _, ok := q.Pop(epoch.Add(c.after)); !ok {
				break
			}
		}
		if _, got := q.Flow("a"); got != c.want {
			t.Errorf("%v after b: a has %d in flight, want %d", c.after, got, c.want)
		}
	}
}

func TestIdlenessEarnsNothing(t *testing.T) {
	q := New[int](1)
	for i := range 100 {
		q.Push("a", 1, i)
	}
	for range 50 {
		g, _ := q.Pop(epoch)
		q.Done(g, ms, epoch)
	}
	for i := range 100 {
		q.Push("b", 1, i) // it was idle for 50 ms of work
	}
	turns := drain(q, always(ms))[:20]
	n := 0
	for _, f := range turns {
		if f == "b" {
			n++
		}
	}
	if n < 9 || n > 11 {
		t.Errorf("b has %d of 20 turns, want about 10: %v", n, turns)
	}
}

func TestNewWeightCountsForTheBacklog(t *testing.T) {
	q := New[int](1)
	for i := range 400 {
		q.Push("a", 1, i)
		q.Push("b", 1, i)
	}
	count := func() (n int) {
		for range 100 {
			g, _ := q.Pop(epoch)
			if g.Flow == "a" {
				n++
			}
			q.Done(g, ms, epoch)
		}
		return n
	}
	if got := count(); got < 49 || got > 51 {
		t.Errorf("a had %d of 100 turns, want 50", got)
	}
	if err := q.SetWeight("a", 4); err != nil {
		t.Fatal(err)
	}
	if got := count(); got < 78 || got > 82 {
		t.Errorf("with weight 4 a had %d of 100 turns, want 80", got)
	}
}

func TestSetWeightRefuses(t *testing.T) {
	q := New[int](1)
	zero := 0.0
	for _, w := range []float64{0, -1, zero / zero, 1 / zero, MaxWeight * 2, MinWeight / 2} {
		if err := q.SetWeight("a", w); err == nil {
			t.Errorf("weight %v was accepted", w)
		}
	}
}

// A flow that has nothing to do is forgotten, though the queue never comes to
// rest, and the map of those who were there shrinks again.
func TestIdleFlowsAreForgotten(t *testing.T) {
	q := New[int](2)
	q.Push("busy", 1, 0)
	busy, _ := q.Pop(epoch)
	for i := range 20_000 {
		q.Push(fmt.Sprint("tenant-", i), 1, 0)
	}
	if got := q.Flows(); got != 20_001 {
		t.Errorf("%d flows, want 20,001", got)
	}
	if got := len(drain(q, always(ms))); got != 20_000 {
		t.Errorf("%d items done, want 20,000", got)
	}
	if q.Active() != 1 || q.Flows() != 1 || q.peak > 1024 || cap(q.idle.flows) > 1024 {
		t.Errorf("%d active of %d flows, map for %d, heap for %d, want only the busy one",
			q.Active(), q.Flows(), q.peak, cap(q.idle.flows))
	}
	q.Done(busy, ms, epoch)
	if q.Active() != 0 || q.Flows() != 0 || q.Len() != 0 || q.nodes != nil {
		t.Errorf("at rest %d flows remembered, %d active, %d items, want none", q.Flows(), q.Active(), q.Len())
	}
}

// While others go on, a flow that has used more than its share is remembered
// until they have caught up, and no longer.
func TestAFlowThatOwesIsRemembered(t *testing.T) {
	q := New[int](1)
	q.Push("dear", 1, 0)
	for i := range 200 {
		q.Push("b", 1, i)
		q.Push("c", 1, i)
	}
	g, _ := q.Pop(epoch)
	if g.Flow != "dear" {
		t.Fatalf("popped %q first", g.Flow)
	}
	q.Done(g, 50*ms, epoch)
	for i := range 2 * 50 {
		if _, ok := q.flows["dear"]; !ok {
			t.Fatalf("forgotten after %d ms of the others, want 100", i)
		}
		g, _ := q.Pop(epoch)
		q.Done(g, ms, epoch)
	}
	for range 110 { // the first item of each was charged by guess
		g, _ := q.Pop(epoch)
		q.Done(g, ms, epoch)
	}
	if _, ok := q.flows["dear"]; ok {
		t.Error("still remembered after 210 ms of the others")
	}
}

func TestRemove(t *testing.T) {
	q := New[int](2)
	for i := range 5 {
		q.Push("a", 1, i)
	}
	g, _ := q.Pop(epoch)
	if got := q.Remove("a"); !slices.Equal(got, []int{1, 2, 3, 4}) {
		t.Errorf("removed %v, want 1 to 4", got)
	}
	if queued, inFlight := q.Flow("a"); queued != 0 || inFlight != 1 || q.Len() != 0 {
		t.Errorf("%d queued, %d in flight, want 0 and 1", queued, inFlight)
	}
	if _, ok := q.Pop(epoch); ok {
		t.Error("popped an item that was removed")
	}
	q.Done(g, ms, epoch)
	q.Push("a", 1, 9)
	if got := q.Remove("a"); !slices.Equal(got, []int{9}) || q.Flows() != 0 {
		t.Errorf("removed %v, %d flows left, want [9] and none", got, q.Flows())
	}
	if got := q.Remove("nobody"); got != nil {
		t.Errorf("removed %v of a flow that is not there", got)
	}
}

func TestUnitCost(t *testing.T) {
	q := New[int](1)
	if got := q.UnitCost("a"); got != ms {
		t.Errorf("first guess %v, want 1ms", got)
	}
	q.Push("a", 10, 0)
	q.Push("x", 1, 0) // keeps the busy period going
	g, _ := q.Pop(epoch)
	if g.Units != 10 {
		t.Errorf("%d units, want 10", g.Units)
	}
	g.Units = 20 // more had come meanwhile
	q.Done(g, 100*ms, epoch)
	if got := q.UnitCost("a"); got != 5*ms {
		t.Errorf("cost of a unit %v, want 5ms", got)
	}
	if got := q.UnitCost("new"); got != 5*ms {
		t.Errorf("cost of a unit of a new flow %v, want that of all, 5ms", got)
	}
}

func TestDoneTooOftenPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic, want one")
		}
	}()
	q := New[int](1)
	q.Push("a", 1, 0)
	g, _ := q.Pop(epoch)
	q.Done(g, ms, epoch)
	q.Done(g, ms, epoch)
}

// Far out the tags are still exact enough, and turns go on as before.
func TestLongVirtualTime(t *testing.T) {
	q := New[int](1)
	q.Push("keep", 1, 0)
	for i := range 3000 {
		q.Push("a", 1, i)
		q.Push("b", 1, i)
	}
	n := map[string]int{}
	for range 4000 {
		g, _ := q.Pop(epoch)
		n[g.Flow]++
		q.Done(g, 24*time.Hour, epoch)
		if q.now >= 1<<51 {
			t.Fatalf("virtual time %v", q.now)
		}
	}
	if d := n["a"] - n["b"]; d < -1 || d > 1 {
		t.Errorf("turns %v, want equal ones", n)
	}
}

func TestSameCallsSameResults(t *testing.T) {
	run := func() (got []string) {
		rng := rand.New(rand.NewPCG(9, 9))
		q := New[int](4)
		var grants []Grant[int]
		for i := range 5000 {
			q.Push(fmt.Sprint(rng.IntN(50)), 1, i)
			if g, ok := q.Pop(epoch); ok {
				got = append(got, g.Flow)
				grants = append(grants, g)
			}
			if len(grants) == 4 {
				q.Done(grants[0], time.Duration(rng.IntN(9))*ms, epoch)
				grants = grants[1:]
			}
		}
		return got
	}
	if a, b := run(), run(); !slices.Equal(a, b) {
		t.Error("two runs of the same calls differ")
	}
}

func TestQueueAllocatesNothing(t *testing.T) {
	q := New[int](1)
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprint("tenant-", i)
	}
	round := func() {
		for i, n := range names {
			q.Push(n, 1, i)
		}
		for range names {
			g, _ := q.Pop(epoch)
			q.Done(g, ms, epoch)
		}
	}
	round()
	if got := testing.AllocsPerRun(100, round); got != 0 {
		t.Errorf("%v allocations a round, want 0", got)
	}
}

func BenchmarkQueue(b *testing.B) {
	for _, flows := range []int{1, 100, 10_000} {
		b.Run(fmt.Sprintf("flows%d", flows), func(b *testing.B) {
			q := New[int](4)
			names := make([]string, flows)
			for i := range names {
				names[i] = fmt.Sprint("tenant-", i)
				q.Push(names[i], 1, i)
				q.Push(names[i], 1, i)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				g, ok := q.Pop(epoch)
				if !ok {
					b.Fatal("nothing to pop")
				}
				q.Done(g, time.Duration(1+i%7)*ms, epoch)
				q.Push(g.Flow, 1, i)
				i++
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
		})
	}
}
